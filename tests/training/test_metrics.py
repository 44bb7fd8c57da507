"""Scores against sets, counted by hand."""

import numpy as np
import pytest

from training.metrics import Counts, count, summarise


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


def test_micro_pools_pixels_and_imagewise_averages_images() -> None:
    large, small, empty = Counts(90, 10, 10), Counts(1, 1, 3), Counts(0, 0, 0)

    scores = summarise(iter([large, small, empty]))

    assert scores == pytest.approx(
        {
            "dice_micro": 2 * 91 / (2 * 91 + 11 + 13),
            "iou_micro": 91 / (91 + 11 + 13),
            "precision_micro": 91 / 102,
            "recall_micro": 91 / 104,
            "dice_imagewise": (180 / 200 + 2 / 6 + 1) / 3,
            "iou_imagewise": (90 / 110 + 1 / 5 + 1) / 3,
        }
    )
