"""Device and edge over a real connection: split equals whole, and every request is answered whatever the edge does."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import threading
import zlib

import msgspec
import numpy as np
import pytest

from cutlayer.errors import ConfigError
from cutlayer.profiles import codecs
from cutlayer.profiles.cost import wire_bytes
from cutlayer.profiles.plans import PlanRow, PlanTable
from cutlayer.runtime.messages import Decision
from cutlayer.runtime.split import edge as edge_module
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split import run as split_run
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.connection import BACK_OFF_S
from cutlayer.runtime.split.device import DeviceAgent
from cutlayer.runtime.split.graphs import resumable
from cutlayer.runtime.split.pace import TracePace
from cutlayer.runtime.split.protocol import Reply, Status
from cutlayer.runtime.split.run import Drive

DEADLINE_S = 5.0  # far from what an inference takes, also on a busy machine
DEPTHS = (1, 2, 3, 4, 7)
SPLITS = [(exit_, partition) for exit_, depth in enumerate(DEPTHS) for partition in range(depth + 1)]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def sleep(self, duration_s):
        self.now_s += duration_s


@contextlib.contextmanager
def agent(graphs, address, **options):
    device = DeviceAgent(graphs, address, **options)
    try:
        yield device
    finally:
        device.close()


def chw(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)


def own_answer(graphs, image, partition):
    """What the device says by itself after `partition` layers, computed from the start."""
    answering, _ = resumable(graphs.shapes, partition)
    return answering, graphs.suffix(0, answering, chw(image))


def assert_close(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


# --- exactness


@pytest.fixture(scope="module")
def unsplit(network, image):
    """Logits of every exit by torch."""
    import torch

    with torch.no_grad():
        return [value[0].numpy() for value in network(torch.from_numpy(chw(image))[None])]


@pytest.mark.parametrize("split", SPLITS)
def test_split_anywhere_equals_the_whole_network(opened, edge, image, unsplit, split):
    exit_, partition = split
    with agent(opened, edge.address) as device:
        got = device.infer(image, exit_, partition, 32, DEADLINE_S)
    assert (got.status, got.exit, got.reason) == ("edge", exit_, "")
    assert got.predicted == unsplit[exit_].argmax()
    assert_close(got.logits, unsplit[exit_])
    assert got.sent_bytes == 48 + (3 * 128 * 128 if partition == 0 else 4 * math.prod(opened.shapes.cuts[partition]))


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_at_lower_bits_it_equals_the_codec_applied_here(opened, edge, image, bits):
    with agent(opened, edge.address) as device:
        for exit_, partition in SPLITS:
            got = device.infer(image, exit_, partition, bits, DEADLINE_S)
            x = chw(image)
            if partition > 0:
                coded = codecs.encode(opened.prefix(partition, x), bits)
                x = codecs.decode(coded.data, bits, coded.lo, coded.scale, opened.shapes.cuts[partition])
            assert got.status == "edge"
            np.testing.assert_array_equal(got.logits, opened.suffix(partition, exit_, x))


def test_device_only_sends_nothing(opened, image, unsplit):
    with agent(opened, Address("127.0.0.1", 1)) as device:
        for exit_, depth in enumerate(DEPTHS):
            got = device.infer(image, exit_, depth + 1, 0, DEADLINE_S)
            assert (got.status, got.exit, got.sent_bytes) == ("device", exit_, 0)
            assert_close(got.logits, unsplit[exit_])


def test_several_devices_get_their_own_answers(opened, edge):
    images = np.random.default_rng(4).integers(0, 256, (4, 128, 128, 3), dtype=np.uint8)
    answers = {}

    def run(which):
        with agent(opened, edge.address) as device:
            answers[which] = [device.infer(images[which], 4, partition, 32, DEADLINE_S) for partition in (0, 2, 5, 7)]

    threads = [threading.Thread(target=run, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in range(4):
        for got in answers[which]:
            assert got.status == "edge"
            assert_close(got.logits, opened.suffix(0, 4, chw(images[which])))


@pytest.mark.parametrize("plan", [(5, 0, 8), (-1, 0, 8), (0, 3, 8), (4, -1, 8), (4, 1, 3)])
def test_a_plan_the_network_does_not_have_is_refused(opened, image, plan):
    with agent(opened, Address("127.0.0.1", 1)) as device, pytest.raises(ConfigError, match=r"no (exit|partition|code)"):
        device.infer(image, *plan, DEADLINE_S)


def test_pixels_of_another_size_are_refused(opened, image):
    with agent(opened, Address("127.0.0.1", 1)) as device, pytest.raises(ConfigError, match=r"takes uint8 \(128, 128, 3\)"):
        device.infer(image[:64], 0, 0, 8, DEADLINE_S)


# --- emulation: a slower device, a slower link


def test_device_work_is_padded_to_its_target(opened, edge, image):
    clock = Clock()
    with agent(opened, edge.address, clock=clock, sleep=clock.sleep) as device:
        split, local = device.infer(image, 4, 2, 8, DEADLINE_S, pad_s=0.25), device.infer(image, 4, 8, 0, DEADLINE_S, pad_s=0.5)
    assert (split.status, split.device_s, split.latency_s, split.late_s) == ("edge", 0.25, 0.25, 0.0)
    assert (local.status, local.device_s, local.latency_s, local.late_s) == ("device", 0.5, 0.5, 0.0)


def test_a_paced_transfer_takes_as_long_as_the_link_needs(opened, edge, image):
    clock = Clock()
    with agent(opened, edge.address, pace=TracePace([10e6], 1.0), clock=clock, sleep=clock.sleep) as device:
        got = device.infer(image, 4, 2, 8, DEADLINE_S)
    assert got.status == "edge"
    assert got.send_s == pytest.approx(8 * wire_bytes(128 * 8 * 8) / 10e6, abs=1e-9)
    assert got.latency_s == got.exchange_s == got.send_s


def test_a_trace_is_followed_through_its_slots():
    pace = TracePace([8e3, 0.0, 16e3], 1.0, start_s=50.0)  # 1000, 0, 2000 bytes a slot
    body = 1000 - 66
    assert pace(body, 50.0) == pytest.approx(51.0)
    assert pace(body, 50.5) == pytest.approx(52.25)
    assert pace(body, 51.2) == pytest.approx(52.5)
    assert pace(body, 52.75) == pytest.approx(53.5)  # the trace begins again
    assert pace(3000, 50.0) == pytest.approx(53.198)  # three packets, over three slots


@pytest.mark.parametrize("rates", [[], [0.0, 0.0], [1e6, math.nan], [1e6, -1.0]])
def test_a_link_that_never_carries_anything_is_refused(rates):
    with pytest.raises(ConfigError, match="carry nothing"):
        TracePace(rates, 1.0)


def test_a_transfer_past_its_deadline_is_given_up_and_the_link_is_free(opened, edge, image):
    clock = Clock()
    pace = TracePace([1e5] + [1e9] * 1000, 1.0, start_s=100.0)  # slow for one second
    with agent(opened, edge.address, margin_s=0.05, pace=pace, clock=clock, sleep=clock.sleep) as device:
        late = device.infer(image, 4, 2, 8, 0.5)
        assert late.latency_s == pytest.approx(0.55)
        clock.now_s = 101.0
        after = device.infer(image, 4, 2, 8, 0.5)
    assert (late.status, late.exit) == ("fallback", 1)
    assert "no reply in time" in late.reason
    assert 0 < late.sent_bytes < 48 + 8192
    assert late.send_s == pytest.approx(0.55)
    assert (after.status, after.exit) == ("edge", 4)


def test_the_controllers_word_on_giving_up_counts_and_the_devices_own_answer_is_padded_too(opened, edge, image):
    clock = Clock()
    pace = TracePace([1e5] + [1e9] * 1000, 1.0, start_s=100.0)  # slow for one second
    with agent(opened, edge.address, pace=pace, clock=clock, sleep=clock.sleep) as device:
        got = device.infer(image, 4, 2, 8, 5.0, give_up_s=0.3, pad_s=0.1, fallback_pad_s=0.04)
    assert (got.status, got.exit) == ("fallback", 1)
    assert got.device_s == pytest.approx(0.1)
    assert got.device_s + got.exchange_s == pytest.approx(0.3)
    assert got.fallback_s == pytest.approx(0.04)
    assert got.latency_s == pytest.approx(0.34)


class Scripted:
    """A daemon's client that decides as it is told, and keeps what it hears."""

    def __init__(self, *decisions):
        self._decisions = list(decisions)
        self.asked, self.reported = [], []

    def ask(self, request):
        self.asked.append(request)
        plan, row, probe = self._decisions.pop(0)
        return Decision(request.id, plan, row.exit, row.partition, row.bits, "policy", "", 0.0, give_up_s=0.5, probe=probe)

    def report(self, outcome):
        self.reported.append(outcome)


