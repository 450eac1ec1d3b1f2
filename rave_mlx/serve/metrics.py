"""Figures of a running server in Prometheus' text format."""

from __future__ import annotations

import os
import time

import mlx.core as mx
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rave_mlx.generation.job import Answer, Job
from rave_mlx.serve.engine import Engine
from rave_mlx.serve.shelf import ServedModel

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _State:
    """What is as it is now: collected when somebody asks."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> list[Metric]:
        """The gauges, and the processor's time."""
        loaded = self._engine.shelf.loaded
        kept = sum(model.scheduler.prefixes.nbytes for model in loaded)
        values = {
            "rave_requests_waiting": ("requests in line", len(self._engine.waiting)),
            "rave_answers_open": ("answers that are written or read for", self._engine.writing),
            "rave_adapters_loaded": ("adapters in memory", len(loaded) - 1),
            "rave_adapter_bytes": ("memory of adapters", sum(model.nbytes for model in loaded)),
            "rave_prefix_cache_bytes": ("keys and values kept of recent prompts", kept),
            "rave_mlx_active_bytes": ("memory of MLX in use", mx.get_active_memory()),
            "rave_mlx_cache_bytes": ("memory of MLX kept for reuse", mx.get_cache_memory()),
            "process_resident_memory_bytes": ("memory of the process", _resident()),
        }
        used = CounterMetricFamily("process_cpu_seconds", "processor time of the process", time.process_time())
        return [used, *(GaugeMetricFamily(name, text, value) for name, (text, value) in values.items())]


class Metrics:
    """Counts requests, tokens and seconds.

    Args:
        engine: whose answers are counted.
    """

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        self.registry.register(_State(engine))
        self._requests = Counter("rave_requests", "Requests by path and status.", ("path", "status"),
                                 registry=self.registry)  # fmt: skip
        self._seconds = Histogram("rave_request_seconds", "From the request to the end of the response.", ("path",),
                                  buckets=_SECONDS, registry=self.registry)  # fmt: skip
        self._prefill = Histogram("rave_prefill_seconds", "To the first token, once a prompt is read.",
                                  buckets=_SECONDS, registry=self.registry)  # fmt: skip
        tokens = Counter("rave_tokens", "Tokens by kind.", ("model", "kind"), registry=self.registry)
        self._tokens = tokens
        self._answers = Counter("rave_answers", "Answers by how they ended.", ("model", "ending"),
                                registry=self.registry)  # fmt: skip
        engine.on_answer = self.answer

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def answer(self, model: ServedModel, answer: Answer, job: Job) -> None:
        """An answer was written."""
        self._answers.labels(model.name, answer.ending).inc()
        if answer.prefill_seconds:
            self._prefill.observe(answer.prefill_seconds)
        counts = {"read": len(job.prompt) - answer.reused, "reused": answer.reused,
                  "visual": job.prompt.visual_tokens, "written": len(answer.ids)}  # fmt: skip
        for kind, count in counts.items():
            self._tokens.labels(model.name, kind).inc(count)

    def page(self) -> Response:
        """All of it as text."""
        return Response(generate_latest(self.registry), media_type=_CONTENT_TYPE)


class CountRequests:
    """ASGI middleware that tells `Metrics` of every request.

    Args:
        app: what answers.
        metrics: is told.
        paths: those that are told apart; all others count as one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 499  # as nginx counts those that go before the answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status, time.monotonic() - began)


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
