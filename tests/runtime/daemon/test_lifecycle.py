"""How the daemon starts, reloads and stops, what it tells the service manager, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from cutlayer.runtime.controller import Outcome
from cutlayer.runtime.notify import Notifier

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine
HEAVY = ("torch", "gymnasium", "simpy", "stable_baselines3", "numba", "matplotlib", "onnxruntime")


def told(log):
    """Events of a log, each with what belongs to it."""
    return [(line["event"], {name: line[name] for name in line if name not in ("timestamp", "level", "event")}) for line in log]


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_to_and_leaves_nothing_behind(served, number, raw):
    made, path = served
    with made.client() as client, raw(made) as (connection, _):
        connection.sendall(b'{"op":"deci')
        client.decide(1)
        code, log, errors = made.stop(number)
    assert (code, errors) == (0, "")
    assert told(log) == [("drain", {"clients": 2}), ("stop", {"decisions": 1, "cut_off": 0})]
    assert list(made.path.parent.iterdir()) == [path]


def test_hangup_reloads_all_or_nothing(served, make_bundle):
    made, path = served
    good = path.read_bytes()
    with made.client() as client:
        for broken in (b"", good[: len(good) // 2], b"PK garbage"):
            path.write_bytes(broken)
            made.process.send_signal(signal.SIGHUP)
            said = made.line()
            assert (said["event"], said["level"], said["by"]) == ("reload-refused", "error", "SIGHUP")
            assert str(path) in said["error"]
            assert client.decide(1).step == "policy"
            assert client.status()["algorithm"] == "none"
        make_bundle(algorithm="newer").save(path, "0")
        made.process.send_signal(signal.SIGHUP)
        ((event, said),) = told([made.line()])
        assert (event, said["by"], said["scenario"], said["algorithm"]) == ("reload", "SIGHUP", "tiny-scenario", "newer")
        status = client.status()
    assert (status["algorithm"], status["decisions"]) == ("newer", 3)


# --- starting


def test_a_second_daemon_on_the_same_socket_is_refused(served, refused):
    made, path = served
    message = refused("--bundle", path, "--socket", made.path)
    assert f"socket {made.path} is in use by a running daemon; stop that one or choose another path" in message
    with made.client() as client:
        assert client.decide(1).id == 1


def test_a_stale_socket_is_replaced(folder, running):
    path = folder / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    with running(path, "--bundle", str(folder / "policy.cutlayer")) as made:
        with made.client() as client:
            assert client.decide(1).id == 1
        assert made.stop()[0] == 0
    assert not path.exists()


def test_another_file_in_the_way_is_left_alone(folder, refused):
    (folder / "d.sock").write_text("precious", encoding="utf-8")
    assert "exists and is no socket; choose another path" in refused("--bundle", folder / "policy.cutlayer", "--socket", folder / "d.sock")
    assert (folder / "d.sock").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("path", ["missing/d.sock", "x" * 120, "x" * 300])
def test_a_path_that_cannot_be_listened_on_is_refused(folder, path, refused):
    message = refused("--bundle", folder / "policy.cutlayer", "--socket", folder / path)
    assert path in message
    assert "writable path" in message


def test_a_bundle_that_is_missing_is_refused(folder, refused):
    message = refused("--bundle", folder / "none.cutlayer", "--socket", folder / "d.sock")
    assert "no bundle at" in message
    assert "make one with: cutlayer export" in message
    assert not (folder / "d.sock").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_bundle_that_is_truncated_is_refused(folder, share, refused):
    path = folder / "policy.cutlayer"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refused("--bundle", path, "--socket", folder / "d.sock")
    assert f"{path} is no whole bundle" in message
    assert not (folder / "d.sock").exists()


def test_a_bundle_damaged_inside_is_refused(folder, refused):
    path = folder / "policy.cutlayer"
    data = bytearray(path.read_bytes())
    data[44] ^= 16  # in the compressed manifest
    path.write_bytes(data)
    assert str(path) in refused("--bundle", path, "--socket", folder / "d.sock")


@pytest.mark.parametrize("options", [(), ("--socket", "d.sock")])
def test_it_wants_a_bundle_or_a_configuration(options, refused):
    assert "give --config FILE or --bundle FILE" in refused(*options)


def test_what_it_loads_is_small(folder):
    """It decides, serves and stops without any library of training or simulation."""
    code = f"""
