"""The command line: bad input ends in one line and exit code 2, `--json` prints one object, every help has an example."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from cutlayer import cli
from cutlayer.profiles import load


@pytest.fixture
def quick_bench(monkeypatch):
    """Speeds are not the point here."""
    from cutlayer.agents import bench

    monkeypatch.setattr(bench, "REPEATS", 1)
    monkeypatch.setattr(bench, "EVENTS", 2_000)
    monkeypatch.setattr(bench, "LONG", 400)
    monkeypatch.setattr(bench, "QUEUED", 2_000)


# --- bad input


def test_a_missing_profile(refused):
    message = refused("profile", "show", "mine.json")
    assert "no table 'mine.json'; give the path of a JSON file or a built-in name: " in message
    assert "alexnet" in message


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema_version": 1}', b"layer,ms\n", b'{"model": "\xff"}'])
def test_a_malformed_profile(refused, tmp_path, content):
    (tmp_path / "mine.json").write_bytes(content)
    assert "mine.json" in refused("profile", "show", "mine.json")


def test_a_truncated_profile(refused, tmp_path):
    data = (load.BUILT_IN / "alexnet.json").read_bytes()
    (tmp_path / "mine.json").write_bytes(data[: len(data) // 2])
    assert "mine.json is not whole JSON" in refused("profile", "show", "mine.json")


def test_a_profile_that_cannot_be(refused, tmp_path):
    table = json.loads((load.BUILT_IN / "alexnet.json").read_bytes())
    table["layers"][1]["time"]["cpu"]["mean_s"] = -0.25
    (tmp_path / "mine.json").write_text(json.dumps(table), encoding="utf-8")
    message = refused("profile", "show", "mine.json")
    for part in ("mean_s -0.25", table["layers"][1]["name"], "mine.json", "measure it anew"):
        assert part in message


@pytest.mark.parametrize("command", [["train"], ["evaluate", "--policy", "device-only"]])
def test_an_unknown_scenario(refused, command):
    message = refused(*command, "--scenario", "camrea")
    assert "unknown scenario 'camrea'; did you mean 'camera'? known: camera" in message


def test_an_unknown_policy(refused):
    message = refused("evaluate", "--policy", "greedy-emwa")
    for part in ("unknown policy 'greedy-emwa'", "a bundle, a run folder or one of: ", "greedy-ewma", "clairvoyant"):
        assert part in message


def test_an_unknown_algorithm(refused, tmp_path):
    assert "unknown algorithm 'reinforce'; known: ppo, " in refused("train", "--algo", "reinforce", "-o", tmp_path / "run")


@pytest.mark.parametrize("command", [["measure", "alexnett"], ["accuracy", "alexnett", "--images", "photos"]])
def test_an_unknown_network(refused, photos, command):
    assert "no network 'alexnett'; did you mean 'alexnet'? give one of alexnet" in refused("profile", *command)


def test_an_unknown_network_to_train(refused, photos, tmp_path):
    assert "no recipe to train 'alexnett'; there is one for: alexnet" in refused(
        "profile", "train", "alexnett", "--images", photos, "-o", tmp_path / "out"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_bundle(refused, tmp_path, few_plans_bundle, share):
    few_plans_bundle.save(tmp_path / "policy.cutlayer", "0")
    data = (tmp_path / "policy.cutlayer").read_bytes()
    (tmp_path / "policy.cutlayer").write_bytes(data[: int(share * len(data))])
    message = refused("evaluate", "--policy", "policy.cutlayer")
    assert "policy.cutlayer is no whole bundle" in message
    assert "copy or export it again" in message


def test_a_bundle_of_another_plan_table(refused, tmp_path, few_plans_bundle):
    few_plans_bundle.save(tmp_path / "policy.cutlayer", "0")
    message = refused("evaluate", "--policy", "policy.cutlayer")
    assert "policy.cutlayer was exported for another plan table than camera has; export it anew" in message


@pytest.fixture
def few_plans_bundle():
    """A bundle for three plans of the built-in table."""
    from cutlayer.envs import scenarios
    from cutlayer.profiles.plans import PlanTable
    from cutlayer.runtime import features
    from cutlayer.runtime.bundle import Bundle, Golden
    from cutlayer.runtime.policy import Mlp

    whole = scenarios.plan_table()
    table = PlanTable(whole.model, whole.device, whole.edge, whole.depths, tuple(whole.rows[i] for i in (0, whole.device_only(), 1)))
    policy = Mlp([(np.zeros((3, features.SIZE)), np.array([0.0, 1.0, 0.0]))], "tanh")
    camera = scenarios.make("camera")
    return Bundle("camera", "none", table, camera.path, camera.objective, policy, Golden([[0.0] * features.SIZE], [1]), {})


def test_a_folder_that_is_no_run(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    for command in (["evaluate", "--policy", "empty"], ["export", "empty", "-o", "policy.cutlayer"]):
        message = refused(*command)
        assert "empty is no run folder" in message
        assert "make one with: cutlayer train" in message
    assert "none is no run folder" in refused("export", "none", "-o", "policy.cutlayer")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read trace drive.csv"),
        ("", "trace drive.csv has the columns nothing"),
        ("time,mbps\n0,1\n", "it needs t_s (time) and ul_mbps or tput_mbps (rate)"),
        ("t_s,ul_mbps\n0,1\n1,fast\n", "no number"),
        ("t_s,ul_mbps\n0,1\n1,-2\n", "finite and not negative"),
        ("t_s,ul_mbps\n0,1\n1,nan\n", "finite and not negative"),
        ("t_s,ul_mbps\n1,1\n0,2\n", "rising t_s"),
        ("t_s,ul_mbps\n0,1\nnan,2\n2,1\n", "rising t_s"),
        ("t_s,ul_mbps\n0,1\n", "at least two rows"),
        ("t_s,ul_mbps\n0,1\n1\n", "at least two rows"),
    ],
)
def test_a_bad_trace(refused, tmp_path, text, said):
    if text is not None:
        (tmp_path / "drive.csv").write_text(text, encoding="utf-8")
    message = refused("evaluate", "--policy", "device-only", "--trace", "drive.csv")
    assert said in message
    assert "drive.csv" in message


def test_images_that_are_not_there(refused, tmp_path):
    for command in (["accuracy", "alexnet"], ["traces", "alexnet", "-o", "t.npz"], ["train", "alexnet", "-o", tmp_path / "out"]):
        assert "no images at none" in refused("profile", *command, "--images", "none")


def test_a_single_photo_is_no_set_of_images(refused, photos):
    assert "1.png" in refused("profile", "accuracy", "alexnet", "--images", photos / "class0" / "1.png")


def test_images_of_other_classes(refused, photos):
    (photos / "class9" / "1.png").unlink()
    (photos / "class9").rmdir()
    message = refused("profile", "accuracy", "alexnet", "--images", photos)
    assert "9 images of 9 classes from photos; alexnet has 10; give images of its classes" in message


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "--policy", "device-only", "--episodes", "0"],
        ["evaluate", "--policy", "device-only", "--episodes", "-3"],
        ["evaluate", "--policy", "device-only", "--seed", "-1000000"],
        ["profile", "measure", "alexnet", "--runs", "0"],
        ["profile", "measure", "alexnet", "--runs", "-20"],
        ["profile", "accuracy", "alexnet", "--images", "photos", "--limit", "0"],
        ["profile", "train", "alexnet", "--images", "photos", "-o", "out", "--epochs", "0"],
        ["train", "-o", "out", "--steps", "-1"],
        ["bench", "engines", "--requests", "-1"],
    ],
    ids=lambda command: " ".join(command[-2:]),
)
def test_a_number_that_cannot_be(refused, photos, quick_bench, command):
    assert command[-1] in refused(*command)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "COMMAND"),
        (["profil", "show"], "'profil'"),
        (["profile"], "COMMAND"),
        (["profile", "shwo", "alexnet"], "'shwo'"),
        (["profile", "show"], "table"),
        (["evaluate"], "--policy"),
        (["evaluate", "--policy", "device-only", "--episode-count", "3"], "--episode-count 3"),
        (["evaluate", "--policy", "device-only", "--episodes", "many"], "'many'"),
        (["evaluate", "--policy", "device-only", "--engine", "fast"], "'fast'"),
        (["export", "run"], "-o/--out"),
        (["demo", "extra"], "extra"),
    ],
)
def test_a_bad_option_points_at_the_help(refused, command, said):
    message = refused(*command)
    assert said in message
    assert re.search(r"; see cutlayer[a-z ]* --help\n$", message)


@pytest.mark.parametrize("out", ["file/mine.json", "folder"])
def test_a_place_that_cannot_be_written_to(refused, tmp_path, out):
    (tmp_path / "file").write_text("precious", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    assert out.split("/")[0] in refused("profile", "measure", "alexnet", "--runs", "1", "-o", out)


def test_a_bad_input_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cutlayer.cli", "profile", "show", "none"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cutlayer: no table 'none'; ")
    assert done.stderr.count("\n") == 1


def test_a_library_that_is_missing_is_named_with_what_installs_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "cutlayer.envs", None)
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.startswith("cutlayer.envs"):
            raise ModuleNotFoundError("No module named 'simpy'", name="simpy")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "simpy is not installed; install it with: pip install 'cutlayer[" in refused("train")


# --- help


def commands(parser, path=()):
    """Every command that does something: (its words, its parser)."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path, parser
    for action in below:
        for name, child in action.choices.items():
            yield from commands(child, (*path, name))


