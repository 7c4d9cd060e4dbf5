"""A rule that decides by one-step expectation: what every plan is worth under a belief, less shadow prices of what it uses up.

    worth  = E[reward] - (price of device time) T_dev - (price of bytes) bytes - (price of energy) joules
    E[reward] over the link (`filters`), the device's slow-down and the wait at the edge (a few cases each); what is not sent by the
    give-up time is answered by the device.

The belief comes from the Bayes filter, or is an aged rate taken for certain. The same formulas run on columns of plans here and
on one plan after the other in compiled code; `Priced` is what a device runs, with numpy alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.profiles import cost
from cutlayer.runtime import filters, forecasts
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.filters import Aging, Arrivals, Link

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.cost import Number, Objective, Path
    from cutlayer.profiles.plans import PlanTable

# --- numbers of a rule, behind those of the filter; `Parameters.numbers` writes them
(
    DEADLINE_S, ENFORCED, LATE_PENALTY, PER_S, PER_J, TIMEOUT_S,  # of the objective
    CANCEL_MARGIN_S, RETURN_S, BASE_W, JOULES_PER_BIT,
    CALM, BUSY, BUSY_SHARE, SLOW_PER_S,  # slow-down of the device: in two states, share of the busy one, how fast it is forgotten
    WAIT_PER_S,  # how fast a measured wait at the edge is forgotten
    WAITS,  # and three waits, each as likely, believed then
) = range(filters.AGED_NUMBERS, filters.AGED_NUMBERS + 16)  # fmt: skip
WAIT_CASES = 3
(
    AGED,  # 1: the belief is an aged rate, and slow-down and wait are taken as their means
    SAFETY,  # share of the deadline that is kept in reserve
    SLOW_FACTOR,  # on the slow-down, where its mean is taken
    DEVICE_PRICE,  # a second of nominal device work, when nothing waits
    BACKLOG_PRICE, BURST_PRICE,  # how much dearer it is for each deadline of backlog, and in a burst
    BYTE_PRICE,
    JOULE_PRICE, CHARGE_PRICE,  # when the battery is empty, and how much less for each joule of charge
    PROBE,  # what it is worth to learn of a link: for each unit of deviation of the logarithm, or for certainty whether it is blocked
) = range(WAITS + WAIT_CASES, WAITS + WAIT_CASES + 10)  # fmt: skip
NUMBERS = PROBE + 1

# --- the moment of a decision, by index
(
    NOW, DUE_AT, GIVE_UP_AT,
    DEADLINE_AT,  # when it is due, less the reserve
    LINK_FROM, QUEUED_BYTES,  # from then on the link carries these before ours
    FREE_BY,  # by then whatever is queued was given up
    LAST_BYTES,  # what the request before ours sends, if it is still on the device: nothing of it before ours begins there
    LATENCY_PER_S, LATENCY_TIMEOUT_S,  # of the objective, at this request's deadline
    PRICE_PER_WORK_S, PRICE_PER_J, BONUS,
    RUNNING_UNIT,  # the segment that will lie ready
    SLOW_CASES, WAIT_COUNT,
) = range(16)  # fmt: skip
SLOW = 16  # of each case: chance, slow-down, device time before our work begins
WAIT = SLOW + 9  # of each case: chance, wait at the edge
MOMENT = WAIT + 2 * (WAIT_CASES + 1)

TIE = 1e-9  # worths that differ by less are alike: two ways to reckon them differ by as much
_ALIKE = 0.05  # a measured slow-down this close to a known state is that state: timers and schedulers are no finer
_LATE = 1.02  # work that runs for this many times its time is not in the calm state
# Rates that stand for a log-normal: Gauss and Hermite's three points.
_NODES = ((1.0 / 6.0, -math.sqrt(3.0)), (2.0 / 3.0, 0.0), (1.0 / 6.0, math.sqrt(3.0)))


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the device slows down: two states, the share of time in the busy one, and the time after which a measurement is forgotten."""

    calm: float = 1.0
    busy: float = 1.0
    busy_share: float = 0.0
    memory_s: float = 1.0


