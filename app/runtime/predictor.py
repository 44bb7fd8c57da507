"""What every runtime promises, and the words that choose one. Imports no runtime itself.

Settings read these types, so reading them must stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8", "fp16"]

CpuPrecision = Literal["fp32", "bf16", "int8"]
GpuPrecision = Literal["fp32", "fp16"]


class Predictor(Protocol):
    """Turns patches into probabilities."""

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the networks, in the manifest's order."""

    @property
    def providers(self) -> Mapping[str, str]:
        """The execution provider that each member really runs on, such as "OpenVINO CPU int8"."""

    @property
    def fallback(self) -> str | None:
        """Why the CPU is used although the machine has a GPU; None if nothing fell back."""

    @property
    def out_of_memory(self) -> int:
        """How often the device had no memory for a batch, so that a smaller one was tried."""

    @property
    def choice(self) -> str:
        """The precision, and why this backend computes in it."""

    @property
    def batch_size(self) -> int:
        """The most patches that one call of `predict` should bring, to keep the device busy."""

    @property
    def ahead(self) -> bool:
        """Whether to ask for the next batch before the last result is used.

        A GPU would idle meanwhile. On a CPU, the code that uses the result needs the cores.
        """

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3) RGB patches: float32 (M, N, S, S) in [0, 1], as `members`.

        Safe to call from many threads at once.

        Raises:
            InferenceError: a member failed, or returned values that are no probabilities.
        """

    def close(self) -> None:
        """Wait for running work and stop the threads."""


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
