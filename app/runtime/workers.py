"""Threads that predict, a few patches each, and the check of what every runtime gives."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.errors import BundleError, InferenceError

Run = Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]
"""A member's name and patches in, its probabilities out; called by many threads at once."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")

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
    """Run members on patches in threads that all callers share, up to `chunk` patches at a time.

    A chunk holds what several callers wait for, of the same members, so that small images need not
    go one by one where a device takes many patches at once. No caller waits for others to come.

    What runs a member is given with each call, and not kept: a predictor that holds its workers and
    is held by them would stay, with its threads, until the garbage collector comes by.
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
        """Wait for what is running and let go of the threads."""
        self._pool.shutdown()

    def _work(self) -> None:
        if parts := self._take():
            _finish(parts)

    def _take(self) -> list[_Part]:
        """Take the part that has waited longest, and those that fit into a chunk with it."""
        taken: list[_Part] = []
        left: list[_Part] = []
        room = self._chunk
        with self._lock:
            for part in self._waiting:
                alike = not taken or part.members == taken[0].members
                if alike and len(part.patches) <= room:
                    if part.done.set_running_or_notify_cancel():
                        taken.append(part)
                        room -= len(part.patches)
                else:
                    left.append(part)
            self._waiting = left
        return taken


def _finish(parts: Sequence[_Part]) -> None:
    """Run parts together, and each alone if that fails: one caller's fault is not another's."""
    try:
        _run(parts)
    except Exception as error:  # whatever it is, somebody waits to hear of it
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
        found = _checked(parts[0].run_member, member, patches)
        first = 0
        for part in parts:
            part.probabilities[m] = found[first : first + len(part.patches)]
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


def check_signature(member: str, takes: str, gives: str, patch: int) -> None:
    """Check that a graph takes uint8 (N, S, S, 3) and gives float32 (N, S, S), for any N.

    Raises:
        BundleError: it does not.
    """
    for verb, found, expected in (
        ("takes", takes, f"tensor(uint8) (N, {patch}, {patch}, 3)"),
        ("gives", gives, f"tensor(float) (N, {patch}, {patch})"),
    ):
        if found != expected:
            raise BundleError(f"the graph of member {member!r} {verb} {found}, expected {expected}")


def spell(type: str, shape: Sequence[int | str | None]) -> str:
    """Spell out a tensor's type and shape; a leading dimension of any size is N, whatever its name.

    A dimension of any size is anything but an int.
    """
    free = ["N" if i == 0 and not isinstance(n, int) else str(n) for i, n in enumerate(shape)]
    return f"{type} ({', '.join(free)})"


def reason(error: Exception) -> str:
    """Say in one line why a runtime failed; OpenVINO first says where in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return said[0] if said else type(error).__name__


def one_ahead(ask: Callable[[_Item], _Answer], items: Iterable[_Item]) -> Iterator[_Answer]:
    """Ask about the items in turn, in a thread, one item ahead of the answer that is used.

    So who makes items and uses answers works while the next answer is found.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        last: Future[_Answer] | None = None
        for item in items:
            asked = thread.submit(ask, item)
            if last is not None:
                yield last.result()
            last = asked
        if last is not None:
            yield last.result()
