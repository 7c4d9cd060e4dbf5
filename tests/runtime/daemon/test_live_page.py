"""The live page in a real browser, on a real daemon: it shows what is so, also where nothing is known, and asks nobody else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess

import aiohttp
import pytest

from cutlayer.runtime import http
from cutlayer.runtime.live import Present
from cutlayer.runtime.messages import Outcome

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-port=0")


class Tab:
    """A page of a browser, by the DevTools protocol; `errors` and `asked` gather what went wrong and every address asked."""

    def __init__(self, way):
        self.way, self.numbers = way, itertools.count(1)
        self.session, self.errors, self.asked = None, [], []

    async def call(self, method, **options):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": options}
        await self.way.send_json(message if self.session is None else message | {"sessionId": self.session})
        while True:
            said = json.loads((await self.way.receive(timeout=PATIENCE_S)).data)
            self.note(said)
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def note(self, said):
        if said.get("method") == "Runtime.exceptionThrown":
            self.errors.append(said["params"]["exceptionDetails"])
        if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
            self.errors.append(said["params"]["entry"])
        if said.get("method") == "Network.requestWillBeSent":
            self.asked.append(said["params"]["request"]["url"])

    async def run(self, code):
        found = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition):
        """Wait in the page, change after change, until it holds."""
        await self.run(
            f"new Promise(done => {{ const look = () => ({condition}) && done(1); look();"
            " new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true, attributes: true}); })"
        )

    async def text(self, name):
        return await self.run(f"document.getElementById('{name}').innerText")

    async def shot(self, file, width, scheme):
        """A picture of the whole page; its height."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=width < 500)
        height = await self.run("document.documentElement.scrollHeight")
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        assert await self.run("document.documentElement.scrollWidth") <= width, "nothing runs over the side"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


