"""Threads that predict, a few patches each, and the check of what every runtime gives."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from app.errors import BundleError, InferenceError

Run = Callable[[str, NDArray[np.uint8]], NDArray[np.float32]]
"""A member's name and patches in, its probabilities out; called by many threads at once."""

_ROUNDING = 1e-6  # a sigmoid may leave [0, 1] by a few units in the last place


class Lanes:
    """Run members on patches in threads that all callers share, `chunk` patches at a time.

    What runs a member is given with each call, and not kept: a predictor that holds its lanes and
    is held by them would stay, with its threads, until the garbage collector comes by.
    """

    def __init__(self, lanes: int, chunk: int = 1) -> None:
        self._chunk = chunk
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="lane")

    def predict(
        self, run_member: Run, patches: NDArray[np.uint8], members: Sequence[str]
    ) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises."""
        probabilities = np.empty((len(members), *patches.shape[:-1]), np.float32)

        def run(chunk: slice) -> None:
            for m, member in enumerate(members):
                probabilities[m, chunk] = _checked(run_member, member, patches[chunk])

        starts = range(0, len(patches), self._chunk)
        futures = [self._pool.submit(run, slice(i, i + self._chunk)) for i in starts]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
        return probabilities

    def close(self) -> None:
        """Wait for what is running and let go of the threads."""
        self._pool.shutdown()


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
