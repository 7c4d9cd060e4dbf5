"""The benchmark end to end, tiny: runs are made once, the page says what they hold, and worlds and trends are what they claim."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cutlayer import benchmark_cli
from cutlayer.agents import benchmark, benchmark_page, evaluate, oracle, score, standings, trends, worlds
from cutlayer.agents.drives import DRIVES
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.envs import scenarios
from cutlayer.errors import ConfigError
from cutlayer.options import Parser
from cutlayer.profiles import derived, load
from cutlayer.profiles.plans import PlanTable

SIZE = benchmark.Size(episodes=3, steps=320)
RULES = ["device-only", "best-static", "greedy-last", "random"]
HELD = ["clairvoyant@uncut", "clairvoyant@exit=0", "clairvoyant@exit=4", "clairvoyant@bits=4"]


@pytest.fixture(scope="module")
def world():
    """A short camera, judged, tuned and trained on alike."""
    scenario = dataclasses.replace(scenarios.make("camera"), requests=30)
    return worlds.World("camera", scenario, scenario, scenario)


@pytest.fixture(scope="module")
def learners(tiny):
    """Learners small enough for tests, wherever their table is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        from cutlayer.agents import export, train

        for module in (benchmark, standings, train, export):
            patch.setattr(module, "LEARNERS", tiny.LEARNERS)
        yield


@pytest.fixture(scope="module")
def made(world, learners, tmp_path_factory):
    """A folder of runs: rules, oracles, held knobs, and a learner with three seeds."""
    folder = tmp_path_factory.mktemp("benchmark")
    paths = benchmark.run(world, [*RULES, "clairvoyant", "clairvoyant-one-step", *HELD], range(2), folder, SIZE)
    paths += benchmark.run(world, ["ppo"], range(3), folder, SIZE)
    return folder, paths


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_a_seed_changes_is_run_for_every_seed(made):
    _, paths = made
    runs = [read(path) for path in paths]
    count = {name: sum(run["policy"] == name for run in runs) for name in {run["policy"] for run in runs}}
    assert count == {**dict.fromkeys([*RULES, "clairvoyant", "clairvoyant-one-step", *HELD], 1), "random": 2, "ppo": 3}


def test_a_run_says_what_makes_it_repeatable(made, world):
    for path in made[1]:
        run = read(path)
        assert {"commit", "version", "command", "machine", "plans_sha256", "world_sha256", "made_at"} <= set(run)
        assert run["seeds"] == {"policy": run["seed"], "first_episode": HELD_OUT, "episodes": 3}
        assert np.mean(run["rewards"]) == pytest.approx(run["figures"]["reward_mean"], abs=1e-6)


def test_what_is_there_is_not_made_again(made, world, monkeypatch):
    folder, paths = made
    before = {path: path.read_bytes() for path in paths}
    monkeypatch.setattr(evaluate, "evaluate", None)  # nothing may be evaluated
    assert benchmark.run(world, ["ppo", *RULES], range(2), folder, SIZE)
    assert {path: path.read_bytes() for path in paths} == before


def test_what_was_cut_off_goes_on(made, world):
    folder, paths = made
    lost = next(path for path in paths if "random-1" in str(path))
    before = read(lost)
    lost.unlink()
    benchmark.run(world, RULES, range(2), folder, SIZE)
    assert {**read(lost), "made_at": "", "machine": {}} == {**before, "made_at": "", "machine": {}}


def test_another_world_is_another_run(made, world):
    folder, paths = made
    longer = dataclasses.replace(world, judged=dataclasses.replace(world.judged, requests=31))
    other = benchmark.run(longer, ["device-only"], range(1), folder, SIZE)
    assert not set(other) & set(paths)
    other[0].unlink()


def test_a_policy_that_a_world_cannot_have_is_told_and_left_out(tmp_path):
    privacy = dataclasses.replace(scenarios.make("privacy"), requests=10)
    told = []
    made = benchmark.run(
        worlds.World("privacy", privacy, privacy, privacy), ["edge-only", "device-only"], range(2), tmp_path, SIZE, told.append
    )
    assert len(made) == 1
    assert "privacy: no edge-only: edge-only cannot run on privacy" in told[0]


