"""Clients that mean no good or do badly: they get an error or are hung up on, and another client notices nothing."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import resource
import socket
import subprocess
import sys

import pytest

from cutlayer.runtime.listening import listen

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine


@contextlib.contextmanager
def connections(made, count):
    """So many open connections that say nothing."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in range(count)]
        for one in found:
            one.settimeout(PATIENCE_S)
            one.connect(str(made.path))
        yield found


@pytest.fixture
def _many_files():
    """As many files may be open as a thousand clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2_000:
        pytest.skip(f"this system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_a_thousand_connections_are_held_and_others_are_answered(shared):
    with shared.client() as before, connections(shared, 1_000) as idle, shared.client() as after:
        for number in range(50):
            assert before.decide(number).id == after.decide(number).id == number
        for one in (idle[0], idle[-1]):
            one.sendall(b'{"op":"decide","id":7}\n')
            assert json.loads(one.recv(4096))["id"] == 7
    with shared.client() as client:
        assert client.decide(1).id == 1


def test_one_connection_too_many_gets_an_error(configured, folder, running, raw):
    with running(folder / "d.sock", "--config", configured("connections = 3")) as made:
        with made.client() as client, connections(made, 2):
            client.decide(1)
            with raw(made) as (_, lines):
                assert "3 connections are open, as many as may be" in json.loads(lines.readline())["error"]
                assert lines.readline() == b""
            assert client.decide(2).id == 2
        # A place is free again once the daemon has seen a client go: it sees it before it takes in the next one.
        with made.client() as client:
            assert client.decide(3).id == 3


def test_a_client_that_takes_no_answers_holds_up_nobody_and_is_hung_up_on(configured, folder, running, unread):
    with running(folder / "d.sock", "--config", configured("stalled_s = 0.05")) as made, made.client() as other:
        with unread(made) as greedy:
            assert [other.decide(number).id for number in range(50)] == list(range(50))
            # Nothing is read until the daemon has lost patience: the next line finds nobody.
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                _send_on(greedy)
        assert other.decide(99).id == 99


def _send_on(connection):
    while True:
        connection.sendall(b'{"op":"status"}\n' * 4_000)


def test_a_flood_of_lines_lets_others_have_their_turn(shared, raw):
    """Ten thousand requests of one client at once; another one asks after it and does not wait for all of them."""
    count = 10_000
    with shared.client() as other, raw(shared) as (connection, lines):
        connection.setblocking(False)
        flood = b"".join(b'{"op":"decide","id":%d}\n' % number for number in range(count))
        sent = connection.send(flood)
        other.decide(1)
        answered = other.status()["decisions"]
        asked = flood[:sent].count(b"\n")
        assert asked > 1_000, "the socket takes a flood"
        other.decide(2)
        assert other.status()["decisions"] - answered < asked
        connection.settimeout(PATIENCE_S)
        assert [json.loads(lines.readline())["id"] for _ in range(asked)] == list(range(asked))


@pytest.mark.parametrize(
    ("settings", "answered"),
    [
        ([f"allow_uids = [{os.getuid()}]"], True),
        ([f"allow_gids = [{os.getgid()}]"], True),
        ([f"allow_uids = [{os.getuid() + 1}]", f"allow_gids = [{os.getgid()}]"], True),
        ([f"allow_uids = [{os.getuid() + 1}]"], False),
        ([f"allow_uids = [{os.getuid() + 1}]", f"allow_gids = [{os.getgid() + 1}]"], False),
    ],
)
def test_the_kernel_tells_who_asks(configured, folder, running, ask, raw, settings, answered):
    with running(folder / "d.sock", "--config", configured(*settings)) as made:
        if answered:
            assert ask(made, b'{"op":"decide","id":3}')["id"] == 3
        else:
            with raw(made) as (_, lines):
                error = json.loads(lines.readline())["error"]
                assert error.startswith(f"user {os.getuid()} of group {os.getgid()} is not answered")
                assert lines.readline() == b""


AS_ANOTHER = """
import os, socket, sys
path, line, user, group, *more = sys.argv[1:]
os.setgroups([int(one) for one in more])
os.setgid(int(group))
os.setuid(int(user))
with socket.socket(socket.AF_UNIX) as way:
    way.connect(path)
    way.sendall(line.encode() + b"\\n")
    print(way.makefile().readline())
"""
OTHER, GROUP, SECOND = 54_321, 54_322, 54_323  # of a user that owns nothing here


def as_another(made, line, *groups):
    """The reply to a line of another user; the socket is opened to all first, as a wrong umask or a helpful admin would."""
    for path in (made.path, *made.path.parents):
        if path.stat().st_uid == os.getuid() and str(path).startswith("/tmp"):  # noqa: S108 - pytest's own folder
            path.chmod(path.stat().st_mode | 0o077)
    command = [sys.executable, "-c", AS_ANOTHER, str(made.path), line, str(OTHER), str(GROUP), *map(str, groups)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can connect as somebody else")
@pytest.mark.parametrize("operation", ["reload", "rollback"])
@pytest.mark.parametrize(
    ("settings", "groups", "allowed"),
    [
        ([], [], False),
        ([f"operator_uids = [{OTHER}]"], [], True),
        ([f"operator_gids = [{GROUP}]"], [], True),
        ([f"operator_gids = [{SECOND}]"], [], False),
        ([f"operator_gids = [{SECOND}]"], [SECOND], True),
    ],
)
def test_only_operators_change_what_decides(configured, folder, running, make_bundle, operation, settings, groups, allowed):
    with running(folder / "d.sock", "--config", configured(*settings)) as made, made.client() as own:
        make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
        if operation == "rollback":
            own.reload()
        before = own.status()["algorithm"]
        reply = as_another(made, f'{{"op":"{operation}"}}', *groups)
        if allowed:
            assert reply == {"ok": True}
            assert own.status()["algorithm"] != before
            assert made.line()["by"] in (f"user {OTHER} of group {GROUP}", f"user {os.getuid()} of group {os.getgid()}")
        else:
            assert f"user {OTHER} of group {GROUP} may not {operation}" in reply["error"]
            assert own.status()["algorithm"] == before
        assert as_another(made, '{"op":"decide","id":3}', *groups)["id"] == 3, "all others may ask"


def test_the_socket_is_given_to_a_group(tmp_path):
    own = grp.getgrgid(os.getgid()).gr_name
    with listen(tmp_path / "d.sock", own):
        found = (tmp_path / "d.sock").stat()
    assert (found.st_gid, found.st_mode & 0o777) == (os.getgid(), 0o660)


def test_a_group_that_does_not_exist_is_refused(configured, folder, refused):
    message = refused("--config", configured('socket_group = "nobody-knows-it"'), "--socket", folder / "d.sock")
    assert "socket_group 'nobody-knows-it' cannot be given" in message
    assert not (folder / "d.sock").exists()
