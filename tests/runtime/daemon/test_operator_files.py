"""What operators are given agrees with what the daemon serves: metrics by their own rules, alerts, the dashboard, Prometheus's settings.

promtool is asked where it is on PATH (Debian: package prometheus); parsers of metrics and of PromQL are asked always.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import urllib.request

import promql_parser
import pytest
import yaml
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from cutlayer.runtime.live import DECISION_S
from cutlayer.runtime.messages import Outcome

PATIENCE_S = 30.0  # far beyond what anything here takes, also on a busy machine
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
GIVEN = {"job", "instance"}  # labels that Prometheus itself adds
OWN = {"up"}  # metrics that it makes itself
SPANS = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1h"}  # what Grafana puts in their place


def promtool(*words, text=None):
    """Run promtool; its output."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on PATH (Debian: package prometheus)")
    done = subprocess.run(["promtool", *map(str, words)], input=text, check=False, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def busy(tmp_path_factory, make_bundle, plans, running):
    """A daemon that has decided, sent, heard from its edge, and refused a line."""
    folder = tmp_path_factory.mktemp("busy")
    make_bundle().save(folder / "policy.cutlayer", "0")
    (folder / "c.toml").write_text(f'bundle = "{folder}/policy.cutlayer"\nhttp = "127.0.0.1:0"\n', encoding="utf-8")
    with running(folder / "d.sock", "--config", folder / "c.toml") as made, made.client() as client:
        for number in range(1, 21):
            decision = client.decide(number, edge_reachable=number != 5)
            row = plans.rows[decision.plan]
            replied = {"edge_wait_s": 0.003, "edge_s": row.edge_s + row.decode_s, "rtt_s": 0.02} if row.bits else {}
            client.report(
                Outcome(decision.plan, 1.0, 0.02, 1.0, 0.1, float(row.wire_bytes), id=number, latency_s=0.05 * number % 0.2, **replied)
            )
        with pytest.raises(Exception, match="refused"):
            client.call(b"nonsense")
        yield made


def page(made, accept=""):
    request = urllib.request.Request(f"http://{made.ready['http']}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:  # noqa: S310 - our own daemon's
        return reply.read().decode(), reply.headers["Content-Type"]


@pytest.fixture(scope="module")
def served(busy):
    """Every sample's name with the names of its labels."""
    text, _ = page(busy)
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


# --- metrics


def test_metrics_keep_to_their_own_rules(busy):
    """Read by the strict parser of OpenMetrics: help, type, unit, order, bounds of histograms; and by our own rule, base units alone."""
    text, kind = page(busy, OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics_parser.text_string_to_metric_families(text)}
    ours = {name: family for name, family in families.items() if name.startswith("cutlayer_")}
    assert len(ours) >= 20
    for name, family in ours.items():
        assert family.documentation.endswith("."), name
        assert re.fullmatch(r"[a-z_]+", name)
        assert not re.search(r"milli|micro|minutes|hours|bits|percent|_ms|_us", name), name
        if re.search(r"seconds|ratio|bytes", name):
            assert name.endswith(f"_{family.unit}"), name
            assert family.unit
    assert families["cutlayer_decision_seconds"].type == families["cutlayer_latency_seconds"].type == "histogram"
    bounds = [float(one.labels["le"]) for one in families["cutlayer_decision_seconds"].samples if one.name.endswith("_bucket")]
    assert bounds == [*DECISION_S, float("inf")]
    values = {one.name: one.value for family in ours.values() for one in family.samples if not one.labels}
    assert values["cutlayer_decision_seconds_count"] == values["cutlayer_decisions_total"] == 20
    assert values["cutlayer_refused_total"] == 1
    assert values["cutlayer_latency_seconds_count"] == 20


def test_promtool_takes_the_metrics(busy):
    """It would warn of a missing help, of a counter without _total, of other than base units."""
    text, _ = page(busy)
    assert promtool("check", "metrics", text=text).strip() == ""


def test_what_is_not_known_is_left_out(configured, folder, running):
    with running(folder / "d.sock", "--config", configured('http = "127.0.0.1:0"')) as made:
        text, _ = page(made)
    assert "# TYPE cutlayer_link_rate_bytes_per_second gauge" in text
    assert not re.search(r"^cutlayer_(link_rate|round_trip|edge_wait)", text, re.MULTILINE)
    assert "NaN" not in text


# --- PromQL: alerts and dashboard


def selectors(expression):
    """Vector selectors of an expression."""
    for variable, span in SPANS.items():
        expression = expression.replace(variable, span)
    found = []

    promql_parser.walk(promql_parser.parse(expression), found.append)
    return [node for node in found if isinstance(node, promql_parser.VectorSelector)]


def check(expression, served):
    """Every metric that it asks for is served, with every label."""
    found = selectors(expression)
    assert found, expression
    for one in found:
        assert one.name in {*served, *OWN}, f"{one.name} of {expression} is not served"
        asked = {matcher.name for matcher in one.matchers.matchers} - {"__name__"}
        assert asked <= GIVEN | served.get(one.name, set()), f"{one.name} of {expression} has no label {asked}"


def test_the_check_finds_what_is_wrong(served):
    check('rate(cutlayer_steps_total{step="policy",job="x"}[5m])', served)
    for wrong in ("cutlayer_decision_total", 'cutlayer_steps_total{rung="policy"}', "cutlayer_edge_lost + cutlayer_gone"):
        with pytest.raises(AssertionError):
            check(wrong, served)
    with pytest.raises(ValueError, match="parenthesis"):
        check("sum(cutlayer_edge_lost", served)


@pytest.fixture(scope="module")
def deploy(root):
    return root / "runtime/deploy"


@pytest.fixture(scope="module")
def rules(deploy):
    loaded = yaml.safe_load((deploy / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def test_alerts_ask_for_what_is_served_and_say_how_to_mend_it(rules, served):
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        check(rule["expr"], served)
        assert set(rule["annotations"]) == {"summary", "mend"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_promtool_takes_the_alerts_and_the_example(deploy):
    promtool("check", "rules", deploy / "alerts.yml")
    promtool("check", "config", deploy / "prometheus.yml")


def series(name, values):
    return {"series": f'{name}{{job="cutlayerd",instance="d"}}' if "{" not in name else name, "values": values}


FIRES = {
    "CutlayerdDown": [series("up", "0x30")],
    "CutlayerdWithoutPolicy": [series("cutlayer_policy_loaded", "0x30")],
    "CutlayerdEdgeLost": [series("cutlayer_edge_lost", "1x30")],
    "CutlayerdMisses": [series("cutlayer_misses_total", "0+10x30"), series("cutlayer_reports_total", "0+100x30")],
    "CutlayerdFallsBack": [
        series('cutlayer_fallbacks_total{job="cutlayerd",instance="d",reason="plan-invalid"}', "0+30x30"),
        series("cutlayer_decisions_total", "0+100x30"),
    ],
    "CutlayerdNobodyReports": [series("cutlayer_lost_total", "0+60x30"), series("cutlayer_decisions_total", "0+100x30")],
    "CutlayerdTraceFailing": [series("cutlayer_trace_failing", "1x30")],
    "CutlayerdMemory": [series("process_resident_memory_bytes", "200000000x30")],
    "CutlayerdReloadRefused": [
        series('cutlayer_changes_total{job="cutlayerd",instance="d",operation="reload",result="refused"}', "0x20 1x10")
    ],
    "CutlayerdSlow": [
        series(f'cutlayer_decision_seconds_bucket{{job="cutlayerd",instance="d",le="{le}"}}', f"0+{n}x30")
        for le, n in (("0.005", 98), ("0.01", 100), ("+Inf", 100))
    ],
}
WELL = [
    series("up", "1x30"), series("cutlayer_policy_loaded", "1x30"), series("cutlayer_edge_lost", "0 1 1 0x28"),
    series("cutlayer_misses_total", "0+1x30"), series("cutlayer_reports_total", "0+100x30"), series("cutlayer_decisions_total", "0+100x30"),
    series('cutlayer_fallbacks_total{job="cutlayerd",instance="d",reason="edge-unreachable"}', "0+90x30"),
    series("cutlayer_lost_total", "0+1x30"), series("cutlayer_trace_failing", "0x30"),
    series("process_resident_memory_bytes", "60000000x30"),
    series('cutlayer_changes_total{job="cutlayerd",instance="d",operation="reload",result="done"}', "0+1x30"),
]  # fmt: skip


def test_every_alert_fires_for_what_it_is_for_and_none_where_all_is_well(rules, deploy, tmp_path):
    names = [rule["alert"] for rule in rules]
    assert set(names) == set(FIRES)
    asked = r'count(ALERTS{alertstate="firing",alertname="%s"}) or vector(0)'
    tests = [
        {
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [
                {"expr": asked % name, "eval_time": "28m", "exp_samples": [{"labels": "{}", "value": int(name in firing)}]}
                for name in names
            ],
        }
        for firing, given in [([], WELL), *(([name], given) for name, given in FIRES.items())]
    ]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [str(deploy / "alerts.yml")], "tests": tests}), encoding="utf-8")
    promtool("test", "rules", tmp_path / "test.yml")


def test_the_dashboard_asks_for_what_is_served(deploy, served):
    board = json.loads((deploy / "grafana.json").read_text(encoding="utf-8"))
    assert (board["uid"], board["title"]) == ("cutlayerd", "cutlayerd")
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 12
    variables = {one["name"] for one in board["templating"]["list"]}
    for panel in panels:
        assert panel["title"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {"${datasource}"}
        for target in panel["targets"]:
            check(target["expr"], served)
    for one in board["annotations"]["list"]:
        check(one["expr"], served)
    asked = set(re.findall(r"\$\{?(\w+)", json.dumps(board))) - {name[1:] for name in SPANS}
    assert asked == variables
    # What an operator is to see is there.
    expressions = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    shown = {"cutlayer_fallbacks_total", "cutlayer_link_rate_bytes_per_second", "cutlayer_edge_lost", "cutlayer_latency_seconds_bucket"}
    assert all(
        name in expressions
        for name in shown | {"cutlayer_decision_seconds_bucket", "cutlayer_bundle_info", "cutlayer_link_rate_age_seconds"}
    )


def test_no_panel_of_the_dashboard_covers_another(deploy):
    places = [panel["gridPos"] for panel in json.loads((deploy / "grafana.json").read_text(encoding="utf-8"))["panels"]]
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, (a, b)
    assert all(one["x"] + one["w"] <= 24 for one in places)


def test_prometheus_scrapes_where_the_example_serves(deploy):
    settings = yaml.safe_load((deploy / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    assert settings["rule_files"] == ["alerts.yml"]
    (target,) = job["static_configs"][0]["targets"]
    assert f'http = "{target}"' in (deploy / "cutlayerd.toml").read_text(encoding="utf-8")
    assert f'up{{job="{job["job_name"]}"}}' in (deploy / "alerts.yml").read_text(encoding="utf-8")
