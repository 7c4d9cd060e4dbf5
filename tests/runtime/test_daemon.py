"""The daemon as its own process: what it promises over its socket, to signals, and about its files."""

from __future__ import annotations

import contextlib
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading

import msgspec
import pytest

from cutlayer.errors import ConfigError, PeerError
from cutlayer.runtime import bundle, config, daemon
from cutlayer.runtime.client import Client
from cutlayer.runtime.controller import Decision, Outcome

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine
COMMAND = (sys.executable, "-m", "cutlayer.runtime.daemon")
HEAVY = ("torch", "gymnasium", "simpy", "stable_baselines3", "numba", "matplotlib", "onnxruntime")


class Running:
    """A daemon that has said it is ready."""

    def __init__(self, process, path):
        self.process, self.path = process, path
        self.ready = self.line()

    def line(self):
        """The next line of its log, parsed."""
        found, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert found, "the daemon says nothing"
        text = self.process.stdout.readline()
        assert text, self.process.stderr.read()
        return json.loads(text)

    def client(self):
        return Client(self.path, timeout_s=PATIENCE_S)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, [json.loads(line) for line in rest.splitlines()], errors.decode()


@contextlib.contextmanager
def running(path, *options):
    # Not buffered: what select sees is all there is to read.
    with subprocess.Popen(
        [*COMMAND, *options, "--socket", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield Running(process, path)
        finally:
            process.kill()


def refused(*options):
    """Run a daemon that must not start; its one line of complaint."""
    done = subprocess.run([*COMMAND, *map(str, options)], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("cutlayerd: ")
    return done.stderr


@pytest.fixture
def folder(tmp_path, make_bundle):
    """Holds a good bundle."""
    make_bundle().save(tmp_path / "policy.cutlayer", "0")
    return tmp_path


@pytest.fixture
def served(folder):
    """A daemon of one test's own, and the bundle it serves."""
    with running(folder / "d.sock", "--bundle", str(folder / "policy.cutlayer")) as made:
        yield made, folder / "policy.cutlayer"


@pytest.fixture(scope="module")
def shared(tmp_path_factory, make_bundle):
    """A daemon for all tests that leave it well."""
    folder = tmp_path_factory.mktemp("d")
    make_bundle(algorithm="shared").save(folder / "policy.cutlayer", "0")
    with running(folder / "d.sock", "--bundle", str(folder / "policy.cutlayer")) as made:
        yield made


@contextlib.contextmanager
def raw(made):
    """A bare connection: bytes in, lines out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(made.path))
        with connection.makefile("rb") as lines:
            yield connection, lines


def ask(made, line):
    with raw(made) as (connection, lines):
        connection.sendall(line + b"\n")
        return json.loads(lines.readline())


# --- what it answers


def test_it_says_when_it_is_ready(shared):
    assert shared.ready["ready"] is True
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


def test_two_thousand_decisions_are_all_answered_in_order(served):
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


def test_a_line_may_come_in_pieces_and_several_at_once(shared):
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
def test_a_bad_line_gets_an_error_and_nobody_else_notices(shared, name):
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


def test_a_number_of_any_length_is_a_request_as_any_other(shared):
    assert ask(shared, b'{"op":"decide","id":%d}' % 2**63)["id"] == 2**63


@pytest.mark.parametrize(
    "line",
    [b"x" * 70_000, b"x" * 70_000 + b"\n", b'{"op":"decide","id":1' + b" " * 70_000 + b"}\n"],
    ids=["without end", "with an end", "a good request in it"],
)
def test_a_line_too_long_gets_an_error_and_nobody_else_notices(shared, line):
    with shared.client() as other, raw(shared) as (connection, lines):
        other.decide(1)
        # It may hang up while we still send.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(line)
        assert "longer than 65536 bytes" in json.loads(lines.readline())["error"]
        assert other.decide(2).id == 2


def test_a_client_that_never_ends_its_line_holds_up_nobody(shared):
    with raw(shared) as (connection, _), shared.client() as other:
        connection.sendall(b'{"op":"decide"')
        assert [other.decide(number).id for number in range(50)] == list(range(50))


def test_clients_that_go_away_without_reading_are_forgotten(shared):
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


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_to_and_leaves_nothing_behind(served, number):
    made, path = served
    with made.client() as client, raw(made) as (connection, _):
        connection.sendall(b'{"op":"deci')
        client.decide(1)
        code, log, errors = made.stop(number)
    assert (code, errors) == (0, "")
    assert log == [{"stopped": True, "decisions": 1, "cut_off": 0}]
    assert list(made.path.parent.iterdir()) == [path]


def test_hangup_reloads_all_or_nothing(served, make_bundle):
    made, path = served
    good = path.read_bytes()
    with made.client() as client:
        for broken in (b"", good[: len(good) // 2], b"PK garbage"):
            path.write_bytes(broken)
            made.process.send_signal(signal.SIGHUP)
            said = made.line()
            assert said["reloaded"] is False
            assert str(path) in said["error"]
            assert client.decide(1).step == "policy"
            assert client.status()["algorithm"] == "none"
        make_bundle(algorithm="newer").save(path, "0")
        made.process.send_signal(signal.SIGHUP)
        assert made.line() == {"reloaded": True}
        status = client.status()
    assert (status["algorithm"], status["decisions"]) == ("newer", 3)


# --- starting


def test_a_second_daemon_on_the_same_socket_is_refused(served):
    made, path = served
    message = refused("--bundle", path, "--socket", made.path)
    assert f"socket {made.path} is in use by a running daemon; stop that one or choose another path" in message
    with made.client() as client:
        assert client.decide(1).id == 1


def test_a_stale_socket_is_replaced(folder):
    path = folder / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    with running(path, "--bundle", str(folder / "policy.cutlayer")) as made:
        with made.client() as client:
            assert client.decide(1).id == 1
        assert made.stop()[0] == 0
    assert not path.exists()


def test_another_file_in_the_way_is_left_alone(folder):
    (folder / "d.sock").write_text("precious", encoding="utf-8")
    assert "exists and is no socket; choose another path" in refused("--bundle", folder / "policy.cutlayer", "--socket", folder / "d.sock")
    assert (folder / "d.sock").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("path", ["missing/d.sock", "x" * 120, "x" * 300])
def test_a_path_that_cannot_be_listened_on_is_refused(folder, path):
    message = refused("--bundle", folder / "policy.cutlayer", "--socket", folder / path)
    assert path in message
    assert "writable path" in message


def test_a_bundle_that_is_missing_is_refused(folder):
    message = refused("--bundle", folder / "none.cutlayer", "--socket", folder / "d.sock")
    assert "no bundle at" in message
    assert "make one with: cutlayer export" in message
    assert not (folder / "d.sock").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_bundle_that_is_truncated_is_refused(folder, share):
    path = folder / "policy.cutlayer"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refused("--bundle", path, "--socket", folder / "d.sock")
    assert f"{path} is no whole bundle" in message
    assert not (folder / "d.sock").exists()


def test_a_bundle_damaged_inside_is_refused(folder):
    path = folder / "policy.cutlayer"
    data = bytearray(path.read_bytes())
    data[44] ^= 16  # in the compressed manifest
    path.write_bytes(data)
    assert str(path) in refused("--bundle", path, "--socket", folder / "d.sock")


@pytest.mark.parametrize("options", [(), ("--bundle", "a", "--config", "b")])
def test_it_wants_either_a_bundle_or_a_configuration(options):
    assert "either --config FILE or --bundle FILE" in refused(*options)


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


# --- configuration


@pytest.fixture
def run(capsys):
    """The command in this process: (exit code, stdout, stderr)."""

    def call(*options):
        try:
            code = daemon.main([str(option) for option in options])
        except SystemExit as stopped:
            code = stopped.code
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


def one_line(result):
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_the_printed_defaults_are_a_configuration(run, tmp_path):
    code, out, err = run("--print-defaults")
    assert (code, err) == (0, "")
    (tmp_path / "cutlayerd.toml").write_text(out, encoding="utf-8")
    loaded = config.load(tmp_path / "cutlayerd.toml")
    assert loaded == config.DaemonConfig(bundle=loaded.bundle)
    assert all(re.search(rf"^{name} = ", out, re.MULTILINE) for name in config.DaemonConfig.__struct_fields__)


def test_a_configuration_and_its_bundle_are_checked(run, folder):
    file = folder / "cutlayerd.toml"
    file.write_text(f'bundle = "{folder / "policy.cutlayer"}"\ndrain_s = 1\n', encoding="utf-8")
    assert run("--config", file, "--check-config") == (0, "configuration and bundle are good\n", "")
    assert run("--bundle", folder / "policy.cutlayer", "--check-config")[0] == 0
    file.write_text(f'bundle = "{folder / "none.cutlayer"}"\n', encoding="utf-8")
    assert "no bundle at" in one_line(run("--config", file, "--check-config"))
    assert sorted(path.name for path in folder.iterdir()) == ["cutlayerd.toml", "policy.cutlayer"]


def test_a_configuration_is_used(folder):
    file = folder / "cutlayerd.toml"
    file.write_text(f'bundle = "{folder / "policy.cutlayer"}"\nsocket = "elsewhere.sock"\nrequest_bytes = 300\n', encoding="utf-8")
    # --socket on the command line counts.
    with running(folder / "d.sock", "--config", str(file)) as made, raw(made) as (connection, lines):
        connection.sendall(b"x" * 400)
        assert "longer than 300 bytes" in json.loads(lines.readline())["error"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('bundel = "x"\n', ["unknown key 'bundel'", "did you mean 'bundle'?"]),
        ('bundle = "x"\nsockets = "y"\n', ["unknown key 'sockets'", "did you mean 'socket'?"]),
        ('bundle = "x"\nzebra = 1\n', ["unknown key 'zebra'", "known keys: bundle, socket"]),
        ("", ["bundle", "--print-defaults"]),
        ("bundle = 3\n", ["str", "$.bundle", "--print-defaults"]),
        ('bundle = "x"\nrequest_bytes = "many"\n', ["int", "$.request_bytes", "--print-defaults"]),
        ('bundle = "x"\nrequest_bytes = 10\n', ["request_bytes 10", "at least 256"]),
        ('bundle = "x"\ndrain_s = -1.0\n', ["drain_s -1.0", "not negative"]),
        ('bundle = "x"\ndrain_s = nan\n', ["drain_s nan"]),
        ('bundle = "x\n', ["is no TOML", "line 1"]),
        ("bundle = x\n", ["is no TOML"]),
        ('bundle = "x"\nbundle = "y"\n', ["is no TOML"]),
    ],
)
def test_a_bad_configuration_is_refused_by_value_place_and_mend(run, tmp_path, text, said):
    file = tmp_path / "cutlayerd.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        config.load(file)
    message = one_line(run("--config", file, "--check-config"))
    for part in (*said, str(file)):
        assert part in message


def test_a_configuration_that_cannot_be_read_is_refused(run, tmp_path):
    assert "cannot read" in one_line(run("--config", tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_bytes(b'bundle = "\xff"\n')
    assert "is no TOML" in one_line(run("--config", tmp_path / "bad.toml"))


def test_help_has_an_example(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "example: cutlayerd --bundle" in out
    assert run("--version")[1].startswith("cutlayer ")


def test_an_unknown_option_is_refused(run):
    assert "--bundel" in one_line(run("--bundel", "x"))


# --- the server without its socket


def test_whatever_line_comes_there_is_one_line_of_answer(folder):
    """Never raises, and what it answers is JSON."""
    server = daemon.Server(config.DaemonConfig(bundle=str(folder / "policy.cutlayer")), clock=lambda: 5.0)
    for line in (*BAD_LINES.values(), b'{"op":"decide"}', b'{"op":"status"}', b'{"op":"reload"}'):
        reply = server.answer(line)
        assert b"\n" not in reply
        assert msgspec.json.decode(reply)
    assert server.controller.bundle.plans.digest() == bundle.load(folder / "policy.cutlayer").plans.digest()
