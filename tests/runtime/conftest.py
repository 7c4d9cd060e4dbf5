"""A network with fresh weights, its graphs exported once, and edge servers in processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from cutlayer.profiles import graphs, zoo
from cutlayer.profiles.cost import Path, deadline
from cutlayer.profiles.plans import PlanRow, PlanTable
from cutlayer.runtime import features
from cutlayer.runtime.bundle import GOLDEN, Bundle, Golden
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.graphs import Graphs


class Edge:
    """A running `cutlayer-edge`."""

    def __init__(self, process):
        self.process = process
        ready = json.loads(process.stdout.readline())
        assert ready.pop("ready") is True
        self.address = Address.parse(ready["address"])


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


# --- for what decides: a table of eight plans in round numbers, and a policy for it that never learned anything


@pytest.fixture(scope="session")
def plans():
    """Two exits behind layers of 10 and 40 ms, an edge ten times as fast; every offloading plan sends little."""
    return PlanTable(
        "tiny", "slow", "fast", (1, 2),
        (
            PlanRow(0, 0, 8, 0.000, 0.0005, 0.00005, 0.0010, 3072, 3318, 0.60, 0.0010, 0, 0.011, 0.6, 0.022),
            PlanRow(0, 1, 8, 0.010, 0.0002, 0.00002, 0.0001, 512, 626, 0.59, 0.0204, 0, 0.001, 0.6, 0.002),
            PlanRow(0, 2, 0, 0.011, 0.0000, 0.00000, 0.0000, 0, 0, 0.60, 0.0220, 0, 0.000, 0.6, 0.000),
            PlanRow(1, 0, 8, 0.000, 0.0005, 0.00005, 0.0052, 3072, 3318, 0.80, 0.0010, 0, 0.011, 0.6, 0.022),
            PlanRow(1, 1, 2, 0.010, 0.0001, 0.00001, 0.0042, 128, 242, 0.70, 0.0202, 0, 0.001, 0.6, 0.002),
            PlanRow(1, 1, 8, 0.010, 0.0002, 0.00002, 0.0042, 512, 626, 0.79, 0.0204, 0, 0.001, 0.6, 0.002),
            PlanRow(1, 2, 8, 0.050, 0.0002, 0.00002, 0.0002, 256, 370, 0.80, 0.1004, 1, 0.002, 0.8, 0.004),
            PlanRow(1, 3, 0, 0.052, 0.0000, 0.00000, 0.0000, 0, 0, 0.80, 0.1040, 1, 0.000, 0.8, 0.000),
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_policy():
    """A random network from features to so many plans; it finds each observation worth another one."""

    def make(outputs, seed=1, activation="tanh", hidden=16):
        rng = np.random.default_rng(seed)
        sizes = (features.SIZE, hidden, hidden, outputs)
        layers = [(rng.normal(0, 1.0 / np.sqrt(a), (b, a)), rng.normal(0, 0.1, b)) for a, b in itertools.pairwise(sizes)]
        return Mlp([(w.astype(np.float32), b.astype(np.float32)) for w, b in layers], activation)

    return make


@pytest.fixture(scope="session")
def make_bundle(plans, make_policy):
    """A whole bundle for a table (by default the small one), with the golden decisions of its own policy."""

    def make(table=plans, policy=None, path=Path(rtt_s=0.02), objective=deadline(0.1), algorithm="none"):  # noqa: B008 - frozen values
        policy = policy if policy is not None else make_policy(len(table))
        observations = np.random.default_rng(2).uniform(features.LOW, features.HIGH, (GOLDEN, features.SIZE)).astype(np.float32)
        chosen = [int(policy.logits(one).argmax()) for one in observations]
        golden = Golden(observations.tolist(), chosen)
        return Bundle("tiny-scenario", algorithm, table, path, objective, policy, golden, {"commit": "none", "steps": 0})

    return make
