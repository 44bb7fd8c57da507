"""Measure how long each stage of an image's work took."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Stages:
    """Seconds by stage, and each run as (stage, start, end) in seconds of `perf_counter`."""

    seconds: dict[str, float] = field(default_factory=dict)
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    _inside: float = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`, less what `measure_items` counts meanwhile."""
        began, inside = perf_counter(), self._inside
        try:
            yield
        finally:
            self._add(stage, perf_counter() - began - (self._inside - inside), began)

    def measure_items(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Add the time in which `items` are made to `stage`."""
        first = began = perf_counter()
        spent = 0.0
        try:
            for item in items:
                spent += perf_counter() - began
                yield item
                began = perf_counter()
            spent += perf_counter() - began
        finally:
            self._inside += spent
            self._add(stage, spent, first)

    def add_since(self, stage: str, began: float) -> None:
        """Add the time since `began` to `stage`."""
        self._add(stage, perf_counter() - began, began)

    def add_remote(self, seconds: Mapping[str, float], began: float) -> None:
        """Add stages that another process measured, and the rest of the time to `queue`."""
        rest = perf_counter() - began - sum(seconds.values())
        self.seconds |= {"queue": 0.0, **seconds}
        self.seconds["queue"] += max(0.0, rest)
        self.spans.append(("remote", began, perf_counter()))

    def _add(self, stage: str, seconds: float, began: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.spans.append((stage, began, perf_counter()))
