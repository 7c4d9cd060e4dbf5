"""Requests of one window in one run: the same answers, one run for all of them, nobody waits for longer, nobody harms another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutlayer.errors import ConfigError
from cutlayer.profiles import cuts
from cutlayer.profiles import graphs as exporter
from cutlayer.runtime.split import edge as edge_module
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.address import connect
from cutlayer.runtime.split.computing import Batches
from cutlayer.runtime.split.device import DeviceAgent
from cutlayer.runtime.split.edge import EdgeServer
from cutlayer.runtime.split.graphs import Graphs
from cutlayer.runtime.split.protocol import Request, Shapes, Status

PATIENCE_S = 30.0  # for what happens at once, on a machine that has other things to do
WINDOW_S = 0.25


class Counting:
    """Graphs of two exits behind one cut of four bytes: the logits are the exit and the sum, so that each request has its own answer.

    runs holds how many requests each run had. A tensor with 13 in front is at fault: it fails, and every batch with it.
    """

    def __init__(self):
        self.shapes = Shapes(b"8 bytes!", (1, 2), ((3, 2, 2), (4,), (4,)), 2)
        self.runs = []

    def suffix(self, partition, exit_, x):
        return self._run(exit_, x[None])[0]

    def suffixes(self, partition, exit_, x):
        return self._run(exit_, x)

    def _run(self, exit_, x):
        self.runs.append(len(x))
        if (x[:, 0] == 13).any():
            raise ValueError("at fault")
        return np.stack([np.full(len(x), exit_), x.sum(axis=1)], axis=1).astype(np.float32)


class Clock:
    """Time that passes only while somebody waits, for as long as he would; each wait is kept."""

    def __init__(self, now_s=100.0):
        self.now_s = now_s
        self.waits_s = []

    def __call__(self):
        return self.now_s

    def wait(self, _full, wait_s):
        self.waits_s.append(wait_s)
        self.now_s += wait_s


class Together(Clock):
    """As `Clock`, but time stands still until each of so many batches has all its members."""

    def __init__(self, batches):
        super().__init__()
        self._all = threading.Barrier(batches, timeout=PATIENCE_S)

    def wait(self, full, wait_s):
        assert full.wait(PATIENCE_S)
        if self._all.wait() == 0:
            super().wait(full, wait_s)
        self._all.wait()


def asked(first, **changes):
    """A request for exit 0 from cut 1, and its payload."""
    payload = bytes([first, 1, 2, 3])
    fields = {"sequence": 1, "model": b"8 bytes!", "length": 4, "crc": zlib.crc32(payload), "partition": 1, "bits": 8} | changes
    return Request(**fields), payload


def answers(graphs, *requests, batches=1):
    """What each request gets, all of them in one window and in so many batches of one size."""
    clock = Together(batches)
    compute = Batches(graphs, WINDOW_S, len(requests) // batches, clock, clock.wait)
    with ThreadPoolExecutor(len(requests)) as pool:
        return [one.result(PATIENCE_S) for one in [pool.submit(compute, *request, 100.0) for request in requests]]


def sums(got):
    return [tuple(np.frombuffer(logits, np.float32)) for _, logits, _ in got]


def test_those_of_one_window_make_one_run_and_each_gets_its_own_answer():
    graphs = Counting()
    got = answers(graphs, asked(1), asked(2), asked(3))
    assert graphs.runs == [3]
    assert [status for status, _, _ in got] == [Status.OK] * 3
    assert sums(got) == [(0, 7), (0, 8), (0, 9)]
    assert [times for _, _, times in got] == [(WINDOW_S, 0.0, 0.0)] * 3


def test_through_the_server_so_many_requests_make_one_run():
    graphs = Counting()
    with EdgeServer(graphs, compute=Batches(graphs, 1e4, 4)) as server, contextlib.ExitStack() as stack:
        thread = threading.Thread(target=server.serve)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.stop)
        peers = [stack.enter_context(connect(server.address, PATIENCE_S)) for _ in range(4)]
        for first, peer in enumerate(peers):
            request, payload = asked(first)
            peer.sendall(protocol.pack_request(request) + payload)
        for first, peer in enumerate(peers):
            reply = protocol.parse_reply(peer.recv(48))
            assert reply.status == Status.OK
            assert tuple(np.frombuffer(peer.recv(8), np.float32)) == (0, first + 6)
    assert graphs.runs == [4], "and none waited for the end of the window, which is hours away"


@pytest.mark.parametrize("into_s", [0.0, 0.1, 0.2499])
def test_a_request_alone_waits_for_the_end_of_its_window_and_no_longer(into_s):
    graphs, clock = Counting(), Clock(100.0 + into_s)
    status, logits, (queue_s, decode_s, compute_s) = Batches(graphs, WINDOW_S, 8, clock, clock.wait)(*asked(1), clock.now_s)
    assert (status, tuple(np.frombuffer(logits, np.float32)), decode_s, compute_s) == (Status.OK, (0, 7), 0.0, 0.0)
    assert clock.waits_s == [pytest.approx(WINDOW_S - into_s)]
    assert queue_s == pytest.approx(WINDOW_S - into_s)
    assert graphs.runs == [1]


def test_who_comes_when_the_window_has_ended_is_in_the_next_one():
    """Also while the first one's thread has not been woken yet: here the second comes in the middle of its wait."""
    graphs, clock, got = Counting(), Clock(), []

    def wait(full, wait_s):
        clock.wait(full, wait_s)
        if len(clock.waits_s) == 1:
            got.append(compute(*asked(2), clock.now_s))

    compute = Batches(graphs, WINDOW_S, 8, clock, wait)
    got.append(compute(*asked(1), clock.now_s))
    assert clock.waits_s == [WINDOW_S, WINDOW_S]
    assert sums(got) == [(0, 8), (0, 7)]
    assert graphs.runs == [1, 1]


