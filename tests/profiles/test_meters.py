"""Meters over fake sysfs trees and fake clocks: known joules, wrap-around, and refusals instead of silent zeros."""

from __future__ import annotations

import csv
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ProfileError
from cutlayer.profiles import energy, meters


class Clock:
    """Seconds that pass only when told."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def put(folder, **files):
    """Write files as sysfs shows them: one value and a line feed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
    return folder


@pytest.fixture
def clock():
    return Clock()


def package(root, number, name="package-0", energy_uj=0, max_energy_range_uj=1000):
    zone = root / "class/powercap" / f"intel-rapl:{number}"
    return put(zone, name=name, energy_uj=energy_uj, max_energy_range_uj=max_energy_range_uj)


def test_rapl_counts_over_a_wrap(tmp_path):
    zone = package(tmp_path, 0, energy_uj=990)
    meter = meters.Rapl(tmp_path)
    assert meter.read_j() == 0.0
    put(zone, energy_uj=5)
    assert meter.read_j() == pytest.approx(15e-6)
    put(zone, energy_uj=105)
    assert meter.read_j() == pytest.approx(115e-6)


def test_rapl_adds_packages_and_leaves_out_what_overlaps_them(tmp_path):
    zones = [package(tmp_path, 0), package(tmp_path, 1, name="package-1")]
    package(tmp_path, 2, name="psys")
    package(tmp_path, "0:0", name="core")
    put(tmp_path / "class/powercap/intel-rapl-mmio:0", name="package-0", energy_uj=0, max_energy_range_uj=1000)
    meter = meters.Rapl(tmp_path)
    for zone in (tmp_path / "class/powercap").iterdir():
        put(zone, energy_uj=100)
    assert meter.read_j() == pytest.approx(100e-6 * len(zones))
    assert (meter.method, meter.scope) == ("rapl", "processor package-0, package-1")


@given(st.integers(0, 999), st.lists(st.integers(0, 999), max_size=30))
def test_rapl_sums_any_steps_shorter_than_a_wrap(tmp_path_factory, start, steps):
    root = tmp_path_factory.mktemp("sys")
    zone = package(root, 0, energy_uj=start)
    meter = meters.Rapl(root)
    for done in range(len(steps)):
        put(zone, energy_uj=(start + sum(steps[: done + 1])) % 1000)
        meter.read_j()
    assert meter.read_j() == pytest.approx(sum(steps) * 1e-6)


