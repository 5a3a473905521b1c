"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kronq.engine.batch import EngineCounts

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """Numbers of one server.

    Args:
        counts: Returns what the engine has to do and has done.
        adapters: Returns the number of adapters.
    """

    def __init__(self, counts: Callable[[], EngineCounts], adapters: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(counts, adapters))
        made: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter(
            "kronq_requests", "Requests for texts by HTTP status.", ["status"], **made
        )
        self._imports = Counter("kronq_adapter_imports", "Adapters imported on first use.", **made)
        self._first = Histogram(
            "kronq_time_to_first_token_seconds",
            "Time from the queue to the first token.",
            buckets=_SECONDS,
            **made,
        )
        self._whole = Histogram(
            "kronq_text_seconds", "Time from the queue to the end.", buckets=_SECONDS, **made
        )

    def count_request(self, status: int) -> None:
        self._requests.labels(status=str(status)).inc()

    def count_import(self) -> None:
        self._imports.inc()

    def count_text(self, first_token: float, whole: float) -> None:
        """Counts a text that is done, by its times in seconds."""
        self._first.observe(first_token)
        self._whole.observe(whole)

    def page(self) -> tuple[bytes, str]:
        """Returns what Prometheus reads, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _EngineCollector:
    """The engine's own counts, read when they are asked for."""

    def __init__(self, counts: Callable[[], EngineCounts], adapters: Callable[[], int]) -> None:
        self._counts = counts
        self._adapters = adapters

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts = self._counts()
        for name, text, value in (
            ("running", "Texts in the batch.", counts.running),
            ("waiting", "Texts that wait for a row.", counts.waiting),
            ("adapters", "Adapters in the pool.", self._adapters()),
        ):
            yield GaugeMetricFamily(f"kronq_{name}", text, value=value)
        for name, text, value in (
            ("runs", "Runs of the model over the batch.", counts.runs),
            ("prompt_tokens", "Tokens of prompts read.", counts.prompt_tokens),
            ("new_tokens", "Tokens generated.", counts.new_tokens),
        ):
            yield CounterMetricFamily(f"kronq_{name}", text, value=value)
