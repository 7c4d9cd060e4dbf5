"""Sweeps: which runs a grid names, that each is made once, and that nothing is lost when one is cut off."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cutlayer.agents.sweep import grid, job, local, plan, work
from cutlayer.errors import ConfigError

SMALL = """
[fixed]
scenario = "urllc-ge"
requests = 40
episodes = 2
[grid]
policy = ["device-only", "greedy-ewma"]
seed = [0, 1]
"path.rtt_s" = [0.002, 0.01]
"""


@pytest.fixture
def write(tmp_path):
    """Write a grid file; its path."""

    def made(text):
        file = tmp_path / "grid.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return made


def _table(out):
    return pl.read_parquet(out / "results.parquet")


def test_every_combination_is_a_run_in_the_order_of_the_file(write):
    points = list(grid.load(write(SMALL)).points())
    expected = itertools.product(["device-only", "greedy-ewma"], [0, 1], [0.002, 0.01])
    assert [(one["policy"], one["seed"], one["path.rtt_s"]) for one in points] == list(expected)
    assert all(one["scenario"] == "urllc-ge" for one in points)


def test_ranges_and_samples_are_what_they_say(write):
    text = """
[grid]
a = { range = { low = 0.0, high = 1.0, n = 5 } }
b = { range = { low = 0.01, high = 1.0, n = 3, log = true } }
seed = { range = { low = 10, high = 40, n = 4 } }
c.d = { sample = { n = 500, seed = 3, low = 0.01, high = 100.0, log = true } }
"""
    axes = grid.load(write(text)).axes
    assert axes["a"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert axes["b"] == pytest.approx([0.01, 0.1, 1.0])
    assert axes["seed"] == [10, 20, 30, 40]
    assert all(isinstance(one, int) for one in axes["seed"])
    drawn = np.log10(axes["c.d"])
    assert drawn.min() >= -2
    assert drawn.max() <= 2
    # A logarithmic sample has its median at the geometric middle, 1; a plain one would have it near 50. 500 draws: +-0.1 (1 sigma: 0.05).
    assert abs(np.median(drawn)) < 0.2


def test_a_sample_is_drawn_by_its_seed_alone(write):
    text = (
        "[grid]\nx = {{ sample = {{ n = 4, seed = {0}, low = 0.0, high = 1.0 }} }}\ny = [1, 2, 3, 4, 5]\n[sample]\nruns = 7\nseed = {1}\n"
    )
    one, again, other, fewer = (list(grid.load(write(text.format(*seeds))).points()) for seeds in ((0, 0), (0, 0), (1, 0), (0, 1)))
    assert one == again
    assert {point["x"] for point in one}.isdisjoint(point["x"] for point in other)
    assert one != fewer
    assert len(one) == 7
    assert len({tuple(point.items()) for point in one}) == 7, "no combination is drawn twice"
    whole = list(grid.load(write(text.format(0, 0).split("[sample]")[0])).points())
    assert [point for point in whole if point in one] == one, "drawn from the product, in its order"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[gird]\nseed = [1]", "unknown key 'gird'; did you mean 'grid'?"),
        ("[grid]\npolicy = ['device-only']\n'path.rtt' = [0.01]", "unknown key 'path.rtt'; did you mean 'rtt_s'"),
        ("[grid]\npolcy = ['device-only']\npolicy = ['random']", "unknown key 'polcy'; did you mean 'policy'?"),
        ("[grid]\npolicy = ['greedy-ewna']", "'greedy-ewna': did you mean 'greedy-ewma'?"),
        ("[grid]\npolicy = ['device-only']\nscenario = ['urlc-ge']", "did you mean 'urllc-ge'?"),
        ("[grid]\nseed = [1]", "neither policy nor algo"),
        ("[grid]\npolicy = ['random']\nalgo = ['ppo']", "both policy and algo"),
        ("[grid]\nalgo = ['pppo']", "did you mean 'ppo'?"),
        ("[grid]\nalgo = ['ppo']\n'learner.gama' = [0.5]", "unknown key 'learner.gama'; did you mean 'gamma'?"),
        ("[grid]\nalgo = ['ppo']\n'learner.gamma' = ['high']", "learner.gamma = 'high'"),
        ("[grid]\npolicy = ['random']\n'learner.gamma' = [0.5]", "learner.gamma means nothing to random"),
        ("[grid]\npolicy = ['random']\nseed = [1, 1]", "seed holds 1 twice"),
        ("[grid]\npolicy = ['random']\nseed = [-1]", "seed = -1: give a whole number from 0 on"),
        ("[grid]\npolicy = ['random']\nepisodes = [0]", "episodes = 0: give a whole number from 1 on"),
        ("[grid]\npolicy = ['random']\nseed = []", "seed is an empty list"),
        ("[grid]\npolicy = 'random'", "an axis of [grid] is a list"),
        ("[grid]\npolicy = ['random']\nseed = [0]\n[fixed]\nseed = 1", "seed is in [grid] and in [fixed]"),
        ("[grid]\npolicy = ['random']\nx = { range = { low = 1.0, high = 2.0, m = 3 } }", "x.range"),
        ("[grid]\npolicy = ['random']\nx = { range = { low = 0.0, high = 2.0, n = 3, log = true } }", "begins above 0"),
        ("[grid]\npolicy = ['random']\n[sample]\nruns = 2", "there are 1 combinations"),
        ("[grid]\npolicy = ['random']\n'plan_factor.accuracy' = [2.0]", "unknown key 'plan_factor.accuracy'"),
        ("[grid]\npolicy = ['random']\n'plan_factor.device_s' = [0.0]", "give a factor above 0"),
        ("[grid]\npolicy = ['random']\n'path.rtt_s' = ['far']", "path.rtt_s = 'far'"),
        ("[grid]\npolicy = ['random']\n'slot_s' = [0.02]\nplans = ['camera9']", "plans"),
        ("[grid]\npolicy = [", "is no TOML"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line_that_names_it(refused, write, text, says):
    file = write(text)
    line = refused("sweep", file, "-o", file.parent / "out")
    assert says in line
    assert "grid.toml" in line


def test_a_missing_file_is_refused(refused, tmp_path):
    assert "no.toml" in refused("sweep", tmp_path / "no.toml", "-o", tmp_path / "out")


def test_fields_of_scenario_plans_and_learner_reach_the_run(write):
    text = """
