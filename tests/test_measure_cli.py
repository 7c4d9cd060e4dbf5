"""`cutlayer profile` on what is wrong: each fault of a table, a weights file or an option ends in one clear line and exit code 2."""

from __future__ import annotations

import json

import msgspec
import pytest

from cutlayer.profiles import acceptance, builtin, load, measure, power
from cutlayer.profiles.schema import Cell, Timing

CSV = "machine,threads,model,mean_ms,runs\nboard,2,net,12,30\nboard,2,other,30,30\n"
SHIPPED = load.BUILT_IN / "alexnet.json"


def change(table, keys, value):
    *keys, last = keys
    for key in keys:
        table = table[key]
    table[last] = value


# What a table of measurements can have wrong: (keys, value, what is said).
TIME = ("layers", 1, "time", "cpu", "mean_s")
PROFILE = [
    (("unit",), "ms", ["unknown field `unit`", "compare it with a built-in table"]),
    ((*TIME[:-1], "median_s"), 0.1, ["unknown field `median_s`"]),
    (TIME, -0.25, ["mean_s -0.25 of conv2 (cpu)", "measure it anew"]),
    (("codecs", 3, "decode", "wall", "p99_s"), -1.0, ["p99_s -1.0 of decode of cut 1 at 8 bits (affine) (wall)"]),
    (TIME, 5400.0, ["mean_s 5400.0 of conv2 (cpu)", "over an hour; are these milliseconds? The unit is seconds"]),
    (("whole", "cpu", "p50_s"), 0.0, ["whole in ", "takes no time; measure it anew"]),
    (("whole", "cpu", "p50_s"), 1.0, ["p50_s 1.0, p95_s ", " do not rise; measure it anew"]),
    (("busy_w",), -2.0, ["busy_w -2.0", "give watts"]),
    (("idle_w",), 99.0, ["idle_w 99.0", "is above busy_w 2.46; are the two exchanged?"]),
    (("schema_version",), 99, ["schema version 99", "update cutlayer, or measure it anew"]),
]


@pytest.mark.parametrize(("keys", "value", "said"), PROFILE)
def test_show_refuses_a_table_that_cannot_be(refused, tmp_path, keys, value, said):
    table = json.loads(SHIPPED.read_bytes())
    change(table, keys, value)
    (tmp_path / "mine.json").write_text(json.dumps(table), encoding="utf-8")
    message = refused("profile", "show", "mine.json")
    for part in ("mine.json", *said):
        assert part in message


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e999"])
def test_show_refuses_what_is_no_number(refused, tmp_path, word):
    (tmp_path / "mine.json").write_bytes(SHIPPED.read_bytes().replace(b'"busy_w": 2.46', b'"busy_w": ' + word.encode()))
    assert "mine.json" in refused("profile", "show", "mine.json")


@pytest.mark.parametrize("name", ["alexnet", "alexnet-accuracy", "alexnet-jpeg", "imported", "plans"])
@pytest.mark.parametrize("share", [0.3, 0.98])
def test_show_refuses_half_a_table_of_any_kind(run, refused, tmp_path, name, share):
    if name == "imported":
        (tmp_path / "t.csv").write_text(CSV, encoding="utf-8")
        assert run("profile", "import", "csv", "t.csv", "-o", "whole.json")[0] == 0
        data = (tmp_path / "whole.json").read_bytes()
    else:
        data = builtin.table().encode() if name == "plans" else (load.BUILT_IN / f"{name}.json").read_bytes()
    (tmp_path / "mine.json").write_bytes(data[: int(share * len(data))])
    assert "mine.json is not whole JSON" in refused("profile", "show", "mine.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda table: table.update(unit="ms"), ["is not a plan table", "unknown field `unit`", "build it anew"]),
        (lambda table: table["plans"][3].update(latency=1.0), ["unknown field `latency`"]),
        (lambda table: table["plans"][3].update(device_s=-1.0), ["exit 0, partition 1, 8 bits", "no number from 0 on"]),
        (lambda table: table["plans"][3].update(edge_s=5400.0), ["edge_s 5400.0 at exit 0, partition 1, 8 bits", "over an hour"]),
        (lambda table: table["plans"][3].update(accuracy=1.5), ["no number from 0 on"]),
        (lambda table: table.update(format=99), ["format 99", "build it anew"]),
        (lambda table: table.update(plans=[]), ["0 plans"]),
    ],
)
@pytest.mark.parametrize("command", ["show", "check"])
def test_show_and_check_refuse_a_plan_table_that_cannot_be(refused, tmp_path, command, damage, said):
    table = json.loads(builtin.table().encode())
    damage(table)
    (tmp_path / "plans.json").write_text(json.dumps(table), encoding="utf-8")
    message = refused("profile", command, "plans.json")
    for part in ("plans.json", *said):
        assert part in message


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"format": NaN, "plans": []}'])
def test_check_refuses_what_is_no_plan_table(refused, tmp_path, content):
    (tmp_path / "plans.json").write_bytes(content)
    assert "plans.json is not a plan table" in refused("profile", "check", "plans.json")


