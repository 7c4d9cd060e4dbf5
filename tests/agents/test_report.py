"""The report from folders to page: every number is a run's, nothing is fetched, equal inputs give equal bytes, it fits a screen."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import json
import re
import shutil

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.agents import baselines, evaluate, policies, train
from cutlayer.agents import runs as manifests
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.agents.report import gather, ink, maps, numbers, page, panels, played, tables
from cutlayer.envs.workload import DriftingSlowDown
from cutlayer.errors import ConfigError

EPISODES = 6
GRID = maps.Grid((1e5, 1e6, 1e7, 1e8), (1.0, 2.0, 4.0))


@pytest.fixture(scope="module")
def world(small):
    """Few plans, and a device whose load drifts, so that every panel has something to show."""
    return dataclasses.replace(
        small, name="small_100%", slow_down=DriftingSlowDown(extra=0.6, spread=0.8, decorrelation_s=1.0), edge=small.edge
    )


@pytest.fixture(scope="module", autouse=True)
def _one_commit():
    """The checkout may get a commit while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "commit", lambda: "0123456789ab")
        yield


@pytest.fixture(scope="module")
def runs(world, tiny, tmp_path_factory):
    """A learner with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "LEARNERS", tiny.LEARNERS)
        for seed in (0, 1):
            train.train(world, "ppo", seed, folder / f"ppo-{seed}")
    return folder


def order(world, folder, out, **more):
    return page.Order((folder,), out / "report.html", scenarios=(world,), episodes=EPISODES, grid=GRID, **more)


@pytest.fixture(scope="module")
def made(world, runs, tmp_path_factory):
    """(folder of the report, what it says to programs)."""
    out = tmp_path_factory.mktemp("report")
    return out, page.report(order(world, runs, out, figures=out / "figures"))


class Page(html.parser.HTMLParser):
    """What a test asks of the page: tags, and the cells of the first table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._cell = tag

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def parsed(made):
    return Page((made[0] / "report.html").read_text(encoding="utf-8"))


def test_every_number_of_the_table_is_the_runs(made, parsed, runs, world):
    made_of = {"device-only": baselines.Fixed(world.plans.device_only()), "greedy-ewma": baselines.greedy_ewma(world)}
    rewards = {
        seed: np.mean(policies.make(world, str(runs / f"ppo-{seed}"), seed) and _played(world, runs, seed).reward) for seed in (0, 1)
    }
    made_of["ppo"] = policies.make(
        world, str(runs / f"ppo-{min(rewards, key=rewards.get)}"), 0
    )  # of two seeds the lower stands for the median
    shown = {row[0]: row for row in parsed.rows[1:]}
    for name, policy in made_of.items():
        said = evaluate.evaluate(world, policy, range(HELD_OUT, HELD_OUT + EPISODES)).summary()
        cells = [cell.replace("−", "-") for cell in shown[name]]
        assert float(cells[3]) == pytest.approx(said["reward_mean"], abs=5.1e-5)
        assert [float(cell) for cell in cells[5:8]] == pytest.approx(
            [1e3 * said[f"latency_{p}_s"] for p in ("p50", "p95", "p99")], abs=0.051
        )
        assert float(cells[8]) == pytest.approx(100 * said["accuracy"], abs=0.0051)
        assert float(cells[9]) == pytest.approx(1e3 * said["energy_j"], abs=0.0051)
        missed = [float(number) for number in re.findall(r"[\d.]+", cells[4])]
        wanted = [said["miss_rate"], *said["miss_ci95"]] if said["misses"] >= evaluate.FEWEST_MISSES else [said["miss_ci95"][1]]
        assert missed == pytest.approx([100 * one for one in wanted], rel=0.05, abs=0.0051)
    assert shown["ppo"][1] == "2"


def _played(world, runs, seed):
    return evaluate.evaluate(world, policies.make(world, str(runs / f"ppo-{seed}"), seed), range(HELD_OUT, HELD_OUT + EPISODES))


def test_every_panel_is_there_and_what_is_not_is_named(made):
    (found,) = made[1]["worlds"]
    assert found["panels"] == ["policy-map", "score", "gap", "learning", "latency", "knobs-rate", "knobs-load"]
    assert found["absent"] == []


