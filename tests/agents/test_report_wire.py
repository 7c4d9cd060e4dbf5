"""A test bed's folder in the report: every figure is the folder's, what is busy or not alike is said, what does not belong is refused."""

from __future__ import annotations

import csv
import json
import shutil

import msgspec
import numpy as np
import pytest

from cutlayer.agents import device_agent
from cutlayer.agents import runs as manifests
from cutlayer.agents.report import beds, colours, gather, page, wire
from cutlayer.agents.testbed import deciding, side
from cutlayer.agents.testbed.run import compared, figures
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError

SLOWER = {"device-only": 1.0, "edge-only": 1.05, "greedy-ewma": 0.98}  # what the wire takes of what the simulator says


def folder_of(place, world, slower, *, others=0.01):
    """What `cutlayer testbed run` would leave, had the wire taken so much longer in every request."""
    place.mkdir(parents=True)
    streams = draw(world, 3)
    due = np.random.default_rng(1).random(world.requests) < 0.8
    sides = []
    for label, factor in slower.items():
        decider = deciding.Here(deciding.ruled(world, world, label, 0))
        simulated = [record for _, record in device_agent.drive(world, streams, decider)]
        measured = [one._replace(finish_s=one.arrival_s + factor * one.latency_s) for one in simulated]
        told = figures(world, measured, streams, due.tolist()), figures(world, simulated, streams)
        one = side.Side(
            label,
            label,
            "",
            len(measured),
            *told,
            measured,
            simulated,
            due.tolist(),
            2,
            0.001,
            3,
            others,
            0.0,
            {},
            {"greedy": len(measured)},
        )
        (place / f"{label}.json").write_bytes(msgspec.json.encode(one))
        sides.append(one)
    (place / "plans.json").write_bytes(world.plans.encode())
    (place / side.SURVEY).write_text("{}")
    result = {
        "backend": "proxy", "requests": world.requests, "images": "made up", "deadline_s": world.objective.deadline_s,
        "quiet": others < 0.1, **compared(sides),
    }  # fmt: skip
    manifests.write(place, "run.json", {**manifests.manifest(world, {"episode": 3}, kind=side.KIND), **result})
    return place


@pytest.fixture(scope="module")
def bed(small, tmp_path_factory):
    """A folder whose simulator was a little off for two of three policies."""
    return folder_of(tmp_path_factory.mktemp("bed") / "wire", small, SLOWER)


@pytest.fixture(scope="module")
def made(bed, tmp_path_factory):
    """(folder of the report, what it says to programs)."""
    out = tmp_path_factory.mktemp("report")
    return out, page.report(page.Order((bed,), out / "report.html", out / "figures"))


def test_both_worlds_stand_side_by_side_with_the_figures_of_the_run(made, bed):
    (found,) = made[1]["testbeds"]
    told = json.loads((bed / "run.json").read_text(encoding="utf-8"))["policies"]
    assert [(row["policy"], row["world"]) for row in found["rows"][:2]] == [(found["rows"][0]["policy"], world) for world in beds.WORLDS]
    assert {row["policy"] for row in found["rows"]} == set(SLOWER)
    for row in found["rows"]:
        wanted = told[row["policy"]][row["world"]]
        for name in (
            "latency_mean_s",
            "latency_p50_s",
            "latency_p95_s",
            "latency_p99_s",
            "accuracy",
            "reward_mean",
            "energy_j",
            "requests",
        ):
            assert row[name] == wanted[name]
        assert (row["miss_low"], row["miss_high"]) == tuple(wanted["miss_ci95"])
        assert row["right"] == wanted["accuracy_of_images"]
        assert (row["late"], row["resets"]) == ((2, 3) if row["world"] == "measured" else (None, None))
    assert made[1]["worlds"] == []
    assert found["panels"] == ["wire-latency", "wire-reward", "wire-plans"]
    assert found["absent"] == []


