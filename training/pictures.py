"""Pictures of tiles with outlines of labels and masks, and sheets of such pictures."""

from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from training.data import Label

Pixels = NDArray[np.uint8]

# Blue and yellow stay apart in every common form of colour blindness, and neither is the colour of
# tiles or of trees; light edged in dark and dark edged in light stay apart in grey as well.
# Source: Okabe and Ito, "Color Universal Design", 2008, for the hues.
_LABEL = ((240, 228, 66), (0, 0, 0))
_OTHER = ((0, 60, 220), (255, 255, 255))

_CELL, _CAPTION, _GAP = 320, 18, 8
"""Pixels of a picture's side in a sheet, of the line above it, and between pictures."""
MARKED = 160
"""Pixels of the side of a picture around one pixel."""


def outlined(pixels: Pixels, label: Label, other: Label | None = None, *, side: int) -> Pixels:
    """Draw the outlines of a label (yellow) and of a mask or another label (blue) over an image.

    Takes uint8 (H, W, 3) and bool (H, W). Returns uint8 (h, w, 3): enlarged or reduced to about
    `side` pixels along the longer side, so that the outlines of small buildings don't cover them.
    """
    scale = side / max(label.shape)
    height, width = (max(1, round(length * scale)) for length in label.shape)
    kernel = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(pixels, (width, height), interpolation=kernel)
    # Wide below narrow: where both outlines run together, each of them shows.
    for outline, (colour, edge), wide in ((other, _OTHER, 3), (label, _LABEL, 2)):
        if outline is None:
            continue
        large = cv2.resize(outline.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, edge, wide + 2)
        cv2.drawContours(picture, contours, -1, colour, wide)
    return np.asarray(picture, np.uint8)


def cell(pixels: Pixels, label: Label, other: Label | None = None) -> Pixels:
    """Return `outlined` as large as a cell of a sheet."""
    return outlined(pixels, label, other, side=_CELL)


def marked(pixels: Pixels, row: int, col: int) -> Pixels:
    """Put a ring around one pixel of an image, uint8 (H, W, 3), and show what lies around it.

    Returns uint8 (`MARKED`, `MARKED`, 3), twice as large as the image; black where that ends.
    """
    half = MARKED // 4
    margin = ((half, half), (half, half), (0, 0))
    around = np.pad(pixels, margin)[row : row + 2 * half, col : col + 2 * half]
    picture = cv2.resize(around, (MARKED, MARKED), interpolation=cv2.INTER_CUBIC)
    for colour, wide in ((_OTHER[1], 4), (_OTHER[0], 2)):
        cv2.circle(picture, (MARKED // 2, MARKED // 2), 7, colour, wide, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def sheet(rows: Sequence[Sequence[tuple[str, Pixels]]], side: int = _CELL) -> Pixels:
    """Put cells of at most `side` pixels below their names, in rows, onto one picture."""
    size = max(map(len, rows)) * (side + _GAP) - _GAP, len(rows) * (side + _CAPTION + _GAP) - _GAP
    whole = PIL.Image.new("RGB", size, "white")
    draw = PIL.ImageDraw.Draw(whole)
    font = PIL.ImageFont.load_default(13)
    for row, cells in enumerate(rows):
        for col, (name, pixels) in enumerate(cells):
            left, top = col * (side + _GAP), row * (side + _CAPTION + _GAP)
            line = " ".join(name.split())
            while draw.textlength(line, font) > side:
                line = line[:-2] + "…"
            draw.text((left, top), line, "black", font)
            whole.paste(PIL.Image.fromarray(pixels), (left, top + _CAPTION))
    return np.asarray(whole)