def test_check_refuses_half_a_plan_table(refused, tmp_path):
    data = builtin.table().encode()
    (tmp_path / "plans.json").write_bytes(data[: len(data) // 2])
    assert "plans.json is not a plan table" in refused("profile", "check", "plans.json")


def test_check_refuses_a_name_that_is_none(refused):
    assert "no plan table 'privat'; did you mean 'privacy'?" in refused("profile", "check", "privat")


def test_tables_of_other_weights_make_no_plan_table(refused, tmp_path):
    table = json.loads(SHIPPED.read_bytes()) | {"weights_sha256": "ab" * 32}
    (tmp_path / "mine.json").write_text(json.dumps(table), encoding="utf-8")
    for tables in (("mine.json", "alexnet", "alexnet-accuracy"), ("mine.json", "mine.json", "alexnet-accuracy")):
        message = refused("profile", "plans", *tables, "-o", "plans.json")
        assert "abababababab" in message
        assert "measure both with the same weights" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CSV.replace("mean_ms", "latency"), ["unknown column 'latency'", "line 1", "this format has: "]),
        (CSV.replace(",12,", ",-12,"), ["mean_ms '-12'", "line 2 is negative"]),
        (CSV.replace(",12,", ",nan,"), ["mean_ms 'nan'", "line 2 is no number"]),
        (CSV.replace(",12,", ",5400000,"), ["mean_ms '5400000'", "line 2 is over an hour in ms; are these microseconds?"]),
        (CSV[:-6], ["t.csv line 3 under 5 columns; is the file truncated?"]),
        (CSV.splitlines()[0] + "\n", ["has a header and no rows; is it truncated?"]),
        ("", ["t.csv is empty"]),
        ("\x00\x01\x02", ["t.csv"]),
    ],
)
def test_import_refuses_what_it_cannot_take_at_its_word(refused, tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    message = refused("profile", "import", "csv", "t.csv", "-o", "mine.json")
    for part in ("t.csv", *said):
        assert part in message


def test_import_refuses_a_pickle_unopened(refused, tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.")
    assert "t.csv is no UTF-8" in refused("profile", "import", "csv", "t.csv", "-o", "mine.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", "none.safetensors"], "cannot read weights none.safetensors: No such file"),
        (["--weights", "half.safetensors"], "half.safetensors is no whole safetensors file"),
        (["--codecs", "affine,zstandard"], "no codec 'zstandard' for alexnet; did you mean 'zstd'?"),
        (["--images", "none"], "no images at none"),
        (["--energy", "rapl"], "no intel-rapl package under no-sysfs/class/powercap"),
        (["--energy", "ina3221", "--sys-root", "elsewhere"], "no INA3221 under elsewhere/class/hwmon"),
        (["--energy", "battery"], "no battery under no-sysfs/class/power_supply"),
        (["--energy", "wattmeter"], "invalid choice: 'wattmeter'"),
        (["--backend", "tensorrt"], "invalid choice: 'tensorrt'"),
    ],
)
def test_measure_refuses_what_it_cannot_use(refused, tmp_path, options, said):
    from cutlayer.profiles import zoo

    (tmp_path / "half.safetensors").write_bytes((zoo.WEIGHTS / "alexnet.safetensors").read_bytes()[:1000])
    assert said in refused("profile", "measure", "alexnet", *options, "-o", "mine.json")


@pytest.mark.parametrize("command", ["accuracy", "traces", "graphs", "jpeg"])
def test_the_weights_of_another_network_are_refused_wherever_weights_are_taken(refused, photos, command):
    from cutlayer.profiles import zoo

    images = ["--images", "photos"] if command != "graphs" else []
    message = refused("profile", command, "resnet8", "--weights", zoo.WEIGHTS / "alexnet.safetensors", *images, "-o", "out")
    assert "alexnet.safetensors" in message
    assert "not of resnet8" in message or "does not fit resnet8" in message


def test_a_network_that_is_for_latency_alone_cannot_be_trained(refused, photos):
    message = refused("profile", "train", "mobilenetv2", "--images", "photos", "-o", "out")
    assert "no recipe to train 'mobilenetv2'; there is one for: " in message


# --- busy machines


@pytest.fixture
def busy(monkeypatch):
    """A machine that was twice as long at it as it worked."""

    def measured(*_args, **_more):
        table = load.profile("alexnet")
        half = Cell(mean_s=0.01, std_s=0.0, p50_s=0.005, p95_s=0.02, p99_s=0.02, n=3)
        return msgspec.structs.replace(table, whole=Timing(wall=msgspec.structs.replace(half, p50_s=0.01), cpu=half))

    monkeypatch.setattr(measure, "measure", measured)