[fixed]
algo = "ppo"
steps = 640
scenario = "urllc-ge"
arrivals = { kind = "periodic", period_s = 0.5 }
[fixed.plan_factor]
device_s = 2.0
[grid]
objective.deadline_s = [0.07]
learner.gamma = [0.3]
learner.hidden = [[8, 4]]
"""
    from cutlayer.envs import scenarios

    (run,) = plan.runs(grid.load(write(text)))
    judged, plain = work.world_of(run.world).judged, scenarios.make("urllc-ge")
    assert judged.objective.deadline_s == 0.07
    assert judged.arrivals.period_s == 0.5
    assert judged.name == "urllc-ge", "by which recipes and drives are found"
    np.testing.assert_array_equal(judged.plans.device_s, 2.0 * plain.plans.device_s)
    np.testing.assert_array_equal(judged.plans.edge_s, plain.plans.edge_s)
    assert (run.recipe.gamma, run.recipe.hidden, run.recipe.steps) == (0.3, (8, 4), 640)


def test_a_run_is_named_by_what_it_is_made_from_and_not_by_how_it_was_asked_for(write):
    def keys(text):
        return [run.key for run in plan.runs(grid.load(write(text)))]

    base = keys(SMALL)
    assert len(set(base)) == 8
    moved = "[grid]\npath.rtt_s = [0.002]\nscenario = ['urllc-ge']\n[fixed]\nseed = 1\npolicy = 'greedy-ewma'\nepisodes = 2\nrequests = 40"
    assert set(keys(moved)) <= set(base)
    for other in (
        moved.replace("40", "41"),
        moved.replace("episodes = 2", "episodes = 3"),
        moved + "\nscored = true",
        moved + "\nblock = 7",
    ):
        assert set(keys(other)).isdisjoint(base)
    with pytest.raises(ConfigError, match="are the same run"):
        keys("[fixed]\npolicy = 'random'\n[grid]\nplan_factor.edge_s = [1, 1.0]")


def test_it_measures_what_evaluate_measures(write, run, tmp_path):
    out = tmp_path / "out"
    swept = job.sweep(grid.load(write("[grid]\npolicy = ['best-static']\nseed = [3]\nepisodes = [2]\nscored = [true]")), out, local.here)
    assert not swept.errors
    code, text, _ = run("evaluate", "--policy", "best-static", "--seed", 3, "--episodes", 2, "--json")
    told, (row,) = json.loads(text), _table(out).to_dicts()
    assert code == 0
    for key in ("reward_mean", "score", "headroom", "latency_p50_s", "latency_p99_s", "miss_rate", "accuracy", "energy_j"):
        assert row[key] == told[key], key
    assert row["requests_total"] == told["requests"]
    assert [row["miss_low"], row["miss_high"]] == told["miss_ci95"]
    assert {key: row[f"share_exit_{key}"] for key in told["share"]["exit"]} == told["share"]["exit"]


def test_a_priced_rule_runs_compiled_and_decides_as_it_does_request_by_request(write, monkeypatch):
    from cutlayer.agents import evaluate
    from cutlayer.agents.bayes import tuning

    monkeypatch.setattr(tuning, "TRIALS", 2)
    (made,) = plan.runs(grid.load(write("[grid]\npolicy = ['device-only']\nepisodes = [2]")))
    world = work.world_of(made.world)
    rule = tuning.tuned(world.tuning, 0, "belief-greedy", trials=2)
    fast = work._play(world.judged, rule, made)
    slow = evaluate.one_by_one(world.judged, rule, made.size.seeds)
    for column in ("plans", "latency_s", "accuracy", "energy_j"):
        np.testing.assert_array_equal(getattr(fast, column), getattr(slow, column))


def test_a_finished_run_is_not_repeated_and_a_half_written_one_is(write, tmp_path, monkeypatch):
    given, out, made = grid.load(write(SMALL)), tmp_path / "out", []
    attempt = local.attempt
    monkeypatch.setattr(local, "attempt", lambda run, folder: made.append(run.key) or attempt(run, folder))
    swept = job.sweep(given, out, local.here)
    assert (swept.runs, swept.before, swept.made, len(made)) == (8, 0, 8, 8)
    first = (out / "results.parquet").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("run.json")}
    assert job.sweep(given, out, local.here).made == 0
    assert len(made) == 8
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("run.json")} == stamps
    victim = made[3]
    (out / "runs" / victim / "run.json").rename(out / "runs" / victim / ".run.json.abc")  # as a kill in the middle of a write leaves it
    (out / "results.parquet").unlink()
    assert job.sweep(given, out, local.here).made == 1
    assert made[8:] == [victim]
    assert (out / "results.parquet").read_bytes() == first


def test_what_is_no_run_is_refused_and_not_written_over(write, tmp_path):
    given, out = grid.load(write(SMALL)), tmp_path / "out"
    key = plan.runs(given)[0].key
    (out / "runs" / key).mkdir(parents=True)
    (out / "runs" / key / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no run of a sweep"):
        job.sweep(given, out, local.here)


def test_a_run_that_fails_stops_no_other_and_is_told(write, run, tmp_path):
    # No plan of the privacy table sends the raw image, so there is no edge-only.
    text = "[fixed]\nscenario = 'privacy'\nrequests = 20\nepisodes = 1\n[grid]\n"
    text += "policy = ['device-only', 'edge-only', 'greedy-last']\nseed = [0, 1]"
    code, out, err = run("sweep", write(text), "-o", tmp_path / "out", "--jobs", 1, "--json")
    told = json.loads(out)
    assert code == 1
    assert (told["runs"], told["made"], len(told["errors"])) == (6, 4, 2)
    lines = err.strip().splitlines()
    assert len(lines) == 2, err
    assert all("failed: ConfigError" in line for line in lines)
    table = _table(tmp_path / "out")
    assert table["policy"].to_list() == ["device-only"] * 2 + ["edge-only"] * 2 + ["greedy-last"] * 2
    failed = table.filter(pl.col("policy") == "edge-only")
    figures = [name for name in table.columns if name == "reward_mean" or name.startswith("share_")]
    assert len(figures) > 1
    assert failed.select(figures).null_count().row(0) == (2,) * len(figures)
    assert all(told["errors"][row["run"]] == row["error"] for row in failed.to_dicts())
    assert table.filter(pl.col("policy") != "edge-only")["error"].null_count() == 4


def test_a_dry_run_counts_and_estimates_and_makes_nothing(write, run, tmp_path):
    out = tmp_path / "out"
    code, text, err = run("sweep", write(SMALL), "-o", out, "--dry-run", "--json")
    told = json.loads(text)
    assert (code, err, told["runs"], told["left"]) == (0, "", 2 * 2 * 2, 8)
    assert told["cpu_s"] > 0
    assert "pilot" in told["source"]
    assert not out.exists()
    job.sweep(grid.load(write(SMALL.replace("[0, 1]", "[0]"))), out, local.here)
    found = job.estimate(grid.load(write(SMALL)), out)
    spent = {path: json.loads(path.read_text()) for path in (out / "runs").rglob("run.json")}
    mean = {name: np.mean([one["cpu_s"] for one in spent.values() if one["policy"] == name]) for name in ("device-only", "greedy-ewma")}
    assert (found.runs, found.left) == (8, 4)
    assert found.cpu_s == pytest.approx(2 * sum(mean.values()))
    assert "4 finished runs" in found.source


def test_a_learner_is_trained_by_the_grids_recipe_and_evaluated(write, tmp_path):
    text = """
