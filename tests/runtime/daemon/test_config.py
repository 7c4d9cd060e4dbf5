"""The daemon's configuration file: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

import json
import re

import pytest

from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import Objective, Path
from cutlayer.runtime import config
from cutlayer.runtime.modes import Terms
from cutlayer.runtime.settings import Settings


def one_line(result):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_the_printed_defaults_are_a_configuration_with_every_setting(run, tmp_path):
    code, out, err = run("--print-defaults")
    assert (code, err) == (0, "")
    (tmp_path / "cutlayerd.toml").write_text(out, encoding="utf-8")
    assert config.load(tmp_path / "cutlayerd.toml") == config.DaemonConfig(bundle="policy.cutlayer")
    tables = {"controller", "task", "trial"}
    for kind in (config.DaemonConfig, Settings, Terms):
        assert all(re.search(rf"^{name} = ", out, re.MULTILINE) for name in kind.__struct_fields__ if name not in tables)
    (tmp_path / "task.toml").write_text(
        out.replace("# [", "[").replace("# plans", "plans").replace("# rtt_s", "rtt_s").replace("# deadline_s", "deadline_s")
    )
    task = config.load(tmp_path / "task.toml").task
    assert (task.plans, task.path, task.objective) == ("plans.json", Path(rtt_s=0.05), Objective(deadline_s=0.12))


def test_a_configuration_and_its_bundle_are_checked(run, folder):
    file = folder / "cutlayerd.toml"
    file.write_text(f'bundle = "{folder / "policy.cutlayer"}"\ndrain_s = 1\n', encoding="utf-8")
    assert run("--config", file, "--check-config") == (0, "configuration and bundle are good\n", "")
    assert run("--bundle", folder / "policy.cutlayer", "--check-config")[0] == 0
    file.write_text(f'bundle = "{folder / "none.cutlayer"}"\n', encoding="utf-8")
    assert "no bundle at" in one_line(run("--config", file, "--check-config"))
    assert sorted(path.name for path in folder.iterdir()) == ["cutlayerd.toml", "policy.cutlayer"]


def test_a_configuration_is_used(folder, running, raw):
    file = folder / "cutlayerd.toml"
    file.write_text(f'bundle = "{folder / "policy.cutlayer"}"\nsocket = "elsewhere.sock"\nrequest_bytes = 300\n', encoding="utf-8")
    # --socket on the command line counts.
    with running(folder / "d.sock", "--config", str(file)) as made, raw(made) as (connection, lines):
        connection.sendall(b"x" * 400)
        assert "longer than 300 bytes" in json.loads(lines.readline())["error"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('bundel = "x"\n', ["line 1", "unknown key 'bundel'", "did you mean 'bundle'?"]),
        ('bundle = "x"\n\nsockets = "y"\n', ["line 3", "unknown key 'sockets'", "did you mean 'socket'?"]),
        ('bundle = "x"\nzebra = 1\n', ["line 2", "unknown key 'zebra'", "known keys: bundle, form"]),
        ('bundle = "x"\n[controler]\n', ["line 2", "unknown key 'controler'", "did you mean 'controller'?"]),
        ('bundle = "x"\n[controller]\nlost_s = 1\nstale = 1\n', ["line 4", "'controller.stale'", "did you mean 'stale_s'?"]),
        ('bundle = "x"\n[controller.trial]\n"shar" = 1\n', ["line 3", "'controller.trial.shar'", "did you mean 'share'?"]),
        ('bundle = "x"\n[task]\nplans = "p"\n[task.path]\nrtt = 1\n', ["line 5", "'task.path.rtt'", "did you mean 'rtt_s'?"]),
        ('bundle = "x"\ntask = {plan = 1}\n', ["unknown key 'task.plan'", "did you mean 'plans'?"]),
        ("", ["bundle is empty"]),
        ("bundle = 3\n", ["line 1", "bundle is 3", "str", "--print-defaults"]),
        ('bundle = "x"\nrequest_bytes = "many"\n', ["line 2", "request_bytes is 'many'", "int"]),
        ('bundle = "x"\nrequest_bytes = 10\n', ["line 2", "request_bytes is 10", "at least 256"]),
        ('bundle = "x"\ndrain_s = -1.0\n', ["line 2", "drain_s is -1.0", "from 0 on"]),
        ('bundle = "x"\nstalled_s = nan\n', ["line 2", "stalled_s is nan"]),
        ('bundle = "x"\nconnections = 0\n', ["line 2", "connections is 0", "at least 1"]),
        ('bundle = "x"\nmode = "on"\n', ["line 2", "mode is 'on'"]),
        ('bundle = "x"\nallow_uids = ["me"]\n', ["line 2", "allow_uids", "int"]),
        ('bundle = "x"\n[controller]\nstale_s = inf\n', ["line 3", "stale_s is inf"]),
        ('bundle = "x"\n[controller.trial]\nshare = 2.0\n', ["line 3", "share of the trial is 2.0"]),
        ('[task]\nplans = "p"\n[task.path]\nrtt_s = -1\n[task.objective]\ndeadline_s = 1\n', ["line 4", "path.rtt_s is -1"]),
        ('[task]\nplans = "p"\npath.rtt_s = 1\nobjective.deadline_s = 0\n', ["line 4", "objective.deadline_s is 0"]),
        ('bundle = "x\n', ["is no TOML", "line 1"]),
        ("bundle = x\n", ["is no TOML"]),
        ('bundle = "x"\nbundle = "y"\n', ["is no TOML"]),
    ],
)
def test_a_bad_configuration_is_refused_by_value_place_and_mend(run, tmp_path, text, said):
    file = tmp_path / "cutlayerd.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        config.load(file)
    message = one_line(run("--config", file, "--check-config"))
    for part in (*said, str(file)):
        assert part in message


def test_a_configuration_that_cannot_be_read_is_refused(run, tmp_path):
    assert "cannot read" in one_line(run("--config", tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b'bundle = "\xff"\n')
    assert "is no TOML" in one_line(run("--config", tmp_path / "bad.toml"))


def test_help_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "example: cutlayerd --bundle" in out
    assert run("--version")[1].startswith("cutlayer ")


def test_an_unknown_option_is_refused(run):
    assert "--bundel" in one_line(run("--bundel", "x"))


def test_options_count_in_place_of_the_file(tmp_path):
    file = tmp_path / "cutlayerd.toml"
    file.write_text('socket = "a"\nmode = "off"\n', encoding="utf-8")
    loaded = config.load(file, {"bundle": "b", "mode": "shadow"})
    assert (loaded.bundle, loaded.socket, loaded.mode) == ("b", "a", "shadow")


def test_an_empty_option_is_refused_in_one_line(run):
    assert "bundle is empty" in one_line(run("--bundle", ""))
