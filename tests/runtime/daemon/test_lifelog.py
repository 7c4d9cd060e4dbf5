"""The log of the daemon's own life: JSON or key=value, a priority for the journal, a line an event and never one a decision."""

from __future__ import annotations

import io
import json
import os
import re
import sys

import msgspec
import pytest

from cutlayer.errors import ConfigError
from cutlayer.runtime import lifelog
from cutlayer.runtime.controller import Outcome
from cutlayer.runtime.modes import Bounds, Verdict

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def written(style, event, **more):
    stream = io.StringIO()
    lifelog.opened(style, stream, {})(event, **more)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text[:-1]


@pytest.mark.parametrize("event", lifelog.EVENTS)
def test_every_event_is_a_line_of_json_with_its_level(event):
    said = json.loads(written("json", event, clients=3, error='a "b"\nc'))
    assert re.fullmatch(TIME, said.pop("timestamp"))
    assert said == {"level": lifelog.EVENTS[event][0], "event": event, "clients": 3, "error": 'a "b"\nc'}


def test_keys_are_a_line_too():
    said = written("keys", "reload-refused", by="user 7 of group 7", error='a "b"\nc', bundle_sha256="")
    assert re.fullmatch(
        rf'timestamp={TIME} level=error event=reload-refused by="user 7 of group 7" error="a \\"b\\"\\nc" bundle_sha256=(?:"")?', said
    )


def test_a_verdict_is_told_whole():
    bounds = Bounds(-1.0, 0.0, float("inf"))
    verdict = Verdict("promote", 100, 900, 0.1, 0.1, 0.05, 0.05, bounds, bounds)
    said = json.loads(written("json", "promotion", verdict=verdict))
    assert said["verdict"] == msgspec.to_builtins(verdict) | {"misses": {"low": -1.0, "middle": 0.0, "high": None}} | {
        "latency_s": {"low": -1.0, "middle": 0.0, "high": None}
    }
    assert "promote" in written("keys", "promotion", verdict=verdict)


def test_an_event_that_nobody_knows_is_a_bug():
    with pytest.raises(KeyError):
        written("json", "coffee")


@pytest.mark.parametrize(("event", "priority"), [("ready", 6), ("edge-lost", 4), ("trace-failing", 3)])
@pytest.mark.parametrize("style", ["json", "keys"])
def test_the_journal_gets_a_priority(tmp_path, style, event, priority):
    """Where JOURNAL_STREAM names this very stream, and nowhere else."""
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        found = os.fstat(stream.fileno())
        lifelog.opened(style, stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})(event)
        lifelog.opened(style, stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})(event)
        stream.seek(0)
        first, second = stream.read().splitlines()
    assert first.startswith(f"<{priority}>")
    assert not second.startswith("<")
    assert re.sub(TIME, "", first[3:]) == re.sub(TIME, "", second)


def test_without_structlog_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "structlog", None)
    with pytest.raises(ConfigError, match=r"pip install 'cutlayer\[daemon\]'"):
        lifelog.opened("json", io.StringIO(), {})


def test_the_daemon_tells_of_its_life_and_of_no_decision(configured, folder, running, make_bundle):
    """A whole life: the edge goes and comes, a bundle too; a thousand decisions leave no line."""
    file = configured("[controller]", "edge_failures = 1", "edge_silence_s = 0.0", "probe_s = 0.0")
    with running(folder / "d.sock", "--config", file) as made, made.client() as client:
        for number in range(1, 1_001):
            client.decide(number)
        client.decide(1_001, edge_reachable=False)
        assert made.line()["event"] == "edge-lost"
        decision = client.decide(1_002)
        client.report(Outcome(decision.plan, 1.0, 0.02, 1.0, 0.1, 500.0, edge_wait_s=0.0, id=1_002))
        assert made.line()["event"] == "edge-found"
        make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
        client.reload()
        client.rollback()
        (folder / "policy.cutlayer").write_bytes(b"PK")
        with pytest.raises(Exception, match="no whole bundle"):
            client.reload()
        _, log, _ = made.stop()
    assert [made.started["event"], made.ready["event"]] == ["start", "ready"]
    assert [line["event"] for line in log] == ["reload", "rollback", "reload-refused", "drain", "stop"]
    assert all(set(line) >= {"timestamp", "level", "event"} for line in log)
    assert log[0]["by"] == f"user {os.getuid()} of group {os.getgid()}"


def test_the_style_is_a_setting(configured, folder, refused):
    assert "log is 'loud'" in refused("--config", configured('log = "loud"'), "--socket", folder / "d.sock")
