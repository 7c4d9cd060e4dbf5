"""What the daemon answers over its socket, what it refuses, and that no client disturbs another one."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from cutlayer.errors import PeerError
from cutlayer.runtime.client import Client
from cutlayer.runtime.controller import Decision, Outcome

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine


# --- what it answers


def test_it_says_when_it_is_ready(shared):
    assert (shared.started["event"], shared.ready["event"]) == ("start", "ready")
    assert shared.started["pid"] == shared.process.pid
    assert shared.ready["socket"] == str(shared.path)
    assert (shared.ready["scenario"], shared.ready["algorithm"]) == ("tiny-scenario", "shared")


def test_it_decides(shared, plans):
    with shared.client() as client:
        decision = client.decide(17)
        assert isinstance(decision, Decision)
        assert (decision.id, decision.step, decision.reason) == (17, "policy", "")
        row = plans.rows[decision.plan]
        assert (decision.exit, decision.partition, decision.bits) == (row.exit, row.partition, row.bits)
        local = client.decide(18, edge_reachable=False)
        assert (local.id, local.step, local.bits) == (18, "static-safe", 0)


def test_it_takes_reports_and_counts(served):
    made, _ = served
    with made.client() as client:
        for number in range(6):
            decision = client.decide(number, edge_reachable=number != 3)
            client.report(Outcome(plan=decision.plan, device_start_s=1.0, device_s=0.02, send_start_s=1.0, send_s=0.1, sent_bytes=500.0))
        status = client.status()
    assert (status["decisions"], status["reports"], status["fallbacks"]) == (6, 6, 1)
    assert status["steps"] == {"policy": 5, "static-safe": 1}
    assert status["reasons"] == {"edge-unreachable": 1}
    assert (status["scenario"], status["algorithm"]) == ("tiny-scenario", "none")
    assert len(status["plans_sha256"]) == 64
    assert status["uptime_s"] >= 0
    assert status["version"]


def test_two_thousand_decisions_are_all_answered_in_order(served, raw):
    made, _ = served
    with made.client() as client:
        for number in range(1_000):
            decision = client.decide(number)
            assert decision.id == number
            client.report(Outcome(plan=decision.plan, device_start_s=1.0, device_s=0.02))
    with raw(made) as (connection, lines):
        connection.sendall(b"".join(b'{"op":"decide","id":%d}\n' % number for number in range(1_000)))
        assert [json.loads(lines.readline())["id"] for _ in range(1_000)] == list(range(1_000))
    with made.client() as client:
        status = client.status()
    assert (status["decisions"], status["reports"]) == (2_000, 1_000)
    assert sum(status["steps"].values()) == 2_000


def test_several_clients_get_their_own_answers(shared):
    wrong = []

    def run(first):
        with shared.client() as client:
            wrong.extend(number for number in range(first, first + 100) if client.decide(number).id != number)

    threads = [threading.Thread(target=run, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_a_line_may_come_in_pieces_and_several_at_once(shared, raw):
    with raw(shared) as (connection, lines):
        for piece in (b'{"op":', b'"decide",', b'"id":5}', b'\n{"op":"status"}\n\n  \n{"op":"dec', b'ide","id":6}\n'):
            connection.sendall(piece)
        assert json.loads(lines.readline())["id"] == 5
        assert "uptime_s" in json.loads(lines.readline())
        assert json.loads(lines.readline())["id"] == 6


def test_a_reload_is_asked_for_over_the_socket(served, make_bundle):
    made, path = served
    make_bundle(algorithm="newer").save(path, "0")
    with made.client() as client:
        client.decide(1)
        assert client.status()["algorithm"] == "none"
        assert json.loads(client.call(b'{"op":"reload"}')) == {"ok": True}
        status = client.status()
    assert status["algorithm"] == "newer"
    assert status["decisions"] == 1, "what was counted stays"


def test_a_reload_of_a_broken_bundle_is_refused_and_the_old_one_decides(served):
    made, path = served
    path.write_bytes(path.read_bytes()[:-30])
    with made.client() as client:
        with pytest.raises(PeerError, match=r"the daemon refused: .*is no whole bundle"):
            client.call(b'{"op":"reload"}')
        assert client.decide(1).step == "policy"
        assert client.status()["algorithm"] == "none"


# --- what it refuses

BAD_LINES = {
    "no json": b"hello",
    "half of it": b'{"op":"decide","id":',
    "no operation": b"{}",
    "unknown operation": b'{"op":"shutdown"}',
    "a list": b"[1,2,3]",
    "a word for a number": b'{"op":"decide","id":"one"}',
    "a number for a flag": b'{"op":"decide","edge_reachable":1}',
    "unknown key": b'{"op":"decide","deadline":0.1}',
    "not a number": b'{"op":"decide","acked_bytes":NaN}',
    "too large a number": b'{"op":"decide","acked_bytes":1e999}',
    "a report without its times": b'{"op":"report","plan":1}',
    "a plan that does not exist": b'{"op":"report","plan":8,"device_start_s":1,"device_s":1}',
    "a negative plan": b'{"op":"report","plan":-1,"device_start_s":1,"device_s":1}',
    "a huge plan": b'{"op":"report","plan":%d,"device_start_s":1,"device_s":1}' % 10**40,
    "null bytes": b"\x00\x00\x00",
    "not utf-8": b'{"op":"d\xff"}',
    "an unknown key that is not utf-8": b'{"op":"decide","\xff":1}',
    "deep brackets": b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b',"op":"decide"}',
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_gets_an_error_and_nobody_else_notices(shared, name, raw):
    with shared.client() as other, raw(shared) as (connection, lines):
        before = other.decide(1)
        connection.sendall(BAD_LINES[name] + b"\n")
        reply = json.loads(lines.readline() or b'"the connection was closed"')
        assert list(reply) == ["error"], reply
        assert "\n" not in reply["error"]
        # The connection stays open.
        connection.sendall(b'{"op":"decide","id":3}\n')
        assert json.loads(lines.readline())["id"] == 3
        assert other.decide(2).step == before.step


def test_a_number_of_any_length_is_a_request_as_any_other(shared, ask):
    assert ask(shared, b'{"op":"decide","id":%d}' % 2**63)["id"] == 2**63


@pytest.mark.parametrize(
    "line",
    [b"x" * 70_000, b"x" * 70_000 + b"\n", b'{"op":"decide","id":1' + b" " * 70_000 + b"}\n"],
    ids=["without end", "with an end", "a good request in it"],
)
def test_a_line_too_long_gets_an_error_and_nobody_else_notices(shared, line, raw):
    with shared.client() as other, raw(shared) as (connection, lines):
        other.decide(1)
        # It may hang up while we still send.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(line)
        assert "longer than 65536 bytes" in json.loads(lines.readline())["error"]
        assert other.decide(2).id == 2


def test_a_client_that_never_ends_its_line_holds_up_nobody(shared, raw):
    with raw(shared) as (connection, _), shared.client() as other:
        connection.sendall(b'{"op":"decide"')
        assert [other.decide(number).id for number in range(50)] == list(range(50))


def test_clients_that_go_away_without_reading_are_forgotten(shared, raw):
    for _ in range(20):
        with raw(shared) as (connection, _):
            connection.sendall(b'{"op":"status"}\n' * 50)
    with shared.client() as client:
        assert client.decide(1).id == 1


def test_the_socket_is_for_owner_and_group_only(shared):
    assert shared.path.stat().st_mode & 0o777 == 0o660


# --- the client


def test_a_client_without_a_daemon_says_how_to_start_one(tmp_path):
    with pytest.raises(PeerError, match=r"no daemon answers at .*d\.sock .*; start one with: cutlayerd"):
        Client(tmp_path / "d.sock")


def test_a_client_notices_that_the_daemon_went_away(served):
    made, _ = served
    with made.client() as client:
        client.decide(1)
        made.stop()
        with pytest.raises(PeerError, match=r"the daemon (closed the connection|does not answer)"):
            client.decide(2)
