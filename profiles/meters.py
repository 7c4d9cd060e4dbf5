"""Joules since a meter was made: from the machine's own counters where it has any, else from a power model that says so.

    method     reads                                                       what it covers
    rapl       /sys/class/powercap/intel-rapl:N/energy_uj                  the processor packages (Intel, and AMD since Zen)
    ina3221    voltage and current of the rails of an NVIDIA Jetson        the board, where a rail feeds all of it
    battery    energy_now, or charge_now x voltage_now, or power_now       the whole device, while it discharges
    nvml       nvmlDeviceGetTotalEnergyConsumption (nvidia-ml-py)          one NVIDIA GPU (Volta or newer)
    modelled:  CPU seconds of this process times a cited power             nothing: an assumption, and labelled as one

`method` travels into the provenance of a table (`energy_method`). A meter that cannot be read is an error that says why,
never a zero. Units at the edge of sysfs: microjoules, microwatt-hours, millivolts, milliamperes; here joules and watts.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cutlayer.errors import ProfileError
from cutlayer.profiles.energy import DEVICE_BUSY_W, DEVICE_ENERGY_METHOD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYS = Path("/sys")  # where Linux mounts sysfs
LONGEST_GAP_S = 1.0  # a choice: power between samples is taken as a straight line, which says nothing about a longer time
WATT_HOUR_J = 3600.0  # by definition
TOTAL_RAILS = ("POM_5V_IN", "VDD_IN")  # of Jetson Nano, and of Xavier NX and the Orin modules: the rail that feeds all others


class Meter(Protocol):
    """Counts the joules that `scope` uses, from the moment it is made.

    method is what a table's provenance says; scope says in words what is metered.
    """

    method: str
    scope: str

    def read_j(self) -> float:
        """Joules since the meter was made.

        Raises:
            ProfileError: what it reads has gone, is not readable, or was not read often enough.
        """
        ...


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise ProfileError(
            f"cannot read {path}: {error.strerror}; Linux lets only root read some counters (since CVE-2020-8694): run as root, "
            f"allow it with chmod a+r {path}, or take the power model"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ProfileError(f"cannot read {path}: {why}; take another meter or the power model") from error


def _integer(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise ProfileError(f"{path} reads {text[:40]!r}, no whole number; take another meter or the power model") from None


def _says(path: Path) -> str:
    """The text of an optional file, empty where there is none."""
    try:
        return _text(path)
    except ProfileError:
        return ""


class Integral:
    """Joules under a sampled power: a straight line between samples, which `read_j` takes; safe to call from two threads."""

    def __init__(self, power_w: Callable[[], float], clock: Callable[[], float]) -> None:
        """`power_w` and `clock` (seconds) are asked at once and at every `read_j`."""
        self._power_w, self._clock, self._lock = power_w, clock, threading.Lock()
        self._last_w, self._last_s, self._joules = power_w(), clock(), 0.0

    def read_j(self) -> float:
        """Take a sample; joules so far.

        Raises:
            ProfileError: the last sample is over LONGEST_GAP_S old, or power cannot be read.
        """
        with self._lock:
            now_w, now_s = self._power_w(), self._clock()
            gap_s = now_s - self._last_s
            if gap_s > LONGEST_GAP_S:
                raise ProfileError(
                    f"no sample of the power for {gap_s:.3g} s; read the meter at least every {LONGEST_GAP_S:g} s, or run the work "
                    "inside meters.sampling(meter)"
                )
            self._joules += 0.5 * (self._last_w + now_w) * gap_s
            self._last_w, self._last_s = now_w, now_s
            return self._joules


class Rapl:
    """The energy counters of all processor packages; they wrap, so read them more often than once a wrap.

    max_energy_range_uj is 2^32 counts of 15 to 61 uJ: at 100 W a wrap takes 11 to 44 minutes. A zone inside a package (core,
    uncore) is part of it, and the platform zone (psys) contains it, so only packages are added up; DRAM is not in them.
    """

    method = "rapl"

    def __init__(self, root: Path = SYS) -> None:
        """Start counting.

        Raises:
            ProfileError: there is no package zone, or it cannot be read.
        """
        folder = root / "class/powercap"
        self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _says(zone / "name").startswith("package")]
        if not self._zones:
            raise ProfileError(
                f"no intel-rapl package under {folder}; a virtual machine rarely has one: take another meter or the power model"
            )
        self.scope = "processor " + ", ".join(_text(zone / "name") for zone in self._zones)
        self._ranges_uj = [_integer(zone / "max_energy_range_uj") for zone in self._zones]
        self._last_uj = [_integer(zone / "energy_uj") for zone in self._zones]
        self._total_uj, self._lock = 0, threading.Lock()

    def read_j(self) -> float:
        """See `Meter`."""
        with self._lock:
            for i, (zone, range_uj) in enumerate(zip(self._zones, self._ranges_uj, strict=True)):
                now_uj = _integer(zone / "energy_uj")
                used_uj = now_uj - self._last_uj[i]
                self._total_uj += used_uj if used_uj >= 0 else used_uj + range_uj
                self._last_uj[i] = now_uj
            return self._total_uj * 1e-6


class Ina3221:
    """The power monitor on a Jetson's supply rails, sampled: one rail that feeds the board, else the sum of all rails.

    Linux's own driver (hwmon) gives millivolts and milliamperes of channels 1 to 3; the one of L4T up to release 32
    (Jetson Nano) gives milliwatts of rails 0 to 2.
    """

    method = "ina3221"

    def __init__(self, root: Path = SYS, clock: Callable[[], float] = time.monotonic) -> None:
        """Find the rails and take the first sample.

        Raises:
            ProfileError: there is no INA3221, or it cannot be read.
        """
        rails = {**_hwmon_rails(root), **_iio_rails(root)}
        if not rails:
            raise ProfileError(f"no INA3221 under {root / 'class/hwmon'}; only NVIDIA Jetson boards have one: take another meter")
        total = [name for name in TOTAL_RAILS if name in rails]
        chosen = total[:1] or sorted(rails)
        self.scope = f"rail {chosen[0]}, the whole board" if total else f"sum of rails {', '.join(chosen)}"
        readers = [rails[name] for name in chosen]
        self._integral = Integral(lambda: sum(reader() for reader in readers), clock)

    def read_j(self) -> float:
        """See `Meter`; it has to be called at least once a second, by hand or by `sampling`."""
        return self._integral.read_j()


def _hwmon_rails(root: Path) -> dict[str, Callable[[], float]]:
    """Watts of every enabled channel, by its label (kernel.org, hwmon/ina3221)."""
    rails: dict[str, Callable[[], float]] = {}
    for chip in sorted((root / "class/hwmon").glob("hwmon*")):
        if _says(chip / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            if volts.exists() and amperes.exists() and _says(chip / f"in{channel}_enable") != "0":
                label = _says(chip / f"in{channel}_label") or f"{chip.name} channel {channel}"
                rails[label] = lambda volts=volts, amperes=amperes: 1e-6 * _integer(volts) * _integer(amperes)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return rails


def _iio_rails(root: Path) -> dict[str, Callable[[], float]]:
    """Watts of every rail of the older driver, by its name."""
    rails: dict[str, Callable[[], float]] = {}
    for chip in sorted((root / "bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for rail in (0, 1, 2):
            power = chip / f"in_power{rail}_input"
            if power.exists():
                label = _says(chip / f"rail_name_{rail}") or f"{chip.name} rail {rail}"
                rails[label] = lambda power=power: 1e-3 * _integer(power)  # type: ignore[misc]  # as above
    return rails


class Battery:
    """What the batteries give away, while no charger is on.

    Counted from energy_now, else from charge_now at the mean voltage between two readings, else sampled from power_now or
    current_now x voltage_now. The gauge behind the first two moves in steps, of tens of joules on many machines, and is
    renewed every few seconds: measure for minutes.
    """

    method = "battery"

    def __init__(self, root: Path = SYS, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting.

        Raises:
            ProfileError: there is no battery, it does not discharge, or it cannot be read.
        """
        folder = root / "class/power_supply"
        # A mouse or a pen has a battery of its own; its scope is Device.
        self._packs = [p for p in sorted(folder.glob("*")) if _says(p / "type") == "Battery" and _says(p / "scope") != "Device"]
        if not self._packs:
            raise ProfileError(f"no battery under {folder}; take another meter or the power model")
        self._check_discharging()
        self._counters = [_drain(pack, clock) for pack in self._packs]
        self.scope = f"whole device, {', '.join(pack.name for pack in self._packs)}"

    def _check_discharging(self) -> None:
        states = {pack.name: _says(pack / "status") for pack in self._packs}
        if "Discharging" not in states.values() or "Charging" in states.values():
            said = ", ".join(f"{name} is {state or 'without status'}" for name, state in states.items())
            raise ProfileError(f"{said}: a battery meters only while it discharges; unplug the charger or take another meter")

    def read_j(self) -> float:
        """See `Meter`."""
        self._check_discharging()
        return sum(counter() for counter in self._counters)


