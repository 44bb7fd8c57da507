"""The fit finds an optimum that was planted, and scores as a slow, plain search does."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from app.segmentation.options import Combine
from training.fit import WEIGHT_STEPS, Fit, Pixels, fit, fit_threshold, held_out, tally

ROUNDED = 1e-11
"""Each source counts alike, so its pixels are shares, and scores are rounded to 12 digits."""

Maps = tuple[NDArray[np.float32], NDArray[np.bool_]]


def fit_one(pixels: Pixels) -> Fit:
    return fit([pixels])


def planted(weights: tuple[float, ...], threshold: float) -> Maps:
    """Make maps whose weighted mean lies above `threshold` just where there is building.

    A thin line of clearance on either side keeps the rounding to levels from mattering.
    """
    random = np.random.default_rng(0)
    probabilities = random.random((len(weights), 300, 300), np.float32)
    mean = np.tensordot(weights, probabilities, axes=1)
    clear = np.abs(mean - threshold) > 0.004
    # Where it is not clear, all members say what is far from the threshold.
    probabilities[:, ~clear] = 0.0
    return probabilities, clear & (mean > threshold)


def dice(maps: Maps, weights: tuple[float, ...], threshold: float) -> float:
    probabilities, label = maps
    mask = np.tensordot(weights, probabilities, axes=1) >= threshold
    return float(2 * np.count_nonzero(mask & label) / (mask.sum() + label.sum()))


@pytest.mark.parametrize(
    ("weights", "threshold"),
    [((0.7, 0.15, 0.15), 0.3), ((0.2, 0.35, 0.45), 0.62), ((0.05, 0.95), 0.5), ((1.0,), 0.25)],
)
def test_recovers_a_planted_optimum(weights: tuple[float, ...], threshold: float) -> None:
    found = fit_one(tally([planted(weights, threshold)]))

    assert found.weights == weights
    assert found.threshold == threshold
    assert found.dice == 1


def test_agrees_with_a_plain_search_over_every_pixel() -> None:
    random = np.random.default_rng(1)
    label = random.random((60, 60)) < 0.3
    noise = random.normal(0, 1, (2, 60, 60)) * np.array([0.8, 1.3])[:, np.newaxis, np.newaxis]
    probabilities = (1 / (1 + np.exp(-(2.0 * label - 1 + noise)))).astype(np.float32)
    levels = np.rint(probabilities * 255).astype(int)
    scores = {}
    for k, t in product(range(1, WEIGHT_STEPS), range(20, 81)):
        mask = 100 * (k * levels[0] + (WEIGHT_STEPS - k) * levels[1]) >= t * 255 * WEIGHT_STEPS
        scores[k, t] = 2 * np.count_nonzero(mask & label) / (mask.sum() + label.sum())
    (k, t), highest = max(scores.items(), key=lambda item: item[1])

    found = fit_one(tally([(probabilities, label)]))

    assert found.dice == pytest.approx(highest, abs=ROUNDED)
    assert scores[round(found.weights[0] * WEIGHT_STEPS), round(found.threshold * 100)] == highest
    best = round(found.weights[0] * WEIGHT_STEPS)
    expected = [scores[best, t] for t in range(20, 81)]
    assert list(found.curve.values()) == pytest.approx(expected, abs=ROUNDED)
    assert dice((probabilities, label), found.weights, found.threshold) == pytest.approx(
        highest, abs=0.01
    )


def test_bands_add_up_to_the_whole_map() -> None:
    probabilities, label = planted((0.5, 0.5), 0.4)
    bands = [(probabilities[:, i : i + 70], label[i : i + 70]) for i in range(0, 300, 70)]

    assert fit_one(tally(bands)) == fit_one(tally([(probabilities, label)]))


def test_weights_sum_to_one_and_leave_no_member_out() -> None:
    useless = np.random.default_rng(2).random((3, 50, 50), np.float32)
    label = useless[0] > 0.5

    found = fit_one(tally([(useless, label)]))

    assert math.fsum(found.weights) == pytest.approx(1, abs=1e-9)
    assert min(found.weights) >= 1 / WEIGHT_STEPS
    assert found.weights[0] > 0.5


def test_ties_go_to_equal_weights_and_the_middle() -> None:
    label = np.zeros((10, 10), np.bool_)
    label[:5] = True
    perfect = np.stack([label, label]).astype(np.float32)

    found = fit_one(tally([(perfect, label)]))

    assert (found.weights, found.threshold) == ((0.5, 0.5), 0.5)


def test_tiles_without_a_building_score_one_where_nothing_is_found() -> None:
    found = fit_one(tally([(np.full((1, 4, 4), 0.3, np.float32), np.zeros((4, 4), np.bool_))]))

    assert found.threshold == 0.5
    assert (found.curve[0.2], found.curve[0.3], found.curve[0.31]) == (0, 1, 1)


def test_nothing_to_fit_to_is_refused() -> None:
    with pytest.raises(ValueError, match="no tiles"):
        tally([])
    with pytest.raises(ValueError, match="8"):
        tally([(np.zeros((8, 2, 2), np.float32), np.zeros((2, 2), np.bool_))])


def test_held_out_scores_come_from_a_fit_to_the_others() -> None:
    """Two sources want threshold 0.3, one wants 0.62: it is the one that a fit to others fails."""
    low, high = tally([planted((0.5, 0.5), 0.3)]), tally([planted((0.5, 0.5), 0.62)])

    found = held_out({"a": low, "b": low, "c": high})

    assert found["a"] == pytest.approx(fit([low, high]).dice, abs=0.2)
    assert found["c"] == pytest.approx(dice(planted((0.5, 0.5), 0.62), (0.5, 0.5), 0.3), abs=0.01)
    assert held_out({"a": low}) == {}


def test_each_source_counts_alike() -> None:
    """Tiles that come seven times count as if they came once, unless sources are pooled."""
    small, large = planted((0.2, 0.8), 0.4), planted((0.6, 0.4), 0.5)
    tiled = [tally([small]), tally([large] * 7)]

    found = fit(tiled)

    assert found == fit([tally([small]), tally([large])]) == fit(tiled[::-1])
    assert fit([tally([small, *[large] * 7])]).weights != found.weights


def test_parts_are_shares_of_their_pixels() -> None:
    """Counted by hand: half of one source is building, a quarter of the other is found wrongly."""
    half = np.zeros((1, 10, 10), np.float32), np.zeros((10, 10), np.bool_)
    half[0][:, :5], half[1][:5] = 0.7, True
    empty = np.zeros((1, 40, 40), np.float32), np.zeros((40, 40), np.bool_)
    empty[0][:, :10] = 0.56

    found = fit([tally([half]), tally([empty])])

    wrong, right = 0.25, 0.5
    assert found.curve[0.5] == pytest.approx(2 * right / (right + wrong + right), abs=ROUNDED)
    assert (found.curve[0.6], found.threshold) == (1, 0.57)


@pytest.mark.parametrize("members", [1, 2, 3, 4])
@pytest.mark.parametrize("combine", ["average", "vote"])
def test_threshold_is_that_of_a_plain_search(members: int, combine: Combine) -> None:
    random = np.random.default_rng(members)
    label = random.random((50, 40)) < 0.4
    shape = (members, *label.shape)
    probabilities = np.clip(0.2 + 0.5 * label + random.normal(0, 0.3, shape), 0, 1)
    levels = np.rint(probabilities.astype(np.float32) * 255).astype(int)
    expected = {}
    for t in range(20, 81):
        if combine == "vote":
            mask = 2 * np.sum(100 * levels >= t * 255, axis=0) > members
        else:
            mask = 100 * levels.sum(axis=0) >= t * 255 * members
        expected[t / 100] = 2 * np.count_nonzero(mask & label) / (mask.sum() + label.sum())

    found = fit_threshold([tally([(probabilities.astype(np.float32), label)])], combine)

    assert found.curve == pytest.approx(expected, abs=ROUNDED)
    assert found.dice == pytest.approx(max(expected.values()), abs=ROUNDED)
    assert found.weights == (1 / members,) * members
