"""The comparison of transports: every size over every transport, both ends' time, and what is missing is named."""

from __future__ import annotations

import builtins
import os
import time

import pytest

from cutlayer.agents import bench_split
from cutlayer.errors import ConfigError


def test_every_transport_carries_every_size_in_the_same_run():
    pytest.importorskip("zmq")
    pytest.importorskip("grpc")
    told = bench_split.run(rounds=1)
    assert set(told["sizes"]) == {"1000", "10000", "100000", "1000000"}
    assert told["messages"] == bench_split.BLOCK
    for size, rows in told["sizes"].items():
        assert set(rows) == {"cutlayer", "cutlayer-asleep", "zeromq", "grpc"}
        assert all(0.0 < one["p50_s"] <= one["p99_s"] for one in rows.values())
        assert told["lowest_p50"][size] in rows
        for name, over in told["over_ours"][size].items():
            assert over == rows[name]["p50_s"] / rows["cutlayer"]["p50_s"]
        figures = {"ours": "cutlayer", "ours_asleep": "cutlayer-asleep", "zeromq": "zeromq", "grpc": "grpc"}
        assert all(told[f"{key}_p50_s"][size] == rows[name]["p50_s"] for key, name in figures.items())
    assert len(bench_split.table(told).splitlines()) == 1 + 4 * 4


def test_the_clock_of_a_process_is_that_of_its_processor_time():
    """Read by its number, this process's clock is the one that the library reads, to what passes between two readings."""
    before, read, after = time.process_time(), time.clock_gettime(bench_split.cpu_clock(os.getpid())), time.process_time()
    assert before <= read <= after


def test_a_rival_that_is_not_installed_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments):
        if name == "zmq":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match="pip install pyzmq"):
        bench_split.run(rounds=1)