class Edge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a request waits at the edge: three lengths, each as likely, and the time after which a measured one is forgotten.

    work_factor and request_s: what the edge's platform makes of the table's times.
    """

    waits_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    memory_s: float = 1.0
    work_factor: float = 1.0
    request_s: float = 0.0


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan pays for what it takes from later requests, in units of reward.

    device_s for each second of nominal device work, (1 + backlog * deadlines of backlog + burst * chance of a burst) times; byte for
    each byte sent; joule for each joule, less charge_j times the joules in the battery. probe is paid to plans that send, for what they
    teach. safety and slow are margins: a share of the deadline, and a factor on the expected slow-down of an aged belief.
    """

    device_s: float = 0.0
    backlog: float = 0.0
    burst: float = 0.0
    byte: float = 0.0
    joule: float = 0.0
    charge_j: float = 0.0
    probe: float = 0.0
    safety: float = 0.0
    slow: float = 1.0


class Loads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each plan loads: the number of its segment, -1 for none, and how long that takes where another one lies ready."""

    unit: tuple[int, ...]
    load_s: tuple[float, ...]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that the rule knows beyond plan table, path and objective. With `aging` its belief is an aged rate, else the filter's.

    loads: None where nothing is ever loaded.
    """

    link: Link
    cancel_margin_s: float  # a transfer is given up so long after the deadline
    arrivals: Arrivals = Arrivals()
    device: Device = Device()
    edge: Edge = Edge()
    loads: Loads | None = None
    prices: Prices = Prices()
    aging: Aging | None = None

    def numbers(self, path: Path, objective: Objective) -> list[float]:
        """By the indices above and those of `filters`."""
        link, aging, device, edge, prices = self.link, self.aging, self.device, self.edge, self.prices
        if aging is not None:
            # What is believed now is believed for all time ahead: nothing is forgotten.
            link = Link(aging.prior_bps, (0.0, 0.0, 0.0), (math.inf, math.inf, math.inf))
        return [
            *link.numbers(path.rtt_s / 2.0), *self.arrivals.numbers(), *(aging or Aging(1.0, 1.0)).numbers(), *objective.numbers(),
            self.cancel_margin_s, path.return_s, path.radio.base_w, path.radio.joules_per_bit,
            device.calm, device.busy, device.busy_share, 1.0 / device.memory_s, 1.0 / edge.memory_s, *edge.waits_s,
            float(aging is not None), prices.safety, prices.slow, prices.device_s, prices.backlog, prices.burst, prices.byte,
            prices.joule, prices.charge_j, prices.probe,
        ]  # fmt: skip


def believe(
    state: MutableSequence[float],
    numbers: Sequence[float],
    sizes: Sequence[float],
    readings: Sequence[float],
    now_s: float,
    acked_bytes: float,
) -> None:
    """Bring the belief up to date: once for each request, as it arrives."""
    if numbers[AGED] > 0.0:
        filters.aged(state, numbers, readings, now_s, acked_bytes)
    else:
        filters.update(state, numbers, sizes, readings, now_s, acked_bytes)


def look(
    state: Sequence[float],
    numbers: Sequence[float],
    readings: Sequence[float],
    now_s: float,
    acked_bytes: float,
    moment: MutableSequence[float],
    ahead: MutableSequence[float],
) -> None:
    """Write what all plans share at this moment, `MOMENT` values, and the link's forecast, `forecasts.FORECAST` values."""
    deadline_s = readings[tm.DEADLINE_S] if readings[tm.DEADLINE_S] != tm.NEVER else numbers[DEADLINE_S]
    _, _, _, moment[LATENCY_PER_S], _, moment[LATENCY_TIMEOUT_S] = cost.of_deadline(
        (numbers[DEADLINE_S], numbers[ENFORCED], numbers[LATE_PENALTY], numbers[PER_S], numbers[PER_J], numbers[TIMEOUT_S]), deadline_s
    )
    moment[NOW] = now_s
    moment[DUE_AT] = now_s + deadline_s
    moment[DEADLINE_AT] = now_s + deadline_s * (1.0 - numbers[SAFETY])
    moment[GIVE_UP_AT] = now_s + deadline_s + numbers[CANCEL_MARGIN_S]
    moment[RUNNING_UNIT] = readings[tm.UNIT]
    sending = readings[tm.SENDING_SINCE] != tm.NEVER
    moment[LINK_FROM] = now_s - numbers[filters.LATE_S] if sending else now_s
    moment[QUEUED_BYTES] = max(0.0, readings[tm.TO_SEND_BYTES] - acked_bytes)
    # The request before may have had another deadline: taken as ours.
    moment[FREE_BY] = max(moment[LINK_FROM], moment[GIVE_UP_AT] - readings[tm.GAP])
    forecasts.forecast(state, numbers, moment[LINK_FROM], moment[GIVE_UP_AT], ahead)

    _look_at_device(numbers, readings, now_s, moment)
    _look_at_edge(numbers, readings, now_s, moment)
    backlog_s = 0.0
    for i in range(int(moment[SLOW_CASES])):
        backlog_s += moment[SLOW + 3 * i] * moment[SLOW + 3 * i + 2]
    moment[LAST_BYTES] = min(state[filters.LAST_BYTES], moment[QUEUED_BYTES]) if backlog_s > 0.0 else 0.0
    dearer = 1.0 + numbers[BACKLOG_PRICE] * backlog_s / numbers[DEADLINE_S] + numbers[BURST_PRICE] * state[filters.BURST]
    moment[PRICE_PER_WORK_S] = numbers[DEVICE_PRICE] * dearer
    moment[PRICE_PER_J] = numbers[JOULE_PRICE]
    if readings[tm.SENSED_AT] != tm.NEVER:
        moment[PRICE_PER_J] = max(0.0, numbers[JOULE_PRICE] - numbers[CHARGE_PRICE] * readings[tm.CHARGE_J])
    blocked = ahead[forecasts.BLOCKED_THEN]
    moment[BONUS] = numbers[PROBE] * (math.sqrt(max(0.0, ahead[forecasts.VARIANCE])) + 2.0 * math.sqrt(max(0.0, blocked * (1.0 - blocked))))


