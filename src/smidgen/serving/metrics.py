"""Figures of a running server in Prometheus's text format.

Requests are counted by endpoint and status when they are answered. Tokens and waiting are the scheduler's, so
that they include what judges and routers ask.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from smidgen.serving.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of the histograms, from a cached decision to a long answer on a CPU."""


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self, scheduler: "Scheduler | None" = None):
        """Begin to count what is answered, and what the scheduler does if there is one."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "smidgen_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._duration = Histogram(
            "smidgen_request_duration_seconds",
            "From the arrival of a request to its last byte.",
            ["route"],
            registry=self.registry,
            buckets=SECONDS,
        )
        memory = psutil.Process().memory_info
        self._gauge("process_resident_memory_bytes", "Resident memory of the server.", lambda: memory().rss)
        if scheduler is not None:
            self._watch(scheduler)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    @property
    def route(self) -> Route:
        """The endpoint."""
        return Route("/metrics", self._endpoint)

    async def _endpoint(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def _watch(self, scheduler: "Scheduler") -> None:
        """Count what a scheduler does."""
        tokens = Counter("smidgen_tokens", "Tokens processed.", ["kind"], registry=self.registry)
        counts = {
            "queue_seconds": self._histogram("queue", "From the arrival of a prompt to the model's start."),
            "first_token_seconds": self._histogram(
                "time_to_first_token", "From the model's start on a prompt to its first token."
            ),
            "seconds": self._histogram("completion", "From the arrival of a prompt to its last token."),
            "prompt_tokens": tokens.labels("prompt").inc,
            "completion_tokens": tokens.labels("completion").inc,
        }
        scheduler.observe = lambda name, value: counts[name](value)
        self._gauge("smidgen_waiting", "Prompts that wait for the model.", lambda: scheduler.waiting)
        self._gauge("smidgen_running", "Prompts that the model works on.", lambda: scheduler.running)

    def _histogram(self, name: str, what: str) -> Callable[[float], None]:
        return Histogram(f"smidgen_{name}_seconds", what, registry=self.registry, buckets=SECONDS).observe

    def _gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        Gauge(name, what, registry=self.registry).set_function(read)
