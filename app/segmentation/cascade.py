"""The lossy gate: one member alone clears patches in which it sees nothing.

A patch in which its largest probability lies below the gate's threshold counts as if every member
had said 0, and no other is asked about it. Unlike early exit, this may change the mask: export fits
the threshold so that hardly a building is lost (`app.bundle.manifest.Gate`). Whether a patch is
cleared depends on no other patch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Patch = TypeVar("_Patch")

Ask = Callable[[Sequence[_Patch], int], Iterable[NDArray[np.float32]]]
"""Patches and a member's index in; its answers, float32 (S, S), out in order."""


@dataclass
class Gating:
    """The gate at work on one image, and how many patches it was asked about and cleared so far."""

    member: str
    threshold: float
    asked: int = 0
    cleared: int = 0

    def clears(self, answer: NDArray[np.float32]) -> bool:
        """Decide on a patch by what the gate's member said of it, float32 (S, S)."""
        clear = bool(answer.max() < self.threshold)
        self.asked += 1
        self.cleared += clear
        return clear

    @property
    def rule(self) -> str:
        """Say what is cleared, such as `deeplabv3plus<0.05`."""
        return f"{self.member}<{self.threshold:g}"

    def __str__(self) -> str:
        return f"{self.rule}; cleared {self.cleared} of {self.asked} patches"


def predict_gated(
    patches: Iterable[_Patch],
    ask: Ask[_Patch],
    members: Sequence[str],
    gating: Gating,
    *,
    at_once: int,
) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 (M, S, S) prediction per patch, `members` in their order, for `blend`.

    Members are asked about so many patches `at_once`, for a device to be busy.
    """
    first = members.index(gating.member)
    others = [m for m in range(len(members)) if m != first]
    remaining = iter(patches)
    while few := list(islice(remaining, at_once)):
        said = list(ask(few, first))
        clear = [gating.clears(answer) for answer in said]
        kept = [patch for patch, cleared in zip(few, clear, strict=True) if not cleared]
        answers = [iter(ask(kept, m)) for m in others]
        for cleared, answer in zip(clear, said, strict=True):
            prediction = np.zeros((len(members), *answer.shape), np.float32)
            if not cleared:
                prediction[first] = answer
                for m, of_member in zip(others, answers, strict=True):
                    prediction[m] = next(of_member)
            yield prediction