def test_a_lost_edge_is_told_and_tried_when_the_controller_says_so(opened, image):
    """A closed port: the first request finds that out, the second is told to leave it, the third to probe."""
    rows = [
        PlanRow(4, 2, 8, 0.0, 0.0, 0.0, 0.0, 8192, 8600, 0.9, 0.0, 1, 0.0, 0.8, 0.0),
        PlanRow(4, 8, 0, *[0.0] * 4, 0, 0, 0.9, 0.0, 4, 0.0, 0.9, 0.0),
    ]
    table = PlanTable("alexnet", "slow", "fast", DEPTHS, tuple(rows))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = Address(*free.getsockname())
    client = Scripted((0, rows[0], False), (1, rows[1], False), (0, rows[0], True))
    runs = split_run.run(table, client, opened, address, np.stack([image] * 3), Drive([1e9], [1.0], 1.0), 0.4)
    assert [one.edge_reachable for one in client.asked] == [True, False, False]
    assert [(one.id, one.deadline_s) for one in client.asked] == [(1, 0.4), (2, 0.4), (3, 0.4)]
    assert [one.status for one in runs] == ["fallback", "device", "fallback"]
    assert [(one.id, one.plan, one.edge_wait_s) for one in client.reported] == [(1, 0, -1.0), (2, 1, -1.0), (3, 0, -1.0)]
    assert all(one.latency_s > 0.0 for one in client.reported)


