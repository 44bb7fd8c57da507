"""Labels whose shapes or places look wrong: reasons to look, not verdicts."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data import Label

BOX_FILL = 0.97
"""Share of its smallest enclosing rectangle, at any angle, that a box fills at least."""
BOX_PIXELS = 64
"""Area of the smallest component that is judged: in fewer pixels anything is a box."""
BOX_COMPONENTS = 8
"""Components that a tile must have to be judged: a few boxes may well be a few plain houses."""
BOX_SHARE = 0.8
"""Share of the judged area in boxes from which a tile is reported. Carefully drawn labels of a city
on a north-up grid reach 0.65."""

SHIFT_REACH = 12
"""How far a label is moved to look for a better place, in pixels along either axis."""
SHIFT_PIXELS = 3.0
"""Distance of the best place from which a tile is reported, in pixels."""
SHIFT_MARGIN = 1.15
"""How many times as strong the edges there must be."""
SHIFT_BOUNDARY = 200
"""Pixels of boundary that a label must have to be judged."""

_FAINT = 0.1
"""Mean edge strength, in grey levels per pixel, below which there is nothing to align with."""
_STRONG = 3.0
"""Edges count as if they were so many times the mean at most: one bright roof must not decide."""

_Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Boxes:
    """The components of a label that are large enough to judge, and lie wholly in the tile.

    `components` is their number, `area` their pixels, and `boxed` the pixels of those that fill
    more than `BOX_FILL` of their smallest enclosing rectangle.
    """

    components: int = 0
    area: int = 0
    boxed: int = 0

    @property
    def share(self) -> float:
        """Return boxed / area; 0 when there is nothing to judge."""
        return self.boxed / self.area if self.area else 0.0

    @property
    def suspicious(self) -> bool:
        """Return whether there are enough of them, and most in boxes."""
        return self.components >= BOX_COMPONENTS and self.share >= BOX_SHARE


@dataclass(frozen=True)
class Shift:
    """The move of a label that fits it to the image best: pixels right, pixels down.

    `gain` is the strength of the edges there, divided by that where the label lies.
    """

    right: int
    down: int
    gain: float

    @property
    def distance(self) -> float:
        """Return the length of the move in pixels."""
        return math.hypot(self.right, self.down)

    @property
    def suspicious(self) -> bool:
        """Return whether the move is long, and gains much."""
        return self.distance >= SHIFT_PIXELS and self.gain >= SHIFT_MARGIN


def find_boxes(numbered: NDArray[np.int32], stats: NDArray[np.int32]) -> Boxes:
    """Count the components of a label that are boxes.

    `numbered`, (H, W), has each pixel's component, from 1, and `stats` their rows of OpenCV's
    `connectedComponentsWithStats`, without the background's.
    """
    height, width = numbered.shape
    components = total = boxed = 0
    for number, (left, top, across, down, area) in enumerate(stats.tolist(), start=1):
        # What the tile's edge cuts off has a straight side there, whatever it is.
        cut = left == 0 or top == 0 or left + across == width or top + down == height
        if cut or area < BOX_PIXELS:
            continue
        part = numbered[top : top + down, left : left + across] == number
        components += 1
        total += area
        boxed += area if _fill(part, area) > BOX_FILL else 0
    return Boxes(components, total, boxed)


def _fill(part: Label, area: int) -> float:
    """Return the share of the smallest rectangle around a component that the component fills."""
    outline, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    sides = cv2.minAreaRect(outline[0])[1]
    return area / ((sides[0] + 1) * (sides[1] + 1))  # from the centres of pixels to their sides


def best_shift(pixels: _Pixels, label: Label) -> Shift | None:
    """Find where the boundary of a label, bool (H, W), meets the strongest edges of an image.

    An edge counts by its gradient, up to `_STRONG` times the mean, times the squared cosine of its
    angle to the boundary: g · cos². The label is moved by up to `SHIFT_REACH` pixels along both
    axes, and the same pixels of boundary, those that far from the tile's edge, count in every
    place. A tall building's label fits better on its lean or shadow than on its foot, so that this
    is a reason to look, and not a measurement.

    Returns None for less than `SHIFT_BOUNDARY` pixels of boundary, or an image without edges.

    Source: exhaustive search over the sum of directed gradients, with cos² = (g·n)² / (|g|²|n|²)
    written out as g_x²n_x² + 2 g_x g_y n_x n_y + g_y²n_y², so that three correlations give all
    places at once (cf. template matching by gradient orientation, Hinterstoisser et al., "Gradient
    Response Maps for Real-Time Detection of Textureless Objects", PAMI 2012).
    """
    if min(label.shape) <= 2 * SHIFT_REACH:
        return None
    inner = slice(SHIFT_REACH, -SHIFT_REACH)
    square = np.ones((3, 3), np.uint8)
    mask = label.view(np.uint8)
    boundary = (cv2.dilate(mask, square) != cv2.erode(mask, square))[inner, inner]
    length = np.count_nonzero(boundary)
    if length < SHIFT_BOUNDARY:
        return None
    across, down, steep = _gradient(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8))
    strength = np.minimum(steep, _STRONG * steep.mean())
    normals = [of[inner, inner] * boundary for of in _gradient(mask * np.uint8(255))[:2]]
    places = sum(
        times * cv2.matchTemplate(strength * of_image, of_label, cv2.TM_CCORR)
        for times, of_image, of_label in (
            (1, across * across, normals[0] * normals[0]),
            (2, across * down, normals[0] * normals[1]),
            (1, down * down, normals[1] * normals[1]),
        )
    ) / np.float32(length)
    row, col = np.unravel_index(np.argmax(places), places.shape)
    best, here = float(places[row, col]), float(places[SHIFT_REACH, SHIFT_REACH])
    if best < _FAINT:
        return None
    return Shift(int(col) - SHIFT_REACH, int(row) - SHIFT_REACH, best / max(here, _FAINT))


def _gradient(grey: _Pixels) -> tuple[NDArray[np.float32], ...]:
    """Return a gradient's direction, across and down, and size in grey levels per pixel."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1)
    # A Sobel kernel sums to eight times the slope.
    across, down = (
        np.asarray(cv2.Sobel(smooth, cv2.CV_32F, *axes, scale=1 / 8), np.float32)
        for axes in ((1, 0), (0, 1))
    )
    size = np.asarray(np.hypot(across, down), np.float32)
    floor = np.maximum(size, 1e-6, dtype=np.float32)
    return np.divide(across, floor), np.divide(down, floor), size
