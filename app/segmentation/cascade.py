"""Which members are asked about a patch: none, some of them or all.

A patch without a valid pixel is not predicted. With a cascade, one member after the other is asked
until those asked leave little doubt, or all are. That depends on no other patch, so masks do not
depend on where an image is cut or a run was resumed.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..bundle.cascade import CascadeRule
from ..errors import InferenceError
from .windows import Window

Patch: TypeAlias = NDArray[np.uint8]
Ask = Callable[[Iterable[Patch], tuple[str, ...]], Iterator[NDArray[np.float32]]]
"""Takes patches, uint8 (S, S, 3), and M members; yields a float32 (M, S, S) for each patch."""


@dataclass
class CascadeCount:
    """How many patches members were asked about, and how many of them each stage decided.

    `members` are those of the stages. `rows` has these numbers for each row of windows, so that a
    run that goes on counts no patch twice: rows that are predicted again are counted anew.
    """

    members: tuple[str, ...]
    rows: dict[int, list[int]] = field(default_factory=dict)
    _read: deque[int] = field(default_factory=deque)

    def reading(
        self, windows: Iterable[Window], patches: Iterable[Patch | None]
    ) -> Iterator[Patch | None]:
        """Pass on the patches of `windows`, and remember the rows of those that are predicted."""
        for window, patch in zip(windows, patches, strict=True):
            if window.col == 0:
                self.rows[window.row] = [0] * (1 + len(self.members))
            if patch is not None:
                self._read.append(window.row)
            yield patch

    def add(self, asked: int) -> None:
        """Count a patch that the first `asked` members decided."""
        row = self.rows[self._read.popleft()]
        row[0] += 1
        if asked <= len(self.members):
            row[asked] += 1

    @property
    def asked(self) -> int:
        """Patches that the first member was asked about."""
        return sum(asked for asked, *_ in self.rows.values())

    @property
    def decided(self) -> tuple[int, ...]:
        """Patches that each stage decided."""
        stages = range(1, 1 + len(self.members))
        return tuple(sum(row[n] for row in self.rows.values()) for n in stages)

    def __str__(self) -> str:
        first, *others = zip(self.members, self.decided, strict=True)
        alone = f"{first[0]} decided {first[1]} of {self.asked} patches alone"
        return alone + "".join(f", {decided} with {member}" for member, decided in others)


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


def share_in_doubt(probability: NDArray[np.float32], doubt: tuple[float, float]) -> float:
    """Return the share of a patch's probabilities, float32 (S, S), that lie within `doubt`."""
    low, high = doubt
    return float(np.mean((probability >= low) & (probability <= high)))


def weighted_mean(
    answers: Mapping[str, NDArray[np.float32]], weights: Mapping[str, float]
) -> NDArray[np.float32]:
    """Return the weighted mean of members' answers: float32 arrays of one shape, by member."""
    shares = np.array([weights[name] for name in answers])
    mean: NDArray[np.float32] = np.tensordot(
        (shares / math.fsum(shares)).astype(np.float32), np.stack(list(answers.values())), axes=1
    )
    return mean


def predict_cascade(
    patches: Iterable[Patch],
    ask: Ask,
    weights: Mapping[str, float],
    rule: CascadeRule,
    count: CascadeCount,
    *,
    at_once: int,
) -> Iterator[NDArray[np.float32]]:
    """Yield a prediction of each patch: float32 (M, S, S), a map for each of `weights`, in order.

    Where a stage decides, the weighted mean of the members asked stands for those not asked.
    Members are asked about up to `at_once` patches together, to keep the device busy.
    """
    others = tuple(name for name in weights if name not in rule.members)
    remaining = iter(patches)
    while few := list(islice(remaining, at_once)):
        answers: list[dict[str, NDArray[np.float32]]] = [{} for _ in few]
        means: dict[int, NDArray[np.float32]] = {}
        undecided = list(range(len(few)))
        for stage in rule.stages:
            of_member = ask((few[n] for n in undecided), (stage.member,))
            for n, answer in zip(undecided, of_member, strict=True):
                answers[n][stage.member] = answer[0]
                means[n] = weighted_mean(answers[n], weights)
            undecided = [n for n in undecided if share_in_doubt(means[n], rule.doubt) > stage.share]
        of_others = ask((few[n] for n in undecided), others)
        for n, known in enumerate(answers):
            if n in undecided:
                known.update(zip(others, next(of_others), strict=True))
            count.add(len(known))
            yield np.stack([known.get(name, means[n]) for name in weights])
