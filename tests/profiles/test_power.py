"""Power is read from a meter while the network runs, or is the cited figure and says so; never a silent zero."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest

from cutlayer.errors import ProfileError
from cutlayer.profiles import energy, power


class World:
    """A machine of 10 W idle and 14 W busy under a fake sysfs and a fake clock; time passes by sleeping and by working."""

    def __init__(self, root, kind, idle_w=10.0, busy_w=14.0):
        self.root, self.now_s, self.joules = root, 100.0, 0.0
        self.watts, self.kind, self.work_s, self.wraps = (idle_w, busy_w), kind, 0.5, 0
        self.slept = self.worked = 0
        self.meter = None
        if kind == "rapl":
            self.put("class/powercap/intel-rapl:0", name="package-0", max_energy_range_uj=60_000_000)
        elif kind == "ina3221":
            self.put("class/hwmon/hwmon1", name="ina3221", in1_label="VDD_IN", in1_input=5000)
        elif kind == "battery":
            self.put("class/power_supply/BAT0", type="Battery", status="Discharging")
        self.show(idle_w)

    def put(self, folder, **files):
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (self.root / folder / name).write_text(f"{value}\n", encoding="ascii")

    def show(self, watts):
        """The counter after a phase of so many watts: it starts 20 J before it wraps."""
        if self.kind == "rapl":
            total_uj = 40_000_000 + round(self.joules * 1e6)
            self.wraps = total_uj // 60_000_000
            self.put("class/powercap/intel-rapl:0", energy_uj=total_uj % 60_000_000)
        elif self.kind == "ina3221":
            self.put("class/hwmon/hwmon1", curr1_input=round(watts * 1e3 / 5))
        elif self.kind == "battery":
            self.put("class/power_supply/BAT0", energy_now=50_000_000 - round(self.joules / 3600 * 1e6))

    def clock(self):
        return self.now_s

    def _pass(self, seconds, watts):
        self.joules += seconds * watts
        self.show(watts)
        self.now_s += seconds
        if self.meter is not None:
            self.meter.read_j()  # as the thread of `meters.sampling` would

    def sleep(self, seconds):
        self.slept += 1
        self._pass(seconds, self.watts[0])

    def work(self):
        self.worked += 1
        self._pass(self.work_s, self.watts[1])

    def metered(self):
        """The meter of this world's kind, chosen as the command does."""
        draw, _ = power.choose(self.kind, self.root, clock=self.clock, sleep=self.sleep)
        self.meter = draw.meter
        return dataclasses.replace(draw, period_s=3600.0)  # the thread never wakes: `_pass` reads in its place


@pytest.mark.parametrize("kind", ["rapl", "ina3221", "battery"])
def test_idle_and_busy_power_are_what_the_meter_saw(tmp_path, kind):
    world = World(tmp_path, kind)
    drawn = world.metered()(world.work)
    assert drawn.idle_w == pytest.approx(10.0, rel=2e-3)
    assert drawn.busy_w == pytest.approx(14.0, rel=2e-3)
    assert drawn.method.split(":")[0] == kind
    assert min(world.slept, world.worked) > 5


def test_a_counter_that_wraps_between_two_readings_loses_nothing(tmp_path):
    world = World(tmp_path, "rapl")
    drawn = world.metered()(world.work)
    assert world.wraps >= 2
    assert (drawn.idle_w, drawn.busy_w) == (pytest.approx(10.0), pytest.approx(14.0))
    assert drawn.method == "rapl: processor package-0"


def test_a_battery_is_read_for_minutes_because_its_gauge_moves_in_steps(tmp_path):
    world = World(tmp_path, "battery")
    world.metered()(world.work)
    assert world.worked * world.work_s >= power.GAUGE_S


@pytest.mark.parametrize("busy_w", [10.0, 9.0, 10.05])
def test_a_meter_that_does_not_see_the_work_is_refused(tmp_path, busy_w):
    world = World(tmp_path, "rapl", busy_w=busy_w)
    with pytest.raises(
        ProfileError, match=r"rapl \(processor package-0\) reads .* W while the network runs and 10 W idle; .* take another"
    ):
        world.metered()(world.work)


def test_a_counter_that_vanishes_on_the_way_is_an_error(tmp_path):
    world = World(tmp_path, "rapl")

    def pull_out():
        (tmp_path / "class/powercap/intel-rapl:0/energy_uj").unlink(missing_ok=True)
        world.now_s += 1.0

    with pytest.raises(ProfileError, match="energy_uj: No such file"):
        world.metered()(pull_out)


def test_auto_takes_the_first_that_reads_and_says_which(tmp_path):
    World(tmp_path, "battery")
    draw, said = power.choose("auto", tmp_path)
    assert (draw.meter.method, said) == ("battery", "energy by battery: whole device, BAT0")
    World(tmp_path, "rapl")
    assert power.choose("auto", tmp_path)[0].meter.method == "rapl"


def test_auto_without_a_meter_is_the_model_and_says_why(tmp_path):
    draw, said = power.choose("auto", tmp_path)
    assert draw is power.modelled
    assert said.startswith("energy is modelled, 2.46 W x CPU seconds (Jetson Nano, arXiv 2205.11854); rapl: no intel-rapl package under ")
    for name in ("ina3221: no INA3221", "battery: no battery"):
        assert name in said


def test_the_model_runs_nothing_and_is_labelled():
    def never():
        raise AssertionError

    assert power.modelled(never) == power.Power(energy.DEVICE_BUSY_W, None, energy.DEVICE_ENERGY_METHOD)
    assert energy.DEVICE_ENERGY_METHOD.startswith("modelled: ")
    assert power.choose("modelled")[0] is power.modelled


@pytest.mark.parametrize("name", ["rapl", "ina3221", "battery"])
def test_a_meter_that_is_asked_for_and_not_there_is_an_error(tmp_path, name):
    with pytest.raises(ProfileError, match=r"^no .*; .*take another meter|^no .* take another meter"):
        power.choose(name, tmp_path)


def test_an_unknown_meter_is_refused_with_those_there_are():
    with pytest.raises(ProfileError, match="no energy meter 'wattmeter'; give one of: auto, rapl, ina3221, nvml, battery, modelled"):
        power.choose("wattmeter")


def test_nvml_meters_a_gpu_that_the_work_moves_and_refuses_one_that_idles(monkeypatch):
    fake = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetHandleByIndex = lambda index: index
    fake.nvmlDeviceGetName = lambda _gpu: "Toy GPU"
    state = {"mj": 0.0, "s": 0.0}
    fake.nvmlDeviceGetTotalEnergyConsumption = lambda _gpu: round(state["mj"])
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    draw, said = power.choose("nvml")
    assert said == "energy by nvml: GPU 0: Toy GPU"

    def spend(seconds, watts):
        state["mj"] += 1e3 * watts * seconds
        state["s"] += seconds

    def drawn(busy_w):
        metered = power.Metered(draw.meter, lambda: state["s"], lambda seconds: spend(seconds, 30.0), period_s=3600.0)
        return metered(lambda: spend(0.5, busy_w))

    assert drawn(90.0) == power.Power(pytest.approx(90.0), pytest.approx(30.0), "nvml: GPU 0: Toy GPU")
    with pytest.raises(ProfileError, match="does not see the work"):
        drawn(30.0)  # the backends here run on the CPU
