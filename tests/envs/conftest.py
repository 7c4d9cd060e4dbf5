"""Small worlds to test the simulator with: synthetic plan tables, scenarios and streams whose every number is at hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import strategies as st

from cutlayer.envs.channels import Constant
from cutlayer.envs.deadlines import UniformDeadlines
from cutlayer.envs.record import Record, Status
from cutlayer.envs.spec import BARE_METAL, VIRTUAL_MACHINE, Batching, Battery, Edge, Link, Memory, Scenario, Segments, Thermal
from cutlayer.envs.streams import Streams
from cutlayer.envs.workload import Poisson
from cutlayer.profiles import cost
from cutlayer.profiles.energy import Radio
from cutlayer.profiles.plans import PlanRow, PlanTable

SECONDS = (
    "arrival_s", "device_start_s", "device_end_s", "send_start_s", "send_end_s", "edge_wait_s", "finish_s", "load_s",
)  # fmt: skip
# Differences of times of so many seconds, and of bytes summed over a whole episode, cannot be told apart below this.
GRAIN_PER_S, BYTES_GRAIN = 1e-12, 1e-6
GRAIN = {"sent_bytes": BYTES_GRAIN, "charge_j": 1e-9}


def plan(**constants):
    """A plan of a two-exit network; it offloads where `wire_bytes` is given."""
    wire_bytes = constants.get("wire_bytes", 0)
    row = {
        "exit": 1, "partition": 1 if wire_bytes else 3, "bits": 8 if wire_bytes else 0,
        "device_s": 0.0, "encode_s": 0.0, "decode_s": 0.0, "edge_s": 0.0, "payload_bytes": wire_bytes, "wire_bytes": 0,
        "accuracy": 0.8, "device_j": 0.0, "fallback_exit": 0, "fallback_s": 0.0, "fallback_accuracy": 0.5, "fallback_j": 0.0,
    }  # fmt: skip
    return PlanRow(**(row | constants))


def table(*rows):
    return PlanTable("net", "device", "edge", (1, 2), rows)


def path(**changes):
    """A path without any constant, but for what is given."""
    return cost.Path(**({"rtt_s": 0.0, "reply_bytes": 0, "fixed_s": 0.0, "radio": Radio(0.0, 0.0)} | changes))


def scenario(*rows, **changes):
    """A scenario with these plans; deadline 1 s unless an objective is given."""
    fields = {
        "name": "synthetic", "channel": Constant(1e6), "arrivals": Poisson(10.0), "objective": cost.deadline(1.0), "path": path(),
        "requests": 20,
    }  # fmt: skip
    return Scenario(plans=table(*rows), **(fields | changes))


def streams(arrival_s, rate_bps=8e6, slow_down=1.0, jobs=(), slot_s=1.0):
    """Streams with these request times (the end of the episode last), constant or given rates, and (arrival, service) jobs."""
    rate, slow = np.atleast_1d(np.asarray(rate_bps, float)), np.atleast_1d(np.asarray(slow_down, float))
    slots = max(len(rate), len(slow))
    rate, slow = (np.concatenate([x, np.full(slots - len(x), x[-1])]) for x in (rate, slow))
    job_arrival, job_service = np.array(list(jobs), float).reshape(-1, 2).T
    return Streams(slot_s, np.asarray(arrival_s, float), rate, slow, job_arrival.copy(), job_service.copy())


@dataclass(frozen=True)
class World:
    """A scenario, one episode's streams, and a plan for every request."""

    scenario: Scenario
    streams: Streams
    plans: list[int]

    def replace(self, **changes):
        """The world with other plans of requests, or fields of scenario or streams, or columns of the plan table."""
        columns = {name: changes.pop(name) for name in list(changes) if name in PlanRow.__struct_fields__}
        scenario_, streams_ = self.scenario, self.streams
        if columns:
            rows = [
                dict(zip(PlanRow.__struct_fields__, (getattr(row, f) for f in PlanRow.__struct_fields__), strict=True))
                for row in scenario_.plans.rows
            ]
            for name, values in columns.items():
                for row, value in zip(rows, values, strict=True):
                    row[name] = value
            scenario_ = dataclasses.replace(scenario_, plans=table(*(PlanRow(**row) for row in rows)))
        plans = changes.pop("requested", self.plans)
        own = {f.name for f in dataclasses.fields(Scenario)}
        scenario_ = dataclasses.replace(scenario_, **{k: v for k, v in changes.items() if k in own})
        streams_ = dataclasses.replace(streams_, **{k: v for k, v in changes.items() if k not in own})
        return World(scenario_, streams_, plans)


