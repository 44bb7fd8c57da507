"""Threads that predict, shared by all callers, and the check that results are probabilities."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InferenceError
from .predictor import reason

Run = Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]
"""A member's name and patches in, its probabilities out; called by many threads at once."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_ROUNDING = 1e-6  # a sigmoid may leave [0, 1] by a few units in the last place


@dataclass(eq=False)
class _Part:
    """Patches of one caller, at most a chunk, and where their probabilities go."""

    run_member: Run
    members: tuple[str, ...]
    patches: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    done: Future[None] = field(default_factory=Future)


class Workers:
    """Runs members on patches in threads that all callers share, up to `chunk` patches at a time.

    A chunk may hold patches of several callers who ask for the same members, so that a device that
    takes many patches at once is busy with small images too. No caller waits for others to come.

    Each call brings the function that runs a member. A predictor that holds its workers and is held
    by them would stay, with its threads, until the garbage collector finds it.
    """

    def __init__(self, workers: int, chunk: int = 1) -> None:
        self._chunk = chunk
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._waiting: list[_Part] = []
        self._lock = Lock()

    def predict(
        self, run_member: Run, patches: NDArray[np.uint8], members: Sequence[str]
    ) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises."""
        probabilities = np.empty((len(members), *patches.shape[:-1]), np.float32)
        parts = []
        for start in range(0, len(patches), self._chunk):
            here = slice(start, start + self._chunk)
            parts.append(_Part(run_member, tuple(members), patches[here], probabilities[:, here]))
        with self._lock:
            self._waiting += parts
        for _ in parts:
            self._pool.submit(self._work)
        try:
            for part in parts:
                part.done.result()
        finally:
            for part in parts:
                part.done.cancel()
        return probabilities

    def close(self) -> None:
        """Wait for running work and stop the threads."""
        self._pool.shutdown()

    def _work(self) -> None:
        if parts := self._take():
            _finish(parts)

    def _take(self) -> list[_Part]:
        """Remove the part that has waited longest, and those that fit into a chunk with it."""
        chosen: list[_Part] = []
        left: list[_Part] = []
        room = self._chunk
        with self._lock:
            for part in self._waiting:
                alike = not chosen or part.members == chosen[0].members
                if alike and len(part.patches) <= room:
                    if part.done.set_running_or_notify_cancel():
                        chosen.append(part)
                        room -= len(part.patches)
                else:
                    left.append(part)
            self._waiting = left
        return chosen


def _finish(parts: Sequence[_Part]) -> None:
    """Run parts together, and each alone if that fails, so that one caller's fault is its own."""
    try:
        _run(parts)
    except Exception as error:  # of any kind: a caller waits for it
        if len(parts) == 1:
            parts[0].done.set_exception(error)
        else:
            for part in parts:
                _finish([part])
    else:
        for part in parts:
            part.done.set_result(None)


def _run(parts: Sequence[_Part]) -> None:
    patches = parts[0].patches
    if len(parts) > 1:
        patches = np.concatenate([part.patches for part in parts])
    for m, member in enumerate(parts[0].members):
        probability = _checked(parts[0].run_member, member, patches)
        first = 0
        for part in parts:
            part.probabilities[m] = probability[first : first + len(part.patches)]
            first += len(part.patches)


def _checked(run_member: Run, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    try:
        probability = run_member(member, patches)
    except Exception as error:  # the runtimes' errors have no other class in common
        raise InferenceError(f"member {member!r} failed: {reason(error)}") from error
    if probability.shape != patches.shape[:-1]:
        raise InferenceError(
            f"member {member!r} gave shape {probability.shape} for patches of shape {patches.shape}"
        )
    low, high = probability.min(), probability.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN fails both
        raise InferenceError(
            f"member {member!r} gave values from {low} to {high}, not probabilities"
        )
    return probability


def one_ahead(ask: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the result of `ask` for each item, and ask for the next one in a thread meanwhile.

    The code that makes items and uses results works while the next result is computed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        last: Future[_Result] | None = None
        for item in items:
            next_one = thread.submit(ask, item)
            if last is not None:
                yield last.result()
            last = next_one
        if last is not None:
            yield last.result()
