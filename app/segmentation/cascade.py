"""Which members are asked about a patch: all of them, none, or the first alone.

A patch without a valid pixel is not predicted. With a cascade, the first member decides a patch
alone where it leaves little doubt. Whether it does depends on no other patch, so masks do not
depend on where an image is cut or a run was resumed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import CascadeRule
from ..errors import InferenceError
from .windows import Window

Patch: TypeAlias = NDArray[np.uint8]
Ask = Callable[[Iterable[Patch], tuple[str, ...]], Iterator[NDArray[np.float32]]]
"""Takes patches, uint8 (S, S, 3), and M members; yields a float32 (M, S, S) for each patch."""


@dataclass
class CascadeCount:
    """How many patches the first member was asked about, and how many it decided alone.

    `rows` has both numbers for each row of windows, so that a run that goes on counts no patch
    twice: rows that are predicted again are counted anew.
    """

    member: str
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    _read: deque[int] = field(default_factory=deque)

    def reading(
        self, windows: Iterable[Window], patches: Iterable[Patch | None]
    ) -> Iterator[Patch | None]:
        """Pass on the patches of `windows`, and remember in which rows those lie that are asked."""
        for window, patch in zip(windows, patches, strict=True):
            if window.col == 0:
                self.rows[window.row] = 0, 0
            if patch is not None:
                self._read.append(window.row)
            yield patch

    def add(self, alone: Iterable[bool]) -> None:
        """Count the patches that were asked about next, and whether each was decided alone."""
        for decided in alone:
            row = self._read.popleft()
            asked_there, alone_there = self.rows[row]
            self.rows[row] = asked_there + 1, alone_there + decided

    @property
    def asked(self) -> int:
        """Patches that the first member was asked about."""
        return sum(asked for asked, _ in self.rows.values())

    @property
    def alone(self) -> int:
        """Patches that it decided alone."""
        return sum(alone for _, alone in self.rows.values())

    def __str__(self) -> str:
        return f"{self.member} decided {self.alone} of {self.asked} patches alone"


def predict_valid(
    patches: Iterable[Patch | None],
    predict: Callable[[Iterator[Patch]], Iterator[NDArray[np.float32]]],
    shape: tuple[int, int, int],
) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 prediction of `shape`, (M, S, S), for each patch: zeros for each None.

    `predict` is given the other patches, and may read ahead of its answers.

    Raises:
        InferenceError: it answered fewer patches than it read.
    """
    skipped: deque[bool] = deque()

    def valid() -> Iterator[Patch]:
        for patch in patches:
            skipped.append(patch is None)
            if patch is not None:
                yield patch

    for prediction in predict(valid()):
        while skipped.popleft():
            yield np.zeros(shape, np.float32)
        yield prediction
    if not all(skipped):
        raise InferenceError("the predictor answered fewer patches than it was asked about")
    yield from (np.zeros(shape, np.float32) for _ in skipped)


def predict_cascade(
    patches: Iterable[Patch],
    ask: Ask,
    members: tuple[str, ...],
    rule: CascadeRule,
    count: CascadeCount,
    *,
    at_once: int,
) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 (M, S, S) prediction per patch, `members` in their order.

    Where the first member decides alone, its answer stands for every member's. Members are asked
    about up to `at_once` patches together, to keep the device busy.
    """
    first = members.index(rule.member)
    others = tuple(name for name in members if name != rule.member)
    remaining = iter(patches)
    while few := list(islice(remaining, at_once)):
        answers = [answer[0] for answer in ask(few, (rule.member,))]
        alone = [rule.in_doubt(answer) <= rule.share for answer in answers]
        count.add(alone)
        doubtful = [patch for patch, decided in zip(few, alone, strict=True) if not decided]
        more = ask(doubtful, others)
        for answer, decided in zip(answers, alone, strict=True):
            if decided:
                yield np.broadcast_to(answer, (len(members), *answer.shape))
            else:
                yield np.insert(next(more), first, answer, axis=0)