def test_an_unknown_policy_ends_before_anything_is_run(world, tmp_path):
    with pytest.raises(ConfigError, match="unknown policy 'bayes-gready'"):
        benchmark.run(world, ["device-only", "bayes-gready"], range(1), tmp_path, SIZE)
    assert not list(tmp_path.iterdir())


# --- standings and page


@pytest.fixture(scope="module")
def stood(made):
    return standings.stand(standings.load(made[0])["camera"])


def test_standings_are_those_of_the_scores(made, stood):
    runs = [read(path) for path in made[1]]
    rewards = {run["policy"]: np.array(run["rewards"]) for run in runs if run["seed"] == 0}
    top = np.max([run["rewards"] for run in runs], axis=0)
    simple = {name: rewards[name] for name in ("device-only", "best-static", "greedy-last")}
    for name in ("device-only", "greedy-last", "clairvoyant-one-step"):
        assert stood.policies[name].score == score.score(rewards[name], simple, top, score.episodes(3))
    assert stood.policies["clairvoyant"].score.value == 1.0
    assert max(stood.policies[name].score.value for name in simple) == 0.0
    assert set(stood.held) == {name.removeprefix("clairvoyant@") for name in HELD}


def test_of_three_seeds_the_middle_one_stands_and_the_worst_is_told(made, stood):
    means = sorted(np.mean(read(path)["rewards"]) for path in made[1] if "ppo-" in str(path))
    ppo = stood.policies["ppo"]
    assert ppo.seeds == 3
    assert ppo.run.mean == pytest.approx(means[1])
    assert ppo.worst <= ppo.score.value
    assert standings.kind_of("ppo") == "learner"


def test_the_page_says_what_the_runs_hold(made, stood):
    page = benchmark_page.page(made[0])
    row = next(line for line in page.splitlines() if line.startswith("| ppo |"))
    ppo = stood.policies["ppo"]
    for part in ("| 3 |", f"worst {ppo.worst:.2f}", f"{ppo.run.mean:.4f}", f"{ppo.run.figures['accuracy']:.4f}"):
        assert part in row
    for part in ("# Benchmark", "## camera", "## Without a knob", "device-only", "3 episodes", "over 3 episodes"):
        assert part in page
    assert "nan" not in page
    assert page == benchmark_page.page(made[0]), "the same runs, the same page"


def test_packed_runs_draw_the_same_page(made, tmp_path):
    packed = standings.pack(made[0], tmp_path)
    assert [path.name for path in packed] == ["camera.jsonl"]
    assert benchmark_page.page(tmp_path) == benchmark_page.page(made[0])


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "camera.jsonl").write_text('{"policy": "ppo"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"camera.jsonl is no run"):
        standings.load(tmp_path)


def test_nobody_stands_above_one(stood):
    for standing in stood.policies.values():
        assert standing.score.value is None or standing.score.value <= 1.0


def run_of(policy, rewards, seed=0, world="w"):
    figures = {
        "reward_mean": float(np.mean(rewards)), "requests": 12_000, "misses": 3, "miss_rate": 3 / 12_000, "miss_ci95": [0.0001, 0.0007],
        "latency_p50_s": 0.01, "latency_p95_s": 0.02, "latency_p99_s": 0.03, "accuracy": 0.8, "energy_j": 0.05,
    }  # fmt: skip
    trend = {knob: {"rho": 0.5, "p": 0.002} for knob in ("exit", "bits")}
    return standings.Run(
        policy, seed, world, "same", list(rewards), None, [False] * len(rewards), figures, trend, "2026", "c", "cutlayer benchmark", "", {}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("learner", "said"),
    [(0.75, "ppo lies above every rule"), (0.60, "**bayes-greedy wins**"), (0.70, "**bayes-greedy ties**")],
)
def test_verdicts_in_plain_words(learner, said):
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.1, 40)

    def near(level):
        return level + hard + rng.normal(0, 0.01, 40)

    runs = [
        run_of("best-static", near(0.5)),
        run_of("bayes-greedy", near(0.7)),
        run_of("ppo", near(learner)),
        run_of("clairvoyant", near(0.9)),
    ]
    one = standings.stand(runs)
    assert said in benchmark_page.verdict(one)
    assert "| < 0.07% |" in benchmark_page._row(one.policies["ppo"]), "three misses tell no rate"
    apart = one.policies["ppo"].apart
    assert apart[1] < apart[0] < apart[2]