def _look_at_device(numbers: Sequence[float], readings: Sequence[float], now_s: float, moment: MutableSequence[float]) -> None:
    """Cases of the slow-down: it stayed as it was measured, or it is one of the two states again."""
    calm, busy = numbers[CALM], numbers[BUSY]
    running_s, waiting_s, elapsed_s, measured, known = 0.0, readings[tm.BACKLOG_S], 0.0, calm, 0.0
    if readings[tm.SLOW_DOWN_AT] != tm.NEVER:
        measured = min(max(readings[tm.SLOW_DOWN], 0.1), 1e3)
        known = math.exp(-numbers[SLOW_PER_S] * max(0.0, now_s - readings[tm.SLOW_DOWN_AT]))
    overdue = 0.0
    if readings[tm.RUNNING_SINCE] != tm.NEVER:
        running_s = readings[tm.RUNNING_S] - readings[tm.LOADING_S]
        waiting_s = max(0.0, waiting_s - running_s)
        elapsed_s = now_s - readings[tm.RUNNING_SINCE] - readings[tm.LOADING_S]
        if running_s >= tm.MIN_WORK_S:
            overdue = elapsed_s / running_s
    if calm == busy:
        known = 0.0
    elif overdue > _LATE * calm:
        measured = max(busy, overdue)
        known = math.exp(-numbers[SLOW_PER_S] * elapsed_s)
    in_calm, in_busy = (1.0 - known) * (1.0 - numbers[BUSY_SHARE]), (1.0 - known) * numbers[BUSY_SHARE]
    if numbers[AGED] > 0.0:
        in_calm, in_busy, measured = 0.0, 0.0, numbers[SLOW_FACTOR] * (known * measured + in_calm * calm + in_busy * busy)
        known = 1.0
    elif calm == busy or abs(measured - calm) <= _ALIKE * calm:
        in_calm, known = in_calm + known, 0.0
    elif abs(measured - busy) <= _ALIKE * busy:
        in_busy, known = in_busy + known, 0.0
    cases = 0
    for chance, slow in ((known, measured), (in_calm, calm), (in_busy, busy)):
        if chance > 0.0:
            moment[SLOW + 3 * cases] = chance
            moment[SLOW + 3 * cases + 1] = slow
            moment[SLOW + 3 * cases + 2] = waiting_s * slow + max(0.0, running_s * max(slow, overdue) - elapsed_s)
            cases += 1
    moment[SLOW_CASES] = cases


