"""A network with fresh weights, its graphs exported once, and edge servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest

from cutlayer.profiles import graphs, zoo
from cutlayer.runtime.split.graphs import Graphs


class Edge:
    """A running `cutlayer-edge`."""

    def __init__(self, process):
        self.process = process
        ready = json.loads(process.stdout.readline())
        assert ready.pop("ready") is True
        self.address = (ready["host"], ready["port"])


@contextlib.contextmanager
def running_edge(folder, *options):
    command = [sys.executable, "-m", "cutlayer.runtime.split.edge", "--graphs", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Edge(process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def start_edge():
    """Context manager that runs an edge on a folder of graphs."""
    return running_edge


@pytest.fixture(scope="session")
def network():
    """AlexNet with fresh weights, and batch norm that has seen some pixels: else every activation is near zero."""
    import torch

    network = zoo.build("alexnet", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randint(0, 256, (8, *network.input_shape), generator=generator).float())
    network.eval()
    return network


@pytest.fixture(scope="session")
def graphs_folder(network, tmp_path_factory):
    """The graphs of `network`; not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "graphs"
    graphs.export(network, folder)
    return folder


@pytest.fixture(scope="session")
def opened(graphs_folder):
    return Graphs(graphs_folder)


@pytest.fixture(scope="session")
def edge(graphs_folder):
    """One edge for all tests that leave it alive."""
    with running_edge(graphs_folder) as edge:
        yield edge


@pytest.fixture
def linked_folder(graphs_folder, tmp_path):
    """A folder of graphs that may be tampered with: links, so replace a file, do not write to it."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    for file in graphs_folder.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="session")
def image():
    """One image, (128, 128, 3) uint8."""
    return np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)
