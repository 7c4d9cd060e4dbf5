"""The page "From simulator to wire" is true: its commands are understood, its numbers are the code's, and the script draws its figure."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from typing import TYPE_CHECKING

import pytest

from cutlayer import cli
from cutlayer.agents.testbed import world
from cutlayer.runtime.testbed import device, emulation, link, shaped, tun

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/wire.md").read_text(encoding="utf-8")


def test_its_two_commands_are_understood(page):
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "cutlayer"
        assert cli.parser().parse_args(arguments).function is not None


def test_its_numbers_and_backends_are_those_of_the_code(page):
    assert f"begin with {tun.WINDOW} packets" in page
    assert f"initcwnd {tun.WINDOW}" in page
    assert f"changed every {1e3 * world.SLOT_S:g} ms" in page
    assert device.HEARD_S == 2.0
    assert "for two seconds" in page
    backends, devices = (re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in page.split("## Backends")[1].split("## Devices"))
    assert set(backends) == set(link.BACKENDS)
    assert tuple(devices) == emulation.KINDS


def test_what_it_says_of_the_token_bucket_is_what_the_kernel_is_told(page):
    assert f"lets {shaped.BURST_BYTES:,} bytes through at once" in page
    first = next(mbps for mbps in range(1, 100) if shaped.bucket(1e6 * mbps, 1)["burst"] > shaped.BURST_BYTES)
    assert f"from {first} Mb/s on" in page
    assert f"up\nto {8 * shaped.BURST_BYTES / world.SLOT_S / 1e6:.2f} Mb/s more" in page


def test_the_script_draws_what_the_commands_write(root, tmp_path, monkeypatch):
    """From made-up results of both commands; a folder without any is refused by name."""
    one = {"measured_s": 0.02, "predicted_s": 0.018, "naive_s": 0.015}
    told = {"measured": [one, {**one, "measured_s": 0.2}], "naive_mape": 0.1, "mape": 0.02, "bias": 0.0, "c0_s": 0.001}
    (tmp_path / "calibrate.json").write_text(json.dumps({**told, "configurations": 2, "backend": "proxy", "quiet": True}))
    record = [0, 1, 1.0, *[0.0] * 6, 1.03, 0.8, 0.0]
    (tmp_path / "a.json").write_text(json.dumps({"measured_records": [record], "simulated_records": [record]}))
    run = {"policies": {"a": {"latency_error": 0.01}}, "scenario": "s", "requests": 1, "backend": "proxy", "quiet": False}
    (tmp_path / "run.json").write_text(json.dumps(run))
    script = runpy.run_path(str(root / "docs/figures/wire.py"))
    monkeypatch.setitem(script["main"].__globals__, "HERE", tmp_path)
    script["main"]([tmp_path])
    assert (tmp_path / "wire.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match=r"no calibrate\.json and no run\.json"):
        script["main"]([tmp_path / "none"])


def test_its_figures_are_those_of_the_kept_runs(root, page):
    """Table, ranking and calibration, from `docs/results/wire`; of quiet runs of one commit alone."""
    told = {name: json.loads((root / f"docs/results/wire/{name}.json").read_bytes()) for name in ("lte", "nsa", "calibrate")}
    assert all(one["quiet"] for one in told.values())
    assert told["lte"]["commit"] == told["nsa"]["commit"]
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \| (\S+) % \| ([\d.]+) \| ([\d.]+) \| (\S+) % \|$", page, re.MULTILINE)
    assert {row[0] for row in rows} == set(told["lte"]["policies"]) == set(told["nsa"]["policies"])
    for name, *cells in rows:
        expected = []
        for drive in ("lte", "nsa"):
            one = told[drive]["policies"][name]
            means = [f"{1e3 * one[world]['latency_mean_s']:.1f}" for world in ("measured", "simulated")]
            expected += [*means, f"{100 * one['latency_error']:+.1f}".replace("-", "\N{MINUS SIGN}")]
        assert cells == expected, name
    for drive in ("lte", "nsa"):
        assert told[drive]["same_ranking"]
        assert ", ".join(told[drive]["ranking_measured"]) in re.sub(r"\s+", " ", page)
    found = told["calibrate"]
    assert f"off by {found['mape']:.1%}".replace("%", " %") in page
    assert f"on {found['held_out_configurations']} held-out configurations of {found['configurations']}" in page
    assert f"a bias of {found['bias']:+.1%}".replace("%", " %") in page
    assert f"off by {-found['naive_bias']:.1%}".replace("%", " %") in page