def _look_at_edge(numbers: Sequence[float], readings: Sequence[float], now_s: float, moment: MutableSequence[float]) -> None:
    """Cases of the wait: it stayed as it was measured or told, or it is any of the usual ones again."""
    measured, known = 0.0, 0.0
    at_s = max(readings[tm.EDGE_WAIT_AT], readings[tm.EDGE_QUEUE_AT])
    if at_s != tm.NEVER:
        measured = max(0.0, readings[tm.EDGE_WAIT_S] if at_s == readings[tm.EDGE_WAIT_AT] else readings[tm.EDGE_QUEUE_S])
        known = math.exp(-numbers[WAIT_PER_S] * max(0.0, now_s - at_s))
    usual = (1.0 - known) / WAIT_CASES
    if numbers[AGED] > 0.0:
        measured *= known
        for i in range(WAIT_CASES):
            measured += usual * numbers[WAITS + i]
        known = 1.0
    elif numbers[WAITS + WAIT_CASES - 1] == 0.0:  # nobody else is there
        measured, known = 0.0, 1.0
    cases = 0
    if known > 0.0:
        moment[WAIT], moment[WAIT + 1] = known, measured
        cases = 1
    if known < 1.0:
        for i in range(WAIT_CASES):
            moment[WAIT + 2 * cases], moment[WAIT + 2 * cases + 1] = usual, numbers[WAITS + i]
            cases += 1
    moment[WAIT_COUNT] = cases


# --- the worth of plans: on one plan after the other, or on columns of them


def price(work_s: Number, wire_bytes: Number, device_j: Number, numbers: Sequence[float], moment: Sequence[float]) -> Number:
    """What a plan pays, but for the energy of sending; less what it is paid for probing the link."""
    total: Number = moment[PRICE_PER_WORK_S] * work_s + numbers[BYTE_PRICE] * wire_bytes + moment[PRICE_PER_J] * device_j
    return total - moment[BONUS] * (wire_bytes > 0.0)


def loading_s(unit: Number, load_s: Number, moment: Sequence[float]) -> Number:
    """How long a plan loads before its work."""
    takes: Number = load_s * (unit != moment[RUNNING_UNIT])
    return takes


def local_worth(
    before_s: Number, slow: Number, work_s: Number, accuracy: Number, device_j: Number, numbers: Sequence[float], moment: Sequence[float]
) -> Number:
    """Expected reward of device-only plans in one case of the slow-down."""
    worth: Number = cost.reward(
        before_s + work_s * slow, accuracy, device_j, moment[DEADLINE_AT] - moment[NOW],
        numbers[ENFORCED], numbers[LATE_PENALTY], moment[LATENCY_PER_S], numbers[PER_J], moment[LATENCY_TIMEOUT_S],
    )  # fmt: skip
    return worth


def sent_worth(
    before_s: Number,
    slow: Number,
    wait_s: Number,
    work_s: Number,
    wire_bytes: Number,
    edge_s: Number,
    accuracy: Number,
    device_j: Number,
    fallback_s: Number,
    fallback_accuracy: Number,
    fallback_j: Number,
    numbers: Sequence[float],
    moment: Sequence[float],
    ahead: Sequence[float],
) -> Number:
    """Expected reward of plans that send, in one case of slow-down and wait; less the price of the energy of sending."""
    ready_s = moment[NOW] + before_s + work_s * slow
    rest_s = numbers[filters.LATE_S] + wait_s + edge_s + numbers[RETURN_S]
    per_j = numbers[PER_J] + moment[PRICE_PER_J]
    worth: Number = 0.0 * ready_s
    if numbers[ENFORCED] > 0.0:
        chance = delivered(before_s, ready_s, np.minimum(moment[DEADLINE_AT] - rest_s, moment[GIVE_UP_AT]), wire_bytes, moment, ahead)
        worth = chance * accuracy - (1.0 - chance) * numbers[LATE_PENALTY]
        if moment[LATENCY_PER_S] == 0.0 and per_j == 0.0:
            return worth
    sent = delivered(before_s, ready_s, moment[GIVE_UP_AT] + 0.0 * ready_s, wire_bytes, moment, ahead)
    if numbers[ENFORCED] == 0.0:
        worth = sent * accuracy + (1.0 - sent) * fallback_accuracy
    sent_s, air_s = sending(before_s, ready_s, wire_bytes, moment, ahead)
    if moment[LATENCY_PER_S] > 0.0:
        latency_s = sent * (sent_s + rest_s) + (1.0 - sent) * (moment[GIVE_UP_AT] + fallback_s * slow) - moment[NOW]
        worth = worth - moment[LATENCY_PER_S] * np.minimum(latency_s, moment[LATENCY_TIMEOUT_S])
    joules = numbers[BASE_W] * air_s + numbers[JOULES_PER_BIT] * 8.0 * wire_bytes * sent + (1.0 - sent) * fallback_j
    result: Number = worth - numbers[PER_J] * device_j - per_j * joules
    return result