def test_a_panel_without_data_is_named_with_the_reason(world, runs, tmp_path):
    still = dataclasses.replace(world, slow_down=DriftingSlowDown(extra=0.0, spread=0.0, decorrelation_s=1.0))
    place = played.World(world.name, still, still, still)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(played, "world", lambda _name, _given: place)
        patch.setattr(played, "_same_world", lambda _place, _trained: None)
        result = page.report(dataclasses.replace(order(world, runs, tmp_path), grid=None))
    (found,) = result["worlds"]
    assert "policy-map" not in found["panels"]
    assert {"the policy map: it was not asked for", "knobs over the device's load: it never changes in this world"} <= set(found["absent"])
    assert all(line in (tmp_path / "report.html").read_text(encoding="utf-8").replace("&#39;", "'") for line in found["absent"])


def test_the_page_asks_for_nothing_from_elsewhere(made, parsed):
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert tag == "a" or not re.match(r"(https?:)?//", attributes.get(name) or "")
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", text)


def test_the_page_is_well_made(parsed):
    tags = [tag for tag, _ in parsed.tags]
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert tags.count("h1") == 1
    assert len(ids) == len(set(ids)), "an id is used once"
    assert all("scope" in attributes for tag, attributes in parsed.tags if tag == "th")
    assert tags.count("figure") == tags.count("figcaption") == 7
    drawn = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert all(one["role"] == "img" and len(one["aria-label"]) > 20 for one in drawn)


def test_figures_take_their_ink_from_the_page(made):
    text = (made[0] / "report.html").read_text(encoding="utf-8")
    for stand_in, variable in ((ink.INK, "--ink"), (ink.MUTED, "--muted"), (ink.BLUE, "--blue")):
        assert f"var({variable})" in text
        assert stand_in not in re.sub(r"<style>.*?</style>", "", text, count=1, flags=re.DOTALL)


def test_equal_inputs_give_equal_bytes(made, world, runs, tmp_path):
    again = page.report(order(world, runs, tmp_path, figures=tmp_path / "figures"))
    assert [row["reward_mean"] for row in again["worlds"][0]["rows"]] == [row["reward_mean"] for row in made[1]["worlds"][0]["rows"]]
    names = sorted(path.relative_to(made[0]) for path in made[0].rglob("*.*"))
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    differing = [str(name) for name in names if (made[0] / name).read_bytes() != (tmp_path / name).read_bytes()]
    assert set(differing) <= {"report.run.json"}  # which tells the load of the machine


def test_the_run_json_beside_it_names_inputs_and_holds_what_was_judged(made, runs):
    content = json.loads((made[0] / "report.run.json").read_text(encoding="utf-8"))
    assert {"version", "commit", "command", "machine"} <= set(content)
    assert sorted(content["inputs"]) == sorted(str(path) for path in runs.rglob("run.json"))
    rewards = {(run["policy"], run["seed"]): np.mean(run["rewards"]) for run in content["judged"]}
    rows = {row["policy"]: row["reward_mean"] for row in made[1]["worlds"][0]["rows"]}
    assert rows["ppo"] == pytest.approx(min(rewards["ppo", 0], rewards["ppo", 1]))


def test_files_for_a_paper_have_fixed_names(made):
    found = sorted(path.name for path in (made[0] / "figures").iterdir())
    names = made[1]["worlds"][0]["panels"]
    assert found == sorted(
        [*(f"small-100--{name}.{kind}" for name in names for kind in ("svg", "pdf")), "small-100--table.csv", "small-100--table.tex"]
    )
    assert b"var(--" not in (made[0] / "figures/small-100--score.svg").read_bytes()


