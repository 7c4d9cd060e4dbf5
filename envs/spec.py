"""A scenario: everything that is fixed about a world, as frozen values without any randomness.

What is switched off (the default everywhere) costs the engines nothing. Checked here, once; the engines believe it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.envs.workload import EdgeJobs, SlowDown
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import MSS_BYTES
from cutlayer.runtime.features import Blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.channels import Channel
    from cutlayer.envs.deadlines import Deadlines
    from cutlayer.envs.workload import Arrivals, BackgroundJobs, CoTenant
    from cutlayer.profiles.cost import Objective, Path
    from cutlayer.profiles.plans import PlanTable

LOSS_CONSTANT = math.sqrt(1.5)  # of the model of Mathis, Semke, Mahdavi and Ott (1997): every packet acknowledged, losses spread evenly


def _hold(where: str, **claims: tuple[object, bool, str]) -> None:
    for name, (value, holds, must) in claims.items():
        if not holds:
            raise ConfigError(f"{name} of {where} is {value!r}; it must be {must}")


class Power(Protocol):
    """Anything that draws watts over time: every `Channel` does, its numbers read as watts."""

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """Watts of each slot, shape (slots,), never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Link:
    """What TCP makes of the channel's rate.

    loss (share of packets, 0 to under 1) lowers the rate to min(rate (1 - loss), sqrt(1.5 / loss) MSS / RTT), the model of
    Mathis et al. 1997. restart_after_s: a connection that sent nothing for longer begins with ten packets a round trip
    again and doubles them (slow start after idle; Linux: 0.2 s or more); never, unless given. Before a transfer's bytes
    flow, the link then stands for as long as the window would have kept it waiting at the rate of that moment. rate_told: the
    device knows the rate of half a round trip ago (channel state); it takes the place of the mean over transfers.
    """

    loss: float = 0.0
    restart_after_s: float = math.inf
    rate_told: bool = False

    def __post_init__(self) -> None:
        _hold(
            "the link",
            loss=(self.loss, 0.0 <= self.loss < 1.0, "a share from 0 to under 1"),
            restart_after_s=(self.restart_after_s, self.restart_after_s >= 0.0, "seconds from 0 on, or inf"),
        )

    def goodput_bps(self, rate_bps: NDArray[np.float64], rtt_s: float) -> NDArray[np.float64]:
        """What arrives of a rate, b/s: less by what is sent again, and no more than the losses let the window grow to."""
        if self.loss == 0.0:
            return rate_bps
        most = LOSS_CONSTANT * 8 * MSS_BYTES / (rtt_s * math.sqrt(self.loss)) if rtt_s > 0.0 else math.inf
        return np.minimum(rate_bps * (1.0 - self.loss), most)


@dataclass(frozen=True, slots=True)
class Platform:
    """What the edge runs on: all work there takes work_factor times as long and request_s more for each of our requests."""

    work_factor: float = 1.0
    request_s: float = 0.0

    def __post_init__(self) -> None:
        _hold(
            "the platform",
            work_factor=(self.work_factor, 1.0 <= self.work_factor < math.inf, "1 or more"),
            request_s=(self.request_s, 0.0 <= self.request_s < math.inf, "seconds from 0 on"),
        )


# Work: Felter, Ferreira, Rajamony, Rubio (IBM Research Report RC25482, 2014) ran Linpack at 290.8 GFLOPS natively, 290.9 in Docker, 284.2
# in KVM with pinned cores and 130.3 without (averages in the logs of github.com/thewmf/kvm-docker-comparison, linpack/results): a
# container costs nothing, a virtual machine 2 to 120 %; 20 % is our choice between them. Requests: our choice, a network round trip
# within a machine room (tens of us) once more for a container's address translation, less for a virtual machine. Background
# jobs are given as they run there.
BARE_METAL = Platform()
CONTAINER = Platform(request_s=40e-6)
VIRTUAL_MACHINE = Platform(work_factor=1.2, request_s=30e-6)
PLATFORMS = {"bare-metal": BARE_METAL, "container": CONTAINER, "vm": VIRTUAL_MACHINE}