[fixed]
algo = "ppo"
requests = 20
episodes = 1
steps = 256
[fixed.learner]
lanes = 4
episodes = 8
rollout = 16
batch = 32
epochs = 1
[grid]
learner.gamma = [0.0, 0.5]
"""
    out = tmp_path / "out"
    swept = job.sweep(grid.load(write(text)), out, local.here)
    assert not swept.errors
    for row in _table(out).to_dicts():
        manifest = json.loads((out / "runs" / row["run"] / "training" / "run.json").read_text())
        assert manifest["finished"]
        assert manifest["recipe"]["gamma"] == row["learner.gamma"]
        assert (manifest["recipe"]["lanes"], manifest["steps"]) == (4, 256)
        assert np.isfinite(row["reward_mean"])
    from cutlayer.agents.learners import LEARNERS

    assert LEARNERS["ppo"].recipe("camera").lanes == 128, "the recipe itself stays"


def die(run, folder):
    """Work that ends its process as the kernel does when memory is short, for one policy."""
    if run.policy == "greedy-ewma":
        os.kill(os.getpid(), signal.SIGKILL)
    return work.Outcome({"key": run.key})


def test_a_process_that_dies_costs_its_own_run_only(write, tmp_path, monkeypatch):
    text = "[fixed]\nrequests = 20\nepisodes = 1\n[grid]\npolicy = ['greedy-ewma', 'device-only', 'random']"
    runs = plan.runs(grid.load(write(text)))
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])  # workers find `die` by the name of this file
    import test_sweep

    found = list(local.processes(runs, lambda run: tmp_path / run.key, 1, test_sweep.die))
    assert {run.policy: outcome.error for run, outcome in found} == {
        "greedy-ewma": local.DIED, "device-only": None, "random": None,
    }  # fmt: skip


# The command as it is, but that its progress bar sends a signal to its own process once three of eight runs are done.
CUT = """
import contextlib, os, sys
from cutlayer import cli, sweep_cli

