"""A daemon as its own process, in a folder with a good bundle."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from cutlayer.runtime import daemon
from cutlayer.runtime.client import Client

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine
COMMAND = (sys.executable, "-m", "cutlayer.runtime.daemon")


class Running:
    """A daemon that has said that it begins and that it is ready."""

    def __init__(self, process, path):
        self.process, self.path = process, path
        self.started, self.ready = self.line(), self.line()

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
def _running(path, *options, **environment):
    # Not buffered: what select sees is all there is to read.
    with subprocess.Popen(
        [*COMMAND, *map(str, options), "--socket", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=os.environ | environment,
    ) as process:
        try:
            yield Running(process, path)
        finally:
            process.kill()


def _refused(*options):
    """Run a daemon that must not start; its one line of complaint."""
    done = subprocess.run([*COMMAND, *map(str, options)], check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2, done
    assert all(json.loads(line)["event"] == "start" for line in done.stdout.splitlines()), "it was never ready"
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
    with _running(folder / "d.sock", "--bundle", str(folder / "policy.cutlayer")) as made:
        yield made, folder / "policy.cutlayer"


@pytest.fixture(scope="module")
def shared(tmp_path_factory, make_bundle):
    """A daemon for all tests that leave it well."""
    folder = tmp_path_factory.mktemp("d")
    make_bundle(algorithm="shared").save(folder / "policy.cutlayer", "0")
    with _running(folder / "d.sock", "--bundle", str(folder / "policy.cutlayer")) as made:
        yield made


@contextlib.contextmanager
def _raw(made):
    """A bare connection: bytes in, lines out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(made.path))
        with connection.makefile("rb") as lines:
            yield connection, lines


@pytest.fixture(scope="session")
def running():
    """Context manager: a daemon on a socket, with options and environment."""
    return _running


@pytest.fixture(scope="session")
def refused():
    """Run a daemon that must not start: its one line of complaint."""
    return _refused


@pytest.fixture(scope="session")
def raw():
    """Context manager: a bare connection."""
    return _raw


@pytest.fixture(scope="session")
def ask():
    """Send one line, get the reply parsed."""

    def call(made, line):
        with _raw(made) as (connection, lines):
            connection.sendall(line + b"\n")
            return json.loads(lines.readline())

    return call


@pytest.fixture
def configured(folder):
    """Write a configuration beside the good bundle, which it names."""

    def write(*lines):
        file = folder / "cutlayerd.toml"
        file.write_text("\n".join([f'bundle = "{folder / "policy.cutlayer"}"', *lines, ""]), encoding="utf-8")
        return file

    return write


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


@contextlib.contextmanager
def _unread(made):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(made.path))
        connection.sendall(b'{"op":"status"}\n' * 4_000)
        # By now they are being answered: over a megabyte, more than the buffers between the two hold.
        assert connection.recv(1) == b"{"
        yield connection


@pytest.fixture(scope="session")
def unread():
    """Context manager: a client that has asked for much, and takes no answer."""
    return _unread
