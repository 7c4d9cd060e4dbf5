"""HTTP for operators: alive, ready, metrics that Prometheus reads, status; on loopback only, and none unless it is asked for."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cutlayer.runtime.ladder import FAULTS, ROWS

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine


def get(made, path):
    """(status, body) of a page."""
    try:
        with urllib.request.urlopen(f"http://{made.ready['http']}{path}", timeout=PATIENCE_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def served(configured, folder, running):
    with running(folder / "d.sock", "--config", configured('http = "127.0.0.1:0"')) as made:
        yield made


def samples(text):
    return {(one.name, *one.labels.values()): one.value for family in text_string_to_metric_families(text) for one in family.samples}


def strip(status):
    return {
        name: strip(value) if isinstance(value, dict) else value
        for name, value in status.items()
        if not name.endswith("age_s") and name != "uptime_s"
    }


def test_it_is_alive_ready_and_tells_what_the_socket_tells(served):
    assert get(served, "/healthz") == (200, '{"ok": true}')
    assert get(served, "/readyz") == (200, '{"ready": true}')
    with served.client() as client:
        client.decide(1)
        mine = client.status()
    code, body = get(served, "/v1/status")
    theirs = json.loads(body)
    assert code == 200
    # What is not an age is equal; the ages and the clock go on.
    assert strip(theirs) == strip(mine)
    assert get(served, "/nothing")[0] == 404
    assert served.stop()[0] == 0


def test_the_metrics_count(served):
    with served.client() as client:
        client.decide(1)
        client.decide(2, edge_reachable=False)
    code, text = get(served, "/metrics")
    assert code == 200
    found = samples(text)
    assert found["cutlayer_decisions_total",] == 2
    assert found["cutlayer_steps_total", "policy"] == found["cutlayer_steps_total", "static-safe"] == 1
    assert found["cutlayer_fallbacks_total", "edge-unreachable"] == 1
    assert {key[1] for key in found if key[0] == "cutlayer_fallbacks_total"} == FAULTS
    # The page on fallbacks names these counters.
    for row in ROWS:
        if row.fault:
            assert row.counter in text
    # As promtool wants them: help and type for each, counters end in _total.
    for kind in re.findall(r"# TYPE (\w+) counter", text):
        assert kind.endswith("_total")
        assert f"# HELP {kind} " in text


def test_it_is_not_ready_while_the_rule_decides(configured, folder, plans, running):
    (folder / "plans.json").write_bytes(plans.encode())
    (folder / "policy.cutlayer").unlink()
    task = ("[task]", f'plans = "{folder / "plans.json"}"', "path.rtt_s = 0.02", "objective.deadline_s = 0.1")
    with running(folder / "d.sock", "--config", configured('http = "127.0.0.1:0"', *task)) as made:
        code, body = get(made, "/readyz")
        assert code == 503
        assert "no bundle at" in json.loads(body)["problem"]
        assert samples(get(made, "/metrics")[1])["cutlayer_policy_loaded",] == 0.0


def test_a_port_that_is_taken_is_refused(served, configured, folder, refused):
    assert "cannot serve HTTP on" in refused("--config", configured(f'http = "{served.ready["http"]}"'), "--socket", folder / "e.sock")
    assert not (folder / "e.sock").exists()


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "example.org:80", "127.0.0.1", "127.0.0.1:70000", ":9464", "127.0.0.1:-1"])
def test_only_loopback_is_served(configured, run, address):
    code, _, said = run("--config", configured(f'http = "{address}"'), "--check-config")
    assert code == 2
    assert "line 2" in said
    assert f"http is {address!r}" in said
