"""Figures for Prometheus: what this server answered, and what its engine says of itself when it is asked.

Names that vLLM has are vLLM's (``vllm:...``), so that dashboards made for it work; ours begin with ``dna_``. Requests and tokens are
counted here, as answers are sent; what is resident, running, cached and how fast adapters are swapped is read from the engine's status
at each scrape. Times in seconds. A label's values are a bounded set: templates of routes, methods, statuses, codes of errors, names of
blocks; never a path, a header or a word of a client's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from clonedna.app.serving import Serving
from clonedna.core.model import EngineStatus, SampleChunk, Spread
from clonedna.server.access import Traffic

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
GAP = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
HTTP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0)
REFUSED = frozenset({401, 403, 408, 413, 429})
WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)


class Metrics:
    """One registry for one server; nothing of it is global."""

    def __init__(self, serving: Serving, traffic: Traffic) -> None:
        self.registry = CollectorRegistry()
        model = ("model_name",)
        self.prompt = Counter("vllm:prompt_tokens", "Prompt tokens of finished choices.", model, registry=self.registry)
        self.made = Counter("vllm:generation_tokens", "Tokens generated.", model, registry=self.registry)
        self.success = Counter(
            "vllm:request_success", "Choices that ended well.", (*model, "finished_reason"), registry=self.registry
        )
        self.first = Histogram(
            "vllm:time_to_first_token_seconds",
            "Until a choice's first chunk.",
            model,
            buckets=FIRST,
            registry=self.registry,
        )
        self.gap = Histogram(
            "vllm:inter_token_latency_seconds",
            "Between two tokens of a choice.",
            model,
            buckets=GAP,
            registry=self.registry,
        )
        self.whole = Histogram(
            "vllm:e2e_request_latency_seconds", "Of a whole request.", model, buckets=WHOLE, registry=self.registry
        )
        self.answers = Counter(
            "dna_http_answers", "HTTP requests that were answered, by the route's template; 499: the client left.",
            ("method", "route", "status"), registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "dna_http_seconds", "Until the whole answer was sent.", ("method", "route"), buckets=HTTP, registry=self.registry
        )  # fmt: skip
        self.refused = Counter(
            "dna_http_refused", "HTTP requests that were not let in or not taken, by the error's code.", ("reason",),
            registry=self.registry,
        )  # fmt: skip
        self.errors = Counter(
            "dna_errors", "Requests that ended in an error of ours, by its code.", ("code",), registry=self.registry
        )
        self.registry.register(_Engine(serving, traffic))

    def answered(self, method: str, route: str, status: int, seconds: float, code: str | None) -> None:
        """One request has ended. ``code``: of the error that it ended in."""
        self.answers.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)
        if code is not None:
            self.errors.labels(code).inc()
            if status in REFUSED:
                self.refused.labels(code).inc()

    def watch(self, label: str) -> RequestWatch:
        """What measures one request; ``label`` is a block's name and version, ``blend`` or the base: a bounded set."""
        return RequestWatch(self, label)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestWatch:
    """The clock of one request."""

    def __init__(self, metrics: Metrics, label: str) -> None:
        self._metrics, self._label = metrics, label
        self._start = time.monotonic()
        self._last: dict[int, float] = {}

    def chunk(self, index: int, chunk: SampleChunk) -> None:
        now = time.monotonic()
        if index not in self._last:
            self._metrics.first.labels(self._label).observe(now - self._start)
        elif chunk.token is not None:
            self._metrics.gap.labels(self._label).observe(now - self._last[index])
        self._last[index] = now
        if chunk.token is not None:
            self._metrics.made.labels(self._label).inc()
        if chunk.finish is not None:
            self._metrics.prompt.labels(self._label).inc(chunk.prompt_tokens or 0)
            self._metrics.success.labels(self._label, chunk.finish).inc()

    def end(self) -> None:
        self._metrics.whole.labels(self._label).observe(time.monotonic() - self._start)


