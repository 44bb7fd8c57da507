"""How a mask is scored against its label.

Every name says its reduction: `_micro` counts the pixels of all images together, `_imagewise` is
the mean over images. An image on which neither mask nor label has a building scores 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import PATCH_SIZE

OBJECT_IOU = 0.5
"""IoU above which a found component is the labelled one."""
BOUNDARY_PIXELS = 3
"""How far a boundary may lie from the labelled one, in pixels."""
FEW_PIXELS = 20
"""A patch with fewer labelled pixels is empty, and one with fewer found pixels is left alone."""
JUDGING_BUILDINGS = 20
"""Labelled buildings without which a source does not judge a cascade or a minimum confidence: one
of them would be worth more than either may cost."""
CALIBRATION_BINS = 20
"""Bins of equal width into which probabilities are sorted."""


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


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    part: int = 0
    whole: int = 0

    def __add__(self, other: "Share") -> "Share":
        return Share(self.part + other.part, self.whole + other.whole)

    @property
    def ratio(self) -> float:
        """Return part / whole; 1 when there is nothing."""
        return _ratio(self.part, self.whole)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything about one image that scores are made of.

    `pixels`: see `count`. `objects`: connected components as the service counts them (pixels that
    share a side), of which a found one and a labelled one
    agree when their IoU exceeds `OBJECT_IOU`; at most one can (Kirillov et al., "Panoptic
    Segmentation", CVPR 2019). `drawn` and `labelled`: pixels of the found and of the labelled
    boundary, and how many of them lie within `BOUNDARY_PIXELS` of the other (Perazzi et al., "A
    Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016).
    `clean`: empty patches of a grid, and how many of them were left alone. `binned`: float64
    (3, bins), the number of pixels by their probability, how many of them are building, and the
    sum of their probabilities.
    """

    pixels: Counts
    objects: Counts
    drawn: Share
    labelled: Share
    clean: Share
    binned: NDArray[np.float64]


def compare(
    mask: NDArray[np.bool_], probability: NDArray[np.float32], label: NDArray[np.bool_]
) -> Comparison:
    """Compare a mask and the probability behind it with the label, all of one shape (H, W)."""
    drawn, labelled = _boundary(mask), _boundary(label)
    return Comparison(
        pixels=count(mask, label),
        objects=match_objects(mask, label),
        drawn=_near(drawn, labelled),
        labelled=_near(labelled, drawn),
        clean=_clean_patches(mask, label),
        binned=_binned(probability, label),
    )


def match_objects(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> Counts:
    """Count the components of a mask and of its label, both bool (H, W), that agree or do not.

    See `Comparison.objects`; the `dice` of these counts is object F1.
    """
    found, named = (
        cv2.connectedComponentsWithStats(of.view(np.uint8), connectivity=4)[1:3]
        for of in (mask, label)
    )
    both = mask & label
    of_pixels = found[0][both].astype(np.int64) * len(named[1]) + named[0][both]
    overlapping, shared = np.unique(of_pixels, return_counts=True)
    pairs = np.divmod(overlapping, len(named[1]))
    areas = found[1][pairs[0], cv2.CC_STAT_AREA], named[1][pairs[1], cv2.CC_STAT_AREA]
    matched = int(np.count_nonzero(shared > OBJECT_IOU * (areas[0] + areas[1] - shared)))
    # The first component of either is the background.
    return Counts(matched, len(found[1]) - 1 - matched, len(named[1]) - 1 - matched)


def has_building(mask: NDArray[np.bool_]) -> bool:
    """Tell whether a component of a mask, bool (H, W), has `FEW_PIXELS` pixels or more."""
    components = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)[2]
    return bool((components[1:, cv2.CC_STAT_AREA] >= FEW_PIXELS).any())  # the first is background


def count_objects(mask: NDArray[np.bool_]) -> int:
    """Count the connected components of a mask, bool (H, W), as the service counts buildings."""
    return cv2.connectedComponents(mask.view(np.uint8), connectivity=4)[0] - 1


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask that touch background, at a side; the image's edge is none."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inside = cv2.erode(mask.view(np.uint8), cross)
    boundary: NDArray[np.bool_] = mask & (inside == 0)
    return boundary


def _near(boundary: NDArray[np.bool_], other: NDArray[np.bool_]) -> Share:
    """Count the pixels of a boundary, and those that lie close to the other."""
    steps = np.arange(-BOUNDARY_PIXELS, BOUNDARY_PIXELS + 1)
    disc = (steps**2 + steps[:, np.newaxis] ** 2 <= BOUNDARY_PIXELS**2).astype(np.uint8)
    reached = cv2.dilate(other.view(np.uint8), disc).astype(bool)
    return Share(int(np.count_nonzero(boundary & reached)), int(np.count_nonzero(boundary)))


def _clean_patches(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> Share:
    empty = clean = 0
    for row in range(0, label.shape[0], PATCH_SIZE):
        for col in range(0, label.shape[1], PATCH_SIZE):
            patch = slice(row, row + PATCH_SIZE), slice(col, col + PATCH_SIZE)
            if np.count_nonzero(label[patch]) < FEW_PIXELS:
                empty += 1
                clean += int(np.count_nonzero(mask[patch])) < FEW_PIXELS
    return Share(clean, empty)


def _binned(probability: NDArray[np.float32], label: NDArray[np.bool_]) -> NDArray[np.float64]:
    bins = np.minimum((probability * CALIBRATION_BINS).astype(np.intp), CALIBRATION_BINS - 1)
    flat, weights = bins.ravel(), (None, label.ravel(), probability.ravel())
    sums = [np.bincount(flat, weights=of, minlength=CALIBRATION_BINS) for of in weights]
    return np.array(sums, np.float64)


def count(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> Counts:
    """Compare a mask with its label, both bool of the same shape."""
    hit = int(np.count_nonzero(mask & label))
    return Counts(hit, int(np.count_nonzero(mask)) - hit, int(np.count_nonzero(label)) - hit)


def summarise(images: Iterable[Comparison]) -> dict[str, float]:
    """Reduce comparisons of several images to the scores that reports and manifests show.

    `dice_built` is the mean Dice over the images whose label has a building; `object_f1` and
    `boundary_f1` pool all images, `empty_false_positives` is the share of empty patches on which
    something was found, `calibration_error` the expected calibration error (Guo et al., "On
    Calibration of Modern Neural Networks", ICML 2017) over all pixels.
    """
    images = list(images)
    micro = sum((image.pixels for image in images), Counts())
    built = [
        image.pixels.dice
        for image in images
        if image.pixels.true_positives + image.pixels.false_negatives
    ]
    drawn = sum((image.drawn for image in images), Share())
    labelled = sum((image.labelled for image in images), Share())
    clean = sum((image.clean for image in images), Share())
    return {
        "dice_micro": micro.dice,
        "iou_micro": micro.iou,
        "precision_micro": micro.precision,
        "recall_micro": micro.recall,
        "dice_imagewise": float(np.mean([image.pixels.dice for image in images])),
        "iou_imagewise": float(np.mean([image.pixels.iou for image in images])),
        "dice_built": float(np.mean(built)) if built else 1.0,
        "object_f1": sum((image.objects for image in images), Counts()).dice,
        "boundary_f1": _harmonic(drawn.ratio, labelled.ratio),
        "empty_false_positives": 1 - clean.ratio,
        "calibration_error": _calibration_error(np.sum([i.binned for i in images], axis=0)),
    }


def _calibration_error(binned: NDArray[np.float64]) -> float:
    number, buildings, probability = binned
    return float(np.abs(buildings - probability).sum() / number.sum())


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