@dataclass(frozen=True, slots=True)
class Batching:
    """The edge collects our requests: those that reach it within one window of window_s begin at its end, as one batch.

    latency (the table): how long a batch of 1, 2, ... takes, relative to a batch of one; beyond its end each further member
    adds as much as the last one did. Members are answered in order, the n-th when a batch of n would be done: so no answer waits
    for what is decided later. Other people's jobs are in no batch.
    """

    window_s: float
    latency: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        rising = all(b >= a for a, b in zip((0.0, *self.latency), self.latency, strict=False))
        _hold(
            "the batching",
            window_s=(self.window_s, 0.0 < self.window_s < math.inf, "seconds above 0"),
            latency=(self.latency, bool(self.latency) and self.latency[0] == 1.0 and rising, "a rising table that begins with 1"),
        )

    def shares(self) -> tuple[float, ...]:
        """What each member of a batch adds, relative to one alone; the last holds for all further ones."""
        return tuple(b - a for a, b in zip((0.0, *self.latency), self.latency, strict=False))


@dataclass(frozen=True, slots=True)
class Edge:
    """The edge: first come, first served by `servers` equal servers; of jobs and requests of one instant the jobs go first.

    broadcast_s: at 0, broadcast_s, 2 broadcast_s, ... it tells its queue: how long a job that came just then would wait before it
    begins, behind all jobs and requests that have reached the edge by that instant (with one server: the seconds of work ahead). What
    is still on its way there does not count; of a batch, what is collected counts once its window has ended. A broadcast
    reaches the device half a round trip later, always. Never, unless given.
    """

    servers: int = 1
    platform: Platform = BARE_METAL
    batching: Batching | None = None
    broadcast_s: float | None = None

    def __post_init__(self) -> None:
        period_s = self.broadcast_s
        _hold("the edge", broadcast_s=(period_s, period_s is None or 0.0 < period_s < math.inf, "seconds above 0"))
        _hold("the edge", servers=(self.servers, self.servers >= 1, "a whole number from 1 on"))
        if self.batching is not None:
            _hold("an edge that batches", servers=(self.servers, self.servers == 1, "1: a batch runs on one server"))


@dataclass(frozen=True, slots=True)
class Thermal:
    """Heat of the device's processor, as one resistance and one capacity (RC), and how it slows the device.

    Left alone the temperature tends to idle_c, while work runs to busy_c, exponentially with time_constant_s (R C); both
    include the ambient temperature. Work that starts above throttle_c takes longer: a factor that rises linearly from 1 there to
    `slowest` at limit_c and stays. It holds for the whole of that work, and multiplies with the slow-down. Begins at idle_c.
    """

    idle_c: float
    busy_c: float
    time_constant_s: float
    throttle_c: float
    limit_c: float
    slowest: float

    def __post_init__(self) -> None:
        _hold(
            "the thermal model",
            busy_c=(self.busy_c, self.idle_c <= self.busy_c < math.inf, f"degrees from idle_c ({self.idle_c}) on"),
            time_constant_s=(self.time_constant_s, 0.0 < self.time_constant_s < math.inf, "seconds above 0"),
            limit_c=(self.limit_c, self.throttle_c < self.limit_c, f"degrees above throttle_c ({self.throttle_c})"),
            slowest=(self.slowest, 1.0 <= self.slowest < math.inf, "1 or more"),
        )


@dataclass(frozen=True, slots=True)
class Battery:
    """The device's charge, and what it is charged with.

    Begins at `start` (share of capacity_j). idle_w is drawn always, `harvest` watts come in (any channel: constant, Markov,
    trace; None: nothing). The charge is reckoned when a request would begin on the device: all that came in and was drawn since
    the last one, kept within 0 and capacity_j; joules of computing go as the work begins, those of sending and of answers after
    giving up once the link is known to be idle, half a round trip after the last transfer (its charge must not tell the device of
    its link before the link does). **Empty:** a request that finds less charge than its plan's device joules is not run.
    Nobody answers it; it costs nothing, has accuracy 0, and counts as late at its give-up time (`Status.EMPTY`).
    """

    capacity_j: float
    start: float = 1.0
    idle_w: float = 0.0
    harvest: Power | None = None

    def __post_init__(self) -> None:
        _hold(
            "the battery",
            capacity_j=(self.capacity_j, 0.0 < self.capacity_j < math.inf, "joules above 0"),
            start=(self.start, 0.0 <= self.start <= 1.0, "a share from 0 to 1"),
            idle_w=(self.idle_w, 0.0 <= self.idle_w < math.inf, "watts from 0 on"),
        )