def test_the_table_for_a_paper(made):
    tex = (made[0] / "figures/small-100--table.tex").read_text(encoding="utf-8")
    assert tex.count("\\begin{") == tex.count("\\end{") == 2
    assert all(rule in tex for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    assert "small\\_100\\%" in tex
    body = tex.split("\\midrule\n")[1].split("\n\\bottomrule")[0].splitlines()
    assert all(line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == len(tables.HEAD) - 1 for line in body)
    assert tex.isascii()
    with (made[0] / "figures/small-100--table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, wanted in zip(rows, made[1]["worlds"][0]["rows"], strict=True):
        assert {key: value for key, value in row.items() if value} == {
            key: str(value) for key, value in wanted.items() if value is not None
        }


@given(st.text())
def test_latex_text_is_harmless(text):
    said = tables.escaped(text)
    bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$-\$", "", said)
    assert not set(bare) & set("\\&%$#_{}~^")


# --- what is refused


def test_a_folder_without_runs(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no run.json" in refused("report", "empty")
    assert "is no folder" in refused("report", "nowhere")


def test_numbers_without_a_run_json(refused, runs, tmp_path):
    shutil.copytree(runs / "ppo-0", tmp_path / "runs/mine")
    (tmp_path / "runs/mine/run.json").unlink()
    said = refused("report", "runs")
    assert "no run.json beside it that says how it was made" in said
    assert "make the run again" in said


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"algorithm": 1}', b'{"rewards": "many"}'])
def test_a_damaged_run_json(content, refused, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs/ppo-1/run.json").write_bytes(content)
    said = refused("report", "runs")
    assert "runs/ppo-1/run.json is damaged" in said
    assert "make the run again" in said


def test_two_worlds_of_one_name(refused, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    file = tmp_path / "runs/ppo-1/run.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "world_sha256": "0" * 64}), encoding="utf-8")
    said = refused("report", "runs")
    assert "two different worlds are called small_100%" in said
    assert "report them apart" in said


def test_a_training_of_another_world_than_its_name_says(world, runs, tmp_path):
    other = dataclasses.replace(world, requests=30)
    with pytest.raises(ConfigError, match="was trained in another world than small_100% is today"):
        page.report(order(other, runs, tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_world_that_no_run_is_of(world, runs, tmp_path):
    with pytest.raises(ConfigError, match="no run is of 'camera'; these folders hold runs of: small_100%"):
        page.report(order(world, runs, tmp_path, worlds=("camera",)))


# --- runs that were judged before


@pytest.fixture(scope="module")
def judged(made, world, runs, tmp_path_factory):
    """The runs that the report judged, in the folders of a benchmark."""
    folder = tmp_path_factory.mktemp("judged")
    for run in json.loads((made[0] / "report.run.json").read_text(encoding="utf-8"))["judged"]:
        place = folder / "world" / f"{run['policy']}-{run['seed']}"
        place.mkdir(parents=True)
        (place / "run.json").write_bytes(msgspec.json.encode(run))
    for seed in (0, 1):
        shutil.copytree(runs / f"ppo-{seed}", folder / "training" / f"ppo-{seed}")
    return folder


def test_judged_runs_say_the_same_as_trainings_that_are_judged_here(judged, made, world, tmp_path):
    again = page.report(order(world, judged, tmp_path))
    (found,), (before,) = again["worlds"], made[1]["worlds"]
    assert found == before


def test_a_run_that_cannot_be_played_as_written_is_left_out_of_what_is_played(judged, world, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(judged, folder)
    file = folder / "world/greedy-ewma-0/run.json"
    run = json.loads(file.read_text(encoding="utf-8"))
    run["rewards"][0] += 1e-4
    file.write_text(json.dumps(run), encoding="utf-8")
    (found,) = page.report(dataclasses.replace(order(world, folder, tmp_path), grid=None))["worlds"]
    assert any(line.startswith("latencies, knobs and map of greedy-ewma: playing it now does not give") for line in found["absent"])


def test_runs_without_references_have_no_score_and_say_why(judged, world, tmp_path):
    folder = tmp_path / "runs"
    for name in ("ppo-0", "greedy-ewma-0"):
        shutil.copytree(judged / "world" / name, folder / "world" / name)
    (found,) = page.report(dataclasses.replace(order(world, folder, tmp_path), grid=None))["worlds"]
    assert [row["score"] for row in found["rows"]] == [None, None]
    assert any(line.startswith("scores: there is no run of the clairvoyant") for line in found["absent"])
    assert "score" not in found["panels"]
    assert "gap" not in found["panels"]


def test_a_training_beside_judged_runs_is_named_as_not_scored(judged, runs, world, tmp_path):
    both = dataclasses.replace(order(world, judged, tmp_path), folders=(judged, runs / "ppo-0"), grid=None)
    (found,) = page.report(both)["worlds"]
    assert any(line.startswith(f"the score of {runs / 'ppo-0'}:") for line in found["absent"])


# --- headline


def run_of(policy, rewards, seed=0):
    figures = {"misses": 0, "requests": 1, "miss_ci95": [0.0, 1.0]}
    return gather.Judged(policy, seed, "w", "", [float(one) for one in rewards], None, [], figures, {}, "", "", "", "", {}, "", {})


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (0.8, "ppo beats every rule: +0.3000 [+0.3000, +0.3000]"),
        (0.2, "greedy-ewma, a rule, wins: ppo, the best learner, is at −0.3000"),
        (None, "are not told apart"),
    ],
)
def test_the_headline_says_who_won_by_how_much(learner, said):
    base = np.linspace(0.4, 0.6, 20)
    rewards = base + (learner - 0.5) if learner is not None else base + np.resize([0.1, -0.1], 20)
    stood = played.stand(
        [run_of("ppo", rewards), run_of("greedy-ewma", base), run_of("device-only", base - 0.3), run_of("clairvoyant", base + 0.4)]
    )
    assert said in numbers.headline(stood)


def test_no_headroom_is_no_victory():
    base = np.full(10, 0.5)
    stood = played.stand([run_of("ppo", base), run_of("greedy-ewma", base), run_of("clairvoyant", base + 0.001)])
    assert numbers.headline(stood).startswith("Nothing to choose here")


# --- maps, shares, curves


def test_a_map_of_a_policy_that_never_moves_is_that_plan(world):
    plan = len(world.plans) - 1
    found = maps.survey(world, {"fixed": baselines.Fixed(plan)}, GRID)
    assert (found.chosen["fixed"] == plan).all()
    assert found.chosen["fixed"].shape == (len(GRID.slow_downs), len(GRID.rates_bps))


def test_who_knows_the_future_sends_nothing_without_a_link_and_uses_a_fast_one_when_the_device_crawls(world):
    found = maps.survey(world, {"clairvoyant": maps.clairvoyant(world)}, maps.Grid((1e3, 1e9), (1.0, 20.0))).chosen["clairvoyant"]
    assert not world.plans.offloads[found[0, 0]]  # the device is idle and the link is not there
    assert world.plans.offloads[found[1, 1]]  # the other way round


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_name_stands_inside_its_region(seed, kinds):
    chosen = np.random.default_rng(seed).integers(0, kinds, (4, 5)).repeat(3, axis=0).repeat(5, axis=1)
    for region in maps.regions(chosen):
        row = chosen[region.row]
        left = right = region.column
        while left > 0 and row[left - 1] == region.plan:
            left -= 1
        while right < len(row) - 1 and row[right + 1] == region.plan:
            right += 1
        assert row[region.column] == region.plan
        assert region.width == right - left + 1 >= maps.LABELLED


@given(st.integers(0, 2**32 - 1))
def test_shares_are_those_of_a_slow_obvious_count(seed):
    rng = np.random.default_rng(seed)
    plans, condition, of_plan = rng.integers(0, 6, (3, 20)), rng.choice([1.0, 1.5, 2.0, 7.0], (3, 20)), rng.permutation([0, 1, 1, 2, 2, 2])
    at = numbers.edges(condition)
    if len(at) < 2:
        return
    result = evaluate.Result(None, plans, *np.zeros((3, 3, 20)))
    share = numbers.usage(played.Requests(result, condition, condition), of_plan, condition, at)
    for k in range(len(at) - 1):
        last = k == len(at) - 2
        inside = [of_plan[p] for p, c in zip(plans.ravel(), condition.ravel(), strict=True) if at[k] <= c and (c < at[k + 1] or last)]
        assert share[:, k] == pytest.approx([inside.count(kind) / max(1, len(inside)) for kind in range(3)])


def test_a_training_is_named_by_what_its_recipe_differs_in(runs):
    found = gather.gather([runs])
    assert [one.name for one in found.trained] == ["ppo", "ppo"]
    one, other = found.trained
    longer = dataclasses.replace(other, manifest=msgspec.structs.replace(other.manifest, recipe={**other.manifest.recipe, "gamma": 0.5}))
    assert sorted(one.name for one in gather.named([one, longer])) == ["ppo (gamma 0.5)", f"ppo (gamma {one.manifest.recipe['gamma']})"]


def test_curves_span_all_seeds(runs):
    (curve,) = numbers.curves(gather.gather([runs]).trained)
    assert curve.reward.shape[0] == 2
    for seed, reward in enumerate(curve.reward):
        with (runs / f"ppo-{seed}" / train.CURVE).open(encoding="utf-8") as file:
            assert reward.tolist() == pytest.approx([float(row["reward_mean"]) for row in csv.DictReader(file)])


def test_the_map_says_in_words_what_it_shows(world):
    found = maps.survey(world, {"fixed": baselines.Fixed(world.plans.device_only())}, GRID)
    (tile,) = panels.map_panel(found).tiles
    assert tile.alt == f"Policy map of fixed: {world.plans.name(world.plans.device_only())} on 100%"


# --- in a browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_a_screen_in_light_and_dark(scheme, width, on_screen, made):
    on_screen(made[0] / "report.html", width, scheme)
