"""Emulated links between real processes: bytes arrive whole and never sooner than rate and delay allow, and nothing stays behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import link as links
from cutlayer.runtime.testbed import shaped
from cutlayer.runtime.testbed.pipe import UNLIMITED_BPS, Conditions
from cutlayer.runtime.testbed.ways import Ways

EDGE = """
import hashlib, socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    peer, _ = listener.accept()
    with peer:
        while True:
            head = peer.recv(4, socket.MSG_WAITALL)
            if len(head) < 4:
                break
            body = b""
            while len(body) < int.from_bytes(head, "big"):
                got = peer.recv(65536)
                if not got:
                    break
                body += got
            try:
                peer.sendall(hashlib.sha256(body).digest())
            except OSError:
                break
"""
# Sends each size given and waits for its digest; prints [seconds, digest] of each.
DEVICE = """
import hashlib, json, random, socket, sys, time
host, port, *sizes = sys.argv[1:]
out = []
with socket.create_connection((host, int(port)), timeout=30) as peer:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for size in map(int, sizes):
        body = random.Random(size).randbytes(size)
        start = time.monotonic()
        peer.sendall(size.to_bytes(4, "big") + body)
        digest = peer.recv(32, socket.MSG_WAITALL)
        out.append([time.monotonic() - start, digest.hex() == hashlib.sha256(body).hexdigest()])
print(json.dumps(out))
"""


@pytest.fixture(params=list(links.BACKENDS))
def link(request):
    reason = links.unavailable(request.param)
    if reason:
        pytest.skip(reason)
    with links.BACKENDS[request.param](seed=1) as made:
        yield made


@pytest.fixture
def edge(link):
    """Port of a process at the edge's end that answers each message by its digest."""
    process = subprocess.Popen(link.on_edge([sys.executable, "-c", EDGE, link.edge_host]), stdout=subprocess.PIPE)
    yield int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def send(link, address, *sizes):
    command = link.on_device([sys.executable, "-c", DEVICE, *map(str, (*address, *sizes))])
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bytes_arrive_whole_and_not_before_rate_and_delay_allow(link, edge):
    address = link.reach(edge)
    link.set(up=Conditions(rate_bps=4e6, delay_s=0.03), down=Conditions(delay_s=0.02))
    sizes = (1_000, 40_000, 120_000)
    credit = shaped.BURST_BYTES if link.name == "tbf" else 0  # a token bucket that lay idle lets so much through at once
    for (took_s, whole), size in zip(send(link, address, *sizes), sizes, strict=True):
        assert whole
        assert took_s >= 8 * max(0, size - credit) / 4e6 + 0.05


def test_without_conditions_it_is_fast_enough_for_a_hundred_messages(link, edge):
    assert all(whole for _, whole in send(link, link.reach(edge), *range(1, 100_001, 1_000)))


def test_the_rate_can_change_under_a_transfer(link, edge):
    """An outage in the middle of it: nothing is lost, and it ends once the link is back."""
    address = link.reach(edge)
    rates = [0.4e6, 0.0, 8e6]  # 10 kB in the first 0.2 s, the rest after an outage of 0.2 s
    with links.Replay(link, rates, 0.2, Conditions()):
        ((took_s, whole),) = send(link, address, 60_000)
    assert whole
    assert took_s > 0.0


def test_two_connections_share_the_rate(link, edge):
    address = link.reach(edge)
    link.set(up=Conditions(rate_bps=2e6))
    commands = [link.on_device([sys.executable, "-c", DEVICE, *map(str, (*address, 50_000))]) for _ in range(2)]
    start_s = time.monotonic()
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    assert all(json.loads(one.communicate(timeout=60)[0])[0][1] for one in both)
    assert time.monotonic() - start_s >= 8 * (100_000 - shaped.BURST_BYTES) / 2e6


def test_a_connection_that_ends_ends_at_the_other_side_too(link, edge):
    """The edge serves one connection after the other: the second answer shows that the first was closed."""
    address = link.reach(edge)
    for _ in range(2):
        assert send(link, address, 5_000)[0][1]


def test_nothing_stays_behind_when_its_owner_is_killed():
    """The emulator reads the end of its stdin; with it go its namespaces, which have no names."""
    if reason := links.unavailable("tun"):
        pytest.skip(reason)
    code = (
        "import time\nfrom cutlayer.runtime.testbed import link as links\n"
        "with links.TunLink() as link:\n    print(link._emulator.ready['pid'], flush=True)\n    time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    emulator = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    descriptor = os.pidfd_open(emulator) if _alive(emulator) else None
    if descriptor is not None:
        assert select.select([descriptor], [], [], 30)[0], "the emulator outlived its owner"
        os.close(descriptor)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_loss_makes_tcp_send_again(link, edge):
    if link.name == "proxy":
        with pytest.raises(ConfigError, match="cannot lose packets"):
            link.set(up=Conditions(loss=0.1))
        return
    address = link.reach(edge)
    link.set(up=Conditions(rate_bps=50e6, delay_s=0.001, loss=0.05))
    assert all(whole for _, whole in send(link, address, *([30_000] * 10)))
    assert link.set()["lost"] > 0


def test_a_command_that_makes_no_sense_is_refused_and_the_link_goes_on():
    ways = Ways(0)
    answers = [json.loads(line) for line in ways.obey(b'{"up":{"rate_bps":-1}}\n{"sideways":{}}\n{"up":{"rate').splitlines()]
    assert ["rate of the link" in answers[0]["error"], "sideways" in answers[1]["error"]] == [True, True]
    assert json.loads(ways.obey(b'_bps":5}}\n')) == {"dropped": 0, "lost": 0}
    assert ways.up.conditions.rate_bps == 5


def test_an_unknown_backend_is_named():
    assert "known: tun, proxy" in links.unavailable("carrier-pigeon")


@pytest.mark.parametrize(
    ("rate_bps", "rate", "burst"),
    [(0.0, 8, 1600), (8e6, 990753, 1600), (100e6, 12384412, 6192), (1e12, 1238441215, 619221)],
)
def test_a_bucket_holds_a_packet_or_half_a_millisecond_and_an_outage_is_next_to_nothing(rate_bps, rate, burst):
    """The rate is of Ethernet's bytes, 14 more a packet than the kernel counts: 1,500 of 1,514."""
    assert shaped.bucket(rate_bps, 262144) == {"rate": rate, "burst": burst, "limit": 262144}


def test_the_kernel_is_told_a_rate_once_and_delay_and_loss_stay_with_us():
    class Told:
        def __init__(self):
            self.rates = []

        def set(self, rate_bps):
            self.rates.append(rate_bps)

    up, down = Told(), Told()
    ways = shaped.ShapedWays(0, up, down)
    ways.obey(b'{"up":{"rate_bps":4e6,"delay_s":0.03,"loss":0.1}}\n')
    assert (up.rates, down.rates) == ([4e6], [])
    assert ways.up.conditions == Conditions(UNLIMITED_BPS, 0.03, 0.0, 0.1)


def test_without_pyroute2_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(ConfigError, match=r"pip install 'cutlayer\[testbed\]'"):
        shaped.Shaper(1)
