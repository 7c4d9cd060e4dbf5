"""`cutlayerd`: the controller behind a Unix socket, one JSON object a line, as a process that a service manager looks after.

Exit codes: 0 stopped as it was told to; 2 configuration, bundle, socket or option is wrong, said in one line; 130 a second signal cut
off clients that were still being answered. docs/daemon.md has signals, messages and settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from cutlayer import __version__
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.options import Parser
from cutlayer.runtime import config, http, lifelog
from cutlayer.runtime.brisk import BriskSelector
from cutlayer.runtime.config import Clock, DaemonConfig
from cutlayer.runtime.listening import BACKLOG, Connection, listen
from cutlayer.runtime.messages import Mode
from cutlayer.runtime.notify import Notifier
from cutlayer.runtime.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STOPPED, REFUSED, FORCED = 0, 2, 130  # 128 and the number of SIGINT, as a shell says it
TICK_S = 1.0  # our choice: a loss of power loses so much of a trace; a verdict is logged so late
SPARE_FILES = 64  # descriptors beside those of clients: libraries, the trace, the bundle while it is read


class Life:
    """One run of the daemon, from READY to its exit code."""

    def __init__(self, service: Service, notifier: Notifier, log: Callable[..., None]) -> None:
        self._service, self._notifier, self._log = service, notifier, log
        service.told = log
        self._connections: set[Connection] = set()
        self._stop, self._force = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        watched_s = notifier.watchdog_s
        # Twice in the time that the watchdog allows.
        self._tick_s = TICK_S if watched_s is None else min(TICK_S, watched_s / 2)
        self._verdict, self._trace_problem, self._edge_lost = service.verdict, "", False

    async def run(self) -> int:
        """Listen, say that it is ready, answer until it is told to stop, then drain."""
        settings = self._service.settings
        _make_room(settings.connections + SPARE_FILES)
        listener = listen(Path(settings.socket), settings.socket_group)
        runner = None
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._told_to_stop)
            self._loop.add_signal_handler(signal.SIGHUP, self._reload)
            listening = await self._loop.create_unix_server(
                lambda: Connection(self._service, self._connections), sock=listener, backlog=BACKLOG
            )
            where = {"socket": settings.socket}
            if settings.http:
                runner = await http.start(self._service)
                host, port = runner.addresses[0][:2]
                where["http"] = f"{host}:{port}"
            about = {"mode": self._service.controller.mode, "bundle_sha256": self._service.loaded.digest, "problem": self._service.problem}
            self._log("ready", **where, **self._service.named(), **about)
            self._notifier.ready(self._words())
            self._tick()
            await self._stop.wait()
            listening.close()
            return await self._drain()
        finally:
            if runner is not None:
                await runner.cleanup()
            with contextlib.suppress(OSError):
                os.unlink(settings.socket)  # noqa: PTH108 - one system call at the very end

    async def _drain(self) -> int:
        self._notifier.stopping()
        self._log("drain", clients=len(self._connections))
        for connection in tuple(self._connections):
            connection.leave()
        closed = asyncio.gather(*(connection.closed for connection in self._connections))
        forced = asyncio.ensure_future(self._force.wait())
        waits: set[asyncio.Future[Any]] = {closed, forced}
        await asyncio.wait(waits, timeout=self._service.settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
        cut_off = len(self._connections)
        for connection in tuple(self._connections):
            connection.cut()
        forced.cancel()
        self._service.flush()
        self._log("stop", decisions=self._service.controller.counts.decisions, cut_off=cut_off)
        return FORCED if self._force.is_set() and cut_off else STOPPED

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._force.set()
        self._stop.set()

    def _reload(self) -> None:
        self._notifier.reloading()
        with contextlib.suppress(CutlayerError):  # what decided goes on, and the log has heard
            self._service.change("reload", "SIGHUP")
        self._notifier.ready(self._words())

    def _tick(self) -> None:
        """From the loop that decides: where it hangs, the watchdog hears nothing."""
        self._notifier.alive()
        self._service.flush()
        self._look()
        self._loop.call_later(self._tick_s, self._tick)

    def _look(self) -> None:
        """Log what has changed since the last tick; what came and went between two is only counted."""
        service, controller = self._service, self._service.controller
        if service.verdict is not self._verdict:
            self._verdict = service.verdict
            if self._verdict is not None:
                event = {"promote": "promotion", "roll-back": "demotion"}.get(self._verdict.finding, "trial")
                self._log(event, verdict=self._verdict, mode=controller.mode)
                self._notifier.ready(self._words())
        if controller.edge.open != self._edge_lost:
            self._edge_lost = controller.edge.open
            self._log("edge-lost" if self._edge_lost else "edge-found", decisions=controller.counts.decisions)
        if service.trace_problem != self._trace_problem:
            self._trace_problem = service.trace_problem
            if self._trace_problem:
                self._log("trace-failing", error=self._trace_problem)
            else:
                self._log("trace-written")

    def _words(self) -> str:
        named = self._service.named()
        if not named["algorithm"]:
            return f"the rule decides, without a policy: {self._service.problem}"
        return f"{self._service.controller.mode}: {named['algorithm']} for {named['scenario']}"


def _make_room(files: int) -> None:
    """Let this process open so many files.

    Raises:
        ConfigError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        if hard != resource.RLIM_INFINITY and hard < files:
            raise ConfigError(f"connections need {files} open files, this system allows {hard}; lower connections or raise LimitNOFILE")
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


