"""HTTP on loopback, for operators: the live page, /healthz, /readyz, /metrics and /v1/status. Decisions go over the Unix socket alone.

aiohttp and prometheus-client are extras: they are loaded where the configuration asks for HTTP.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cutlayer import __version__
from cutlayer.errors import ConfigError
from cutlayer.runtime.config import http_address
from cutlayer.runtime.ladder import FAULTS
from cutlayer.runtime.metrics import Collector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from cutlayer.runtime.service import Service

PAGE = Path(__file__).with_name("live.html")
# The page holds all it needs and asks this daemon alone: the browser is told to let nothing else happen.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

INSTALL = "HTTP needs aiohttp and prometheus-client; install them with: pip install 'cutlayer[daemon]', or leave http empty"


async def start(service: Service) -> web.AppRunner:
    """Serve on the configured address until the runner is cleaned up.

    Raises:
        ConfigError: the libraries are missing, or the address is taken.
    """
    try:
        from aiohttp import web
    except ModuleNotFoundError as error:
        raise ConfigError(INSTALL) from error
    runner = web.AppRunner(_application(service), access_log=None, handle_signals=False)
    await runner.setup()
    host, port = http_address(service.settings.http)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"cannot serve HTTP on {service.settings.http}: {error.strerror}; choose another port") from error
    return runner


def _application(service: Service) -> web.Application:
    from aiohttp import web

    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder
    except ModuleNotFoundError as error:
        raise ConfigError(INSTALL) from error
    registry = CollectorRegistry()
    registry.register(Collector(service, __version__, sorted(FAULTS)))
    ProcessCollector(registry=registry)  # memory, processor time, open files, start
    text = PAGE.read_text(encoding="utf-8")

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html", headers=HEADERS)

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def readyz(_: web.Request) -> web.Response:
        """Whether a policy decides: without one requests are answered too, by the rule."""
        if service.problem:
            return web.json_response({"ready": False, "problem": service.problem}, status=503)
        return web.json_response({"ready": True})

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def status(_: web.Request) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(service.status()), content_type="application/json", headers={"Cache-Control": "no-store"}
        )

    application = web.Application()
    pages: dict[str, Callable[[web.Request], Awaitable[web.Response]]] = {
        "/": page,
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
        "/v1/status": status,
    }
    for path, handler in pages.items():
        application.router.add_get(path, handler)
    return application
