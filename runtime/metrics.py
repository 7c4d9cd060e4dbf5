"""The daemon's counters as Prometheus reads them: taken from the controller when they are asked for, so a decision pays nothing.

Units are base ones and end the names: seconds, bytes, ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from cutlayer.runtime.live import Histogram
    from cutlayer.runtime.service import Service

# What is known of the present, each left out while nothing is known: name, field of `live.Present`, factor, words. A unit ends the name.
PRESENT = (
    ("cutlayer_link_rate_bytes_per_second", "rate_bps", 1 / 8, "Rate of the link that policies and rules go by."),
    ("cutlayer_link_rate_age_seconds", "rate_age_s", 1.0, "Time since the last transfer that told of the rate."),
    ("cutlayer_round_trip_seconds", "rtt_s", 1.0, "Round trip as connections measured it, weighted mean."),
    ("cutlayer_edge_wait_seconds", "edge_wait_s", 1.0, "What the last reply's request had waited at the edge."),
    ("cutlayer_edge_slow_down_ratio", "edge_slow_down", 1.0, "Measured over nominal time of the edge's work, weighted mean."),
    ("cutlayer_device_slow_down_ratio", "slow_down", 1.0, "Measured over nominal time of the device's last work."),
    ("cutlayer_in_flight_requests", "in_flight", 1.0, "Requests decided and not answered."),
)
CHANGES = [(operation, result) for operation in ("reload", "rollback") for result in ("done", "refused")]
STEPS = ("policy", "greedy", "last-good", "static-safe")


class Collector:
    """One service's metrics; every reason has its counter from the start, so that its first count is seen as a rise."""

    def __init__(self, service: Service, version: str, reasons: list[str]) -> None:
        self._service, self._version, self._reasons = service, version, reasons

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's custom collectors."""
        yield from self._counters()
        yield from self._gauges()
        live = self._service.controller.live
        yield _histogram("cutlayer_decision_seconds", "Time that the daemon took for a decision, telemetry included.", self._service.took)
        yield _histogram("cutlayer_latency_seconds", "Time from a request's arrival to its answer, as reported.", live.latency)

    def _counters(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        service = self._service
        counts = service.controller.counts
        for name, words, value in (
            ("cutlayer_decisions", "Decisions made.", counts.decisions),
            ("cutlayer_reports", "Outcomes reported.", counts.reports),
            ("cutlayer_lost", "Decisions written off without an outcome.", counts.lost),
            ("cutlayer_misses", "Answers that came after their deadline.", service.controller.live.misses),
            ("cutlayer_refused", "Lines and connections that got an error.", service.refused),
            ("cutlayer_trace_dropped", "Lines of the trace for which there was no room.", service.dropped),
        ):
            yield CounterMetricFamily(name, words, value)
        steps = CounterMetricFamily("cutlayer_steps", "Decisions by the rung that made them.", labels=["step"])
        for step in STEPS:
            steps.add_metric([step], counts.steps[step])
        yield steps
        fallbacks = CounterMetricFamily("cutlayer_fallbacks", "Steps down the ladder by their reason.", labels=["reason"])
        for reason in self._reasons:
            fallbacks.add_metric([reason], counts.reasons[reason])
        yield fallbacks
        changes = CounterMetricFamily(
            "cutlayer_changes", "Reloads and rollbacks asked for, by what became of them.", labels=["operation", "result"]
        )
        for operation, result in CHANGES:
            changes.add_metric([operation, result], service.changes[operation, result])
        yield changes

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        service = self._service
        lost = "1 while nothing is sent to the edge but probes."
        yield GaugeMetricFamily("cutlayer_edge_lost", lost, float(service.controller.edge.open))
        loaded = "1 while a bundle is loaded, 0 while the rule decides without."
        yield GaugeMetricFamily("cutlayer_policy_loaded", loaded, float(not service.problem))
        failing = "1 while the decision trace cannot be written."
        yield GaugeMetricFamily("cutlayer_trace_failing", failing, float(bool(service.trace_problem)))
        present = service.present()
        for name, field, factor, words in PRESENT:
            value = getattr(present, field)
            yield GaugeMetricFamily(name, words, None if value is None else factor * value, unit=_unit(name))
        status = service.identity() | service.named() | {"mode": service.controller.mode}
        labels = {name: str(status[name]) for name in ("scenario", "algorithm", "mode", "bundle_sha256", "plans_sha256")}
        bundle = InfoMetricFamily("cutlayer_bundle", "What decides.")
        bundle.add_metric([], {"version": self._version, **labels})
        yield bundle


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    return HistogramMetricFamily(name, words, histogram.buckets(), histogram.total, unit=_unit(name))


def _unit(name: str) -> str:
    """That OpenMetrics is told; none where the name counts things."""
    return next((unit for unit in ("bytes_per_second", "seconds", "ratio") if name.endswith(f"_{unit}")), "")
