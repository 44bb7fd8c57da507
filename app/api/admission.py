"""How many requests are let in, and how many work at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from app.errors import DeadlineExceeded, QueueFull

T = TypeVar("T")


class Deadline:
    """The moment by which a request must be answered."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Return how many seconds are left, negative when it has passed."""
        return self._at - time.monotonic()

    def check(self) -> None:
        """Stop work that nobody waits for any more.

        Raises:
            DeadlineExceeded: the moment has passed.
        """
        if self.remaining <= 0:
            raise self.exceeded()

    def exceeded(self) -> DeadlineExceeded:
        """Return the error that says so."""
        return DeadlineExceeded(
            f"The result was not ready within {self.seconds:g} seconds. Send a smaller image, "
            "a smaller overlap, no tta or fewer files."
        )


class Admission:
    """Room for `concurrency` requests at work and `max_waiting` more; used on one event loop."""

    def __init__(self, *, concurrency: int, max_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="request")
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._inside = 0

    @property
    def waiting(self) -> int:
        """Return how many requests wait for their turn."""
        return max(0, self._inside - self._concurrency)

    def check(self) -> None:
        """Ask whether there is room for one more.

        Raises:
            QueueFull: as many requests wait as may.
        """
        if self._inside >= self._concurrency + self._max_waiting:
            raise QueueFull(f"{self.waiting} requests are waiting already. Try again shortly.")

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count a request in, before its body is read.

        Raises:
            QueueFull: as many wait as may.
        """
        self.check()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Run `work` off the event loop as soon as it is its turn.

        Work that has not begun by the deadline never begins; work that has must ask the deadline
        itself, and the client is answered at once either way.

        Raises:
            DeadlineExceeded: the result was not there in time.
        """

        def begin() -> T:
            deadline.check()  # the event loop may be late to cancel what waits
            return work()

        future = asyncio.get_running_loop().run_in_executor(self._threads, begin)
        try:
            return await asyncio.wait_for(future, max(0.0, deadline.remaining))
        except TimeoutError:
            raise deadline.exceeded() from None

    def close(self) -> None:
        """Wait for the work that has begun, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)
