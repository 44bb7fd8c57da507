"""Pictures of tiles with their labels: samples by lot, and the labels that are suspicious.

Only the tiles that are shown are read again.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from training.data import Label
from training.explore.facts import Facts, Survey
from training.explore.suspicion import (
    BOX_COMPONENTS,
    BOX_FILL,
    BOX_PIXELS,
    BOX_SHARE,
    SHIFT_BOUNDARY,
    SHIFT_MARGIN,
    SHIFT_PIXELS,
    SHIFT_REACH,
    Shift,
)
from training.page import Page
from training.pictures import Pixels, cell, sheet

SHOWN = 8
"""Pictures of suspicious labels of each kind."""
SAMPLES = 4
"""Tiles of each source in the sheet of samples, and pictures in a row of the others."""

_WINDOW = 192
"""Side of the part of a tile that is shown, in its own pixels: enlarged, to show single pixels."""

_Cells = list[tuple[str, Pixels]]


def add_samples(
    page: Page, by_source: Mapping[str, Sequence[Facts]], folder: Path, seed: int
) -> None:
    """Show a few tiles of each source, drawn by lot from `seed` and their names alone."""
    page.heading("Samples")
    rows = []
    for name, group in by_source.items():
        random = np.random.default_rng((seed, zlib.crc32(name.encode())))
        tiles = sorted((of.tile for of in group), key=lambda tile: tile.name)
        cells = []
        for index in random.permutation(len(tiles))[:SAMPLES]:
            image, label = tiles[index].read()
            window = tuple(
                slice(start, start + _WINDOW)
                for side in label.shape
                for start in [int(random.integers(max(0, side - _WINDOW) + 1))]
            )
            cells.append((tiles[index].name, cell(image.pixels[window], label[window])))
        rows.append(cells)
    _add_sheet(
        page,
        rows,
        f"Up to {SAMPLES} tiles of each source, drawn by lot, and of each a part of up to "
        f"{_WINDOW} × {_WINDOW} pixels, likewise. Yellow: the label.",
        folder / "samples.png",
    )


def add_suspicious(page: Page, survey: Survey, folder: Path) -> None:
    """List the suspicious labels of each kind, and show those that most need a look."""
    page.heading("Suspicious labels")
    page.text(
        "Reasons to look, not verdicts. Buildings that a label leaves out are not looked for. The "
        f"first {SHOWN} of each list are shown."
    )
    _add_empty(page, survey.empty, folder)
    _add_boxed(page, survey.boxed, folder)
    _add_misaligned(page, survey.misaligned, folder)


def _add_empty(page: Page, empty: Sequence[Facts], folder: Path) -> None:
    page.heading("Empty labels")
    page.text("No pixel is labelled; right where there is no building, so see whether there is.")
    if not empty:
        page.text("There are none.")
        return
    page.text(f"{len(empty)} tiles: " + ", ".join(of.tile.name for of in empty))
    cells = []
    for of in empty[:SHOWN]:
        image, label = of.tile.read()
        cells.append((of.tile.name, cell(image.pixels, label)))
    _add_sheet(page, _folded(cells), "Empty labels: whole tiles.", folder / "empty.png")


def _add_boxed(page: Page, boxed: Sequence[Facts], folder: Path) -> None:
    page.heading("Plain boxes")
    page.text(
        f"Of at least {BOX_COMPONENTS} components of {BOX_PIXELS} pixels or more that lie wholly "
        f"in the tile, {BOX_SHARE:.0%} or more by area fill more than {BOX_FILL:.0%} of the "
        "smallest rectangle around them, at any angle. In pixels it is nearly only upright boxes "
        "that do. Labels that were made from bounding boxes look like this, and so do some cities "
        "on a north-up grid."
    )
    if not boxed:
        page.text("There are none.")
        return
    page.table(
        ["tile", "in boxes", "components judged"],
        [[of.tile.name, f"{of.boxes.share:.0%}", str(of.boxes.components)] for of in boxed],
    )
    cells = []
    for of in boxed[:SHOWN]:
        image, label = of.tile.read()
        window = _densest(label)
        cells.append(
            (f"{of.boxes.share:.0%} {of.tile.name}", cell(image.pixels[window], label[window]))
        )
    _add_sheet(
        page,
        _folded(cells),
        "Plain boxes: the most built-up part of each tile. Yellow: the label.",
        folder / "boxes.png",
    )


def _add_misaligned(page: Page, misaligned: Sequence[tuple[Facts, Shift]], folder: Path) -> None:
    page.heading("Misaligned labels")
    page.text(
        f"The label, moved by up to {SHIFT_REACH} pixels each way, meets the strongest edges of "
        f"the image {SHIFT_PIXELS:g} pixels or more away from where it lies, and edges there are "
        f"at least {SHIFT_MARGIN:g} times as strong (gain). An edge counts by its gradient and by "
        "how well its direction agrees with the boundary's. High buildings that lean, and shadows, "
        f"can mislead it. Labels of less than {SHIFT_BOUNDARY} pixels of boundary are not judged."
    )
    if not misaligned:
        page.text("There are none.")
        return
    page.table(
        ["tile", "fits when moved right", "and down", "gain"],
        [
            [of.tile.name, f"{shift.right:+d} px", f"{shift.down:+d} px", f"{shift.gain:.2f}"]
            for of, shift in misaligned
        ],
    )
    cells = []
    for of, shift in misaligned[:SHOWN]:
        image, label = of.tile.read()
        window = _densest(label)
        caption = f"({shift.right:+d}, {shift.down:+d}) {of.tile.name}"
        moved = _moved(label, shift)[window]
        cells.append((caption, cell(image.pixels[window], label[window], moved)))
    _add_sheet(
        page,
        _folded(cells),
        "Misaligned labels: the most built-up part of each tile. Yellow: the label as it is. Blue: "
        "moved (right, down) by so many pixels.",
        folder / "misaligned.png",
    )


def _densest(label: Label) -> tuple[slice, slice]:
    """Return the window of up to `_WINDOW` pixels square that holds the most building."""
    sums = cv2.integral(label.view(np.uint8))
    down, across = (min(_WINDOW, side) for side in label.shape)
    inside = sums[down:, across:] - sums[:-down, across:] - sums[down:, :-across]
    row, col = map(int, np.unravel_index(np.argmax(inside + sums[:-down, :-across]), inside.shape))
    return slice(row, row + down), slice(col, col + across)


def _moved(label: Label, shift: Shift) -> Label:
    """Return the label moved; what comes in from outside of the tile is background."""
    height, width = label.shape
    move = np.array([[1, 0, shift.right], [0, 1, shift.down]], np.float32)
    moved = cv2.warpAffine(label.view(np.uint8), move, (width, height), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8) > 0


def _folded(cells: _Cells) -> list[_Cells]:
    return [cells[start : start + SAMPLES] for start in range(0, len(cells), SAMPLES)]


def _add_sheet(page: Page, rows: Sequence[_Cells], caption: str, png: Path) -> None:
    picture = sheet(rows)
    PIL.Image.fromarray(picture).save(png)
    page.picture(picture, caption)
