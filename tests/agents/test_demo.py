"""The main job end to end, small: every stage is real, only shorter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cutlayer.agents.demo import Size, demo, table

if TYPE_CHECKING:
    from pathlib import Path

POLICIES = ["device-only", "edge-only", "best-static", "greedy-ewma", "ppo", "sac-d", "clairvoyant"]
FIGURES = {"reward_mean", "latency_p50_s", "latency_p95_s", "latency_p99_s", "miss_rate", "accuracy", "energy_j"}
SMALL = Size(runs=5, accuracy_images=50, steps=3_000, episodes=3, decisions=300, split_images=12)


@pytest.mark.slow
@pytest.mark.parametrize("real", [True, False], ids=["real-inputs", "generated-inputs"])
def test_every_stage_runs_and_says_what_it_used(
    real: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = request.getfixturevalue("data_dir") if real else tmp_path / "nothing"
    monkeypatch.setenv("CUTLAYER_DATA", str(data))
    summary = demo(tmp_path / "run", size=SMALL)

    kind = "real: " if real else "generated: "
    assert all(summary["inputs"][key].startswith(kind) for key in ("traces", "images"))
    assert f"traces: {kind}" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
    assert json.loads((tmp_path / "run/run.json").read_text()) == summary["run"]
    assert (tmp_path / "run/policy_map.png").stat().st_size > 10_000

    assert sorted(summary["policies"]) == sorted(POLICIES)
    assert all(set(row) == FIGURES for row in summary["policies"].values())
    best = summary["policies"]["clairvoyant"]["reward_mean"]
    assert all(row["reward_mean"] <= best for row in summary["policies"].values())

    served = summary["daemon"]
    assert served["decisions"] == SMALL.decisions
    # What a hard world and a policy of three thousand steps may lead to; nothing that is the daemon's own or the agent's.
    assert set(served["reasons"]) <= {"deadline-infeasible", "observation-outside-training"}
    assert served["fallbacks"] <= sum(served["reasons"].values())
    split = summary["split"]
    assert split["requests"] == split["agree_with_unsplit"] == SMALL.split_images
    assert sum(split["answered_by"].values()) == SMALL.split_images
    assert (split["correct"] is not None) == real
    assert "clairvoyant" in table(summary)


def test_the_published_run_holds_what_the_readme_claims(root: Path) -> None:
    summary = json.loads((root / "docs/results/demo/summary.json").read_text(encoding="utf-8"))
    reward = {name: row["reward_mean"] for name, row in summary["policies"].items()}
    for learned in ("ppo", "sac-d"):
        assert reward[learned] > max(reward["device-only"], reward["edge-only"], reward["best-static"])
        assert reward[learned] <= reward["clairvoyant"]
    assert summary["daemon"]["decisions"] == 2_000
    assert summary["daemon"]["fallbacks"] == 0
    assert summary["split"]["agree_with_unsplit"] == summary["split"]["requests"] == 100
    assert summary["inputs"]["traces"].startswith("real: ")
    assert not summary["run"]["commit"].endswith("+"), "the published run was made from a changed tree"