def test_a_counter_that_only_root_may_read_says_so_and_is_passed_over(tmp_path, monkeypatch):
    package(tmp_path, 0)
    read_text = Path.read_text

    def guarded(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(ProfileError, match=r"cannot read .*intel-rapl:0/energy_uj: Permission denied; .*CVE-2020-8694.* run as root"):
        meters.Rapl(tmp_path)
    rapl = meters.survey(tmp_path)[0]
    assert rapl.meter is None
    assert "Permission denied" in rapl.reason
    assert meters.find(tmp_path).method.startswith("modelled:")


def test_a_spoilt_or_vanished_counter_is_an_error_not_a_zero(tmp_path):
    zone = package(tmp_path, 0)
    meter = meters.Rapl(tmp_path)
    put(zone, energy_uj="what")
    with pytest.raises(ProfileError, match="energy_uj reads 'what', no whole number"):
        meter.read_j()
    (zone / "energy_uj").unlink()
    with pytest.raises(ProfileError, match="energy_uj: No such file or directory; take another meter"):
        meter.read_j()


def jetson(root, **channels):
    """A hwmon INA3221: label=(millivolts, milliamperes)."""
    chip = put(root / "class/hwmon/hwmon2", name="ina3221")
    for number, (label, (millivolts, milliamperes)) in enumerate(channels.items(), start=1):
        put(chip, **{f"in{number}_label": label, f"in{number}_input": millivolts, f"curr{number}_input": milliamperes})
    return chip


def test_ina3221_integrates_the_rail_that_feeds_the_board(tmp_path, clock):
    chip = jetson(tmp_path, VDD_IN=(5000, 400), VDD_CPU_GPU_CV=(5000, 100), VDD_SOC=(5000, 50))
    put(tmp_path / "class/hwmon/hwmon0", name="cpu_thermal")
    meter = meters.Ina3221(tmp_path, clock)
    assert (meter.method, meter.scope) == ("ina3221", "rail VDD_IN, the whole board")
    clock.now_s += 0.5
    put(chip, curr1_input=800)  # 2 W rises to 4 W over half a second: 1.5 J
    assert meter.read_j() == pytest.approx(1.5)
    clock.now_s += 0.25
    assert meter.read_j() == pytest.approx(2.5)


def test_ina3221_without_such_a_rail_adds_all_enabled_ones(tmp_path, clock):
    chip = jetson(tmp_path, GPU=(5000, 100), CPU=(5000, 200), SOC=(5000, 400))
    put(chip, in3_enable=0)
    meter = meters.Ina3221(tmp_path, clock)
    assert meter.scope == "sum of rails CPU, GPU"
    clock.now_s += 1.0
    assert meter.read_j() == pytest.approx(1.5)


def test_ina3221_reads_the_older_driver_of_a_jetson_nano(tmp_path, clock):
    chip = put(
        tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0",
        rail_name_0="POM_5V_IN", in_power0_input=2500, rail_name_1="POM_5V_GPU", in_power1_input=300,
    )  # fmt: skip
    meter = meters.Ina3221(tmp_path, clock)
    clock.now_s += 1.0
    put(chip, in_power0_input=3500)
    assert meter.read_j() == pytest.approx(3.0)
    assert meter.scope == "rail POM_5V_IN, the whole board"


def test_a_sampled_meter_that_was_not_read_refuses_to_guess(tmp_path, clock):
    jetson(tmp_path, VDD_IN=(5000, 400))
    meter = meters.Ina3221(tmp_path, clock)
    clock.now_s += 2.5
    with pytest.raises(ProfileError, match=r"no sample of the power for 2.5 s; read the meter at least every 1 s"):
        meter.read_j()


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0, 20)), min_size=1, max_size=20))
def test_the_integral_of_a_constant_power_is_power_times_time(samples):
    clock, steps = Clock(), [step for step, _ in samples]
    watts = samples[0][1]
    integral = meters.Integral(lambda: watts, clock)
    for step in steps:
        clock.now_s += step
        joules = integral.read_j()
    assert joules == pytest.approx(watts * sum(steps), abs=1e-9)


def battery(root, name="BAT0", status="Discharging", **files):
    return put(root / "class/power_supply" / name, type="Battery", status=status, **files)


def test_a_battery_with_an_energy_gauge(tmp_path):
    pack = battery(tmp_path, energy_now=50_000_000, power_now=9_000_000)
    put(tmp_path / "class/power_supply/AC", type="Mains", online=0)
    battery(tmp_path, name="hidpp_battery_0", scope="Device", energy_now=1)
    meter = meters.Battery(tmp_path)
    put(pack, energy_now=49_990_000)
    assert meter.read_j() == pytest.approx(36.0)  # 10 mWh
    assert (meter.method, meter.scope) == ("battery", "whole device, BAT0")


def test_a_battery_with_a_charge_gauge_takes_the_mean_voltage(tmp_path):
    pack = battery(tmp_path, charge_now=4_000_000, voltage_now=12_000_000)
    meter = meters.Battery(tmp_path)
    put(pack, charge_now=3_999_000, voltage_now=11_000_000)
    assert meter.read_j() == pytest.approx(0.001 * 11.5 * 3600)  # 1 mAh at 11.5 V
    assert meter.read_j() == pytest.approx(41.4)


