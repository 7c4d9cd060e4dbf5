"""The soak finds nothing where all is well, and finds what is wrong where something is."""

from __future__ import annotations

import dataclasses

import pytest

from cutlayer.agents import soak
from cutlayer.runtime.ladder import FAULTS

GOOD = soak.Found(decisions=10, warm_rss_bytes=50_000_000, end_rss_bytes=50_000_000, exit_code=0)


def test_a_short_one_finds_nothing():
    """Five thousand decisions; memory is for the long one, which is warm before it is measured."""
    result = soak.run(decisions=5_000, reloads=12, edge_losses=4)
    assert [words for words in result["failures"] if not words.startswith("memory")] == []
    assert (result["decisions"], result["reloads"], result["refused_reloads"], result["edge_losses"]) == (5_000, 12, 2, 4)
    assert 0.03 < result["malformed"] / 5_000 < 0.07
    # All that is to go wrong did: both guards and both ways to lose an edge.
    assert {"edge-unreachable", "observation-outside-training", "deadline-infeasible"} <= set(result["faults"]) <= FAULTS
    assert result["warm_rss_bytes"] > 20_000_000


def test_a_daemon_that_decides_otherwise_is_found(monkeypatch):
    """The controller beside it misses a reload: so does the daemon, from where it stands."""
    monkeypatch.setattr(soak.Twin, "reload", lambda self, given: None)
    result = soak.run(decisions=1_500, reloads=1, edge_losses=0)
    assert result["wrong"] > 100
    assert any('wrong replies, the first: b\'{"id":' in words for words in result["failures"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wrong": 1, "first_wrong": "x in place of y"}, "1 wrong replies, the first: x in place of y"),
        ({"missing": 2}, "2 replies never came"),
        ({"end_rss_bytes": 52_000_000}, "memory grew by 2000000 bytes"),
        ({"unequal": ["lost 1, not 2"]}, "counters differ: lost 1, not 2"),
        ({"exit_code": 2}, "the daemon ended with 2"),
    ],
)
def test_what_does_not_hold_is_said(change, said):
    assert GOOD.failures() == []
    (words,) = dataclasses.replace(GOOD, **change).failures()
    assert words.startswith(said)


def test_a_failed_soak_fails_the_command(run, monkeypatch):
    monkeypatch.setattr(soak, "run", lambda *_: {"failures": ["2 replies never came"]})
    code, out, err = run("bench", "soak", "--json", "--decisions", "1")
    assert code == 2
    assert '"failures"' in out
    assert "the soak failed: 2 replies never came" in err