COMMANDS = dict(commands(cli.parser()))


def test_the_commands_are_found():
    assert {("demo",), ("train",), ("evaluate",), ("export",), ("bench", "engines"), ("profile", "measure")} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses(run, words):
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    example = re.search(r"example: (.*)", " ".join(out.split())).group(1)
    program, *arguments = shlex.split(example)
    assert program == "cutlayer"
    assert tuple(arguments[: len(words)]) == words
    parsed = cli.parser().parse_args(arguments)
    assert any(callable(value) for value in vars(parsed).values()), "the function that runs is there"
    assert "--json" in out


def test_the_version(run):
    from cutlayer import __version__

    assert run("--version") == (0, f"cutlayer {__version__}\n", "")


# --- one JSON object


def one_object(result):
    code, out, err = result
    assert code == 0, err
    assert out.count("\n") == 1
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_profile_show_prints_one_object(run):
    found = one_object(run("profile", "show", "alexnet", "--json"))
    assert found["model"] == "alexnet"
    assert {"layers", "whole_cpu_mean_s", "sum_cpu_mean_s", "wall_over_cpu", "runs", "provenance"} <= set(found)
    assert {"name", "output_shape", "cpu_mean_s", "wall_p50_s"} <= set(found["layers"][0])


def test_profile_show_prints_a_table_of_the_same(run):
    code, out, _ = run("profile", "show", "alexnet")
    assert code == 0
    found = one_object(run("profile", "show", "alexnet", "--json"))
    for layer in found["layers"]:
        assert re.search(rf"^{layer['name']}\b.* {1e3 * layer['cpu_mean_s']:.3f} ", out, re.MULTILINE)