def delivered(
    before_s: Number, ready_s: Number, end_s: Number, wire_bytes: Number, moment: Sequence[float], ahead: Sequence[float]
) -> Number:
    """Chance that a transfer is through by `end_s`: the link must carry it from `ready_s` on, what is queued before it as well from now
    on, and what is still on the device from `before_s` after now on.

    All windows end together, so the chance of all is nearly that of the rarest. What is queued may also be given up in time.
    """
    chance = forecasts.in_time(ahead, ready_s, end_s, wire_bytes)
    if moment[QUEUED_BYTES] == 0.0:
        return chance
    with_queue = forecasts.in_time(ahead, moment[LINK_FROM] + 0.0 * ready_s, end_s, wire_bytes + moment[QUEUED_BYTES])
    both: Number = np.minimum(chance, with_queue)
    if moment[LAST_BYTES] > 0.0:
        with_last = forecasts.in_time(ahead, moment[NOW] + before_s, end_s, wire_bytes + moment[LAST_BYTES])
        both = np.minimum(both, with_last)
    if moment[FREE_BY] >= moment[DEADLINE_AT]:
        return both
    after = forecasts.in_time(ahead, np.maximum(ready_s, moment[FREE_BY]), end_s, wire_bytes)
    best: Number = np.maximum(both, after)
    return best


def sending(
    before_s: Number, ready_s: Number, wire_bytes: Number, moment: Sequence[float], ahead: Sequence[float]
) -> tuple[Number, Number]:
    """Expected end of a transfer, at most the give-up time, and its expected time on air."""
    place = np.minimum(np.maximum((ready_s - ahead[forecasts.NEAR_S]) * ahead[forecasts.PER_S], 0.0), 1.0)
    mean = forecasts.along(ahead, forecasts.MEAN, place)
    sd = np.sqrt(np.maximum(forecasts.along(ahead, forecasts.VARIANCE, place), 0.0))
    end_s, air_s = 0.0 * ready_s, 0.0 * ready_s
    for share, node in _NODES:
        rate_bps = np.exp(mean + node * sd)
        free_s = np.maximum(
            moment[LINK_FROM] + 8.0 * moment[QUEUED_BYTES] / rate_bps,
            (moment[NOW] + before_s + 8.0 * moment[LAST_BYTES] / rate_bps) * (moment[LAST_BYTES] > 0.0),
        )
        begin_s = np.maximum(ready_s, np.minimum(free_s, moment[FREE_BY]))
        through_s = np.minimum(begin_s + 8.0 * wire_bytes / rate_bps, moment[GIVE_UP_AT])
        end_s = end_s + share * through_s
        air_s = air_s + share * np.maximum(through_s - begin_s, 0.0)
    if ahead[forecasts.CHAIN] > 0.0:  # a blocked link stands still: the way to the give-up time is on air
        blocked = forecasts.along(ahead, forecasts.BLOCKED_THEN, place)
        left_s = np.maximum(moment[GIVE_UP_AT] - end_s, 0.0)
        end_s, air_s = end_s + blocked * left_s, air_s + blocked * left_s
    return end_s, air_s


# What compiled code calls of this file.
FUNCTIONS = (believe, look, _look_at_device, _look_at_edge, price, loading_s, local_worth, sent_worth, delivered, sending)

# --- what a device runs


def ranks(wire_bytes: NDArray[np.float64], device_j: NDArray[np.float64]) -> NDArray[np.int64]:
    """Place of each plan among equals: fewer bytes first, then less energy of the device."""
    order = np.lexsort((device_j, wire_bytes))
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order))
    return found