def test_another_exit_is_another_batch():
    graphs = Counting()
    got = answers(graphs, asked(1), asked(2, exit=1), asked(3), asked(4, exit=1), batches=2)
    assert sums(got) == [(0, 7), (1, 8), (0, 9), (1, 10)]
    assert graphs.runs == [2, 2]


def test_what_is_late_when_the_batch_begins_is_not_computed():
    graphs = Counting()
    got = answers(graphs, asked(1, deadline_s=0.2), asked(2, deadline_s=0.3), asked(3))
    assert [status for status, _, _ in got] == [Status.LATE, Status.OK, Status.OK]
    assert got[0][1:] == (b"", (WINDOW_S, 0.0, 0.0))
    assert sums(got)[1:] == [(0, 8), (0, 9)]
    assert graphs.runs == [2]


def test_one_that_fails_harms_no_other_of_its_batch(caplog):
    graphs = Counting()
    got = answers(graphs, asked(1), asked(13), asked(3))
    assert [status for status, _, _ in got] == [Status.OK, Status.FAILED, Status.OK]
    assert sums(got)[::2] == [(0, 7), (0, 9)]
    assert graphs.runs == [3, 1, 1, 1], "together, and then each by itself"
    assert "ValueError: at fault" in caplog.text


def test_one_that_cannot_be_decoded_joins_no_batch(caplog):
    graphs, clock = Counting(), Clock()
    compute = Batches(graphs, WINDOW_S, 8, clock, clock.wait)
    assert compute(asked(5)[0], b"\0\0", 100.0) == (Status.FAILED, b"", (0.0, 0.0, 0.0))
    assert (graphs.runs, clock.waits_s) == ([], [])
    assert "does not hold a tensor" in caplog.text


# --- real graphs


def test_a_run_of_several_gives_what_each_gives_alone(opened):
    rng = np.random.default_rng(6)
    for exit_, depth in enumerate(opened.shapes.depths):
        for partition in {0, depth // 2, depth}:
            x = rng.uniform(0, 1 if partition else 255, (3, *opened.shapes.cuts[partition])).astype(np.float32)
            alone = np.stack([opened.suffix(partition, exit_, one) for one in x])
            np.testing.assert_allclose(opened.suffixes(partition, exit_, x), alone, rtol=0, atol=1e-4 * max(1.0, np.abs(alone).max()))


def test_devices_that_come_together_are_answered_as_if_alone(opened, graphs_folder, start_edge):
    images = np.random.default_rng(7).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    got = [None, None]
    with start_edge(graphs_folder, "--batch-window-ms", "2000", "--batch", "2") as edge:

        def run(which):
            with contextlib.closing(DeviceAgent(opened, edge.address)) as device:
                got[which] = device.infer(images[which], 4, 2, 32, PATIENCE_S)

        threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for image, one in zip(images, got, strict=True):
        whole = opened.suffix(0, 4, np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))
        assert one.status == "edge"
        np.testing.assert_allclose(one.logits, whole, rtol=0, atol=1e-4 * max(1.0, np.abs(whole).max()))


def test_graphs_of_an_earlier_version_take_one_at_a_time_and_say_so(linked_folder):
    """Their first axis was 1 once and for all."""
    import onnx

    path = linked_folder / "suffix_2_1.onnx"
    graph = onnx.load(path)
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    data = graph.SerializeToString()
    manifest = linked_folder / exporter.MANIFEST
    listed = json.loads(manifest.read_bytes())
    listed["files"][path.name] = hashlib.sha256(data).hexdigest()
    for file, content in ((path, data), (manifest, json.dumps(listed).encode())):
        file.unlink()
        file.write_bytes(content)
    old = Graphs(linked_folder)
    x = np.zeros((2, *old.shapes.cuts[2]), np.float32)
    assert old.suffix(2, 1, x[0]).shape == (10,)
    with pytest.raises(ConfigError, match=r"suffix_2_1\.onnx maps .*; export the graphs anew"):
        old.suffixes(2, 1, x)


def test_a_network_that_takes_one_image_at_a_time_is_exported_all_the_same(tmp_path):
    import torch
    from torch import nn

    class BranchesOnShape(nn.Module):
        """Readable by torch.export alone, which keeps the batch it was read with."""

        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            x = self.first(x).relu()
            return self.last(x.mean((2, 3)).reshape(len(x), -1) if x.shape[2] > 1 else x.flatten(1))

    torch.manual_seed(1)
    network = cuts.chain(BranchesOnShape(), input_shape=(3, 8, 8), name="one")
    exporter.export(network, tmp_path / "graphs")
    opened = Graphs(tmp_path / "graphs")
    x = np.random.default_rng(8).uniform(0, 255, (2, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(opened.suffix(0, 0, x[0]), network(torch.from_numpy(x[:1]))[-1][0].numpy(), rtol=1e-4)
    with pytest.raises(ConfigError, match="suffix_0_0"):
        opened.suffixes(0, 0, x)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch-window-ms", "-1"), "--batch-window-ms -1.0 is out of range"),
        (("--batch-window-ms", "nan"), "--batch-window-ms nan is out of range"),
        (("--batch", "1"), "--batch 1 is out of range"),
        (("--batch-window-ms", "5", "--batch", "4", "--queue", "2"), "--queue 2 is too short for a batch of 4; give at least 3"),
    ],
)
def test_bad_options_are_one_line(capsys, graphs_folder, words, said):
    assert edge_module.main(["--graphs", str(graphs_folder), *words]) == 2
    assert said in capsys.readouterr().err