def test_profile_measure_writes_a_table_and_prints_one_object(run, tmp_path):
    found = one_object(run("profile", "measure", "alexnet", "--runs", "1", "--device-name", "a bench", "-o", "mine.json", "--json"))
    assert found["runs"] == 1
    table = load.profile(tmp_path / "mine.json")
    assert table.provenance.machine == found["provenance"]["machine"] == "a bench"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_profile_accuracy_prints_one_object(run, photos, tmp_path):
    found = one_object(run("profile", "accuracy", "alexnet", "--images", photos, "--limit", "3", "-o", "accuracy.json", "--json"))
    assert found["images"] == 3
    assert {"exit", "accuracy", "low", "high"} <= set(found["exits"][0])
    assert set(found["bits"]) == {"2", "4", "8", "16", "32"}
    table = load.accuracy(tmp_path / "accuracy.json")
    assert table.images == 3
    assert len(found["plans"]) == len(table.plans)
    assert all({"exit", "partition", "bits", "codec", "accuracy", "low", "high"} <= set(plan) for plan in found["plans"])
    assert {plan["codec"] for plan in found["plans"]} >= {"affine", "zstd"}


def test_profile_accuracy_counts_the_codecs_asked_for(run, refused, photos):
    command = ("profile", "accuracy", "alexnet", "--images", photos, "--limit", "2")
    found = one_object(run(*command, "--codecs", "affine", "--json"))
    assert {plan["codec"] for plan in found["plans"]} == {"affine"}
    message = refused(*command, "--codecs", "affine,zstandard")
    assert "no codec 'zstandard' for alexnet; did you mean 'zstd'? there are: affine, zstd" in message


def test_profile_bottlenecks_trains_once_and_prints_one_object(run, photos, tmp_path):
    for photo in list(photos.rglob("*.png")):
        for copy in range(3):
            photo.with_stem(f"copy{copy}").write_bytes(photo.read_bytes())
    given = ("alexnet", "--images", photos, "--held-out", photos)
    command = ("profile", "bottlenecks", *given, "--cuts", "3", "--units", "ae1", "-o", "units")
    found = one_object(run(*command, "--json"))
    (unit,), (row,) = found["units"], found["held_out"]
    assert (unit["unit"], unit["cut"], unit["file"]) == ("ae1", 3, "units/ae1-cut3.safetensors")
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["ae1-cut3.safetensors"]
    assert (row["payload_bytes"], [e["exit"] for e in row["exits"]]) == (64, [2, 3, 4])
    written = (tmp_path / "units" / "ae1-cut3.safetensors").stat().st_mtime_ns
    assert one_object(run(*command, "--json")) == found
    assert (tmp_path / "units" / "ae1-cut3.safetensors").stat().st_mtime_ns == written, "what is there is not trained again"
    code, out, _ = run(*command)
    assert code == 0
    assert f"cut 3  ae1          64 bytes  exit 2 {row['exits'][0]['accuracy']:.4f}" in out