@contextlib.contextmanager
def browser(folder):
    """A headless browser; the address of its DevTools."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser on PATH: one of {', '.join(BROWSERS)} (Debian: chromium-headless-shell)")
    with subprocess.Popen([program, *OPTIONS, f"--user-data-dir={folder}"], stderr=subprocess.PIPE, text=True) as process:
        try:
            said = next((line for line in process.stderr if "DevTools listening on" in line), "")
            assert said, "the browser ended"
            yield said.split()[-1]
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def tab(devtools, address):
    """The page at an address, opened."""
    async with aiohttp.ClientSession() as session, session.ws_connect(devtools, max_msg_size=0) as way:
        made = Tab(way)
        target = (await made.call("Target.createTarget", url="about:blank"))["targetId"]
        made.session = (await made.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await made.call(f"{domain}.enable")
        await made.call("Page.navigate", url=address)
        await made.until("document.readyState === 'complete'")
        yield made


@pytest.fixture(scope="module")
def devtools(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as address:
        yield address


@pytest.fixture
def served(configured, folder, running):
    with running(folder / "d.sock", "--config", configured('http = "127.0.0.1:0"')) as made:
        yield made


def play(client, plans, numbers):
    """Requests, answered in 40 ms, one of them without an edge and one late; the last decision."""
    for number in numbers:
        decision = client.decide(number, edge_reachable=number % 10 != 4)
        row = plans.rows[decision.plan]
        offloads = row.bits > 0
        sent = {"send_start_s": 1.0, "send_s": row.wire_bytes * 8 / 6e6, "sent_bytes": float(row.wire_bytes)} if offloads else {}
        replied = {"edge_wait_s": 0.003, "edge_s": 2 * (row.edge_s + row.decode_s), "rtt_s": 0.021} if offloads else {}
        latency_s = 0.14 if number % 10 == 7 else 0.04
        client.report(Outcome(decision.plan, 1.0, max(row.device_s, 1e-3), id=number, latency_s=latency_s, **sent, **replied))
    return decision


def test_it_shows_what_is_so(served, plans, devtools, root):
    async def look():
        with served.client() as client:
            last = play(client, plans, range(1, 41))
            async with tab(devtools, f"http://{served.ready['http']}/") as page:
                await page.until("document.getElementById('counts').innerText.startsWith('40 decisions')")
                where = f"cut at {last.partition}, {last.bits} bits" if last.bits else "on the device alone"
                assert await page.text("plan") == f"exit {last.exit}, {where}"
                assert f"plan {last.plan}, " in await page.text("why")
                assert re.fullmatch(r"[\d.]+ [kM]b/s", await page.text("rate"))
                assert "ago; round trip 21 ms" in await page.text("rate_age")
                assert await page.text("latency") == "140 ms 95th percentile, deadline 100 ms"
                assert await page.text("missed") == "median 40 ms, last 40 ms; late 10 % of the last 40 answers"
                assert await page.text("wait") == "3 ms waited there"
                assert "2 × its nominal time" in await page.text("load")
                assert (await page.text("reasons")).split() == ["edge-unreachable", "4", "100", "%"]
                assert (await page.text("steps")).split() == ["policy", "36", "90", "%", "static-safe", "4", "10", "%"]
                assert await page.text("mode") == "mode active"
                assert client.status()["bundle_sha256"] in await page.text("bundle")
                play(client, plans, range(41, 50))
                await page.until("document.getElementById('counts').innerText.startsWith('49 decisions')")
                shots = root / "runs" / "live-page"
                for name, width, scheme in (
                    ("light", 1100, "light"),
                    ("dark", 1100, "dark"),
                    ("narrow", 400, "light"),
                    ("narrow-dark", 400, "dark"),
                ):
                    await page.shot(shots / f"{name}.png", width, scheme)
                assert not page.errors
                assert page.asked
                assert all(url.startswith((f"http://{served.ready['http']}/", "data:")) for url in page.asked), page.asked
                served.stop()
                await page.until("document.getElementById('state').innerText.startsWith('no answer for')")

    asyncio.run(look())
    from PIL import Image

    brightness = {}
    for name in ("light", "dark", "narrow"):
        with Image.open(root / "runs" / "live-page" / f"{name}.png") as image:
            brightness[name] = image.convert("L").resize((1, 1)).getpixel((0, 0))
            assert len(image.convert("RGB").resize((100, 100)).getcolors(10_000)) > 50, "something is drawn"
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


def test_where_nothing_is_known_it_says_so(served, devtools):
    async def look():
        async with tab(devtools, f"http://{served.ready['http']}/") as page:
            await page.until("document.getElementById('counts').innerText.startsWith('0 decisions')")
            assert await page.text("plan") == "no decision yet"
            assert await page.text("latency") == await page.text("rate") == await page.text("wait") == "–"
            assert await page.text("reasons") == "none since the start"
            # Every field null, every field of `now` null, and none at all: no error, and nowhere a word of a machine.
            with served.client() as client:
                empty = dict.fromkeys(client.status())
            for status in (empty, empty | {"now": dict.fromkeys(Present.__struct_fields__)}, {}):
                shown = await page.run(f"show({json.dumps(status)}); document.body.innerText")
                assert not re.search(r"NaN|undefined|null|Infinity|object", shown), shown
            assert not page.errors

    asyncio.run(look())


def test_what_a_bundle_calls_itself_is_shown_as_text(served, devtools):
    """A name is no HTML."""

    async def look():
        async with tab(devtools, f"http://{served.ready['http']}/") as page:
            name = "<img src=x onerror=alert(1)>"
            status = {"algorithm": name, "scenario": name, "reasons": {name: 1}, "problem": name}
            assert await page.run(f"show({json.dumps(status)}); document.querySelectorAll('main img, header img').length") == 0
            assert name in await page.text("bundle")

    asyncio.run(look())


def test_it_holds_all_it_needs():
    page = http.PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"""https?://[^"' )]+""", page)) == {"http://www.w3.org/2000/svg"}, "a name of XML, not an address"
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=(?!\"data:)", page)
    assert "innerHTML" not in page


def test_every_field_it_reads_is_told(folder):
    from cutlayer.runtime.config import DaemonConfig
    from cutlayer.runtime.service import Service

    page = http.PAGE.read_text(encoding="utf-8")
    status = Service(lambda: DaemonConfig(bundle=str(folder / "policy.cutlayer"))).status()
    assert set(re.findall(r"\bstatus\.(\w+)", page)) <= set(status)
    assert set(re.findall(r"\bnow\.(\w+)", page)) <= set(Present.__struct_fields__)