def _drain(pack: Path, clock: Callable[[], float]) -> Callable[[], float]:
    """Joules taken from one battery since now, by the best of what it shows (kernel.org, ABI sysfs-class-power)."""
    if (pack / "energy_now").exists():
        full_uwh = _integer(pack / "energy_now")
        return lambda: (full_uwh - _integer(pack / "energy_now")) * 1e-6 * WATT_HOUR_J
    if (pack / "charge_now").exists() and (pack / "voltage_now").exists():
        return _Coulombs(pack).read_j
    if (pack / "power_now").exists():
        return Integral(lambda: abs(_integer(pack / "power_now")) * 1e-6, clock).read_j
    if (pack / "current_now").exists() and (pack / "voltage_now").exists():
        # Some drivers show a discharging current as negative.
        return Integral(lambda: abs(_integer(pack / "current_now")) * 1e-6 * _integer(pack / "voltage_now") * 1e-6, clock).read_j
    raise ProfileError(f"{pack} shows none of energy_now, charge_now, power_now and current_now; take another meter")


class _Coulombs:
    """Charge times the mean voltage between two readings: the product of the two gauges would add the fall of the voltage."""

    def __init__(self, pack: Path) -> None:
        self._charge, self._voltage, self._joules, self._lock = pack / "charge_now", pack / "voltage_now", 0.0, threading.Lock()
        self._last_uah, self._last_uv = _integer(self._charge), _integer(self._voltage)

    def read_j(self) -> float:
        with self._lock:
            now_uah, now_uv = _integer(self._charge), _integer(self._voltage)
            amp_hours, volts = (self._last_uah - now_uah) * 1e-6, 0.5 * (self._last_uv + now_uv) * 1e-6
            self._joules += amp_hours * volts * WATT_HOUR_J
            self._last_uah, self._last_uv = now_uah, now_uv
            return self._joules


