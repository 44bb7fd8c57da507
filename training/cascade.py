"""Fit the cascade: in which order members are asked, and with how little doubt they decide.

It is fitted along the path that serves, at the default options. Rules are tried from the fastest
on, and the first that keeps the masks as good is taken. A tile is stitched again only for a rule
that decides other patches than those before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

from app.bundle.cascade import Cascade, CascadeRule, FittedStage, Stage
from app.imaging.image import Image
from app.segmentation.cascade import share_in_doubt, weighted_mean
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
STAGES = 2
"""The most stages that are tried."""
LOWS, HIGHS = (0.1, 0.2, 0.3), (0.6, 0.7, 0.8, 1.0)
SHARES = (0.0, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16)
"""Ends of the doubtful range, and shares of a patch in it, that are tried."""

_Doubt = dict[tuple[frozenset[str], tuple[float, float]], NDArray[np.float64]]
"""For the members asked and a range of doubt: each patch's share in that range, float64 (N,)."""


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


_Scores = Mapping[str, _Score]
"""By split, and by source within it."""


def fit_cascade(
    segmenter: Segmenter,
    splits: Mapping[str, Sequence[Tile]],
    times: Mapping[str, float],
    *,
    negatives: Sequence[Tile] = (),
    progress: bool = False,
) -> Cascade | None:
    """Find the fastest rule that keeps the masks as good on every split and source.

    `splits` are tiles by the name of their split. Micro Dice falls by at most `SPLIT_LIMIT` and
    object F1 by at most `OBJECT_LIMIT` on a split; micro Dice falls by at most `SOURCE_LIMIT` on a
    source of `JUDGING_BUILDINGS` or more. On `negatives`, tiles without a building, the share with
    one rises by at most `NEGATIVE_LIMIT`. `times` are those that each member takes for a patch;
    imagery with buildings and imagery without, which is where most is spared, count alike. None
    where no rule that keeps to the limits spares a member a patch.
    """
    labelled = [
        (tile, (name, f"{name}/{tile.source}")) for name, of in splits.items() for tile in of
    ]
    with progress_bar(
        total=len(labelled) + len(negatives), desc="cascade", unit="tile", disable=not progress
    ) as bar:

        def trial(tile: Tile, groups: tuple[str, ...] = ()) -> _Trial:
            bar.update()
            return _Trial.of(segmenter, tile, groups)

        trials = [trial(*of) for of in labelled]
        empty = [trial(tile) for tile in negatives]
    whole, built = _scores(trials, None), sum(trial.score(None).built for trial in empty)
    patches = sum(int(np.count_nonzero(trial.valid)) for trial in trials)
    may_rise = NEGATIVE_LIMIT * len(negatives)

    for rule, decided in _fastest_first(segmenter, trials, empty, times):
        if sum(trial.score(rule).built for trial in empty) - built > may_rise:
            continue
        scores = _scores(trials, rule)
        if not _keeps(scores, whole, splits):
            continue
        described = " and ".join(f"{split} ({len(of)} images)" for split, of in splits.items())
        beside = f"; {len(negatives)} images without a building" if negatives else ""
        return Cascade(
            doubt=rule.doubt,
            stages=tuple(
                FittedStage(member=stage.member, share=stage.share, decided=round(share, 4))
                for stage, share in zip(rule.stages, decided, strict=True)
            ),
            dice_micro_change=round(min(_dice_change(scores, whole, of) for of in splits), 6),
            object_f1_change=round(min(_f1_change(scores, whole, of) for of in splits), 6),
            fitted_on=f"{described}, {patches} patches{beside}",
        )
    return None


def _fastest_first(
    segmenter: Segmenter,
    labelled: Sequence["_Trial"],
    empty: Sequence["_Trial"],
    times: Mapping[str, float],
) -> Iterator[tuple[CascadeRule, list[float]]]:
    """Yield the rules that spare time, the fastest first, each with what its stages decide.

    These are shares of the patches of `labelled`.
    """
    doubts = [_all_doubt(trials) for trials in (labelled, empty) if trials]
    timed = []
    for rule in _rules(segmenter):
        shares = [_decided(doubt, rule) for doubt in doubts]
        timed.append((sum(_time(rule, decided, times) for decided in shares), rule, shares[0]))
    all_members = len(doubts) * sum(times.values())
    faster = (one for one in timed if one[0] < all_members * (1 - 1e-9))
    for _, rule, decided in sorted(faster, key=lambda one: one[0]):
        yield rule, decided


def _all_doubt(trials: Sequence["_Trial"]) -> _Doubt:
    return {
        key: np.concatenate([trial.doubt[key][trial.valid] for trial in trials])
        for key in trials[0].doubt
    }


def _decided(doubt: _Doubt, rule: CascadeRule) -> list[float]:
    """Return the share of patches that each stage decides."""
    deciding = _deciding(doubt, rule)
    return [float(np.mean(deciding == n)) for n in range(len(rule.stages))]


def _time(rule: CascadeRule, decided: Sequence[float], times: Mapping[str, float]) -> float:
    """Return the mean time for a patch."""
    left, time = 1.0, 0.0
    for member, share in zip(rule.members, decided, strict=True):
        time += left * times[member]
        left -= share
    return time + left * sum(of for member, of in times.items() if member not in rule.members)


