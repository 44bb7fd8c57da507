"""How far labels are trusted: the word that `SOURCES.csv` has for a tile decides what is learnt.

A target is NaN where it is not known whether there is a building. There a teacher answers
(`training/teacher.py`); without a teacher, nothing is learnt (`training/losses.py`).
"""

from typing import cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from training.config import Labels

DRAWN_TOGETHER: frozenset[Labels] = frozenset({"empty", "weak", "none"})
"""Kinds that are drawn as one group each: places differ in them, what is learnt does not."""
TAUGHT: frozenset[Labels] = frozenset({"weak", "none"})
"""Kinds of which nothing is learnt without a teacher."""


def parse_labels(text: str) -> Labels:
    """Read the column `labels` of `SOURCES.csv`.

    Raises:
        ValueError: an unknown word.
    """
    if text not in get_args(Labels):
        raise ValueError(f"labels are {text!r}; expected one of {', '.join(get_args(Labels))}")
    return cast(Labels, text)


def trusted(label: NDArray[np.float32], labels: Labels, edge_tolerance: int) -> NDArray[np.float32]:
    """Return what is known of a label float32 (H, W) in [0, 1]: the label, NaN where it is not.

    `complete` and `empty` labels are known everywhere; `weak` ones and `none`, nowhere. What an
    `incomplete` label calls a building is one, and the rest is not known. Most edges of `shifted`
    labels lie beside those of the roof: `edge_tolerance` pixels on either side are not known.
    """
    match labels:
        case "complete" | "empty":
            return label
        case "incomplete":
            unknown = label < 0.5
        case "shifted":
            unknown = _near_an_edge(label >= 0.5, edge_tolerance)
        case "weak" | "none":
            unknown = np.ones(label.shape, np.bool_)
    return np.where(unknown, np.float32(np.nan), label)


def _near_an_edge(label: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    building = label.view(np.uint8)
    near: NDArray[np.bool_] = cv2.dilate(building, disc) != cv2.erode(building, disc)
    return near