def extras(
    seed, plans, deadline_s, *, servers=1, platform=False, batching=False, restart=False, heat=False, battery=False, loads="nothing",
    told=False, broadcast=False, differ=False,
):  # fmt: skip
    """What a world may have beyond the plain one: fields of a scenario. loads: "nothing", "swaps" or "memory" (both).

    broadcast: the edge tells its queue. differ: the requests' deadlines do.
    """
    rng = np.random.default_rng([seed, 1])
    table = tuple(np.cumsum([1.0, *rng.uniform(0.0, 1.0, rng.integers(0, 4))]).tolist())
    unit = rng.integers(-1, 4, plans)
    size = {-1: 0.0, **{i: float(rng.integers(10**5, 3 * 10**6)) for i in range(4)}}
    throttle_c = float(rng.uniform(42.0, 55.0))
    found = {
        "edge": Edge(
            servers, VIRTUAL_MACHINE if platform else BARE_METAL, Batching(float(rng.uniform(0.005, 0.1)), table) if batching else None,
            float(np.random.default_rng([seed, 3]).uniform(0.005, 0.2)) if broadcast else None,
        ),
        "link": Link(restart_after_s=float(rng.uniform(0.0, 0.05)) if restart else math.inf, rate_told=told),
        "thermal": Thermal(
            40.0, float(rng.uniform(50.0, 90.0)), float(rng.uniform(0.05, 1.0)), throttle_c, throttle_c + float(rng.uniform(1.0, 10.0)),
            float(rng.uniform(1.2, 4.0)),
        ),
        "battery": Battery(float(rng.uniform(0.2, 2.0)), float(rng.uniform(0.0, 1.0)), float(rng.uniform(0.0, 1.0))),
        "segments": Segments(
            tuple(unit.tolist()), tuple(rng.uniform(0.0, 0.01, plans).tolist()), tuple(size[i] for i in unit.tolist())
        ),
        "memory": Memory(float(rng.integers(10**6, 6 * 10**6)), 1e8, float(rng.uniform(0.0, 0.01))),
        "deadlines": UniformDeadlines(0.3 * deadline_s, 2.0 * deadline_s),
    }  # fmt: skip
    off = {
        "thermal": not heat,
        "battery": not battery,
        "segments": loads == "nothing",
        "memory": loads != "memory",
        "deadlines": not differ,
    }
    return {name: value for name, value in found.items() if not off.get(name)}


