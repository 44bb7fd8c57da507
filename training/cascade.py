"""Fit the cascade: which member is asked first, and with how little doubt it decides alone.

It is fitted along the path that serves, at the default options: every tile is predicted once, and
stitched again for each rule that decides other patches alone than those before.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Cascade, CascadeRule
from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.plan import Plan
from app.segmentation.segmenter import Segmenter, stitch
from app.terminal import progress_bar
from training.data import Label, Tile
from training.evaluate import from_members
from training.metrics import JUDGING_BUILDINGS, Counts, count, has_building, match_objects
from training.patches import predict_tile

SPLIT_LIMIT, SOURCE_LIMIT = 0.001, 0.003
"""How much micro Dice may fall on a split, and on a source."""
NEGATIVE_LIMIT = 0.02
"""How much the share of negatives with a building may rise."""
OBJECT_LIMIT = 0.005
"""How much object F1 may fall on a split. A small building hardly counts in micro Dice."""
LOWS, HIGHS = (0.1, 0.2, 0.3), (0.6, 0.7, 0.8, 1.0)
SHARES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.10, 0.12, 0.15)
"""Ends of the doubtful range, and shares of a patch in it, that are tried."""


@dataclass(frozen=True)
class _Score:
    """What micro Dice and object F1 are made of, and the number of tiles with a building."""

    pixels: Counts = field(default_factory=Counts)
    objects: Counts = field(default_factory=Counts)
    built: int = 0

    def __add__(self, other: "_Score") -> "_Score":
        return _Score(
            self.pixels + other.pixels, self.objects + other.objects, self.built + other.built
        )


@dataclass(eq=False)
class _Outcome:
    """Scores of all tiles by group (a split or a source), and patches that were decided alone.

    `built` is the number of negatives on which a building is found.
    """

    scores: defaultdict[str, _Score] = field(default_factory=lambda: defaultdict(_Score))
    alone: int = 0
    built: int = 0

    def add(self, groups: Sequence[str], score: _Score, alone: int) -> None:
        for group in groups:
            self.scores[group] += score
        self.alone += alone

    def dice_change(self, whole: "_Outcome", group: str) -> float:
        """Return micro Dice of a group less that in `whole`."""
        return self.scores[group].pixels.dice - whole.scores[group].pixels.dice

    def f1_change(self, whole: "_Outcome", group: str) -> float:
        """Return object F1 of a group less that in `whole`."""
        return self.scores[group].objects.dice - whole.scores[group].objects.dice


def fit_cascade(
    segmenter: Segmenter,
    splits: Mapping[str, Sequence[Tile]],
    times: Mapping[str, float],
    *,
    negatives: Sequence[Tile] = (),
    progress: bool = False,
) -> Cascade | None:
    """Find the rule that spares most time and keeps the masks as good on every split and source.

    `splits` are tiles by the name of their split. Micro Dice falls by at most `SPLIT_LIMIT` and
    object F1 by at most `OBJECT_LIMIT` on a split; micro Dice falls by at most `SOURCE_LIMIT` on a
    source of `JUDGING_BUILDINGS` or more. On `negatives`, tiles without a building, the share with
    one rises by at most `NEGATIVE_LIMIT`. `times` are those that each member takes for a patch.
    None where there is but one member, or where no rule that keeps to the limits decides a patch
    alone.
    """
    members, threshold = segmenter.predictor.members, segmenter.manifest.threshold.value
    if len(members) == 1:
        return None
    rules = [
        CascadeRule(member=member, doubt=(low, high), share=share)
        for member, low, high, share in product(members, LOWS, HIGHS, SHARES)
        if low <= threshold <= high
    ]
    whole, outcomes, patches = _Outcome(), [_Outcome() for _ in rules], 0
    tiles = [(split, tile) for split, of in splits.items() for tile in of]
    with progress_bar(
        total=len(tiles) + len(negatives), desc="cascade", unit="tile", disable=not progress
    ) as bar:
        for split, tile in tiles:
            trial = _Trial.of(segmenter, tile)
            groups = split, f"{split}/{tile.source}"
            whole.add(groups, trial.score(None), 0)
            for rule, outcome in zip(rules, outcomes, strict=True):
                outcome.add(groups, trial.score(rule), trial.alone(rule))
            patches += int(np.count_nonzero(trial.is_predicted))
            bar.update()
        for tile in negatives:
            trial = _Trial.of(segmenter, tile)
            whole.built += trial.score(None).built
            for rule, outcome in zip(rules, outcomes, strict=True):
                outcome.built += trial.score(rule).built
            bar.update()

    may_rise = NEGATIVE_LIMIT * len(negatives)
    spared = [
        outcome.alone
        * (sum(times.values()) - times[rule.member])
        * (_keeps(outcome, whole, splits) and outcome.built - whole.built <= may_rise)
        for rule, outcome in zip(rules, outcomes, strict=True)
    ]
    best = int(np.argmax(spared))
    if spared[best] <= 0:
        return None
    rule, outcome = rules[best], outcomes[best]
    described = " and ".join(f"{split} ({len(of)} images)" for split, of in splits.items())
    beside = f"; {len(negatives)} images without a building" if negatives else ""
    return Cascade(
        member=rule.member,
        doubt=rule.doubt,
        share=rule.share,
        alone=round(outcome.alone / patches, 4),
        dice_micro_change=round(min(outcome.dice_change(whole, split) for split in splits), 6),
        object_f1_change=round(min(outcome.f1_change(whole, split) for split in splits), 6),
        fitted_on=f"{described}, {patches} patches{beside}",
    )


def _keeps(outcome: _Outcome, whole: _Outcome, splits: Iterable[str]) -> bool:
    """Tell whether the scores of every split and source stay within their limits."""
    judging = {
        group: SOURCE_LIMIT
        for group, score in whole.scores.items()
        if score.objects.true_positives + score.objects.false_negatives >= JUDGING_BUILDINGS
    } | dict.fromkeys(splits, SPLIT_LIMIT)
    return all(
        outcome.dice_change(whole, group) >= -limit for group, limit in judging.items()
    ) and all(outcome.f1_change(whole, split) >= -OBJECT_LIMIT for split in splits)


@dataclass(eq=False)
class _Trial:
    """A tile that is predicted: all that is needed to segment it by any rule.

    `predicted` is float32 (M, N, S, S), `is_predicted` bool (N,): patches with a valid pixel.
    Blending is linear, so the members' weighted mean is taken before it: float32 (N, S, S).
    """

    plan: Plan
    image: Image
    label: Label
    predicted: NDArray[np.float32]
    is_predicted: NDArray[np.bool_]
    mean: NDArray[np.float32]
    _known: dict[tuple[str, bytes], _Score] = field(default_factory=dict)
    _doubt: dict[tuple[str, tuple[float, float]], NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, segmenter: Segmenter, tile: Tile) -> "_Trial":
        image, label = tile.read()
        plan = segmenter.plan(image, Options(cascade="off"))
        predicted, is_predicted = predict_tile(segmenter, plan, image)
        mean = np.tensordot(np.array(plan.weights, np.float32), predicted, axes=1)
        return cls(plan, image, label, predicted, is_predicted, mean)

    @property
    def alone_plan(self) -> Plan:
        """The plan of a single map in the members' place."""
        return replace(self.plan, members=self.plan.members[:1], weights=(1.0,))

    def alone(self, rule: CascadeRule) -> int:
        """Count the patches that a rule's member decides alone."""
        return int(np.count_nonzero(self._decided(rule)))

    def score(self, rule: CascadeRule | None) -> _Score:
        """Compare the mask that a rule makes, or all members, with the label."""
        decided = self._decided(rule)
        key = (rule.member if rule and decided.any() else "", decided.tobytes())
        if key not in self._known:
            together = self.mean
            if rule and decided.any():
                first = self.predicted[self.plan.members.index(rule.member)]
                together = np.where(decided[:, np.newaxis, np.newaxis], first, together)
            bands = list(stitch(self.plan, together[:, np.newaxis]))
            mask = from_members(self.alone_plan, self.image, bands).mask
            self._known[key] = _Score(
                count(mask, self.label), match_objects(mask, self.label), int(has_building(mask))
            )
        return self._known[key]

    def _decided(self, rule: CascadeRule | None) -> NDArray[np.bool_]:
        if rule is None:
            return np.zeros_like(self.is_predicted)
        key = rule.member, rule.doubt
        if key not in self._doubt:
            answers = self.predicted[self.plan.members.index(rule.member)]
            self._doubt[key] = np.array([rule.in_doubt(answer) for answer in answers])
        return self.is_predicted & (self._doubt[key] <= rule.share)
