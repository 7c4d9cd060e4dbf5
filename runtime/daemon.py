"""`cutlayerd`: the controller behind a Unix socket, one JSON object a line.

    {"op": "decide", "id": 1}                         -> the decision
    {"op": "report", "id": 1, "plan": 7, ...}         -> {"ok": true}
    {"op": "status"}                                  -> counts, bundle, uptime
    {"op": "reload"}                                  -> {"ok": true}, or an error and the old policy stays

A line that cannot be understood gets {"error": "..."}; the connection stays open unless the line was too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cutlayer import __version__
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.options import Parser
from cutlayer.runtime import bundle, config
from cutlayer.runtime.controller import Controller, Outcome, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Decide(Request, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="decide"):
    """Ask which plan a request gets."""


class Report(Outcome, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="report"):
    """Tell what became of a request."""


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="status"):
    """Ask how it is going."""


class Reload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="reload"):
    """Read the bundle again."""


class Server:
    """What the connections share: the controller, and the file it came from."""

    def __init__(self, settings: config.DaemonConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.controller = Controller(bundle.load(Path(settings.bundle)))
        self._clock = clock
        self._started_s = clock()
        self._decoder = msgspec.json.Decoder(Decide | Report | Status | Reload)
        self._encoder = msgspec.json.Encoder()

    def answer(self, line: bytes) -> bytes:
        """The reply to one line, without its newline; never raises."""
        try:
            message = self._decoder.decode(line)
            if isinstance(message, Decide):
                return self._encoder.encode(self.controller.decide(self._clock(), message))
            if isinstance(message, Report):
                if not 0 <= message.plan < len(self.controller.bundle.plans):
                    return self._error(f"plan {message.plan} is not in the table of {len(self.controller.bundle.plans)} plans")
                self.controller.report(self._clock(), message)
                return b'{"ok":true}'
            if isinstance(message, Status):
                return self._encoder.encode(self.status())
            self.reload()
            return b'{"ok":true}'
        except (msgspec.DecodeError, UnicodeDecodeError, CutlayerError) as error:
            return self._error(str(error))
        except RecursionError:
            return self._error("brackets are nested too deep")

    def _error(self, text: str) -> bytes:
        return self._encoder.encode({"error": text})

    def reload(self) -> None:
        """Read the bundle again; all or nothing. Telemetry goes on; what was counted stays."""
        fresh = Controller(bundle.load(Path(self.settings.bundle)))
        fresh.readings, fresh.counts = self.controller.readings, self.controller.counts
        self.controller = fresh

    def status(self) -> dict[str, object]:
        """Counts since the start, and what decides."""
        counts, loaded = self.controller.counts, self.controller.bundle
        return {
            "version": __version__,
            "uptime_s": self._clock() - self._started_s,
            "scenario": loaded.scenario,
            "algorithm": loaded.algorithm,
            "plans_sha256": loaded.plans.digest(),
            "decisions": counts.decisions,
            "reports": counts.reports,
            "fallbacks": counts.fallbacks,
            "steps": dict(counts.steps),
            "reasons": dict(counts.reasons),
        }


class Connection(asyncio.Protocol):
    """One client: lines in, lines out, nothing kept between them."""

    def __init__(self, server: Server, connections: set[Connection]) -> None:
        self._server, self._connections = server, connections
        self._pending = b""
        self._closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connections.discard(self)
        self._closed.set_result(None)

    def leave(self) -> asyncio.Future[None]:
        """Hang up once what was answered is written; done when the client is gone."""
        self._transport.close()
        return self._closed

    def data_received(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        limit = self._server.settings.request_bytes
        for line in (*lines, self._pending):
            if len(line) > limit:
                self._transport.write(msgspec.json.encode({"error": f"line longer than {limit} bytes"}) + b"\n")
                self._transport.close()
                return
        self._transport.write(b"".join(self._server.answer(line) + b"\n" for line in lines if line.strip()))


def listen(path: Path) -> socket.socket:
    """A listening Unix socket at `path`; a stale one left by a dead process is replaced.

    Raises:
        ConfigError: something lives there, it is no socket, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise ConfigError(f"{path} exists and is no socket; choose another path for the daemon's socket")
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with probe, contextlib.suppress(ConnectionRefusedError):
                probe.connect(str(path))
                raise ConfigError(f"socket {path} is in use by a running daemon; stop that one or choose another path")
            path.unlink()
        # Only owner and group may decide; the mode is set before anyone can connect.
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error}; choose a writable path of at most 107 bytes") from error
    except ConfigError:
        listener.close()
        raise
    return listener


async def serve(settings: config.DaemonConfig) -> None:
    """Listen, say that it is ready, answer until SIGTERM or SIGINT, then drain."""
    server = Server(settings)
    listener = listen(Path(settings.socket))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, server)
    connections: set[Connection] = set()
    try:
        listening = await loop.create_unix_server(lambda: Connection(server, connections), sock=listener)
        loaded = server.controller.bundle
        _log(ready=True, socket=settings.socket, scenario=loaded.scenario, algorithm=loaded.algorithm)
        await stop.wait()
        listening.close()
        leaving = [connection.leave() for connection in connections]
        if leaving:
            await asyncio.wait(leaving, timeout=settings.drain_s)
        _log(stopped=True, decisions=server.controller.counts.decisions, cut_off=len(connections))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(settings.socket)  # noqa: PTH108 - one system call at the very end


def _reload(server: Server) -> None:
    try:
        server.reload()
        _log(reloaded=True)
    except CutlayerError as error:
        _log(reloaded=False, error=str(error))


def _log(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command `cutlayerd`."""
    parser = Parser(
        prog="cutlayerd",
        description="Controller daemon: decides exit, partition point and bit width for each request over a Unix socket.",
        epilog='example: cutlayerd --bundle policy.cutlayer --socket cutlayerd.sock, then send {"op":"decide","id":1} and a newline',
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with all settings")
    parser.add_argument("--bundle", metavar="FILE", help="exported policy, instead of a configuration file")
    parser.add_argument("--socket", metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--check-config", action="store_true", help="check configuration and bundle, then exit")
    parser.add_argument("--print-defaults", action="store_true", help="print a complete configuration file, then exit")
    parser.add_argument("--version", action="version", version=f"cutlayer {__version__}")
    options = parser.parse_args(arguments)
    if options.print_defaults:
        sys.stdout.write(config.defaults())
        return 0
    try:
        if (options.config is None) == (options.bundle is None):
            raise ConfigError("give either --config FILE or --bundle FILE; see cutlayerd --help")
        settings = config.load(options.config) if options.config else config.DaemonConfig(bundle=options.bundle)
        if options.socket:
            settings = msgspec.structs.replace(settings, socket=options.socket)
        if options.check_config:
            bundle.load(Path(settings.bundle))
            sys.stdout.write("configuration and bundle are good\n")
            return 0
        asyncio.run(serve(settings))
    except CutlayerError as error:
        sys.stderr.write(f"cutlayerd: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