class Nvml:
    """The energy counter of one NVIDIA GPU; nvidia-ml-py is loaded when the meter is made."""

    method = "nvml"

    def __init__(self, index: int = 0) -> None:
        """Start counting on the GPU of that number.

        Raises:
            ProfileError: nvidia-ml-py or the driver is missing, or the GPU has no counter.
        """
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise ProfileError("nvidia-ml-py is not installed; pip install 'cutlayer[nvml]', or take another meter") from error
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
            name = self._nvml.nvmlDeviceGetName(self._gpu)
        except self._nvml.NVMLError as error:
            raise ProfileError(f"no GPU {index} for NVML: {error}; check the NVIDIA driver, or take another meter") from error
        self.scope = f"GPU {index}: {name.decode() if isinstance(name, bytes) else name}"
        self._start_mj = self._read_mj()

    def _read_mj(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))
        except self._nvml.NVMLError as error:
            raise ProfileError(f"{self.scope} shows no energy: {error}; NVML counts it since Volta: take another meter") from error

    def read_j(self) -> float:
        """See `Meter`."""
        used_mj = self._read_mj() - self._start_mj
        if used_mj < 0:
            raise ProfileError(f"the counter of {self.scope} fell by {-used_mj} mJ; was the driver loaded anew? Measure again")
        return used_mj * 1e-3


