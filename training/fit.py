"""Choose the members' weights and the threshold that score best on labelled tiles.

Every pixel takes part, none is sampled. A member's probability is rounded to one of 256 levels, and
pixels on which all members have equal levels become one entry of a table; weights are twentieths
and thresholds hundredths. The rounding (at most 1/510) decides which weights and threshold are
chosen, never a score that is published: those come from `training.evaluate`, which rounds nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from app.segmentation.options import Combine, Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.data import Tile
from training.evaluate import told

WEIGHT_STEPS = 20
"""Weights are multiples of 1 / 20; none is 0, or the member need not be in the bundle."""
COARSE_STEPS = 10
"""Weights that are tried first, and those that are fitted without a source, are multiples of
1 / 10: five members have 126 of these, and 3,876 of 1 / 20."""
THRESHOLDS = range(20, 81)
"""Thresholds that are tried, in hundredths."""

_LEVELS = 256
_TOP = (_LEVELS - 1) * WEIGHT_STEPS  # what the weighted levels of a pixel sum to at probability 1
_MAX_MEMBERS = 7  # levels of a pixel and its label share one 64-bit code


@dataclass(frozen=True)
class Fit:
    """Weights in the members' order, a threshold, and the micro Dice at every other threshold."""

    weights: tuple[float, ...]
    threshold: float
    curve: dict[float, float]

    @property
    def dice(self) -> float:
        """Return the micro Dice of the rounded probabilities at the chosen threshold."""
        return self.curve[self.threshold]


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels by what the members say of them.

    `levels` is int32 (M, K): 255 x the probability of each member, rounded. `building` and
    `background` are float64 (K,): how many pixels of that label have these levels.
    """

    levels: NDArray[np.int32]
    building: NDArray[np.float64]
    background: NDArray[np.float64]


def tally_sources(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    *,
    tell_gsd: bool = False,
    progress: bool = False,
) -> dict[str, Pixels]:
    """Ask all members about every tile as the service would, and tally the pixels of each source.

    With `tell_gsd`, the GSD of a tile is told where it is known.

    Raises:
        ValueError: no tiles, or more than seven members.
    """
    if not tiles:
        raise ValueError("nothing to fit weights and threshold to: no tiles")

    def maps(of: Sequence[Tile]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        for tile in of:
            image, label = tile.read()
            plan = segmenter.plan(image, told(options, tile, tell_gsd=tell_gsd))
            for band in segmenter.member_bands(plan, image):
                valid = image.read_valid(band.rows.start, band.rows.stop)
                yield (
                    band.members if valid is None else np.where(valid, band.members, 0),
                    label[band.rows],
                )
            bar.update()

    with progress_bar(total=len(tiles), desc="fitting", unit="tile", disable=not progress) as bar:
        sources = sorted({tile.source for tile in tiles})
        return {name: tally(maps([t for t in tiles if t.source == name])) for name in sources}


def tally(maps: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> Pixels:
    """Count the pixels of probability maps float32 (M, h, W) with their labels, bool (h, W).

    Raises:
        ValueError: no maps, or more than seven members.
    """
    tables, members = [], 0
    for probabilities, label in maps:
        members = len(probabilities)
        if members > _MAX_MEMBERS:
            raise ValueError(f"weights can be fitted to {_MAX_MEMBERS} members, not {members}")
        codes = label.astype(np.uint64)
        for i, probability in enumerate(probabilities):
            level = np.rint(probability * (_LEVELS - 1)).astype(np.uint64)
            codes |= level << np.uint64(1 + 8 * i)
        tables.append(np.unique(codes, return_counts=True))
    if not tables:
        raise ValueError("nothing to fit weights and threshold to: no tiles")

    codes, rows = np.unique(np.concatenate([codes for codes, _ in tables]), return_inverse=True)
    counts = np.bincount(rows, weights=np.concatenate([counts for _, counts in tables]))
    is_building = (codes & np.uint64(1)).astype(bool)
    shifts = np.array([1 + 8 * i for i in range(members)], np.uint64)
    levels = (codes >> shifts[:, np.newaxis]) & np.uint64(_LEVELS - 1)
    return Pixels(
        levels.astype(np.int32),
        np.where(is_building, counts, 0.0),
        np.where(is_building, 0.0, counts),
    )


def fit(parts: Sequence[Pixels], *, coarse: bool = False) -> Fit:
    """Find the weights and the threshold with the highest micro Dice over all `parts`.

    Each part, such as a source, counts alike, whatever its number of pixels. All weights that are
    multiples of 1 / 10 are tried. From the best of them, 1 / 20 goes from one member to another as
    long as that raises the score, unless `coarse`. Of equal scores, the one nearest to equal
    weights wins, then the one nearest to 0.5.
    """
    pixels = _pooled(parts)
    step = WEIGHT_STEPS // COARSE_STEPS
    tenths = _compositions(COARSE_STEPS, len(pixels.levels))
    best = _best(pixels, (tuple(step * k for k in of) for of in tenths))
    while not coarse:
        better = _best(pixels, [best[0], *_neighbours(best[0])])
        if better[1].max() <= best[1].max():
            break
        best = better
    weights, curve = best
    return _chosen(tuple(k / WEIGHT_STEPS for k in weights), curve)


def _best(
    pixels: Pixels, candidates: Iterable[tuple[int, ...]]
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return the weights in twentieths whose best threshold scores highest, and their curve."""
    ordered = sorted(candidates, key=_inequality)
    curves = [_dice_by_threshold(pixels, weights) for weights in ordered]
    best = int(np.argmax([curve.max() for curve in curves]))
    return ordered[best], curves[best]