def test_profile_bottlenecks_refuses_before_it_reads_images(refused):
    command = ("profile", "bottlenecks", "alexnet", "--images", "none", "-o", "units")
    assert "no bottleneck of alexnet at cut 7; a feature map with layers behind it is at 1,2,3,4,5" in refused(*command, "--cuts", "2,7")
    assert "no bottleneck 'bottel3'; did you mean 'bottle3'?" in refused(*command, "--units", "ae12,bottel3")


def test_profile_traces_writes_what_it_prints(run, photos, tmp_path):
    from cutlayer.profiles import traces

    command = ("profile", "traces", "alexnet", "--images", photos, "--limit", "3", "-o", "mine.npz")
    found = one_object(run(*command, "--json"))
    recorded = traces.load(tmp_path / "mine.npz")
    assert found == {"out": "mine.npz", **traces.summary(recorded)}
    code, out, _ = run(*command)
    assert code == 0
    assert out == f"wrote mine.npz\n{traces.text(recorded)}\n"


EVALUATED = {
    "reward_mean", "miss_rate", "miss_ci95", "latency_p50_s", "latency_p95_s", "latency_p99_s", "accuracy", "energy_j", "share", "run",
}  # fmt: skip


@pytest.mark.parametrize("policy", ["device-only", "edge-only", "random", "greedy-ewma", "clairvoyant"])
def test_evaluate_prints_one_object(run, policy):
    found = one_object(run("evaluate", "--policy", policy, "--episodes", "2", "--json"))
    assert set(found) >= EVALUATED
    assert found["run"]["scenario"] == "camera"
    assert found["run"]["seeds"]["episodes"] == 2
    assert 0 <= found["miss_ci95"][0] <= found["miss_rate"] <= found["miss_ci95"][1] <= 1


def test_evaluate_is_the_same_every_time_and_on_both_engines(run):
    command = ("evaluate", "--policy", "random", "--episodes", "2", "--json")
    one, two, other = (one_object(run(*command, *more)) for more in ((), ("--engine", "simpy"), ("--seed", "1")))
    for key in EVALUATED - {"run"}:
        assert one[key] == (pytest.approx(two[key], rel=1e-9) if isinstance(two[key], float) else two[key])
    assert one["reward_mean"] != other["reward_mean"]


def test_evaluate_replays_a_trace(run, tmp_path):
    rows = "".join(f"{t},{4 + t % 3}\n" for t in range(30))
    (tmp_path / "drive.csv").write_text("t_s,ul_mbps\n" + rows, encoding="utf-8")
    found = one_object(run("evaluate", "--policy", "greedy-ewma", "--episodes", "2", "--trace", tmp_path / "drive.csv", "--json"))
    assert found["run"]["inputs"] == "traces: drive"


def test_bench_engines_prints_one_object(run, quick_bench):
    found = one_object(run("bench", "engines", "--requests", "400", "--json"))
    keys = {
        "simpy_raw_events_per_s",
        "simpy_decisions_per_s",
        "kernel_decisions_per_s_n1",
        "ratio",
        "max_rel_error",
        "requests",
        "scenarios",
    }
    assert keys <= set(found)
    assert found["requests"] == 400
    assert found["max_rel_error"] <= 1e-9


def test_train_evaluate_and_export_work_together(run, tmp_path):
    """The way of a policy, as somebody would type it."""
    made = one_object(run("train", "--algo", "ppo", "--steps", "64", "--seed", "2", "-o", "mine", "--json"))
    assert (made["run"], made["algorithm"], made["seeds"]["training"]) == ("mine", "ppo", 2)
    exported = one_object(run("export", "mine", "-o", "policy.cutlayer", "--json"))
    assert exported["bytes"] == (tmp_path / "policy.cutlayer").stat().st_size
    assert (exported["scenario"], exported["algorithm"]) == ("camera", "ppo")
    of_run, of_bundle = (one_object(run("evaluate", "--policy", what, "--episodes", "2", "--json")) for what in ("mine", "policy.cutlayer"))
    for key in EVALUATED - {"run"}:
        assert of_run[key] == of_bundle[key]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "policy.cutlayer"]