@dataclass(frozen=True, slots=True)
class Segments:
    """What has to be loaded on the device before a plan can run there; one entry a plan in each tuple.

    unit: number of the segment (graph, bottleneck) that the plan runs, -1 where it runs none; plans of one number share it.
    swap_s: paid when the unit differs from the one that ran last (nothing has run at the beginning). unit_bytes: its size
    in memory, which `Memory` needs. Loading takes its time on the device, unslowed, before the plan's work.
    """

    unit: tuple[int, ...]
    swap_s: tuple[float, ...]
    unit_bytes: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = set(zip(self.unit, self.unit_bytes, strict=True))
        _hold(
            "the segments",
            unit=(self.unit, min(self.unit, default=-1) >= -1, "numbers from 0 on, or -1"),
            unit_bytes=(self.unit_bytes, len(sizes) == len(set(self.unit)), "one size for each unit"),
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Room for segments on the device: one that is not resident is read and initialised first (cold start).

    A load takes unit_bytes / read_bytes_per_s + init_s. The least recently used units make room; one that is larger than
    capacity_bytes by itself is never kept. Nothing is resident at the beginning.
    """

    capacity_bytes: float
    read_bytes_per_s: float
    init_s: float = 0.0

    def __post_init__(self) -> None:
        _hold(
            "the memory",
            capacity_bytes=(self.capacity_bytes, self.capacity_bytes >= 0.0, "bytes from 0 on"),
            read_bytes_per_s=(self.read_bytes_per_s, self.read_bytes_per_s > 0.0, "bytes a second above 0"),
            init_s=(self.init_s, 0.0 <= self.init_s < math.inf, "seconds from 0 on"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """Plans, link, edge, device, workload and objective of one world.

    requests an episode; rates, slow-down and harvest are constant within slots of slot_s; a request whose transfer is not done
    cancel_margin_s after its deadline is answered by the device's own exit, and the link is free again. deadlines: where
    requests differ; the objective's deadline then stays the unit in which times are shown to a policy. segments: None means
    the plan table's own columns `unit`, `swap_s` and `unit_bytes` where it has them.
    """

    name: str
    plans: PlanTable
    channel: Channel
    arrivals: Arrivals
    objective: Objective
    path: Path
    slow_down: CoTenant = SlowDown()  # noqa: RUF009 - frozen itself
    edge_jobs: BackgroundJobs = EdgeJobs()  # noqa: RUF009 - frozen itself
    requests: int = 200
    slot_s: float = 0.02
    cancel_margin_s: float = 0.02
    inputs: str = ""
    link: Link = Link()
    edge: Edge = Edge()
    thermal: Thermal | None = None
    battery: Battery | None = None
    segments: Segments | None = None
    memory: Memory | None = None
    deadlines: Deadlines | None = None

    def __post_init__(self) -> None:
        if self.segments is not None:
            for name in ("unit", "swap_s", "unit_bytes"):
                count = len(getattr(self.segments, name))
                _hold("the segments", **{name: (f"{count} long", count == len(self.plans), f"one a plan, {len(self.plans)}")})

    @property
    def give_up_s(self) -> float:
        """Age at which the transfer of any request is given up at the latest: the (longest) deadline and the stated margin."""
        longest_s = self.objective.deadline_s if self.deadlines is None else self.deadlines.longest_s
        return longest_s + self.cancel_margin_s

    @property
    def plain(self) -> bool:
        """Whether everything is off that a compiled engine leaves out; loss and platform are but other numbers."""
        slow_start = math.isfinite(self.link.restart_after_s)
        device = self.thermal is not None or self.battery is not None or self.loading
        edge = self.edge.servers > 1 or self.edge.batching is not None or self.edge.broadcast_s is not None
        return not (slow_start or device or edge or self.deadlines is not None)

    @property
    def blocks(self) -> Blocks:
        """What the device can show beyond the base features: what this world has, it has sensors for."""
        return Blocks(
            deadline=self.deadlines is not None,
            throttle_c=self.thermal.throttle_c if self.thermal is not None else 0.0,
            limit_c=self.thermal.limit_c if self.thermal is not None else 0.0,
            capacity_j=self.battery.capacity_j if self.battery is not None else 0.0,
            units=max(self.loads().unit) + 1 if self.loading else 0,
            broadcast=self.edge.broadcast_s is not None,
        )

    @property
    def loading(self) -> bool:
        """Whether any plan may have to load something first."""
        return self.memory is not None or any(self.loads().swap_s)

    def loads(self) -> Segments:
        """What each plan has to load: `segments`, or the bottlenecks of the plan table; its unit 0, no bottleneck, is -1 here."""
        if self.segments is not None:
            return self.segments
        plans = self.plans
        return Segments(tuple((plans.unit - 1).tolist()), tuple(plans.swap_s.tolist()), tuple(plans.unit_bytes.tolist()))