def test_the_causal_bound_is_a_second_scale():
    levels = {"best-static": 0.5, "ppo": 0.6, "causal-bound": 0.7, "clairvoyant": 0.9}
    one = standings.stand([run_of(name, np.full(20, level)) for name, level in levels.items()])
    assert one.policies["ppo"].score.value == pytest.approx(0.25)
    assert one.policies["ppo"].share.value == pytest.approx(0.5)
    assert one.policies["causal-bound"].share.value == pytest.approx(1.0)


def test_runs_of_a_world_that_has_changed_are_left_out():
    runs = [run_of(name, np.full(20, level)) for name, level in {"best-static": 0.5, "clairvoyant": 0.9}.items()]
    stale = msgspec.structs.replace(run_of("ppo", np.full(20, 0.8)), world_sha256="other", made_at="2025")
    one = standings.stand([*runs, stale])
    assert one.stale == ["ppo"]
    assert "ppo" not in one.policies


# --- the command


def command(*arguments):
    """`cutlayer benchmark` without the other commands."""
    top = Parser(prog="cutlayer")
    benchmark_cli.add(top.add_subparsers(parser_class=Parser))
    options = top.parse_args(["benchmark", *(str(argument) for argument in arguments)])
    options.function(options)


def test_the_command_makes_runs_and_page_and_goes_on(capsys, tmp_path):
    (tmp_path / "short.toml").write_text('base = "urllc-ge"\nrequests = 20\n', encoding="utf-8")
    policies = [part for name in ("device-only", "best-static", "clairvoyant") for part in ("--policy", name)]
    given = ("--scenario", tmp_path / "short.toml", "--episodes", 2, "--seeds", 1, "-o", tmp_path / "out", "--json", *policies)
    command(*given)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert len(found["runs"]) == 3
    assert "## short" in Path(found["page"]).read_text(encoding="utf-8")
    assert "device-only seed 0" in err
    command(*given)
    assert capsys.readouterr() == (out, "")