@pytest.mark.parametrize("files", [{"power_now": 8_000_000}, {"current_now": -1_000_000, "voltage_now": 8_000_000}])
def test_a_battery_without_a_gauge_is_sampled(tmp_path, clock, files):
    battery(tmp_path, **files)
    meter = meters.Battery(tmp_path, clock)
    clock.now_s += 0.5
    assert meter.read_j() == pytest.approx(4.0)


def test_two_batteries_are_added(tmp_path):
    packs = [battery(tmp_path, energy_now=20_000_000), battery(tmp_path, name="BAT1", status="Not charging", energy_now=20_000_000)]
    meter = meters.Battery(tmp_path)
    put(packs[0], energy_now=19_999_000)
    put(packs[1], energy_now=19_998_000)
    assert meter.read_j() == pytest.approx(3 * 3.6)


@pytest.mark.parametrize("status", ["Charging", "Full", "Unknown"])
def test_a_battery_under_a_charger_meters_nothing_and_says_so(tmp_path, status):
    pack = battery(tmp_path, energy_now=50_000_000)
    meter = meters.Battery(tmp_path)
    put(pack, status=status)
    with pytest.raises(ProfileError, match=f"BAT0 is {status}: a battery meters only while it discharges; unplug"):
        meter.read_j()
    with pytest.raises(ProfileError, match="unplug the charger"):
        meters.Battery(tmp_path)


def test_a_battery_that_shows_nothing_is_refused(tmp_path):
    battery(tmp_path, capacity=80)
    with pytest.raises(ProfileError, match="shows none of energy_now, charge_now, power_now and current_now"):
        meters.Battery(tmp_path)


class NVMLError(Exception):
    """As in pynvml."""


@pytest.fixture
def nvml(monkeypatch):
    """A pynvml with one GPU whose counter the test turns; no library is loaded."""
    fake = types.ModuleType("pynvml")
    fake.NVMLError, fake.total_mj, fake.missing = NVMLError, 5000, ""

    def guarded(name, answer):
        def call(*_args):
            if fake.missing == name:
                raise NVMLError("Not Supported")
            return answer()

        setattr(fake, name, call)

    guarded("nvmlInit", lambda: None)
    guarded("nvmlDeviceGetHandleByIndex", lambda: "handle")
    guarded("nvmlDeviceGetName", lambda: b"Toy GPU")
    guarded("nvmlDeviceGetTotalEnergyConsumption", lambda: fake.total_mj)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_nvml_counts_millijoules_from_its_start(nvml, tmp_path):
    meter = meters.find(tmp_path, gpu=True)
    nvml.total_mj = 7500
    assert meter.read_j() == pytest.approx(2.5)
    assert (meter.method, meter.scope) == ("nvml", "GPU 0: Toy GPU")
    nvml.total_mj = 10
    with pytest.raises(ProfileError, match="fell by 4990 mJ; was the driver loaded anew"):
        meter.read_j()


