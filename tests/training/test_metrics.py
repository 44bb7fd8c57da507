"""Scores against sets, counted by hand."""

import importlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.metrics import Comparison, Counts, Share, compare, count, summarise

# After training, without which torchvision can't be imported beside a torch for CPUs.
classification = importlib.import_module("torchmetrics.classification")


def test_count_agrees_with_sets_of_pixels() -> None:
    random = np.random.default_rng(0)
    mask, label = random.random((2, 13, 17)) < 0.4
    said = set(map(tuple, np.argwhere(mask)))
    true = set(map(tuple, np.argwhere(label)))

    counts = count(mask, label)

    assert counts == Counts(len(said & true), len(said - true), len(true - said))
    assert counts.dice == 2 * len(said & true) / (len(said) + len(true))
    assert counts.iou == len(said & true) / len(said | true)
    assert counts.precision == len(said & true) / len(said)
    assert counts.recall == len(said & true) / len(true)


def test_scores_are_those_of_torchmetrics() -> None:
    """An independent hand, over several images: micro scores, and the calibration error."""
    random = np.random.default_rng(3)
    probability = random.random((4, 30, 40), np.float32)
    label = random.random((4, 30, 40)) < probability**2  # so that it is not calibrated
    images = [compare(p >= 0.5, p, of) for p, of in zip(probability, label, strict=True)]
    scores = summarise(images)
    predicted, true = torch.from_numpy(probability), torch.from_numpy(label).int()
    oracles = {
        "dice_micro": classification.BinaryF1Score(),
        "iou_micro": classification.BinaryJaccardIndex(),
        "precision_micro": classification.BinaryPrecision(),
        "recall_micro": classification.BinaryRecall(),
        "calibration_error": classification.BinaryCalibrationError(n_bins=20, norm="l1"),
    }
    for name, oracle in oracles.items():
        assert scores[name] == pytest.approx(float(oracle(predicted, true)), abs=1e-6), name
    imagewise = [
        float(classification.BinaryF1Score()(p, t)) for p, t in zip(predicted, true, strict=True)
    ]
    assert scores["dice_imagewise"] == pytest.approx(np.mean(imagewise), abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "dice", "iou", "precision", "recall"),
    [
        (Counts(0, 0, 0), 1, 1, 1, 1),  # nothing there, nothing found
        (Counts(0, 5, 0), 0, 0, 0, 1),
        (Counts(0, 0, 5), 0, 0, 1, 0),
        (Counts(5, 0, 0), 1, 1, 1, 1),
    ],
)
def test_scores_without_buildings_or_without_finds(
    counts: Counts, dice: float, iou: float, precision: float, recall: float
) -> None:
    found = (counts.dice, counts.iou, counts.precision, counts.recall)

    assert found == (dice, iou, precision, recall)


def comparison(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> Comparison:
    return compare(mask, mask.astype(np.float32), label)


def boxes(*corners: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Draw boxes (top, left, bottom, right) into 300 x 300 pixels."""
    drawn = np.zeros((300, 300), np.bool_)
    for top, left, bottom, right in corners:
        drawn[top:bottom, left:right] = True
    return drawn


def test_micro_pools_pixels_and_imagewise_averages_images() -> None:
    label = boxes((10, 10, 20, 20))
    half, nothing = boxes((10, 10, 20, 15)), boxes()

    scores = summarise(
        iter([comparison(half, label), comparison(nothing, nothing), comparison(half, nothing)])
    )

    assert scores["dice_micro"] == 2 * 50 / (2 * 50 + 50 + 50)
    assert scores["iou_micro"] == 50 / 150
    assert scores["precision_micro"] == 50 / 100
    assert scores["recall_micro"] == 50 / 100
    assert scores["dice_imagewise"] == pytest.approx((100 / 150 + 1 + 0) / 3)
    assert scores["iou_imagewise"] == pytest.approx((50 / 100 + 1 + 0) / 3)
    assert scores["dice_built"] == pytest.approx(100 / 150)


def test_objects_agree_when_more_than_half_of_their_union_is_shared() -> None:
    label = boxes((0, 0, 10, 10), (50, 50, 60, 60), (100, 0, 110, 10), (200, 200, 220, 220))
    mask = boxes(
        (0, 0, 10, 6),  # 0.6 of the first
        (50, 50, 60, 55),  # half of the second is not more than half
        (100, 0, 110, 5), (100, 6, 110, 10),  # the third, torn in two
        (202, 200, 222, 220),  # the fourth, a little lower
        (250, 0, 260, 10),  # of nothing
    )  # fmt: skip

    assert comparison(mask, label).objects == Counts(2, 4, 2)


def test_components_that_touch_at_a_corner_are_two_objects() -> None:
    touching, side = boxes((0, 0, 5, 5), (5, 5, 10, 10)), boxes((0, 0, 5, 5), (5, 4, 10, 10))

    assert comparison(touching, touching).objects == Counts(2, 0, 0)
    assert comparison(side, side).objects == Counts(1, 0, 0)


@pytest.mark.parametrize(("shift", "near"), [(0, True), (3, True), (4, False)])
def test_a_boundary_may_lie_three_pixels_off(shift: int, near: bool) -> None:
    label, mask = boxes((0, 0, 300, 100)), boxes((0, 0, 300, 100 + shift))

    compared = comparison(mask, label)

    # The image's own edge bounds nothing: one straight line of 300 pixels each.
    assert compared.drawn == compared.labelled == Share(300 if near else 0, 300)
    assert summarise([compared])["boundary_f1"] == float(near)


def test_boundary_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    one, two = boxes((10, 10, 30, 30)), boxes((10, 10, 30, 30), (100, 100, 120, 120))

    scores = summarise([comparison(one, two)])

    assert scores["boundary_f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert summarise([comparison(boxes(), two)])["boundary_f1"] == 0


def test_empty_patches_count_those_that_were_not_left_alone() -> None:
    label = boxes((0, 0, 1, 19), (0, 230, 10, 240))  # 19 pixels do not make a patch built
    mask = boxes((100, 100, 101, 119), (230, 0, 240, 2))  # 19 pixels are not a find, 20 are

    compared = comparison(mask, label)

    assert compared.clean == Share(2, 3)
    assert summarise([compared])["empty_false_positives"] == pytest.approx(1 / 3)


def test_calibration_error_is_how_far_probabilities_lie_from_frequencies() -> None:
    label = boxes((0, 0, 300, 120))  # 40 %
    probability = np.full(label.shape, 0.7, np.float32)

    honest = compare(label, label.astype(np.float32), label)
    bold = compare(probability > 0.5, probability, label)

    assert summarise([honest])["calibration_error"] == 0
    assert summarise([bold])["calibration_error"] == pytest.approx(0.3, abs=1e-6)
    number, buildings, _ = bold.binned
    assert (number.sum(), buildings.sum()) == (90000, 36000)


def test_an_image_without_anything_is_perfect() -> None:
    scores = summarise([comparison(boxes(), boxes())])

    errors = {"empty_false_positives", "calibration_error"}
    assert {score for score in scores if scores[score] == 0} == errors
    assert {scores[score] for score in scores if score not in errors} == {1.0}