class _Engine(Collector):
    """The engine's status and the traffic, at the moment of the scrape."""

    def __init__(self, serving: Serving, traffic: Traffic) -> None:
        self._serving, self._traffic = serving, traffic

    def collect(self) -> Iterator[Metric]:
        status = self._serving.engine.status
        yield from _gauges(status)
        yield from _counters(status)
        yield self._adapters(status)
        for name, spread, what in (
            ("dna_adapter_swap_seconds", status.swap, "Time to make an adapter ready, recent."),
            ("dna_token_gap_seconds", status.gap, "Between two tokens of a stream, recent."),
            ("dna_token_gap_training_seconds", status.gap_training, "The same while an adapter trains."),
            ("dna_first_token_seconds", status.first_token, "Until the first token, recent."),
        ):
            yield _quantiles(name, what, spread)
        yield GaugeMetricFamily("dna_http_requests", "HTTP requests in flight.", value=self._traffic.now)

    def _adapters(self, status: EngineStatus) -> Metric:
        busy = sorted({self._serving.name_of(one.id) for one in status.adapters if one.uses})
        family = GaugeMetricFamily(
            "vllm:lora_requests_info", "Adapters that requests hold now; the value is the time.",
            labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
        )  # fmt: skip
        family.add_metric((str(status.slots), "", ",".join(busy)), time.time())
        return family


def _gauges(status: EngineStatus) -> Iterator[Metric]:
    share = status.cache_bytes / status.cache_budget if status.cache_budget else 0.0
    for name, what, value in (
        ("vllm:num_requests_running", "Choices in the running batch.", status.running),
        ("vllm:num_requests_waiting", "Choices that wait.", status.waiting),
        ("vllm:kv_cache_usage_perc", "Share of the cache of keys and values in use, 0 to 1.", share),
    ):
        family = GaugeMetricFamily(name, what, labels=("model_name",))
        family.add_metric((status.base.id,), value)
        yield family
    for name, what, value in (
        ("dna_adapter_bytes", "Bytes of adapters in memory.", status.adapter_bytes),
        ("dna_adapter_budget_bytes", "Bytes that adapters may take.", status.adapter_budget),
        ("dna_slots", "Slots for adapters.", status.slots),
        ("dna_slots_used", "Slots in use.", status.slots_used),
        ("dna_thrashing", "1 while adapters push each other out.", int(status.thrashing)),
        ("dna_training", "Trainers that are open.", status.training),
    ):
        yield GaugeMetricFamily(name, what, value=value)
    states = GaugeMetricFamily("dna_adapters", "Known adapters by where they are.", labels=("state",))
    for state in ("disk", "memory", "slot"):
        states.add_metric((state,), sum(one.state == state for one in status.adapters))
    yield states


def _counters(status: EngineStatus) -> Iterator[Metric]:
    for name, what, value in (
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.", status.prefix_queries),
        ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", status.prefix_hits),
    ):
        family = CounterMetricFamily(name, what, labels=("model_name",))
        family.add_metric((status.base.id,), value)
        yield family
    for name, what, value in (
        ("dna_adapter_loads", "Adapters read from disk.", status.loads),
        ("dna_adapter_hits", "Requests that found their adapter in memory.", status.hits),
        ("dna_adapter_evictions", "Adapters that had to make room.", status.evictions),
        ("dna_engine_requests", "Requests the engine took.", status.requests),
    ):
        yield CounterMetricFamily(name, what, value=value)


def _quantiles(name: str, what: str, spread: Spread) -> Metric:
    """Median and 95th percentile; no samples while nothing was measured."""
    family = GaugeMetricFamily(name, what, labels=("quantile",))
    for quantile, milliseconds in (("0.5", spread.p50), ("0.95", spread.p95)):
        if milliseconds is not None:
            family.add_metric((quantile,), milliseconds / 1000)
    return family
