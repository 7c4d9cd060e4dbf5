"""The daemon's counters as Prometheus reads them: taken from the controller when they are asked for, so a decision pays nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    from cutlayer.runtime.service import Service


class Collector:
    """One service's metrics; every reason has its counter from the start, so that its first count is seen as a rise."""

    def __init__(self, service: Service, version: str, reasons: list[str]) -> None:
        self._service, self._version, self._reasons = service, version, reasons

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily]:
        """See prometheus_client's custom collectors."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        service = self._service
        status, counts = service.status(), service.controller.counts
        yield CounterMetricFamily("cutlayer_decisions", "Decisions made.", counts.decisions)
        yield CounterMetricFamily("cutlayer_reports", "Outcomes reported.", counts.reports)
        yield CounterMetricFamily("cutlayer_lost", "Decisions written off without an outcome.", counts.lost)
        steps = CounterMetricFamily("cutlayer_steps", "Decisions by the rung that made them.", labels=["step"])
        for step in ("policy", "greedy", "last-good", "static-safe"):
            steps.add_metric([step], counts.steps[step])
        yield steps
        fallbacks = CounterMetricFamily("cutlayer_fallbacks", "Steps down the ladder by their reason.", labels=["reason"])
        for reason in self._reasons:
            fallbacks.add_metric([reason], counts.reasons[reason])
        yield fallbacks
        yield GaugeMetricFamily(
            "cutlayer_edge_lost", "1 while nothing is sent to the edge but probes.", float(service.controller.edge.open)
        )
        yield GaugeMetricFamily(
            "cutlayer_policy_loaded", "1 while a bundle is loaded, 0 while the rule decides without.", float(not service.problem)
        )
        bundle = InfoMetricFamily("cutlayer_bundle", "What decides.")
        named = {
            "scenario": status["scenario"],
            "algorithm": status["algorithm"],
            "mode": status["mode"],
            "plans_sha256": status["plans_sha256"],
        }
        bundle.add_metric([], {"version": self._version, **{name: str(value) for name, value in named.items()}})
        yield bundle
