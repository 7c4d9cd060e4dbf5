"""The same runs on a Ray cluster of two nodes on this machine: the same bytes, also when a node is lost in the middle."""

from __future__ import annotations

import os
import warnings

import pytest

from cutlayer.agents.sweep import grid, job, local

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'cutlayer[ray]'")

GRID = """
[fixed]
requests = 20
episodes = 1
[grid]
policy = ["device-only", "greedy-ewma"]
seed = [0, 1, 2]
"""
STORE_BYTES = 80 * 1024 * 1024  # Ray wants 75 MiB at least; what is stored here are a few kilobytes


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A head without a processor on this machine's own address, and two nodes with one each."""
    for name, value in (
        ("RAY_AUTH_MODE", "disabled"),  # else it leaves a token in the home directory
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_DISABLE_MEMORY_MONITOR", "1"),  # another test's memory must not end a worker here
    ):
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of the libraries that it wraps
        try:
            made = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
            )
            for _ in range(2):
                made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        except Exception as error:  # noqa: BLE001 - Ray raises this very class where a node does not start in time
            pytest.skip(f"no Ray cluster starts here: {error}")
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.mark.slow
def test_a_cluster_gives_the_same_table_byte_for_byte_though_a_node_is_killed(cluster, tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(GRID, encoding="utf-8")
    given = grid.load(file)
    nodes = [*cluster.worker_nodes]

    def lose_a_node(share):
        # After the first run that ends: the other tasks are handed out, one of them runs on this node or waits for it.
        if share > 0 and len(nodes) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        swept = job.sweep(given, tmp_path / "ray", job.on_ray(cluster.address), lose_a_node)
    assert len(nodes) == 1, "a node was lost"
    assert (swept.runs, swept.made, swept.errors) == (6, 6, {})
    job.sweep(given, tmp_path / "here", local.here)
    assert (tmp_path / "ray" / "results.parquet").read_bytes() == (tmp_path / "here" / "results.parquet").read_bytes()
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_where_no_cluster_is_it_is_told_in_one_line(run, tmp_path, monkeypatch):
    def none(**given):
        raise ConnectionError("Could not find any running Ray instance.\nStart one.")

    monkeypatch.setattr(ray, "init", none)  # the real one waits for half a minute, or finds a cluster that is not ours
    file = tmp_path / "grid.toml"
    file.write_text(GRID, encoding="utf-8")
    code, _, err = run("sweep", file, "-o", tmp_path / "out", "--ray", "auto")
    assert code == 2
    assert "no Ray cluster at auto (Could not find any running Ray instance.)" in err
    assert "ray start --head" in err
    assert err.count("\n") == 1