@pytest.mark.parametrize("missing", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_nvml_without_driver_or_counter_says_so(nvml, tmp_path, missing):
    nvml.missing = missing
    with pytest.raises(ProfileError, match="Not Supported"):
        meters.Nvml()
    with pytest.raises(ProfileError, match=r"no meter sees the GPU: nvml: .*; ina3221: .*; battery: "):
        meters.find(tmp_path, gpu=True)


def test_nvml_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    with pytest.raises(ProfileError, match=r"pip install 'cutlayer\[nvml\]'"):
        meters.Nvml()


def test_the_power_model_multiplies_cpu_seconds_and_is_labelled(clock):
    cpu = Clock()
    meter = meters.Modelled(cpu_s=cpu, clock=clock)
    cpu.now_s += 2.0
    clock.now_s += 10.0
    assert meter.read_j() == pytest.approx(2 * energy.DEVICE_BUSY_W)
    assert meter.method == energy.DEVICE_ENERGY_METHOD
    idle = meters.Modelled(4.0, 1.5, "data sheet of a board", cpu_s=cpu, clock=clock)
    cpu.now_s += 2.0
    clock.now_s += 10.0
    assert idle.read_j() == pytest.approx(2 * 4.0 + 8 * 1.5)
    assert idle.method == "modelled: 4 W x CPU seconds + 1.5 W x idle seconds (data sheet of a board)"


def test_a_power_model_without_origin_is_refused():
    with pytest.raises(ProfileError, match="has no origin; say where the watts come from"):
        meters.Modelled(5.0)
    with pytest.raises(ProfileError, match="is impossible; give watts"):
        meters.Modelled(-1.0, how="a test")
    with pytest.raises(ProfileError, match="is impossible; give watts"):
        meters.Modelled(float("nan"), how="a test")


@pytest.mark.parametrize("present", [[], ["battery"], ["battery", "ina3221"], ["battery", "ina3221", "rapl"]])
def test_find_takes_the_best_there_is_and_says_which(tmp_path, present):
    if "battery" in present:
        battery(tmp_path, energy_now=50_000_000)
    if "ina3221" in present:
        jetson(tmp_path, VDD_IN=(5000, 400))
    if "rapl" in present:
        package(tmp_path, 0)
    want = present[-1] if present else "modelled"
    assert meters.find(tmp_path).method.split(":")[0] == want
    tried = meters.survey(tmp_path)
    assert [candidate.method for candidate in tried] == ["rapl", "ina3221", "battery", "modelled"]
    assert all((candidate.meter is None) == bool(candidate.reason) for candidate in tried)


class Counting:
    """A meter that says when it was read three times, or fails."""

    method = scope = "test"

    def __init__(self, error=None):
        self.reads, self.error, self.thrice = 0, error, threading.Event()

    def read_j(self):
        self.reads += 1
        if self.reads == 3:
            self.thrice.set()
            if self.error:
                raise self.error
        return float(self.reads)


def test_sampling_reads_beside_the_work_and_stops_with_it():
    meter = Counting()
    with meters.sampling(meter, period_s=1e-4) as same:
        assert meter.thrice.wait(30)
    assert same is meter
    assert not any(thread.name == "energy-meter" for thread in threading.enumerate())


def test_a_meter_that_fails_beside_the_work_is_reported_after_it():
    meter = Counting(ProfileError("gone"))
    with pytest.raises(ProfileError, match="gone"), meters.sampling(meter, period_s=1e-4):
        assert meter.thrice.wait(30)


@pytest.mark.parametrize(("network", "name"), [("LTE", "lte"), ("NSALow", "5g-nsa-low"), ("mmwave", "5g-nsa-mmwave")])
def test_the_radio_power_is_the_fit_of_the_cited_samples(data_dir, network, name):
    with (data_dir / "radio_power_5g_sigcomm21/controlled_transfer.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["network_type"], row["direction"]) == (network, "uplink")]
    rate_bps = np.array([float(row["throughput_mbps"]) for row in rows]) * 1e6
    power_w = np.array([float(row["avg_power_mw"]) for row in rows]) * 1e-3
    joules_per_bit, base_w = np.polyfit(rate_bps, power_w, 1)
    radio = energy.RADIOS[name]
    assert radio.joules_per_bit == pytest.approx(joules_per_bit, rel=0.003)  # the constants keep two or three digits
    assert radio.base_w == pytest.approx(base_w - energy.IDLE_PHONE_W, abs=0.001)


def test_the_idle_phone_is_the_one_of_the_source(data_dir):
    with (data_dir / "radio_power_5g_sigcomm21/baseline_power.csv").open(encoding="utf-8", newline="") as file:
        idle_w = [1e-3 * float(row["base_power"]) for row in csv.DictReader(file) if row["base_power"]]
    assert len(idle_w) == 32
    assert np.mean(idle_w) == pytest.approx(energy.IDLE_PHONE_W, rel=0.03)  # 2.357 W, taken as 2.3