def _rules(segmenter: Segmenter) -> Iterator[CascadeRule]:
    """Yield the rules to try, those of one stage first."""
    members = segmenter.predictor.members
    for number in range(1, _stages(segmenter) + 1):
        tried = product(permutations(members, number), _ranges(segmenter))
        for (order, doubt), shares in product(tried, product(SHARES, repeat=number)):
            stages = [Stage(member=m, share=s) for m, s in zip(order, shares, strict=True)]
            yield CascadeRule(doubt=doubt, stages=tuple(stages))


def _stages(segmenter: Segmenter) -> int:
    """Return the most stages that a rule may have: at least one member is spared."""
    return min(STAGES, len(segmenter.predictor.members) - 1)


def _ranges(segmenter: Segmenter) -> list[tuple[float, float]]:
    threshold = segmenter.manifest.threshold.value
    return [(low, high) for low, high in product(LOWS, HIGHS) if low <= threshold <= high]


def _deciding(doubt: _Doubt, rule: CascadeRule) -> NDArray[np.int_]:
    """Return the number of the stage that decides each patch, int (N,); after the last: none."""
    sure = [
        doubt[frozenset(rule.members[: n + 1]), rule.doubt] <= stage.share
        for n, stage in enumerate(rule.stages)
    ]
    deciding: NDArray[np.int_] = np.argmax([*sure, np.ones_like(sure[0])], axis=0)
    return deciding


def _scores(trials: Sequence["_Trial"], rule: CascadeRule | None) -> _Scores:
    scores: dict[str, _Score] = {}
    for trial in trials:
        for group in trial.groups:
            scores[group] = scores.get(group, _Score()) + trial.score(rule)
    return scores


def _dice_change(scores: _Scores, whole: _Scores, group: str) -> float:
    return scores[group].pixels.dice - whole[group].pixels.dice


def _f1_change(scores: _Scores, whole: _Scores, group: str) -> float:
    return scores[group].objects.dice - whole[group].objects.dice


def _keeps(scores: _Scores, whole: _Scores, splits: Mapping[str, object]) -> bool:
    """Tell whether the scores of every split and source stay within their limits."""
    judging = {
        group: SOURCE_LIMIT
        for group, score in whole.items()
        if score.objects.true_positives + score.objects.false_negatives >= JUDGING_BUILDINGS
    } | dict.fromkeys(splits, SPLIT_LIMIT)
    return all(
        _dice_change(scores, whole, group) >= -limit for group, limit in judging.items()
    ) and all(_f1_change(scores, whole, split) >= -OBJECT_LIMIT for split in splits)


@dataclass(eq=False)
class _Trial:
    """A tile that is predicted: all that is needed to segment it by any rule.

    `groups` are the split and source that it counts in. Answers are float32 (N, S, S) by member,
    `mean` is theirs by weight, and `valid`, bool (N,), tells which patches have a valid pixel.
    """

    plan: Plan
    image: Image
    label: Label
    groups: tuple[str, ...]
    answers: dict[str, NDArray[np.float32]]
    valid: NDArray[np.bool_]
    mean: NDArray[np.float32]
    doubt: _Doubt = field(default_factory=dict)
    _known: dict[tuple[tuple[str, ...], bytes], _Score] = field(default_factory=dict)

    @classmethod
    def of(cls, segmenter: Segmenter, tile: Tile, groups: tuple[str, ...] = ()) -> "_Trial":
        image, label = tile.read()
        plan = segmenter.plan(image, Options(cascade="off"))
        predicted, valid = predict_tile(segmenter, plan, image)
        answers = dict(zip(plan.members, predicted, strict=True))
        mean = weighted_mean(answers, plan.weight_of)
        trial = cls(plan, image, label, groups, answers, valid, mean)
        for number in range(1, _stages(segmenter) + 1):
            for members in combinations(plan.members, number):
                of_few = trial.mean_of(members)
                for within in _ranges(segmenter):
                    shares = np.array([share_in_doubt(of_patch, within) for of_patch in of_few])
                    trial.doubt[frozenset(members), within] = shares
        return trial

    def mean_of(
        self, members: Sequence[str], patches: NDArray[np.bool_] | slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the weighted mean of the answers of `members`: float32 (n, S, S) for n patches."""
        few = {member: self.answers[member][patches] for member in members}
        return weighted_mean(few, self.plan.weight_of)

    def score(self, rule: CascadeRule | None) -> _Score:
        """Compare the mask that a rule makes, or all members, with the label."""
        members = rule.members if rule else ()
        stage_of = _deciding(self.doubt, rule) if rule else np.zeros(len(self.valid), np.int_)
        used = members[: 1 + int(stage_of[stage_of < len(members)].max(initial=-1))]
        key = used, stage_of.tobytes() if used else b""
        if key not in self._known:
            together = self.mean.copy()
            for n in range(len(used)):
                decided = stage_of == n
                together[decided] = self.mean_of(used[: n + 1], decided)
            # Blending is linear, so the members' weighted mean is taken before it.
            one = replace(self.plan, members=self.plan.members[:1], weights=(1.0,))
            mask = from_members(one, self.image, list(stitch(one, together[:, np.newaxis]))).mask
            self._known[key] = _Score(
                count(mask, self.label), match_objects(mask, self.label), int(has_building(mask))
            )
        return self._known[key]
