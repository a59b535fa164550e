"""Figures of a running server in Prometheus's text format."""

from collections.abc import Callable

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

from smidgen.serving.request_facts import RequestFacts

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of the histograms, from a cached decision to a long answer on a CPU."""
UNKNOWN_MODEL = ""


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self, *, waiting: Callable[[], float] = lambda: 0, running: Callable[[], float] = lambda: 0):
        """Begin to count.

        Args:
            waiting: returns the number of requests that wait for the model.
            running: returns the number of requests that the model works on.
        """
        self.registry = CollectorRegistry()

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(
                f"smidgen_{name}_seconds", what, ["route"], registry=self.registry, buckets=SECONDS
            )

        def gauge(name: str, what: str, read: Callable[[], float]) -> None:
            Gauge(name, what, registry=self.registry).set_function(read)

        self._requests = Counter(
            "smidgen_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._tokens = Counter(
            "smidgen_tokens",
            "Tokens of prompts and of completions.",
            ["model", "kind"],
            registry=self.registry,
        )
        self._duration = histogram("request_duration", "From the arrival of a request to its last byte.")
        self._queue = histogram("queue", "From the arrival of a request to the start of the model's work.")
        self._first_token = histogram(
            "time_to_first_token", "From the arrival of a request to its first token."
        )
        gauge("smidgen_requests_waiting", "Requests that wait for the model.", waiting)
        gauge("smidgen_requests_running", "Requests that the model works on.", running)
        process = psutil.Process()
        gauge(
            "process_resident_memory_bytes",
            "Resident memory of the server.",
            lambda: process.memory_info().rss,
        )

    def observe(self, facts: RequestFacts, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)
        if facts.queue_seconds is not None:
            self._queue.labels(route).observe(facts.queue_seconds)
        if facts.first_token_seconds is not None:
            self._first_token.labels(route).observe(facts.first_token_seconds)
        for kind, number in (("prompt", facts.prompt_tokens), ("completion", facts.completion_tokens)):
            if number:
                self._tokens.labels(facts.model or UNKNOWN_MODEL, kind).inc(number)

    @property
    def route(self) -> Route:
        """The endpoint."""
        return Route("/metrics", self._endpoint)

    async def _endpoint(self, request: Request) -> Response:
        """Answer `GET /metrics`."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
