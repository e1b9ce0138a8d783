"""A home's figures for Prometheus, read at each scrape: jobs, blocks, the database, the disk; and what the process takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from clonedna.app.figures import BOUNDS, Figures, JobCount


class HomeMetrics(Collector):
    """Asks ``read`` at each scrape; that keeps its answer for some seconds."""

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(self)
        ProcessCollector(registry=registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing: to register is not to read."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        seen = self._read()
        yield _counted(GaugeMetricFamily("dna_jobs", "Jobs of this home.", labels=("kind", "status")), seen.jobs)
        yield _counted(
            CounterMetricFamily("dna_jobs_ended", "Jobs that ended in this process.", labels=("kind", "status")), seen.ended
        )  # fmt: skip
        took = HistogramMetricFamily("dna_job_seconds", "How long jobs took that ended well.", labels=("kind",))
        for one in seen.took:
            sums = list(accumulate(one.counts))
            took.add_metric((one.kind,), [*zip(map(str, BOUNDS), sums, strict=False), ("+Inf", sums[-1])], one.seconds)
        yield took
        losses = GaugeMetricFamily(
            "dna_training_loss", "Last loss of a running training, nats a token.", labels=("job",)
        )
        for loss in seen.losses:
            losses.add_metric((loss.job,), loss.loss)
        yield losses
        blocks = GaugeMetricFamily("dna_blocks", "Blocks in the catalogue.", labels=("status",))
        for status, number in sorted((seen.blocks or {}).items()):
            blocks.add_metric((status,), number)
        yield blocks
        yield GaugeMetricFamily("dna_database_up", "1 while the database answers.", value=int(seen.blocks is not None))
        errors = CounterMetricFamily("dna_database_errors", "Errors of the database, by code.", labels=("code",))
        for code, number in sorted(seen.database_errors.items()):
            errors.add_metric((code,), number)
        yield errors
        yield GaugeMetricFamily("dna_disk_free_bytes", "Free bytes on the disk of the home.", value=seen.disk_free)


def _counted(family: GaugeMetricFamily | CounterMetricFamily, counts: tuple[JobCount, ...]) -> Metric:
    for one in counts:
        family.add_metric((one.kind, one.status), one.n)
    return family