class Modelled:
    """Watts per state times CPU time: busy_w for every CPU second of this process, idle_w for the rest of the time."""

    def __init__(
        self, busy_w: float = DEVICE_BUSY_W, idle_w: float = 0.0, how: str = "",
        *, cpu_s: Callable[[], float] = time.process_time, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`how` says where the watts come from; it is needed when they are not the cited ones.

        Raises:
            ProfileError: a power is negative, or other watts are given without their origin.
        """
        if not (busy_w >= 0 and idle_w >= 0):
            raise ProfileError(f"power of {busy_w} W busy and {idle_w} W idle is impossible; give watts")
        cited = (busy_w, idle_w) == (DEVICE_BUSY_W, 0.0)
        if not how and not cited:
            raise ProfileError(f"power model of {busy_w:g} W busy and {idle_w:g} W idle has no origin; say where the watts come from")
        idle = f" + {idle_w:g} W x idle seconds" if idle_w else ""
        self.method = f"modelled: {busy_w:g} W x CPU seconds{idle} ({how})" if how else DEVICE_ENERGY_METHOD
        self.scope = "no meter: CPU seconds of this process"
        self._busy_w, self._idle_w, self._cpu_s, self._clock = busy_w, idle_w, cpu_s, clock
        self._start_cpu_s, self._start_s = cpu_s(), clock()

    def read_j(self) -> float:
        """See `Meter`."""
        busy_s = self._cpu_s() - self._start_cpu_s
        idle_s = max(0.0, self._clock() - self._start_s - busy_s)
        return self._busy_w * busy_s + self._idle_w * idle_s


@dataclass(frozen=True, slots=True)
class Candidate:
    """A meter that was tried: either it is there, or `reason` says why not."""

    method: str
    meter: Meter | None
    reason: str = ""


ON_CPU = ("rapl", "ina3221", "battery", "modelled")  # for work on the CPU, best first
ON_GPU = ("nvml", "ina3221", "battery")  # the power model knows only the CPU


def makers(root: Path = SYS, clock: Callable[[], float] = time.monotonic) -> dict[str, Callable[[], Meter]]:
    """What makes each meter, by its name; each raises ProfileError where there is none."""
    board: dict[str, Callable[[], Meter]] = {"ina3221": lambda: Ina3221(root, clock), "battery": lambda: Battery(root, clock)}
    return {"rapl": lambda: Rapl(root), **board, "nvml": Nvml, "modelled": Modelled}


def survey(root: Path = SYS, *, gpu: bool = False, clock: Callable[[], float] = time.monotonic) -> list[Candidate]:
    """All meters for work on the CPU, or on the GPU, best first."""
    made = makers(root, clock)
    return [_try(name, made[name]) for name in (ON_GPU if gpu else ON_CPU)]


def _try(method: str, make: Callable[[], Meter]) -> Candidate:
    try:
        return Candidate(method, make())
    except ProfileError as error:
        return Candidate(method, None, str(error))


def find(root: Path = SYS, *, gpu: bool = False) -> Meter:
    """The best meter there is, by its `method`; `survey` says why better ones were passed over.

    Raises:
        ProfileError: nothing here sees a GPU; the power model does not either.
    """
    tried = survey(root, gpu=gpu)
    for candidate in tried:
        if candidate.meter is not None:
            return candidate.meter
    raise ProfileError("no meter sees the GPU: " + "; ".join(f"{candidate.method}: {candidate.reason}" for candidate in tried))


@contextlib.contextmanager
def sampling(meter: Meter, period_s: float = 0.05) -> Iterator[Meter]:
    """Read `meter` in a thread beside the work: sampled power is integrated, and a counter that wraps is read in time.

    Raises:
        ProfileError: at the end, if the meter could not be read on the way.
    """
    done, failed = threading.Event(), list[ProfileError]()

    def watch() -> None:
        try:
            while not done.wait(period_s):
                meter.read_j()
        except ProfileError as error:
            failed.append(error)

    thread = threading.Thread(target=watch, name="energy-meter", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]