@contextlib.contextmanager
def bar(name):
    yield lambda share: os.kill(os.getpid(), int(sys.argv[1])) if share >= 3 / 8 else None

sweep_cli.rich_bar = bar
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGKILL, 1)])
def test_a_sweep_that_is_cut_off_leaves_a_valid_result_and_goes_on_to_the_same_table(write, tmp_path, number, jobs):
    """1. A real sweep runs in processes of its own. 2. After its third finished run it gets the signal.

    Result: no process outlives it (one that did would hold the pipe open); 130 after an interrupt, and a table of what is done; the same
    call, here in one process, makes only what is missing and ends in the same bytes as a sweep that was not cut off.
    """
    file, out = write(SMALL), tmp_path / "out"
    command = [sys.executable, "-c", CUT, str(int(number)), "sweep", str(file), "-o", str(out), "--jobs", str(jobs)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), ended.stderr
    assert "Traceback" not in ended.stderr
    done = [json.loads(path.read_text()) for path in out.glob("runs/*/run.json")]
    assert len(done) == 3
    if number == signal.SIGINT:
        assert sorted(_table(out)["run"]) == sorted(one["key"] for one in done)
    given = grid.load(file)
    assert job.sweep(given, out, local.here).made == 5
    job.sweep(given, tmp_path / "whole", local.here)
    assert (out / "results.parquet").read_bytes() == (tmp_path / "whole" / "results.parquet").read_bytes()
    table = _table(out)
    assert table["path.rtt_s"].to_list() == [0.002, 0.01] * 4, "in the grid's order, whatever order they ran in"
    assert table.schema["seed"] == pl.Int64
