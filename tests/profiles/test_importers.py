"""Foreign tables: what is read, what is left absent, what is refused in one line, and the real files where they are at hand."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import foreign, importers, load
from cutlayer.profiles.schema import ImportedCost, ImportedMachine, ImportedTable, ImportedTime, Provenance

# The first blocks of vgg19 on a Raspberry Pi 4 in Scission's data (Lockhart et al., UCC 2020), rounded.
SCISSION = """tier,machine,model,block,input_layer,output_layer,latency_s,output_bytes
device,raspi4,vgg19,0,0,1,0.0706,12845184
device,raspi4,vgg19,1,2,2,0.2468,12845184
edge,2500,vgg19,0,0,1,0.0100,12845184
"""
# ResNet-18 of MAHPPO's table of a Jetson Nano (Hao et al., IEEE TMC 2022), three of its six rows.
MAHPPO = """model,cut_point,intermediate_bits,ae_compression_rate,front_latency_s,front_power_w,front_energy_j
resnet18,0,1204224,1,0.0,0.0,0.0
resnet18,1,6422528,64,0.004359,2.2885,0.009976
resnet18,5,0,1,0.045887,2.1454,0.098446
"""
# Lines of ncnn's benchmark (github.com/Tencent/ncnn at a4d2ea1, BSD-3-Clause).
NCNN = """device,num_threads,powersave,gpu_device,loop_count,model,min_ms,max_ms,avg_ms
NVIDIA Jetson Nano,1,0,-1,8,alexnet,284.30,285.40,284.87
NVIDIA Jetson Nano,1,0,-1,8,resnet18,221.27,221.93,221.60
NVIDIA Jetson Nano,4,0,-1,8,alexnet,90.00,92.00,91.00
AMD EPYC 7742 (2.25GHz),1,0,,100,alexnet,31.42,32.26,31.64
"""
CSV = """machine,threads,model,part,name,mean_ms,p50_ms,p95_ms,runs,output_bytes,power_mw,energy_j
board,2,net,,,12,11,15,30,,2500,0.03
board,2,net,block,conv1,4.5,,,30,8192,,
board,2,net,block,conv2,7.5,,,30,4096,,
"""


def write(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_scission_blocks_carry_a_mean_and_bytes_and_nothing_else(tmp_path):
    table = importers.read("scission", write(tmp_path, SCISSION))
    pi, edge = table.machines
    assert (pi.provenance.machine, edge.provenance.machine, pi.clock) == ("raspi4", "2500", "wall")
    block = pi.models[0].blocks[1]
    assert block.name == "layers 2-2"
    assert block.output_elements == 224 * 224 * 64  # of VGG's first stage, whatever its shape
    assert block.output_bytes == 4 * block.output_elements
    assert msgspec.to_builtins(block.time) == {"mean_s": 0.2468}
    assert pi.models[0].whole is None
    assert foreign.whole_s(pi) == {"vgg19": pytest.approx(0.3174)}
    assert foreign.whole_s(pi, "min_s") == {}


def test_mahppo_gives_prefixes_the_whole_and_the_input(tmp_path):
    (nano,) = importers.read("mahppo", write(tmp_path, MAHPPO)).machines
    (model,) = nano.models
    assert model.input_bytes == 224 * 224 * 3
    (cut,) = model.prefixes
    assert cut == ImportedCost(
        name="cut 1", time=ImportedTime(mean_s=0.004359), output_bytes=802816, output_elements=64 * 56 * 56,
        compression_ratio=64.0, power_w=2.2885, energy_j=0.009976,
    )  # fmt: skip
    assert model.whole.time.mean_s == 0.045887
    assert model.whole.output_bytes is None
    assert nano.clock == "unknown"
    assert nano.provenance.energy_method == "external power monitor"


def test_ncnn_keeps_least_most_and_runs_and_splits_by_threads(tmp_path):
    path = write(tmp_path, NCNN)
    table = importers.read("ncnn", path)
    assert [(m.provenance.machine, m.provenance.threads) for m in table.machines] == [
        ("NVIDIA Jetson Nano", 1), ("NVIDIA Jetson Nano", 4), ("AMD EPYC 7742 (2.25GHz)", 1),
    ]  # fmt: skip
    assert table.machines[0].models[0].whole.time == ImportedTime(mean_s=0.28487, min_s=0.2843, max_s=0.2854, n=8)
    (one,) = importers.read("ncnn", path, machine="jetson nano", threads=1, model="alexnet").machines
    assert foreign.whole_s(one, "min_s") == {"alexnet": 0.2843}


def test_a_table_that_ncnn_lists_twice_stays_two(tmp_path):
    again = NCNN + "NVIDIA Jetson Nano,1,0,-1,8,alexnet,280.00,281.00,280.50\n"
    found = importers.read("ncnn", write(tmp_path, again), machine="NVIDIA Jetson Nano", threads=1).machines
    assert [machine.setting[-14:] for machine in found] == ["listing 1 of 2", "listing 2 of 2"]
    assert [[model.name for model in machine.models] for machine in found] == [["alexnet", "resnet18"], ["alexnet"]]


def test_a_csv_says_what_its_columns_say(tmp_path):
    choices = {"licence": "CC-BY-4.0", "source": "my bench", "clock": "cpu", "backend": "tflite", "date": "2026-11-01"}
    (board,) = importers.read("csv", write(tmp_path, CSV), **choices).machines
    (net,) = board.models
    assert net.whole == ImportedCost(
        name="whole", time=ImportedTime(mean_s=0.012, p50_s=0.011, p95_s=0.015, n=30), power_w=2.5, energy_j=0.03
    )
    assert [(block.name, block.time.mean_s, block.output_bytes) for block in net.blocks] == [
        ("conv1", 0.0045, 8192),
        ("conv2", 0.0075, 4096),
    ]
    where = board.provenance
    assert (where.kind, where.threads, where.licence, where.source, where.backend) == ("imported", 2, "CC-BY-4.0", "my bench", "tflite")
    assert (where.load_average, where.cpu, where.citation) == (None, "unknown", "unknown")
    assert board.clock == "cpu"
    assert len(where.source_sha256) == 64


def test_a_csv_without_machine_takes_its_name_from_the_option(tmp_path):
    path = write(tmp_path, "model,mean_us\r\nnet,1500\r\n")
    (board,) = importers.read("csv", path, machine="my board", threads=3).machines
    assert (board.provenance.machine, board.provenance.threads) == ("my board", 3)
    assert board.models[0].whole.time.mean_s == 0.0015
    with pytest.raises(ProfileError, match="name the machine with --machine"):
        importers.read("csv", path)


def test_provenance_beside_the_file_is_carried_along(tmp_path):
    write(
        tmp_path,
        "# x\n\n| field | value |\n| --- | --- |\n| source repository | example.org/a |\n| commit | 0123456789abcdef |\n"
        "| path in it | b.csv |\n| licence | none stated: do not re-publish |\n| cite | A, B 2020 |\n",
        "PROVENANCE.md",
    )
    where = importers.read("ncnn", write(tmp_path, NCNN)).machines[0].provenance
    assert (where.source, where.licence, where.citation) == (
        "example.org/a@0123456789ab, b.csv", "none stated: do not re-publish", "A, B 2020",
    )  # fmt: skip
    stated = importers.read("ncnn", tmp_path / "table.csv", licence="asked: yes").machines[0].provenance
    assert (stated.licence, stated.citation) == ("asked: yes", "A, B 2020")


def test_a_folder_stands_for_the_file_it_is_published_with(tmp_path):
    write(tmp_path, NCNN, "ncnn_model_latency.csv")
    assert importers.read("ncnn", tmp_path).machines
    with pytest.raises(ProfileError, match=r"cannot read .*block_latency.csv: No such file"):
        importers.read("scission", tmp_path)


def edit(text, line, column, value):
    rows = [row.split(",") for row in text.splitlines()]
    rows[line][rows[0].index(column)] = value
    return "\n".join(",".join(row) for row in rows) + "\n"


REFUSED = {
    "negative time": ("scission", edit(SCISSION, 2, "latency_s", "-0.1"), r"latency_s '-0.1' in .* line 3 is negative; mend"),
    "NaN": ("scission", edit(SCISSION, 1, "latency_s", "nan"), r"latency_s 'nan' in .* line 2 is no number; give"),
    "infinite": ("ncnn", edit(NCNN, 1, "max_ms", "1e999"), r"max_ms '1e999' in .* line 2 is too large; give"),
    "no number": ("ncnn", edit(NCNN, 1, "max_ms", "1_0"), r"max_ms '1_0' in .* line 2 is no number; give"),
    "empty number": ("mahppo", edit(MAHPPO, 3, "front_latency_s", ""), r"front_latency_s '' in .* line 4 is no number; give"),
    "over an hour": ("scission", edit(SCISSION, 1, "latency_s", "4200"), r"'4200' in .* line 2 is over an hour in s; are these"),
    "over an hour in ms": ("ncnn", edit(NCNN, 1, "avg_ms", "4e6"), r"avg_ms '4e6' in .* line 2 is over an hour in ms; are"),
    "unknown column": ("ncnn", NCNN.replace("avg_ms", "median"), r"unknown column 'median' in .* line 1; this format has: device, "),
    "missing column": ("mahppo", "model,cut_point\na,0\n", r"no column 'intermediate_bits' in .* line 1; this format needs"),
    "column twice": ("csv", "model,mean_s,mean_s\na,1,1\n", r"column 'mean_s' is there 2 times in .* line 1; keep one"),
    "empty": ("csv", "", r"table.csv is empty; give a CSV file with the columns model"),
    "header only": ("csv", "model,mean_s\n", r"has a header and no rows; is it truncated"),
    "truncated": ("scission", SCISSION[: SCISSION.rindex(",")] + "\n", r"7 cells in .* line 4 under 8 columns; is the file truncated"),
    "open quote": ("csv", 'model,mean_s\n"a,1\n', r"line 2 is no CSV: .*; is the file truncated"),
    "missing block": ("scission", edit(SCISSION, 2, "block", "2"), r"block '2' in .* line 3 of vgg19 on raspi4 follows 1 blocks; "),
    "gap in layers": ("scission", edit(SCISSION, 2, "input_layer", "3"), r"input_layer '3' in .* line 3 to 2 does not follow"),
    "no tensor": ("scission", edit(SCISSION, 1, "output_bytes", "130"), r"output_bytes '130' in .* is no float32 tensor; give"),
    "broken order": ("ncnn", edit(NCNN, 1, "min_ms", "285"), r"min_s 0.285 of whole of alexnet on NVIDIA .* is above its mean_s"),
    "energy in mJ": ("mahppo", edit(MAHPPO, 2, "front_energy_j", "9.976"), r"front_energy_j '9.976' in .* line 3 is not 2.2885 W for"),
    "cut twice": ("mahppo", edit(MAHPPO, 2, "cut_point", "0"), r"cut_point '0' in .* line 3 of resnet18 follows 0; give every"),
    "no threads": ("ncnn", edit(NCNN, 1, "num_threads", "0"), r"num_threads '0' in .* is no whole number of at least 1"),
    "gpu": ("ncnn", edit(NCNN, 1, "gpu_device", "x"), r"gpu_device 'x' in .* line 2 is no number"),
    "two units": ("csv", "machine,model,mean_s,mean_ms\na,b,1,1\n", r"mean_s and mean_ms in .* line 1; give one column of each quantity"),
    "no mean": ("csv", "machine,model,p50_s\na,b,1\n", r"no column of the mean in .* line 1"),
    "empty mean": ("csv", edit(CSV, 1, "mean_ms", ""), r"mean_ms '' in .* line 2 is no number"),
    "no part": ("csv", edit(CSV, 2, "part", "layer"), r"part 'layer' in .* line 3 is no part; say whole, block or prefix"),
    "no name": ("csv", edit(CSV, 2, "name", ""), r"name '' in .* line 3 is no name"),
    "block twice": ("csv", edit(CSV, 3, "name", "conv1"), r"name 'conv1' in .* line 4 is there twice among the blocks of net"),
    "whole twice": ("csv", edit(CSV, 2, "part", "whole"), r"model 'net' in .* line 3 has a second row for the whole network"),
    "control character": ("csv", edit(CSV, 1, "machine", "a\x1b[2J"), r"machine 'a\\x1b\[2J' in .* line 2 is no name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_at_its_word_is_refused_in_one_line(tmp_path, case):
    kind, text, message = REFUSED[case]
    with pytest.raises(ProfileError, match=message) as caught:
        importers.read(kind, write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value)  # what is wrong; the mend


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"machine": "tesla"}, r"no machine 'tesla' in .*; it has: NVIDIA Jetson Nano, AMD EPYC 7742"),
        ({"threads": 3}, r"no run with 3 threads in .*; there are: 1, 4"),
        ({"model": "lenet"}, r"no network 'lenet' in .*; it has: alexnet, resnet18"),
    ],
)
def test_a_choice_that_leaves_nothing_names_what_there_is(tmp_path, choices, message):
    with pytest.raises(ProfileError, match=message):
        importers.read("ncnn", write(tmp_path, NCNN), **choices)


def test_an_unknown_kind_or_clock_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown kind of table 'pickle'; there are: scission, mahppo, ncnn, csv"):
        importers.read("pickle", tmp_path)
    with pytest.raises(ConfigError, match="unknown clock 'sun'; say one of: wall, cpu, unknown"):
        importers.read("csv", tmp_path, clock="sun")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"model,mean_s\n\xff,1\n")
    with pytest.raises(ProfileError, match=r"byte 0xff at 13 in .* is no UTF-8; save it as CSV in UTF-8"):
        importers.read("csv", path, machine="a")


def test_an_error_repeats_no_more_of_a_value_than_fits_a_line(tmp_path):
    with pytest.raises(ProfileError) as caught:
        importers.read("csv", write(tmp_path, f"model,mean_s\na,{'9' * 5000}\n"), machine="a")
    assert "is too large" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_too_large_for_a_table_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "LARGEST_BYTES", 100)
    with pytest.raises(ProfileError, match="is it a table of latencies"):
        importers.read("ncnn", write(tmp_path, NCNN))


@given(st.text(max_size=200), st.sampled_from(list(importers.READERS)))
def test_any_text_whatever_gives_a_table_or_one_error(tmp_path_factory, text, kind):
    path = tmp_path_factory.mktemp("any") / "table.csv"
    header = {"scission": SCISSION, "mahppo": MAHPPO, "ncnn": NCNN, "csv": CSV}[kind].splitlines()[0]
    path.write_text(f"{header}\n{text}", encoding="utf-8", errors="replace", newline="")
    try:
        importers.read(kind, path)
    except ProfileError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


SECONDS = st.floats(0, 3600)
MAYBE = st.none() | SECONDS


@given(SECONDS, MAYBE, MAYBE, MAYBE, MAYBE, st.none() | st.integers(1, 10**6))
def test_a_time_is_accepted_exactly_where_its_figures_are_in_order(mean_s, min_s, max_s, p50_s, p95_s, n):
    time = ImportedTime(mean_s=mean_s, min_s=min_s, max_s=max_s, p50_s=p50_s, p95_s=p95_s, n=n)

    def rises(*figures):
        known = [figure for figure in figures if figure is not None]
        return known == sorted(known)

    if rises(min_s, mean_s, max_s) and rises(min_s, p50_s, p95_s, max_s):
        foreign.check_time(time, "a test")
    else:
        with pytest.raises(ProfileError, match="is above its"):
            foreign.check_time(time, "a test")


@pytest.mark.parametrize(("kind", "text"), [("scission", SCISSION), ("mahppo", MAHPPO), ("ncnn", NCNN), ("csv", CSV)])
def test_a_saved_table_reads_back_equal_and_says_nothing_that_was_not_known(tmp_path, kind, text):
    table = importers.read(kind, write(tmp_path, text))
    path = tmp_path / "table.json"
    load.save(table, path)
    assert foreign.load(path) == table
    assert "machines" in load.keys(path)
    assert '_s": null' not in path.read_text(encoding="utf-8")
    short = foreign.summary(table)
    assert short["format"] == kind
    assert [entry["machine"] for entry in short["machines"]] == [machine.provenance.machine for machine in table.machines]


def test_a_spoilt_imported_table_is_refused(tmp_path):
    path = tmp_path / "table.json"
    load.save(importers.read("ncnn", write(tmp_path, NCNN)), path)
    good = path.read_text(encoding="utf-8")
    for text, message in (
        (good[:-20], "is not whole JSON"),
        (good.replace('"mean_s": 0.28487', '"mean_s": -1.0'), r"mean_s -1.0 of whole of alexnet on NVIDIA Jetson Nano in .* is negative"),
        (good.replace('"schema_version": 2', '"schema_version": 9'), "has schema version 9, this cutlayer reads 1 to 2; update cutlayer"),
        (good.replace('"setting"', '"stetting"'), "is not a ImportedTable"),
        ('{"schema_version": 2, "format": "csv", "machines": []}', "has a machine without networks, or no machine"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ProfileError, match=message):
            foreign.load(path)
    with pytest.raises(ProfileError, match="cannot read"):
        foreign.load(tmp_path / "none.json")
    assert load.keys(tmp_path / "none.json") == set()


def test_a_provenance_written_before_imports_still_reads():
    old = (
        b'{"kind":"measured","machine":"m","cpu":"c","backend":"torch","backend_version":"2","threads":1,"date":"d","command":"x",'
        b'"load_average":0.5,"energy_method":"none","governor":"unknown","derived_from":"","time_ratio":1.0,"ratio_source":""}'
    )
    provenance = msgspec.json.decode(old, type=Provenance)
    assert (provenance.threads, provenance.source, provenance.licence) == (1, "", "")


def test_an_impossible_cost_is_refused():
    with pytest.raises(ProfileError, match=r"power_w -1.0 of a test is impossible"):
        foreign.check_cost(ImportedCost(name="x", time=ImportedTime(mean_s=1.0), power_w=-1.0), "a test")
    with pytest.raises(ProfileError, match="n 0 of a test"):
        foreign.check_time(ImportedTime(mean_s=1.0, n=0), "a test")


def test_every_option_is_a_choice_of_read():
    assert set(importers.OPTIONS) == set(importers.Choices.__annotations__)


def test_scission_as_published(data_dir):
    table = importers.read("scission", data_dir / "hw_scission_block_latency")
    by_machine = {machine.provenance.machine: machine for machine in table.machines}
    assert {"raspi4", "2500", "6700k(NoGPU)", "6700k(GPU)"} <= set(by_machine)
    seconds = {name: foreign.whole_s(machine)["vgg16"] for name, machine in by_machine.items()}
    # Sums that the folder's PROVENANCE.md states.
    assert seconds["raspi4"] == pytest.approx(2.11, abs=0.005)
    assert seconds["2500"] == pytest.approx(0.39, abs=0.005)
    assert seconds["6700k(NoGPU)"] == pytest.approx(0.114, abs=0.0005)
    assert all("do not re-publish" in machine.provenance.licence for machine in table.machines)
    assert by_machine["raspi4"].provenance.source.startswith("github.com/qub-blesson/Scission@b765b2bd4c2b")


def test_mahppo_as_published(data_dir):
    (nano,) = importers.read("mahppo", data_dir / "hw_mahppo_jetson_nano_cutpoints").machines
    assert [model.name for model in nano.models] == ["vgg11", "resnet18", "mobilenetv2"]
    assert all(len(model.prefixes) == 4 and model.whole and model.input_elements == 150528 for model in nano.models)
    rows = [cost for model in nano.models for cost in (*model.prefixes, model.whole)]
    busy_w = sum(cost.energy_j / cost.time.mean_s for cost in rows) / len(rows)
    assert busy_w == pytest.approx(2.46, abs=0.005)  # DEVICE_BUSY_W of cutlayer.profiles.energy


def test_ncnn_as_published(data_dir):
    table = importers.read("ncnn", data_dir / "hw_ncnn_benchmark")
    assert sum(len(machine.models) for machine in table.machines) == 8554
    assert len({machine.provenance.machine for machine in table.machines}) == 102
    assert {machine.provenance.licence for machine in table.machines} == {"BSD-3-Clause (LICENSE.txt)"}
    assert all(isinstance(machine, ImportedMachine) and math.isfinite(sum(foreign.whole_s(machine).values())) for machine in table.machines)
    assert isinstance(table, ImportedTable)