# --- an edge that is gone, stopped, wrong or mad


def test_an_edge_killed_in_mid_run_is_made_up_for_and_found_again(opened, graphs_folder, start_edge, image):
    clock = Clock()
    with start_edge(graphs_folder) as first:
        device = DeviceAgent(opened, first.address, clock=clock, sleep=clock.sleep)
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"
        first.process.kill()
        first.process.wait()
    for partition in range(8):
        got = device.infer(image, 4, partition, 8, DEADLINE_S)
        answering, logits = own_answer(opened, image, partition)
        assert (got.status, got.exit) == ("fallback", answering)
        assert ("refused" in got.reason) == (partition == 0), "tried once, then left alone for a while"
        assert_close(got.logits, logits)
    with start_edge(graphs_folder, "--port", str(first.address.port)):
        clock.now_s += BACK_OFF_S
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"
        device.close()


def test_an_edge_restarted_between_two_requests_is_not_noticed(opened, graphs_folder, start_edge, image):
    with start_edge(graphs_folder) as first, agent(opened, first.address) as device:
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"
        first.process.terminate()
        assert first.process.wait() == 0
        with start_edge(graphs_folder, "--port", str(first.address.port)):
            assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"


def test_a_stopped_edge_costs_the_deadline_and_the_margin(opened, graphs_folder, start_edge, image):
    with start_edge(graphs_folder) as stopped, agent(opened, stopped.address, margin_s=0.05) as device:
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"
        os.kill(stopped.process.pid, signal.SIGSTOP)
        os.waitpid(stopped.process.pid, os.WUNTRACED)  # it stops a moment after it was told to
        got = device.infer(image, 4, 2, 8, 0.1)
        os.kill(stopped.process.pid, signal.SIGCONT)
        assert (got.status, got.exit) == ("fallback", 1)
        assert "no reply in time" in got.reason
        assert 0.15 <= got.device_s + got.exchange_s < 0.65, "deadline and margin, and what a busy machine adds"
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"


