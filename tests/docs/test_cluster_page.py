"""The page about clusters holds what works: its grid is one, its RayJob is YAML with the parts that KubeRay asks for."""

from __future__ import annotations

import re

import yaml

from cutlayer.agents.sweep import grid, plan


def _blocks(root, language):
    return re.findall(rf"```{language}\n(.*?)```", (root / "docs" / "cluster.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_grid_of_the_page_names_as_many_runs_as_it_says(root, tmp_path):
    (text,) = _blocks(root, "toml")
    file = tmp_path / "grid.toml"
    file.write_text(text, encoding="utf-8")
    said = int(re.search(r"--dry-run +# (\d+) runs", _blocks(root, "sh")[0]).group(1))
    assert len(plan.runs(grid.load(file))) == said


def test_the_ray_job_is_one(root):
    (text,) = _blocks(root, "yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("cutlayer sweep ")
    assert "--ray auto" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    pins = (root / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}" in pins, "the cluster runs the Ray that is tested"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "OMP_NUM_THREADS", "value": "1"} in container["env"]
        assert container["resources"]["limits"] == container["resources"]["requests"], "what is promised is what is used"
    mounts = {mount["name"] for mount in groups[0]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in groups[0]["template"]["spec"]["volumes"]}


def test_the_cost_of_100_000_runs_follows_from_its_figures(root):
    """`N runs x S CPU-s = T CPU-s = H hours`, and the last times a price."""
    text = (root / "docs" / "cluster.md").read_text(encoding="utf-8")
    runs, each_s, total_s, hours = re.search(r"([\d,]+) runs × ([\d.]+) CPU-s = ([\d,]+) CPU-s = ([\d.]+) processor hours", text).groups()
    number = [float(one.replace(",", "")) for one in (runs, each_s, total_s, hours)]
    assert number[0] == 100_000
    assert number[0] * number[1] == number[2]
    assert abs(number[2] / 3600 - number[3]) < 0.05