@pytest.mark.parametrize(
    ("name", "said"),
    [("camrea", "unknown scenario 'camrea'; did you mean 'camera'"), ("camera+elsewhere", "unknown world 'camera.elsewhere'")],
)
def test_an_unknown_world(name, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        command("--scenario", name, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- worlds


def test_a_slower_device_is_the_table_that_such_a_ratio_derives():
    edge, accuracy = load.profile("alexnet"), load.accuracy("alexnet-accuracy")
    plain, slow = (
        PlanTable.build(derived.slower(edge, "device", ratio, "a test"), edge, accuracy)
        for ratio in (derived.PI4_TIME_RATIO, 1.5 * derived.PI4_TIME_RATIO)
    )
    got = worlds.slower(plain, 1.5)
    for one, other in zip(got.rows, slow.rows, strict=True):
        for name in one.__struct_fields__:
            assert getattr(one, name) == (
                pytest.approx(getattr(other, name)) if isinstance(getattr(one, name), float) else getattr(other, name)
            )


def test_an_unprepared_policy_keeps_its_plans():
    """Learners are trained on the table as it was; the slower one has the same plans in the same order."""
    found = worlds.make("bursty-deadline+slow-device")
    names = [[table.name(plan) for plan in range(len(table))] for table in (found.judged.plans, found.training.plans)]
    assert names[0] == names[1]
    assert found.tuning.plans.digest() == found.judged.plans.digest() != found.training.plans.digest()


@pytest.mark.parametrize("base", list(DRIVES))
def test_drives_of_elsewhere_are_none_that_anyone_trained_or_is_judged_on(base, data_dir, monkeypatch):
    monkeypatch.setenv("CUTLAYER_DATA", str(data_dir))
    plain, other = worlds.make(base), worlds.make(f"{base}+elsewhere")
    assert len(set(other.judged.channel.names)) >= score.FEWEST_DRIVES
    assert not set(other.judged.channel.names) & {*plain.judged.channel.names, *plain.training.channel.names}
    assert other.training.channel.names == plain.training.channel.names


def test_without_the_data_a_world_of_drives_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("CUTLAYER_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="needs drives such as trace_5g_sigcomm21"):
        worlds.make("lte-uplink+elsewhere")


def test_every_world_of_the_page_can_be_made(data_dir, monkeypatch):
    monkeypatch.setenv("CUTLAYER_DATA", str(data_dir))
    assert [worlds.make(name).name for name in worlds.WORLDS] == list(worlds.WORLDS)


# --- knobs held and trends


def test_a_knob_that_is_held_stays_where_it_is(world):
    scenario = dataclasses.replace(world.judged, requests=12)
    episodes = range(HELD_OUT, HELD_OUT + 1)
    free = evaluate.evaluate(scenario, oracle.ORACLES["clairvoyant"](scenario), episodes).reward.mean()
    for held, same in (("exit=1", "exit"), ("bits=4", "bits"), ("uncut", "partition")):
        result = benchmark.without_knob(scenario, held, episodes)
        plans = result.scenario.plans
        inside = plans.offloads & (plans.partition > 0)
        values = getattr(plans, same)[result.plans]
        chosen_inside = inside[result.plans]
        if held == "uncut":
            assert not chosen_inside.any()
        else:
            assert set(values[chosen_inside if same == "bits" else slice(None)].ravel().tolist()) <= {int(held.partition("=")[2])}
        assert result.reward.mean() <= free + 0.01
    for wrong in ("bits=3", "exit=9"):
        with pytest.raises(ConfigError, match=f"has {wrong}; it has: exit=0"):
            benchmark.without_knob(scenario, wrong, episodes)
    with pytest.raises(ConfigError, match="cannot hold a knob at 'bits'"):
        benchmark.without_knob(scenario, "bits", episodes)


def test_knobs_can_be_held_where_plans_have_to_be_loaded():
    scenario = dataclasses.replace(scenarios.make("cold-start"), requests=6)
    result = benchmark.without_knob(scenario, "exit=2", range(HELD_OUT, HELD_OUT + 1))
    assert (result.scenario.plans.exit == 2).all()


def drifting(rng, episodes, requests):
    """A walk: neighbours are alike."""
    return np.cumsum(rng.normal(size=(episodes, requests)), axis=1)


def test_rank_correlation_by_hand():
    """Conover's example of ties aside: of 1..5 against 1, 2, 3, 5, 4 Spearman's rho is 1 - 6 * 2 / (5 * 24) = 0.9."""
    found = trends.rising(np.array([[1.0, 2, 3, 4, 5]]), np.array([[10.0, 20, 30, 50, 40]]))
    assert found.rho == pytest.approx(0.9)
    tied = trends.rising(np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 1, 2, 2]]))
    assert tied.rho == pytest.approx(2 / np.sqrt(5))


def test_a_trend_is_found_and_its_sign_told():
    rng = np.random.default_rng(0)
    rates = drifting(rng, 20, 100)
    noise = 0.5 * rng.normal(size=rates.shape)
    up, down = (trends.rising(rates, np.round(sign * rates + noise)) for sign in (1, -1))
    assert up.rho > 0.8
    assert up.p == pytest.approx(1 / (1 + trends.SHIFTS))
    assert down.rho < -0.8
    assert down.p == 1.0


def test_of_two_walks_that_know_nothing_of_each_other_few_are_called_a_trend():
    """Shuffled single requests would call a third of them one."""
    rng = np.random.default_rng(1)
    found = [trends.rising(drifting(rng, 5, 60), drifting(rng, 5, 60)).p <= 0.05 for _ in range(100)]
    assert 0.01 <= np.mean(found) <= 0.12


def test_what_never_changes_has_no_trend():
    found = trends.rising(drifting(np.random.default_rng(2), 5, 50), np.zeros((5, 50)))
    assert found.rho == 0.0
    assert found.p == 1.0
