"""A cache in memory, and work that several requests wait for together."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cache:
    """Values by key. Old values are dropped; if room is needed, so are the least recently used."""

    def __init__(self, size: int, seconds: float) -> None:
        """Keep `size` bytes, each value for `seconds`."""
        self._room, self._seconds = size, seconds
        self._values: OrderedDict[Hashable, tuple[Any, int, float]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """Bytes that are not taken."""
        return self._room

    def get(self, key: Hashable) -> Any:  # noqa: ANN401
        """Return a value; None if it is not there, or no longer fresh."""
        with self._lock:
            if key not in self._values:
                return None
            value, _, until = self._values[key]
            if time.monotonic() > until:
                self._drop(key)
                return None
            self._values.move_to_end(key)
            return value

    def put(self, key: Hashable, value: object, size: int) -> None:
        """Keep a value of `size` bytes, unless it is larger than the whole cache."""
        with self._lock:
            self._drop(key)
            self._values[key] = value, size, time.monotonic() + self._seconds
            self._room -= size
            while self._room < 0:
                self._drop(next(iter(self._values)))

    def _drop(self, key: Hashable) -> None:
        if key in self._values:
            _, size, _ = self._values.pop(key)
            self._room += size


@dataclass
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Shared(Generic[T]):
    """Work by key, done once for all who wait for it, and cancelled when none waits any more."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def get(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the work of this key, and begin it if it has not begun.

        Raises:
            Exception: any that the work raises, for all who wait.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # which does nothing to one that is done
                if self._flights.get(key) is flight:
                    del self._flights[key]
