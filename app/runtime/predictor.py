"""The interface of every runtime: a predictor, whose threads all callers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, InferenceError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_ROUNDING = 1e-6  # a sigmoid may leave [0, 1] by a few units in the last place


@dataclass(eq=False)
class _Part:
    """Patches of one caller, at most a chunk, and where their probabilities go."""

    members: tuple[str, ...]
    patches: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    done: Future[None] = field(default_factory=Future)


class Predictor(ABC):
    """Turns patches into probabilities, in threads that take up to `chunk` patches at a time.

    A chunk may hold patches of several callers who ask for the same members, so that a device that
    takes many patches at once is busy with small images too. No caller waits for others to come.
    """

    members: tuple[str, ...]
    """Names of the networks, in the manifest's order."""
    providers: Mapping[str, str]
    """The execution provider that each member really runs on, such as "OpenVINO CPU int8"."""
    choice: str = "as asked"
    """The precision, and why this backend computes in it."""
    batch_size: int
    """The most patches that one call of `predict` should bring, to keep the device busy."""
    ahead: bool = False
    """Whether to ask for the next batch before the last result is used.

    A GPU would idle meanwhile. On a CPU, the code that uses the result needs the cores.
    """
    fallback: str | None = None
    """Why the CPU is used although the machine has a GPU; None if nothing fell back."""
    out_of_memory: int = 0
    """How often the device had no memory for a batch, so that a smaller one was tried."""

    def __init__(self, threads: int, chunk: int = 1) -> None:
        self._chunk = chunk
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._waiting: list[_Part] = []
        self._lock = Lock()

    @abstractmethod
    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3) by one member: float32 (N, S, S). Many threads call it."""

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3) RGB patches: float32 (M, N, S, S) in [0, 1], as `members`.

        Safe to call from many threads at once.

        Raises:
            InferenceError: a member failed, or returned values that are no probabilities.
        """
        probabilities = np.empty((len(members), *patches.shape[:-1]), np.float32)
        parts = []
        for start in range(0, len(patches), self._chunk):
            here = slice(start, start + self._chunk)
            parts.append(_Part(tuple(members), patches[here], probabilities[:, here]))
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

    @property
    def providers_in_use(self) -> list[str]:
        """The execution providers of the members, each once."""
        return sorted(set(self.providers.values()))

    def close(self) -> None:
        """Wait for running work and stop the threads."""
        self._pool.shutdown()

    def _work(self) -> None:
        if parts := self._take():
            self._finish(parts)

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

    def _finish(self, parts: Sequence[_Part]) -> None:
        """Run parts together; each alone if that fails, so that one caller's fault is its own."""
        try:
            self._run_together(parts)
        except Exception as error:  # of any kind: a caller waits for it
            if len(parts) == 1:
                parts[0].done.set_exception(error)
            else:
                for part in parts:
                    self._finish([part])
        else:
            for part in parts:
                part.done.set_result(None)

    def _run_together(self, parts: Sequence[_Part]) -> None:
        patches = parts[0].patches
        if len(parts) > 1:
            patches = np.concatenate([part.patches for part in parts])
        for m, member in enumerate(parts[0].members):
            probability = self._checked(member, patches)
            first = 0
            for part in parts:
                part.probabilities[m] = probability[first : first + len(part.patches)]
                first += len(part.patches)

    def _checked(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            probability = self._run(member, patches)
        except Exception as error:  # the runtimes' errors have no other class in common
            raise InferenceError(f"member {member!r} failed: {reason(error)}") from error
        if probability.shape != patches.shape[:-1]:
            raise InferenceError(
                f"member {member!r} gave shape {probability.shape} "
                f"for patches of shape {patches.shape}"
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


def check_signature(member: str, inputs: str, outputs: str, patch: int) -> None:
    """Check that a graph maps uint8 (N, S, S, 3) to float32 (N, S, S), for any N.

    Raises:
        BundleError: it does not.
    """
    for verb, actual, expected in (
        ("takes", inputs, f"tensor(uint8) (N, {patch}, {patch}, 3)"),
        ("gives", outputs, f"tensor(float) (N, {patch}, {patch})"),
    ):
        if actual != expected:
            raise BundleError(
                f"the graph of member {member!r} {verb} {actual}, expected {expected}"
            )


def spell(type: str, shape: Sequence[int | str | None]) -> str:
    """Spell a tensor's type and shape, such as "tensor(uint8) (N, 224, 224, 3)".

    A dimension of any size is not an int. N stands for a leading one, whatever its name.
    """
    free = ["N" if i == 0 and not isinstance(n, int) else str(n) for i, n in enumerate(shape)]
    return f"{type} ({', '.join(free)})"


def reason(error: Exception) -> str:
    """Return the line of a runtime's error that says why; OpenVINO's first lines say where."""
    lines = [line.strip() for line in str(error).splitlines()]
    why = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return why[0] if why else type(error).__name__