async def serve(read: Callable[[], DaemonConfig]) -> int:
    """Run until it is told to stop; the exit code. read gives the settings, anew at each reload."""
    service = Service(read)
    log = lifelog.opened(service.settings.log)
    log("start", version=__version__, pid=os.getpid(), bundle=service.settings.bundle)
    return await Life(service, Notifier(), log).run()


def check(read: Callable[[], DaemonConfig]) -> None:
    """Hold the configuration and what it names to what a start would; nothing is written, and a damaged bundle is never good.

    Raises:
        CutlayerError: something is wrong with either.
    """
    settings = read()
    service = Service(lambda: msgspec.structs.replace(settings, trace_path=""))
    if settings.bundle and service.problem:
        raise ConfigError(service.problem)


def _parser() -> Parser:
    parser = Parser(
        prog="cutlayerd",
        description="Controller daemon: decides exit, partition point and bit width for each request over a Unix socket.",
        epilog='example: cutlayerd --bundle policy.cutlayer --socket cutlayerd.sock, then send {"op":"decide","id":1} and a newline',
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with all settings; the options below count in its place")
    parser.add_argument("--bundle", metavar="FILE", help="exported policy")
    parser.add_argument("--socket", metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--http", metavar="ADDRESS", help="loopback address and port of health and metrics, as 127.0.0.1:9464")
    parser.add_argument("--mode", choices=get_args(Mode), help="who decides: see docs/fallbacks.md")
    parser.add_argument("--clock", choices=get_args(Clock), help="whose time counts; clients: for replays and simulated time")
    parser.add_argument("--check-config", action="store_true", help="check configuration and bundle, then exit")
    parser.add_argument("--print-defaults", action="store_true", help="print a complete configuration file, then exit")
    parser.add_argument("--version", action="version", version=f"cutlayer {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command `cutlayerd`."""
    options = _parser().parse_args(arguments)
    if options.print_defaults:
        sys.stdout.write(config.defaults())
        return STOPPED
    given = {name: value for name in ("bundle", "socket", "http", "mode", "clock") if (value := getattr(options, name)) is not None}

    def read() -> DaemonConfig:
        return config.load(options.config, given) if options.config else config.of_options(given)

    try:
        if options.config is None and options.bundle is None:
            raise ConfigError("give --config FILE or --bundle FILE; see cutlayerd --help")
        if options.check_config:
            check(read)
            sys.stdout.write("configuration and bundle are good\n")
            return STOPPED
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(BriskSelector())) as runner:
            return runner.run(serve(read))
    except CutlayerError as error:
        sys.stderr.write(f"cutlayerd: {error}\n")
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