def test_a_table_of_a_busy_machine_is_flagged_where_it_is_made_and_wherever_it_is_shown(run, busy):
    code, out, err = run("profile", "measure", "alexnet", "-o", "mine.json")
    assert code == 0
    assert "this machine was busy; measure again on a quiet one" in err
    for text in (out, run("profile", "show", "mine.json")[1]):
        assert "NOISY: wall over CPU time is 2.00 (limit 1.15); the machine was busy, measure again" in text
    found = json.loads(run("profile", "show", "mine.json", "--json")[1])
    assert (found["noisy"], found["wall_over_cpu"]) == (True, pytest.approx(2.0))
    assert json.loads(run("profile", "show", "alexnet", "--json")[1])["noisy"] is False


def test_a_table_of_a_busy_machine_is_refused_on_request(refused, busy):
    assert "wall over CPU time is 2.00 in the table of alexnet" in refused(
        "profile", "measure", "alexnet", "--quiet-only", "-o", "mine.json"
    )


# --- what is measured


def test_measure_takes_every_codec_that_serves_the_network_real_images_and_a_meter(run, photos, tmp_path, monkeypatch):
    zone = tmp_path / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, value in (("name", "package-0"), ("energy_uj", 5), ("max_energy_range_uj", 10**9)):
        (zone / name).write_text(f"{value}\n", encoding="ascii")
    monkeypatch.setattr(
        power.Metered, "__call__", lambda metered, work: (work(), power.Power(14.0, 10.0, f"rapl: {metered.meter.scope}"))[1]
    )
    command = (
        "profile",
        "measure",
        "alexnet",
        "--runs",
        "1",
        "--images",
        "photos",
        "--energy",
        "auto",
        "--sys-root",
        "sys",
        "-o",
        "mine.json",
    )
    code, out, err = run(*command)
    assert code == 0
    assert "note: energy by rapl: processor package-0" in err
    assert "power 14 W busy, 10 W idle; rapl: processor package-0" in out
    table = load.profile(tmp_path / "mine.json")
    assert (table.busy_w, table.idle_w, table.provenance.energy_method) == (14.0, 10.0, "rapl: processor package-0")
    assert {cost.codec for cost in table.codecs} >= {"affine", "zstd"}
    assert {f"{unit.name}@{unit.cut}" for unit in table.units} == {
        f"{cost.codec}@{cost.cut}" for cost in table.codecs if cost.codec not in ("affine", "zstd")
    }


def test_measure_without_a_meter_says_that_energy_is_modelled_and_why(run):
    code, out, err = run("profile", "measure", "alexnet", "--runs", "1", "--codecs", "affine")
    assert code == 0
    assert "note: energy is modelled, 2.46 W x CPU seconds (Jetson Nano, arXiv 2205.11854); rapl: no intel-rapl package" in err
    assert "power 2.46 W busy; modelled: " in out


def test_measure_takes_the_weights_of_a_file(run, tmp_path):
    import torch
    from safetensors.torch import save_file

    from cutlayer.profiles import zoo

    network = zoo.build("resnet8", seed=4)
    assert isinstance(network, torch.nn.Module)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    code, out, _ = run("profile", "measure", "resnet8", "--weights", "mine.safetensors", "--runs", "1", "--codecs", "affine", "--json")
    assert code == 0
    assert json.loads(out)["weights_sha256"] == zoo.weights_digest(network)


@pytest.mark.parametrize(("name", "key"), [("alexnet", "layers"), ("alexnet-accuracy", "exits"), ("alexnet-jpeg", "mean_bytes")])
def test_show_knows_every_kind_of_table(run, name, key):
    assert key in json.loads(run("profile", "show", name, "--json")[1])
    code, out, _ = run("profile", "show", name)
    assert code == 0
    assert out.count("\n") > 4


def test_show_prints_a_plan_table(run, tmp_path):
    table = builtin.table()
    (tmp_path / "plans.json").write_bytes(table.encode())
    found = json.loads(run("profile", "show", "plans.json", "--json")[1])
    assert [plan["plan"] for plan in found["plans"]] == [table.name(i) for i in range(len(table))]
    assert found["sha256"] == table.digest()
    assert "judge them with: cutlayer profile check plans.json" in run("profile", "show", "plans.json")[1]


def test_schema_prints_all_and_writes_one_file_each(run, root, tmp_path):
    found = json.loads(run("profile", "schema", "--json")[1])
    assert {"model-profile", "accuracy", "jpeg", "imported", "plan-table", "graphs"} <= set(found)
    written = json.loads(run("profile", "schema", "-o", "made", "--json")[1])
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(f"{name}.json" for name in found)
    assert len(written["files"]) == len(found)


def test_acceptance_prints_what_was_judged(run, monkeypatch):
    made = acceptance.Result("toy", "torch", 3, 0.004, 1.0, 0.01, 5, 0.2)
    monkeypatch.setattr(
        acceptance, "check", lambda models, backends, **_more: [made] if (models, backends) == (["resnet8"], ["torch"]) else []
    )
    found = json.loads(run("profile", "acceptance", "resnet8", "--backend", "torch", "--json")[1])
    assert found["results"][0]["pair"] == 0.2
    assert found["results"][0]["within"] is False
    assert "+20.0 %  OUTSIDE" in run("profile", "acceptance", "resnet8", "--backend", "torch")[1]