def test_an_edge_with_other_weights_refuses_and_the_device_answers(opened, linked_folder, start_edge, image):
    manifest = linked_folder / "graphs.json"
    text = manifest.read_text().replace(opened.manifest.weights_sha256, "ab" * 32)
    manifest.unlink()
    manifest.write_text(text)
    with start_edge(linked_folder) as other, agent(opened, other.address) as device:
        got = device.infer(image, 4, 3, 8, DEADLINE_S)
        assert (got.status, got.exit, got.sent_bytes) == ("fallback", 2, 0)
        assert "refused: wrong model" in got.reason
        assert_close(got.logits, own_answer(opened, image, 3)[1])


def good_reply(logits=bytes(40), **changes):
    fields = {"sequence": 2, "status": Status.OK, "length": len(logits), "crc": zlib.crc32(logits), "exit": 4} | changes
    return protocol.pack_reply(Reply(**fields)) + logits


MAD = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "half a header": good_reply()[:30],
    "half the logits": good_reply()[:60],
    "nothing": b"",
    "another request's reply": good_reply(sequence=3),
    "another exit's reply": good_reply(exit=3),
    "too many logits": good_reply(bytes(4000)),
    "a length beyond all memory": good_reply(length=2**32 - 1),
    "damaged logits": good_reply(crc=1),
    "a time that is no number": good_reply(queue_s=math.nan),
    "a damaged header": good_reply()[:47] + b"?" + bytes(40),
}


@pytest.mark.parametrize("answer", MAD.values(), ids=MAD.keys())
@pytest.mark.parametrize("greeted", [False, True])
def test_an_edge_that_sends_what_is_no_reply_is_made_up_for(opened, image, answer, greeted):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with listener.accept()[0] as peer:
                peer.recv(48, socket.MSG_WAITALL)
                if greeted:
                    peer.sendall(protocol.pack_reply(Reply(1, Status.OK)))
                    peer.recv(48 + 8192, socket.MSG_WAITALL)
                peer.sendall(answer)
                with contextlib.suppress(OSError):  # the device may have hung up already
                    peer.shutdown(socket.SHUT_WR)
                    peer.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with agent(opened, Address(*listener.getsockname())) as device:
            got = device.infer(image, 4, 2, 8, DEADLINE_S)
        thread.join()
    assert (got.status, got.exit) == ("fallback", 1)
    assert got.reason
    assert_close(got.logits, own_answer(opened, image, 2)[1])


class Meddler:
    """Stands between a device and an edge, and spoils the second frame of one direction (the first one is the greeting) once."""

    def __init__(self, edge, spoil, *, up):
        self._edge, self._spoil, self._up = edge, spoil, up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._listener.getsockname())
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._sockets = []

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for one in self._sockets:
            shut(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _serve(self):
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._edge.host, self._edge.port))
            self._sockets += [device, server]
            for source, target, spoilt in ((device, server, self._up), (server, device, not self._up)):
                self._threads.append(threading.Thread(target=self._carry, args=(source, target, spoilt), daemon=True))
                self._threads[-1].start()

    def _carry(self, source, target, spoilt):
        frames = 0
        with contextlib.suppress(OSError):
            while header := source.recv(48, socket.MSG_WAITALL):
                frame = header + source.recv(int.from_bytes(header[36:40], "little"), socket.MSG_WAITALL)
                frames += 1
                meddle, self._spoil = (self._spoil, None) if spoilt and frames == 2 else (None, self._spoil)
                if meddle is None:
                    target.sendall(frame)
                elif sent := meddle(frame):
                    target.sendall(sent)
                    if len(sent) < len(frame):
                        break
        shut(source)
        shut(target)


def shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def flipped(at):
    return lambda frame: frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


FAULTS = {
    "corrupt header": (flipped(20), True, "refused: bad frame"),
    "corrupt tensor": (flipped(500), True, "refused: bad checksum"),
    "truncated request": (lambda frame: frame[:2000], True, "closed the connection|reset by peer"),
    "swallowed request": (lambda _: b"", True, "no reply in time"),
    "wrong model": (lambda frame: reframed(frame, model=b"another!"), True, "refused: wrong model"),
    "corrupt reply": (flipped(20), False, "header was damaged"),
    "corrupt logits": (flipped(60), False, "logits were damaged"),
    "truncated reply": (lambda frame: frame[:70], False, "closed the connection|reset by peer"),
    "swallowed reply": (lambda _: b"", False, "no reply in time"),
}


