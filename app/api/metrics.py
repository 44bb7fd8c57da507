"""Metrics for Prometheus. No label ever holds a client's text."""

import asyncio
from functools import partial
from time import perf_counter
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from ..jobs.records import KeptStatus
from .problems import STATUS

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


_PULSE = 0.25  # seconds between two looks at the event loop's lag


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, buckets=_SECONDS, registry=self.registry)
        self.requests = counter(
            "rooftrace_requests",
            "Requests answered, by path template, method and status",
            ("path", "method", "status"),
        )
        self.problems = counter(
            "rooftrace_problems",
            "Requests answered by a problem, by its title",
            ("problem",),
        )
        self.event_loop_lag = histogram(
            "rooftrace_event_loop_lag_seconds",
            "Delay of a timer on the event loop",
        )
        self.request_duration = histogram(
            "rooftrace_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer",
            ("path",),
        )
        self.stage_duration = histogram(
            "rooftrace_stage_duration_seconds",
            "Time of one image in one stage: queue, decode, infer, encode",
            ("stage",),
        )
        self.images = counter(
            "rooftrace_images",
            "Images, by whether they were segmented or refused, and why",
            ("outcome",),
        )
        self.pixels = counter("rooftrace_segmented_pixels", "Pixels of the segmented images")
        self.waiting = gauge("rooftrace_requests_waiting", "Requests that wait for their turn")
        self.reserved = gauge(
            "rooftrace_reserved_bytes", "Memory that is reserved for bodies, images and jobs"
        )
        self.tiles = counter(
            "rooftrace_tiles",
            "Live tiles, by origin: kept, drawn from kept probabilities, or predicted",
            ("origin",),
        )
        self.jobs_ended = counter(
            "rooftrace_jobs_ended",
            "Jobs, by how they ended: successful, failed, dismissed",
            ("outcome",),
        )
        jobs = gauge(
            "rooftrace_jobs",
            "Jobs that are kept, by status; of all processes that share them",
            ("status",),
        )
        self.jobs = {status: jobs.labels(status) for status in get_args(KeptStatus)}
        self.job_bytes = gauge(
            "rooftrace_job_bytes",
            "Bytes on disk of the jobs that are kept; of a running job, the most that it may need",
        )
        self.model = Info(
            "rooftrace_model", "The loaded bundle and what it runs on", registry=self.registry
        )
        self.reloads = counter(
            "rooftrace_reloads",
            "Reloads of the bundle, by whether it was loaded or refused",
            ("outcome",),
        )
        # A series that begins at 1 has not risen for Prometheus, so an alert would miss its first.
        for counted, labels in (
            (self.problems, [title for _, title in STATUS.values()]),
            (self.jobs_ended, ["successful", "failed", "dismissed"]),
            (self.reloads, ["loaded", "refused"]),
        ):
            for label in labels:
                counted.labels(label)
        self.fallback = gauge(
            "rooftrace_cpu_fallback", "1 if the CPU is used although there is a GPU"
        )
        self.out_of_memory = gauge(
            "rooftrace_out_of_memory",
            "Batches that the device had no memory for, since the bundle was loaded",
        )

    async def watch_event_loop(self) -> None:
        """Record how late the event loop is, until cancelled."""
        while True:
            asked = perf_counter() + _PULSE
            await asyncio.sleep(_PULSE)
            self.event_loop_lag.observe(max(0.0, perf_counter() - asked))

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
