"""How a mask is scored against its label.

Every name says its reduction: `_micro` counts the pixels of all images together, `_imagewise` is
the mean over images. An image on which neither mask nor label has a building scores 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Pixels of one image, or of many: true positives, false positives, false negatives."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def dice(self) -> float:
        """Return 2TP / (2TP + FP + FN)."""
        wrong = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + wrong)

    @property
    def iou(self) -> float:
        """Return TP / (TP + FP + FN)."""
        wrong = self.false_positives + self.false_negatives
        return _ratio(self.true_positives, self.true_positives + wrong)

    @property
    def precision(self) -> float:
        """Return TP / (TP + FP); 1 when nothing was predicted."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Return TP / (TP + FN); 1 when there was nothing to find."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)


def count(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> Counts:
    """Compare a mask with its label, both bool of the same shape."""
    hit = int(np.count_nonzero(mask & label))
    return Counts(hit, int(np.count_nonzero(mask)) - hit, int(np.count_nonzero(label)) - hit)


def summarise(images: Iterable[Counts]) -> dict[str, float]:
    """Reduce the counts of several images to the scores that reports and manifests show."""
    images = list(images)
    micro = sum(images, Counts())
    return {
        "dice_micro": micro.dice,
        "iou_micro": micro.iou,
        "precision_micro": micro.precision,
        "recall_micro": micro.recall,
        "dice_imagewise": float(np.mean([image.dice for image in images])),
        "iou_imagewise": float(np.mean([image.iou for image in images])),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
