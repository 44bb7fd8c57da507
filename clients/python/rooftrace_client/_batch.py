"""Many images, a few at a time: results come as they are ready, and one file's fault is a value."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

from ._errors import RooftraceError
from ._images import Image
from ._results import Result


@dataclass(frozen=True)
class Outcome:
    """One image of a batch, its place in the batch from 0, and its result or what went wrong."""

    index: int
    image: Image
    result: Result | RooftraceError | OSError


class _Stopped(BaseException):
    """Nobody waits for the batch any more."""


def segmented(
    segment: Callable[[Image, Callable[[float], object]], Result],
    images: Iterable[Image],
    concurrency: int,
) -> Iterator[Outcome]:
    """Segment images in threads, and yield each outcome as it is ready.

    `segment` takes an image and a function that sleeps. At most `concurrency` images and results
    are in memory, whatever the number of images: the next image is read once an outcome was taken.
    """
    _check(concurrency)
    stopped = Event()

    def sleep(seconds: float) -> None:
        if stopped.wait(seconds):
            raise _Stopped

    def one(index: int, image: Image) -> Outcome:
        try:
            return Outcome(index, image, segment(image, sleep))
        except (RooftraceError, OSError) as error:
            return Outcome(index, image, error)

    running: set[Future[Outcome]] = set()
    with ThreadPoolExecutor(concurrency, "rooftrace-client") as threads:
        try:
            for index, image in enumerate(images):
                running.add(threads.submit(one, index, image))
                if len(running) >= concurrency:
                    yield _next(running)
            while running:
                yield _next(running)
        finally:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _next(running: set[Future[Outcome]]) -> Outcome:
    done = wait(running, return_when=FIRST_COMPLETED).done.pop()
    running.remove(done)
    return done.result()


async def segmented_async(
    segment: Callable[[Image], Awaitable[Result]], images: Iterable[Image], concurrency: int
) -> AsyncIterator[Outcome]:
    """Segment images in tasks, and yield each outcome as it is ready, as `segmented` does."""
    _check(concurrency)

    async def one(index: int, image: Image) -> Outcome:
        try:
            return Outcome(index, image, await segment(image))
        except (RooftraceError, OSError) as error:
            return Outcome(index, image, error)

    running: set[asyncio.Task[Outcome]] = set()
    try:
        for index, image in enumerate(images):
            running.add(asyncio.create_task(one(index, image)))
            if len(running) >= concurrency:
                yield await _next_async(running)
        while running:
            yield await _next_async(running)
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task


async def _next_async(running: set[asyncio.Task[Outcome]]) -> Outcome:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    first = done.pop()
    running.remove(first)
    return first.result()


def _check(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