def test_the_page_and_the_files_for_a_paper_show_it(made):
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    for said in ("small on the wire", "Latency measured and simulated", "Plans chosen", "edge-only: simulated mean −4.8 %", "made up"):
        assert said in text
    with (made[0] / "figures/small-on-the-wire-table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["latency_mean_s"]) for row in rows] == [row["latency_mean_s"] for row in made[1]["testbeds"][0]["rows"]]
    assert {path.suffix for path in (made[0] / "figures").iterdir()} == {".svg", ".pdf", ".tex", ".csv"}


def test_equal_folders_give_equal_pages(made, bed, tmp_path):
    page.report(page.Order((bed,), tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_bytes() == (made[0] / "report.html").read_bytes()


def test_plans_are_counted_as_a_slow_obvious_count_does(bed):
    (found,) = gather.gather([bed]).beds
    plans = found.plans
    exits, partitions, bits = colours.knobs(plans)
    for knob, words in (
        (exits, lambda row: f"exit {row.exit}"),
        (partitions, lambda row: colours.place(plans, plans.rows.index(row)).name),
        (bits, lambda row: f"{row.bits} bits" if row.bits else "nothing sent"),
    ):
        shares = wire._shares(found, ["greedy-ewma"], knob)
        for share, world in zip(shares[0], beds.WORLDS, strict=True):
            chosen = [words(plans.rows[plan]) for plan in found.requests["greedy-ewma"][world].plans]
            assert share.tolist() == pytest.approx([chosen.count(label) / len(chosen) for label in knob.labels])


def told_of(errors, *, same=True, others=0.0):
    """A `run.json` of policies with these errors of the simulated mean latency, best first."""
    one = {
        "requests": 10, "reward_mean": 0.5, "latency_mean_s": 0.1, "latency_p50_s": 0.1, "latency_p95_s": 0.1, "latency_p99_s": 0.1,
        "misses": 0, "miss_rate": 0.0, "miss_ci95": [0.0, 0.3], "accuracy": 0.8, "energy_j": 0.1, "accuracy_of_images": None,
    }  # fmt: skip
    rows = {
        label: {"measured": one, "simulated": one, "latency_error": error, "late": 0, "resets": 0, "others": others}
        for label, error in errors.items()
    }
    labels = list(errors)
    content = {
        "scenario": "s", "backend": "tun", "requests": 10, "images": "i", "quiet": others < 0.1, "policies": rows,
        "ranking_measured": labels, "ranking_simulated": labels if same else labels[::-1], "same_ranking": same, "plans_sha256": "",
        "inputs": "", "version": "", "commit": "", "command": "", "date": "", "machine": {},
    }  # fmt: skip
    return msgspec.convert(content, beds.Told)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            told_of({"a": 0.02, "b": -0.04}),
            "within 10 % of the measured one (at most −4.0 % for b); both worlds rank the 2 policies alike, a",
        ),
        (told_of({"a": 0.02, "b": 0.31}), "is off by +31.0 % for b, more than the 10 % that it may be"),
        (told_of({"a": 0.02, "b": 0.04}, same=False), "the rankings differ: measured a > b, simulated b > a"),
        (told_of({"a": -0.0001}), "within 10 % of the measured one (+0.0 % for a)."),
        (told_of({"a": 0.02}), "within 10 % of the measured one (+2.0 % for a)."),
        (told_of({"a": 0.02, "b": 0.04}, others=0.4), "busy with other work while a and b ran: nothing here judges the simulator"),
    ],
)
def test_the_headline_says_whether_the_simulator_tells_what_the_wire_does(told, said):
    assert said in wire.headline(told)


def test_each_call_that_ran_policies_of_a_folder_is_named():
    told = told_of({"a": 0.0, "b": 0.0, "c": 0.0})
    earlier = {"version": "0", "commit": "early", "command": "first", "date": "d", "machine": {"cpu": "m"}}
    policies = {**told.policies, "b": msgspec.structs.replace(told.policies["b"], made=earlier)}
    found = wire._sources(msgspec.structs.replace(told, policies=policies, commit="late"))
    assert [(one["commit"], one["runs"]) for one in found] == [("late", 2), ("early", 1)]


def test_folders_of_one_scenario_have_names_of_their_own(bed, small, tmp_path):
    other = folder_of(tmp_path / "again", small, {"device-only": 1.0})
    assert [part.name for part in wire.parts(gather.gather([bed, other]).beds)] == ["small on the wire, wire", "small on the wire, again"]


def copied(bed, tmp_path):
    return shutil.copytree(bed, tmp_path / "wire")


def test_a_policy_whose_requests_are_gone_is_refused(bed, tmp_path, refused):
    (copied(bed, tmp_path) / "edge-only.json").unlink()
    assert "edge-only.json is gone" in refused("report", "wire")


def test_requests_of_another_run_are_refused(bed, tmp_path, refused):
    file = copied(bed, tmp_path) / "edge-only.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["measured"]["reward_mean"] += 1e-6
    file.write_text(json.dumps(content), encoding="utf-8")
    assert "edge-only.json belongs to another run than run.json beside it" in refused("report", "wire")


def test_requests_that_were_cut_off_are_refused(bed, tmp_path, refused):
    file = copied(bed, tmp_path) / "edge-only.json"
    file.write_bytes(file.read_bytes()[:500])
    assert "edge-only.json is damaged" in refused("report", "wire")


def test_a_run_that_was_cut_off_before_its_end_is_no_figure(bed, tmp_path, refused):
    (copied(bed, tmp_path) / "run.json").unlink()
    assert "survey.json has no run.json beside it" in refused("report", "wire")


def test_a_world_can_be_asked_for_and_another_one_is_named(bed, tmp_path):
    assert page.report(page.Order((bed,), tmp_path / "r.html", worlds=("small",)))["testbeds"]
    with pytest.raises(ConfigError, match="no run is of 'camera'; these folders hold runs of: small"):
        page.report(page.Order((bed,), tmp_path / "r.html", worlds=("camera",)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_a_screen_in_light_and_dark(scheme, width, on_screen, made):
    on_screen(made[0] / "report.html", width, scheme)