import json, os, signal, sys, threading
from pathlib import Path
from cutlayer.runtime import daemon
from cutlayer.runtime.client import Client

def use():
    with Client(Path({str(folder / "d.sock")!r})) as client:
        client.decide(1)
        client.status()
    os.kill(os.getpid(), signal.SIGTERM)

class Out:
    # The first line that the daemon writes says that it is ready.
    def write(self, text):
        if '"ready"' in text:
            threading.Thread(target=use).start()
    def flush(self):
        pass

out, sys.stdout = sys.stdout, Out()
code = daemon.main(["--bundle", {str(folder / "policy.cutlayer")!r}, "--socket", {str(folder / "d.sock")!r}])
out.write(json.dumps([code, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout)
    assert code == 0
    assert not set(HEAVY) & set(modules)
    assert {"numpy", "msgspec"} <= set(modules)


MOST_RSS_BYTES, MOST_START_S = 70_000_000, 1.5  # what is promised


def test_it_is_small_and_soon_ready(configured, folder, running):
    """With HTTP on and a thousand decisions made. Of the time until it is ready only the processor's is the daemon's own."""
    with running(folder / "d.sock", "--config", configured('http = "127.0.0.1:0"')) as made:
        words = (Path("/proc") / str(made.process.pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started_s = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5), fields 14 and 15
        with made.client() as client:
            for number in range(1_000):
                client.decide(number)
        with urllib.request.urlopen(f"http://{made.ready['http']}/metrics", timeout=PATIENCE_S) as reply:
            found = re.search(r"^process_resident_memory_bytes (.*)$", reply.read().decode(), re.MULTILINE)
    assert 0.0 < started_s <= MOST_START_S
    assert 20_000_000 < float(found[1]) <= MOST_RSS_BYTES


# --- what a service manager hears


@contextlib.contextmanager
def manager(path):
    """A service manager's socket: what comes, one message a call, as a table."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.settimeout(PATIENCE_S)
        inbox.bind(path)

        def hear():
            return dict(line.split("=", 1) for line in inbox.recv(4096).decode().splitlines())

        yield hear


def until(hear, name):
    """The next message with that variable; nothing but signs of life comes before."""
    while name not in (message := hear()):
        assert message == {"WATCHDOG": "1"}
    return message


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_of_every_turn(folder, make_bundle, running, abstract):
    address = f"\0{folder}/notify" if abstract else str(folder / "n.sock")
    named = address.replace("\0", "@")
    with manager(address) as hear, running(folder / "d.sock", "--bundle", folder / "policy.cutlayer", NOTIFY_SOCKET=named) as made:
        assert until(hear, "READY") == {"READY": "1", "STATUS": "active: none for tiny-scenario"}
        with made.client() as client:
            assert client.decide(1).step == "policy", "ready means that it answers"
        begun_us = time.monotonic_ns() // 1000
        make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
        made.process.send_signal(signal.SIGHUP)
        assert int(until(hear, "RELOADING")["MONOTONIC_USEC"]) >= begun_us
        assert until(hear, "READY")["STATUS"] == "active: newer for tiny-scenario"
        (folder / "policy.cutlayer").write_bytes(b"broken")
        made.process.send_signal(signal.SIGHUP)
        until(hear, "RELOADING")
        assert until(hear, "READY")["STATUS"] == "active: newer for tiny-scenario", "a refused reload ends too"
        assert made.stop()[0] == 0
        assert until(hear, "STOPPING")["STOPPING"] == "1"


def test_the_watchdog_hears_from_the_loop_that_decides(folder, running):
    """Again and again, and nothing while the process stands still."""
    options = (folder / "d.sock", "--bundle", folder / "policy.cutlayer")
    with manager(str(folder / "n.sock")) as hear, running(*options, NOTIFY_SOCKET=str(folder / "n.sock"), WATCHDOG_USEC="20000"):
        until(hear, "READY")
        assert [hear() for _ in range(5)] == [{"WATCHDOG": "1"}] * 5


@pytest.mark.parametrize(
    ("environment", "limit_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500", "WATCHDOG_PID": str(os.getpid())}, 0.0005),
        ({"WATCHDOG_USEC": "500", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_watchdog_meant_for_another_process_is_none(environment, limit_s):
    assert Notifier(environment).watchdog_s == limit_s


def test_a_service_manager_that_is_gone_stops_nothing(tmp_path):
    Notifier({}).ready("fine")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("fine")


# --- draining


def test_a_client_that_takes_no_answer_is_cut_off_when_time_is_up(configured, folder, running, unread):
    with running(folder / "d.sock", "--config", configured("drain_s = 0.05")) as made, unread(made):
        code, log, errors = made.stop()
    assert (code, errors) == (0, "")
    assert told(log) == [("drain", {"clients": 1}), ("stop", {"decisions": 0, "cut_off": 1})]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_cuts_off_what_is_left(configured, folder, running, unread, second):
    with running(folder / "d.sock", "--config", configured("drain_s = 1000.0")) as made, unread(made):
        made.process.send_signal(signal.SIGINT)
        assert told([made.line()]) == [("drain", {"clients": 1})]
        code, log, errors = made.stop(second)
    assert (code, errors) == (130, "")
    assert told(log) == [("stop", {"decisions": 0, "cut_off": 1})]
    assert not made.path.exists()


def test_what_was_asked_before_the_end_is_answered(served, raw):
    made, _ = served
    with raw(made) as (connection, lines):
        connection.sendall(b"".join(b'{"op":"decide","id":%d}\n' % number for number in range(500)))
        assert json.loads(lines.readline())["id"] == 0
        code, _, _ = made.stop()
        found = [json.loads(line)["id"] for line in lines]
    assert code == 0
    assert found == list(range(1, len(found) + 1))


# --- what else a log says


def test_without_a_bundle_it_starts_where_there_is_a_task(configured, folder, plans, running):
    (folder / "plans.json").write_bytes(plans.encode())
    (folder / "policy.cutlayer").write_bytes(b"broken")
    task = ("[task]", f'plans = "{folder / "plans.json"}"', "path.rtt_s = 0.02", "objective.deadline_s = 0.1")
    with running(folder / "d.sock", "--config", configured(*task)) as made:
        assert made.ready["algorithm"] == ""
        assert "is no whole bundle" in made.ready["problem"]
        with made.client() as client:
            assert client.decide(1).reason == "bundle-rejected"


def test_check_config_calls_a_damaged_bundle_damaged_also_with_a_task(configured, folder, plans, run):
    (folder / "plans.json").write_bytes(plans.encode())
    task = ("[task]", f'plans = "{folder / "plans.json"}"', "path.rtt_s = 0.02", "objective.deadline_s = 0.1")
    file = configured(f'trace_path = "{folder / "d.trace"}"', *task)
    assert run("--config", file, "--check-config")[0] == 0
    (folder / "policy.cutlayer").write_bytes(b"broken")
    code, out, err = run("--config", file, "--check-config")
    assert (code, out) == (2, "")
    assert "is no whole bundle" in err
    assert not (folder / "d.trace").exists()


def test_the_end_of_a_trial_is_logged(configured, folder, running):
    """A candidate that misses everything is rolled back after its first look."""
    terms = ("[controller.trial]", "share = 0.5", "block = 1", "first_look = 20", "looks = 1", "sure_blocks = 5")
    file = configured('mode = "canary"', *terms)
    with running(folder / "d.sock", "--config", file) as made, made.client() as client:
        for number in range(1, 61):
            decision = client.decide(number)
            late = decision.arm == "candidate"
            client.report(Outcome(decision.plan, 1.0, 0.02, id=number, latency_s=0.4 if late else 0.02))
        said = made.line()
        assert (said["event"], said["level"], said["verdict"]["finding"]) == ("demotion", "warning", "roll-back")
        assert said["mode"] == client.status()["mode"] == "off"


def test_more_connections_than_the_system_allows_are_refused(configured, folder, refused):
    assert "lower connections or raise LimitNOFILE" in refused(
        "--config", configured("connections = 1000000000"), "--socket", folder / "d.sock"
    )