def reframed(frame, **changes):
    return protocol.pack_request(msgspec.structs.replace(protocol.parse_request(frame[:48]), **changes)) + frame[48:]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_the_way_is_named_and_the_device_answers_and_goes_on(opened, edge, image, fault):
    spoil, up, reason = FAULTS[fault]
    with Meddler(edge.address, spoil, up=up) as meddler, agent(opened, meddler.address) as device:
        got = device.infer(image, 4, 2, 8, DEADLINE_S, give_up_s=0.3 if "swallowed" in fault else DEADLINE_S)
        assert (got.status, got.exit) == ("fallback", 1)
        assert re.search(reason, got.reason), got.reason
        assert_close(got.logits, own_answer(opened, image, 2)[1])
        assert device.infer(image, 4, 2, 8, DEADLINE_S).status == "edge"


@pytest.mark.parametrize("up", [True, False])
def test_a_replayed_frame_costs_the_connection_and_no_answer(opened, edge, image, up):
    """The first copy is answered; the second is an error: the edge's where a request comes again, the device's where a reply does."""
    with Meddler(edge.address, lambda frame: frame + frame, up=up) as meddler, agent(opened, meddler.address) as device:
        for _ in range(3):
            got = device.infer(image, 4, 2, 8, DEADLINE_S)
            assert (got.status, got.exit) in {("edge", 4), ("fallback", 1)}
        assert got.status == "edge"


# --- the command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(opened, graphs_folder, start_edge, image, number):
    with start_edge(graphs_folder) as running, agent(opened, running.address) as device:
        assert device.infer(image, 0, 1, 8, DEADLINE_S).status == "edge"  # a device stays connected
        running.process.send_signal(number)
        assert running.process.wait() == 0
        assert running.process.stdout.read() == ""


def one_line(capsys, *argv):
    assert edge_module.main([str(word) for word in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_bad_input_is_one_line_and_exit_code_2(capsys, graphs_folder, linked_folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use; stop what listens there" in one_line(capsys, "--graphs", graphs_folder, "--port", port)
    assert f"cannot read {tmp_path}/nowhere/graphs.json" in one_line(capsys, "--graphs", tmp_path / "nowhere")
    assert "add --insecure" in one_line(capsys, "--graphs", graphs_folder, "--host", "0.0.0.0")  # noqa: S104 - refused is the point
    assert "--port 99999 is no port" in one_line(capsys, "--graphs", graphs_folder, "--port", 99999)
    assert "--idle-s 0.0 is out of range" in one_line(capsys, "--graphs", graphs_folder, "--idle-s", 0)
    assert "--graphs; see cutlayer-edge --help" in one_line(capsys)
    graph = linked_folder / "suffix_3_4.onnx"
    data = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(data[: len(data) // 2])
    assert f"{graph} ({len(data) // 2} bytes) is not what graphs.json lists" in one_line(capsys, "--graphs", linked_folder)


@pytest.mark.parametrize(
    ("codec", "unit", "name"), [("zstd", "", "e1 p1 8b zstd"), ("bottle6", "bottle6@1", "e1 p1 bottle6"), ("jpeg", "", "e0 jpeg")]
)
def test_a_table_whose_codecs_it_does_not_speak_is_refused_before_anything_is_asked_or_sent(plans, image, codec, unit, name):
    at = 0 if codec == "jpeg" else 5
    rows = [msgspec.structs.replace(row, codec=codec, unit=unit) if plan == at else row for plan, row in enumerate(plans.rows)]
    table = PlanTable(plans.model, plans.device, plans.edge, plans.depths, tuple(rows))
    with pytest.raises(ConfigError) as caught:
        split_run.run(table, client=None, graphs=None, address=None, pixels=image[None], drive=None, deadline_s=1.0)
    assert str(caught.value) == (
        f"1 plans of the table, the first of them {name!r}, are coded by {codec}, which split inference does not speak; give a plan "
        "table, and a policy for it, with affine plans only"
    )


def test_the_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        edge_module.main(["--help"])
    assert ended.value.code == 0
    assert "cutlayer-edge --graphs runs/demo/graphs" in capsys.readouterr().out