def world(seed, *, requests=30, link="slots", jobs="light", arrivals="poisson", slow=True, rtt=True, margin=True, short=False, **switched):
    """A random world. No two of its times coincide by construction; ties have a test of their own.

    link: "steady", "slots" (each slot its own rate), "outages" (half of the slots carry nothing) or "dies" (nothing is
    carried in the last slot, which holds for ever). jobs: "none", "light" (40 % load) or "overload" (more than the server
    can take). short: the rates end before the episode does. switched: as `extras` takes it.
    """
    rng = np.random.default_rng(seed)

    def often_zero(low, high, share=0.15):
        return 0.0 if rng.uniform() < share else float(math.exp(rng.uniform(math.log(low), math.log(high))))

    rows = []
    for local in (True, False, *(rng.uniform(size=rng.integers(1, 5)) < 0.25)):
        wire_bytes = 0 if local else int(math.exp(rng.uniform(0.0, math.log(2e5))))
        there = 0.0 if local else 1.0
        rows.append(
            plan(
                device_s=often_zero(1e-4, 0.06), encode_s=there * often_zero(1e-5, 0.01), decode_s=there * often_zero(1e-5, 0.01),
                edge_s=there * often_zero(1e-5, 0.05), wire_bytes=wire_bytes, accuracy=float(rng.uniform(0.3, 0.9)),
                device_j=often_zero(1e-3, 1.0), fallback_s=there * often_zero(1e-4, 0.05),
                fallback_accuracy=float(rng.uniform(0.1, 0.5)), fallback_j=there * often_zero(1e-3, 0.3),
            )
        )  # fmt: skip
    gap_s = math.exp(rng.uniform(math.log(0.005), math.log(0.08)))
    gaps = {
        "periodic": lambda: gap_s * rng.uniform(0.95, 1.05, requests + 1),
        "poisson": lambda: rng.exponential(gap_s, requests + 1),
        "bursts": lambda: np.where(rng.uniform(size=requests + 1) < 0.7, 1e-6, 3 * gap_s) * rng.uniform(0.5, 1.5, requests + 1),
    }[arrivals]()
    arrival_s = np.cumsum(gaps)
    deadline_s = float(rng.uniform(0.02, 0.3))
    end_s = float(arrival_s[-1]) + 3 * deadline_s
    slot_s = float(rng.uniform(0.01, 0.03))
    slots = max(1, int(end_s / slot_s * (0.4 if short else 1.0)))
    rate = np.exp(rng.uniform(math.log(1e5), math.log(1e8), slots))
    if link == "steady":
        rate[:] = rate[0]
    if link == "outages":
        rate[np.repeat(rng.uniform(size=slots // 4 + 1) < 0.5, 4)[:slots]] = 0.0
    if link == "dies":
        rate[-max(1, slots // 3) :] = 0.0
    slow_down = np.where(rng.uniform(size=slots) < 0.4, rng.uniform(1.1, 4.0, slots), 1.0) if slow else np.ones(slots)
    mean_s = math.exp(rng.uniform(math.log(2e-3), math.log(0.03)))
    count = int({"none": 0.0, "light": 0.4, "overload": 1.3}[jobs] * end_s / mean_s)
    radio = Radio(float(rng.uniform(0.0, 2.0)), float(rng.uniform(0.0, 1e-6)))
    rtt_s = float(rng.uniform(0.0, 0.06)) if rtt else 0.0
    harvest_w = np.random.default_rng([seed, 2]).exponential(1.0, slots)
    beyond = extras(seed, len(rows), deadline_s, **switched)
    differ = beyond.get("deadlines")
    return World(
        scenario(
            *rows,
            objective=cost.deadline(deadline_s),
            path=path(rtt_s=rtt_s, reply_bytes=154, fixed_s=float(rng.uniform(0.0, 0.002)), radio=radio),
            requests=requests,
            slot_s=slot_s,
            cancel_margin_s=float(rng.uniform(0.0, 0.1)) if margin else 0.0,
            **beyond,
        ),
        Streams(
            slot_s, arrival_s, rate, slow_down, np.sort(rng.uniform(0.0, end_s, count)), rng.exponential(mean_s, count) + 1e-7,
            harvest_w,
            None if differ is None else differ.draw(np.random.default_rng([seed, 4]), requests),
        ),
        rng.integers(0, len(rows), requests).tolist(),
    )  # fmt: skip


def run(engine, world_):
    """Records of a world's requests by an engine class."""
    at = engine(world_.scenario, world_.streams)
    return [at.submit(plan) for plan in world_.plans]


def differences(a, b, relative=1e-9):
    """Fields in which two lists of records differ: (request, field, one, other)."""
    found = [(len(a), "count", len(a), len(b))] if len(a) != len(b) else []
    for k, (x, y) in enumerate(zip(a, b, strict=False)):
        for name in Record._fields:
            one, other = getattr(x, name), getattr(y, name)
            grain = GRAIN_PER_S * (1 + y.finish_s) if name in SECONDS else GRAIN.get(name, 1e-12)
            exact = isinstance(one, (int, Status)) or isinstance(other, (int, Status))
            if one != other if exact else not math.isclose(one, other, rel_tol=relative, abs_tol=grain):
                found.append((k, name, one, other))
    return found


def splice(past, future, now_s, link_s=None):
    """`past` up to `now_s`, then `future`: requests, slots and jobs that begin after it.

    A slot that has begun keeps its value, for part of it is known. What the link and the edge do is replaced from `link_s`
    on, which is `now_s` unless given.
    """
    link_s = now_s if link_s is None else link_s
    k = int(np.searchsorted(past.arrival_s, now_s, side="right"))
    gaps = np.diff(future.arrival_s, prepend=0.0)
    later = now_s + np.cumsum(np.resize(gaps, len(past.arrival_s))[k:] + 1e-9)

    def slots(old, new, at):
        kept = old[: past.slot(max(0.0, at)) + 1]
        return np.concatenate([kept, np.resize(new, max(len(new), len(old) + 200))[len(kept) :]])

    before, after = past.job_arrival_s <= link_s, future.job_arrival_s > link_s
    due = None
    if past.deadline_s is not None:
        new = past.deadline_s[::-1] if future.deadline_s is None else np.resize(future.deadline_s, len(past.deadline_s))
        due = np.concatenate([past.deadline_s[:k], new[k:]])
    return Streams(
        past.slot_s,
        np.concatenate([past.arrival_s[:k], later]),
        slots(past.rate_bps, future.rate_bps, link_s),
        slots(past.slow_down, future.slow_down, now_s),
        np.concatenate([past.job_arrival_s[before], future.job_arrival_s[after]]),
        np.concatenate([past.job_service_s[before], future.job_service_s[after]]),
        slots(past.harvest_w, future.harvest_w, now_s),
        due,
    )


class Chosen:
    """Stands for a generator: a given file and start."""

    def __init__(self, start_s, file=0):
        self.start_s, self.file = start_s, file

    def integers(self, high):
        assert self.file < high
        return self.file

    def uniform(self, low, high):
        assert low <= self.start_s < high
        return self.start_s


# What `world` takes: for a plain one, and with whatever may be switched on. A batch runs on one server.
PLAIN = {
    "seed": st.integers(0, 2**32),
    "requests": st.integers(20, 40),
    "link": st.sampled_from(["steady", "slots", "outages", "dies"]),
    "jobs": st.sampled_from(["none", "light", "overload"]),
    "arrivals": st.sampled_from(["periodic", "poisson", "bursts"]),
    "slow": st.booleans(),
    "rtt": st.booleans(),
    "margin": st.booleans(),
    "short": st.booleans(),
}
SWITCHES = {
    "servers": st.sampled_from([1, 2, 5]),
    "platform": st.booleans(),
    "batching": st.booleans(),
    "restart": st.booleans(),
    "heat": st.booleans(),
    "battery": st.booleans(),
    "loads": st.sampled_from(["nothing", "swaps", "memory"]),
    "broadcast": st.booleans(),
    "differ": st.booleans(),
}


def drawn(data, **fixed):
    """A plain random world, from hypothesis' `data`; `fixed` are knobs of `world`."""
    return world(**(data.draw(st.fixed_dictionaries(PLAIN), label="knobs") | fixed))


def switched(data, **fixed):
    """A random world in which anything may be switched on."""
    knobs = data.draw(st.fixed_dictionaries(PLAIN | SWITCHES), label="knobs") | fixed
    return world(**(knobs | {"batching": knobs["batching"] and knobs["servers"] == 1}))


@pytest.fixture(scope="session")
def lab():
    """The builders above: test modules cannot import them from here."""
    return SimpleNamespace(
        plan=plan, table=table, path=path, scenario=scenario, streams=streams, World=World, world=world, run=run,
        differences=differences, splice=splice, Chosen=Chosen, drawn=drawn, switched=switched,
    )  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """Writes a scenario file and returns its path as text."""

    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