def _neighbours(weights: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the weights with one step from one member to another; none falls to 0."""
    for giver, taker in permutations(range(len(weights)), 2):
        if weights[giver] > 1:
            changed = list(weights)
            changed[giver] -= 1
            changed[taker] += 1
            yield tuple(changed)


def fit_threshold(parts: Sequence[Pixels], combine: Combine = "average") -> Fit:
    """Find the threshold with the highest micro Dice over all `parts`; members weigh the same.

    Each part counts alike, as in `fit`. Of equal scores, the one nearest to 0.5 wins.
    """
    pixels = _pooled(parts)
    members = len(pixels.levels)
    if combine == "vote":
        # A strict majority reaches a threshold just when the member that completes it does.
        decisive, top = np.sort(pixels.levels, axis=0)[(members - 1) // 2], _LEVELS - 1
    else:
        decisive, top = pixels.levels.sum(axis=0), (_LEVELS - 1) * members
    return _chosen((1 / members,) * members, _dice_above(decisive, top, pixels))


def _pooled(parts: Sequence[Pixels]) -> Pixels:
    """Join parts, each with its pixels divided by their number."""
    totals = [part.building.sum() + part.background.sum() for part in parts]
    return Pixels(
        np.concatenate([part.levels for part in parts], axis=1),
        np.concatenate([p.building / total for p, total in zip(parts, totals, strict=True)]),
        np.concatenate([p.background / total for p, total in zip(parts, totals, strict=True)]),
    )


def _chosen(weights: tuple[float, ...], dice: NDArray[np.float64]) -> Fit:
    curve = dict(zip((t / 100 for t in THRESHOLDS), dice.tolist(), strict=True))
    highest = max(curve.values())
    threshold = min((t for t in curve if curve[t] == highest), key=lambda t: abs(t - 0.5))
    return Fit(weights, threshold, curve)


def held_out(sources: Mapping[str, Pixels]) -> dict[str, float]:
    """Return the micro Dice on each source, with weights and threshold fitted to the others.

    This is what a fit is worth on imagery that it has not seen (the networks may have seen more);
    {} when there is but one source.
    """
    found = {}
    for name, pixels in sources.items():
        if others := [part for source, part in sources.items() if source != name]:
            fitted = fit(others, coarse=True)
            weights = [round(weight * WEIGHT_STEPS) for weight in fitted.weights]
            at = THRESHOLDS.index(round(fitted.threshold * 100))
            found[name] = float(_dice_by_threshold(pixels, weights)[at])
    return found


def _dice_by_threshold(pixels: Pixels, weights: Sequence[int]) -> NDArray[np.float64]:
    """Return the micro Dice at each of `THRESHOLDS` for weights in twentieths."""
    summed = np.tensordot(np.array(weights, np.int32), pixels.levels, axes=1)
    return _dice_above(summed, _TOP, pixels)


def _dice_above(summed: NDArray[np.signedinteger], top: int, pixels: Pixels) -> NDArray[np.float64]:
    """Return the micro Dice at each of `THRESHOLDS` of what pixels sum to, `top` at most."""
    # Pixels by their level; those at and above it, when summed from the top.
    found, wrong = (
        np.bincount(summed, weights=of, minlength=top + 1)[::-1].cumsum()[::-1]
        for of in (pixels.building, pixels.background)
    )
    # The first whole number that is not below t / 100 x top.
    at = np.array([-(-t * top // 100) for t in THRESHOLDS])
    total = found[at] + wrong[at] + found[0]
    dice = np.ones(len(at))
    np.divide(2 * found[at], total, out=dice, where=total > 0)
    return dice.round(12)  # sums in another order differ by less, and must tie


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Write `total` as ordered sums of `parts` whole numbers above 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def _inequality(weights: tuple[int, ...]) -> int:
    return sum(weight * weight for weight in weights)