class Priced:
    """The rule on a device: `begin` with each start, `choose` once for every request."""

    def __init__(self, plans: PlanTable, path: Path, objective: Objective, parameters: Parameters) -> None:
        self.parameters = parameters
        self._numbers = parameters.numbers(path, objective)
        self._sizes: list[float] = np.unique(plans.wire_bytes[plans.offloads]).tolist()
        self._local, self._sent = np.flatnonzero(~plans.offloads), np.flatnonzero(plans.offloads)
        work_s = plans.device_s + plans.encode_s
        edge_s = parameters.edge.work_factor * (plans.decode_s + plans.edge_s) + parameters.edge.request_s
        self._columns = (
            work_s, plans.wire_bytes, edge_s, plans.accuracy, plans.device_j, plans.fallback_s, plans.fallback_accuracy, plans.fallback_j,
        )  # fmt: skip
        loads = parameters.loads or Loads((-1,) * len(plans), (0.0,) * len(plans))
        self._unit, self._load_s = np.array(loads.unit, np.float64), np.array(loads.load_s)
        self._of_local: Any = tuple(self._columns[i][self._local] for i in (0, 3, 4))
        self._of_sent: Any = tuple(column[self._sent] for column in self._columns)
        self._order = np.argsort(ranks(plans.wire_bytes, plans.device_j))
        self._worth = np.empty(len(plans))
        self._moment, self._ahead = [0.0] * MOMENT, [0.0] * forecasts.FORECAST
        self._state = filters.fresh(self._numbers)

    def begin(self) -> None:
        """Forget everything."""
        filters.reset(self._state, self._numbers)

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, float, float]:
        """The plan for the request that came in now; its expected latency in seconds and its expected reward."""
        numbers, moment = self._numbers, self._moment
        if not math.isfinite(sum(readings) + acked_bytes):
            # A broken reading is one that was never taken: the rule decides whatever the sensors say.
            readings = [was if math.isfinite(was) else new for was, new in zip(readings, tm.fresh(), strict=True)]
            acked_bytes = acked_bytes if math.isfinite(acked_bytes) else 0.0
        believe(self._state, numbers, self._sizes, readings, now_s, acked_bytes)
        look(self._state, numbers, readings, now_s, acked_bytes, moment, self._ahead)
        priced = self._expected() - price(self._columns[0], self._columns[1], self._columns[4], numbers, moment)
        priced = priced[self._order]
        plan = int(self._order[np.argmax(priced >= priced.max() - TIE)])
        self._state[filters.LAST_BYTES] = float(self._columns[1][plan])
        if numbers[SAFETY] > 0.0:  # the reserve is for choosing, not a part of what is expected
            moment[DEADLINE_AT] = moment[DUE_AT]
            self._expected()
        return plan, self._latency_s(plan), float(self._worth[plan])

    def _cases(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slow-downs (cases, 3) and waits (cases, 2) of this moment."""
        slow = np.array(self._moment[SLOW : SLOW + 3 * int(self._moment[SLOW_CASES])]).reshape(-1, 3)
        wait = np.array(self._moment[WAIT : WAIT + 2 * int(self._moment[WAIT_COUNT])]).reshape(-1, 2)
        return slow, wait

    def _expected(self) -> NDArray[np.float64]:
        slow, wait = self._cases()
        chance, factor, before_s = slow.T[:, :, None]
        before_s = before_s + loading_s(self._unit, self._load_s, self._moment)
        of_case = local_worth(before_s[:, self._local], factor, *self._of_local, self._numbers, self._moment)  # type: ignore[call-arg]  # three
        self._worth[self._local] = (chance * of_case).sum(axis=0)
        of_case = sent_worth(  # type: ignore[call-arg]  # as many as there are columns
            before_s[:, None, self._sent], factor[:, None], wait[:, 1, None], *self._of_sent, self._numbers, self._moment, self._ahead
        )  # (slow-downs, waits, plans)
        self._worth[self._sent] = (slow[:, 0, None, None] * wait[:, 0, None] * of_case).sum(axis=(0, 1))
        return self._worth

    def _latency_s(self, plan: int) -> float:
        """Expected latency of one plan."""
        slow, wait = self._cases()
        work_s, wire_bytes, edge_s = (float(column[plan]) for column in self._columns[:3])
        latency_s = 0.0
        for chance, factor, before_s in slow.tolist():
            begin_s = before_s + float(loading_s(self._unit[plan], self._load_s[plan], self._moment))
            ready_s = begin_s + work_s * factor
            if wire_bytes > 0.0:
                sent_s, _ = sending(begin_s, self._moment[NOW] + ready_s, wire_bytes, self._moment, self._ahead)
                ready_s = float(sent_s) - self._moment[NOW] + edge_s + self._numbers[filters.LATE_S] + self._numbers[RETURN_S]
                ready_s += float(wait[:, 0] @ wait[:, 1])
            latency_s += chance * ready_s
        return latency_s
