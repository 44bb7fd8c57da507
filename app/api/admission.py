"""Admit requests: a bounded queue, memory for their bodies, and a few threads for their work."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from ..errors import ClientGone, DeadlineExceeded, QueueFull
from ..memory import COPIES, Memory

T = TypeVar("T")


class Deadline:
    """The moment by which a request must be answered. It passes early when the client leaves."""

    def __init__(self, seconds: float, left: float | None = None) -> None:
        """Start the clock. `left`: how many of the `seconds` remain, if they began elsewhere."""
        self.seconds = seconds
        self._at = time.monotonic() + (seconds if left is None else left)
        self._abandoned = False

    @property
    def remaining(self) -> float:
        """Return how many seconds are left, negative when it has passed."""
        return self._at - time.monotonic()

    def abandon(self) -> None:
        """Note that the client has left."""
        self._abandoned = True

    def check(self) -> None:
        """Stop work that no client waits for any more.

        Raises:
            ClientGone: the request was abandoned.
            DeadlineExceeded: the moment has passed.
        """
        if self._abandoned:
            raise ClientGone("The client left before its result was ready.")
        if self.remaining <= 0:
            raise self._exceeded()

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Cancel what is awaited inside when the deadline passes.

        Raises:
            DeadlineExceeded: it has passed.
        """
        try:
            async with asyncio.timeout(max(0.0, self.remaining)) as limit:
                yield
        except TimeoutError:
            if not limit.expired():  # another timeout, inside the work
                raise
            raise self._exceeded() from None

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The result was not ready within {self.seconds:g} seconds. Send a smaller image, "
            "a smaller overlap, no tta or fewer files."
        )


class Place:
    """One request's place in the queue, and the memory that is reserved for its body.

    Both are kept for `patience` seconds. A client that sends more slowly keeps only the memory of
    what it has sent, and needs a free place again at the end. So slow clients can't keep others
    out, however many they are.
    """

    def __init__(self, admission: "Admission", announced: int, patience: float) -> None:
        self._admission = admission
        self._kept = self._received = 0
        admission.check()
        self._keep(announced)
        self._queued = True
        admission.inside += 1
        self._patience = asyncio.get_running_loop().call_later(patience, self._step_aside)

    def receive(self, size: int) -> None:
        """Account for `size` bytes more of the body.

        Raises:
            QueueFull: there is no memory for them. The announced length has its memory, but only
                for `patience` seconds.
        """
        self._received += size
        self._keep(max(self._kept, self._received))

    def complete(self) -> None:
        """Keep the place until the request leaves, as its body is complete.

        Raises:
            QueueFull: the body took longer than `patience`, and the queue is full.
        """
        self._patience.cancel()
        if not self._queued:
            self._admission.check()
            self._queued = True
            self._admission.inside += 1

    def leave(self) -> None:
        """Give everything back."""
        self._step_aside()
        self._keep(0)

    def _step_aside(self) -> None:
        self._patience.cancel()
        self._keep(self._received)
        if self._queued:
            self._queued = False
            self._admission.inside -= 1

    def _keep(self, size: int) -> None:
        self._admission.memory.resize_body(COPIES * self._kept, COPIES * size)
        self._kept = size


class Admission:
    """Room for `concurrency` requests at work and `max_waiting` more; used on one event loop.

    `concurrency` may change when replicas do the work; the number of threads here does not.
    """

    def __init__(
        self, *, concurrency: int, max_waiting: int, memory: Memory, patience: float = 2.0
    ) -> None:
        self.memory = memory
        self.inside = 0
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="request")
        self.concurrency = concurrency
        self._max_waiting = max_waiting
        self._patience = patience

    @property
    def waiting(self) -> int:
        """Return how many requests wait for their turn."""
        return max(0, self.inside - self.concurrency)

    def check(self) -> None:
        """Check that there is room for one more request.

        Raises:
            QueueFull: the queue is full.
        """
        if self.inside >= self.concurrency + self._max_waiting:
            raise QueueFull(f"{self.waiting} requests are waiting already. Try again shortly.")

    @asynccontextmanager
    async def admit(self, announced: int = 0) -> AsyncIterator[Place]:
        """Let a request in before its body is read; `announced` is the body's declared length.

        Raises:
            QueueFull: the queue is full, or there is no memory for the body.
        """
        place = Place(self, announced, self._patience)
        try:
            yield place
        finally:
            place.leave()

    async def run(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Run `work` in a thread when its turn comes.

        At the deadline the client is answered at once. Work that waits then never begins; work
        that has begun must call `deadline.check` itself. Cancelling abandons the deadline.

        Raises:
            DeadlineExceeded: the result was not ready in time.
        """

        def begin() -> T:
            deadline.check()  # the event loop may be late to cancel what waits
            return work()

        future = asyncio.get_running_loop().run_in_executor(self._threads, begin)
        try:
            async with deadline.limit():
                return await future
        except asyncio.CancelledError:
            deadline.abandon()
            raise

    def close(self) -> None:
        """Wait for the work that has begun, and drop the rest."""
        self._threads.shutdown(cancel_futures=True)
