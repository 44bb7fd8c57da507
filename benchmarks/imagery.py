"""What the benchmarks look at: labelled tiles where there are some, else procedural scenes."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from app.segmentation.windows import WindowGrid, plan_windows, read_patch
from training.data import Label, list_tiles
from training.scenes import generate_scene

Pixels = NDArray[np.uint8]

CELL = 256
"""Side of the squares that scenes are laid of, in pixels."""
_JPEG_QUALITY = 90
_PLAIN = 8.0  # grey levels of standard deviation below which a square shows nothing


class Imagery:
    """Pictures and scenes from the labelled tiles of a folder, in a fixed order."""

    def __init__(self, data: Path) -> None:
        """Take the tiles of `data`/val, and of `data`/train for scenes, where there are any."""
        self._folders = [path for path in (data / "val", data / "train") if path.is_dir()]

    @property
    def origin(self) -> str:
        """Say where the pixels are from."""
        return "labelled tiles of val and train" if self._folders else "procedural scenes"

    def patches(self, number: int, size: int) -> tuple[Pixels, Label]:
        """Take patches, uint8 (N, S, S, 3), with their labels, evenly spread over the val tiles."""
        found: list[tuple[Pixels, Label]] = []
        for pixels, label in self._tiles(self._folders[:1]):
            if min(label.shape) < size:
                continue
            for window in _squares(label, size):
                at = window.rows, window.cols
                found.append((read_patch(pixels, window, size), label[at]))
            if not self._folders and len(found) >= number:
                break
        chosen = [found[i * len(found) // number] for i in range(number)]
        return np.stack([patch for patch, _ in chosen]), np.stack([label for _, label in chosen])

    def pictures(self, size: int, number: int = 4) -> list[bytes]:
        """Make JPEG files of size x size pixels, each of other ground where there is enough."""
        found: list[bytes] = []
        for pixels, label in self._tiles(self._folders[:1]):
            if min(label.shape) >= size:
                found.append(jpeg(pixels[:size, :size]))
            if len(found) == number or (not self._folders and not found):
                break
        return found or [jpeg(self.scene(size, empty=0.3))]

    def scene(self, size: int, empty: float) -> Pixels:
        """Lay a scene of size x size pixels, of which the share `empty` has no building.

        Squares with buildings come first, row by row, so that what is empty hangs together, as
        fields and water do.
        """
        side = -(-size // CELL)
        cells = side * side
        wanted = {False: round(cells * (1 - empty)), True: cells - round(cells * (1 - empty))}
        squares = {False: [], True: []}  # type: dict[bool, list[Pixels]]
        for pixels, label in self._tiles(self._folders):
            for window in _squares(label, CELL):
                if (window.height, window.width) != (CELL, CELL):
                    continue
                square = pixels[window.rows, window.cols]
                built = float(label[window.rows, window.cols].mean())
                # Black margins would be too easy, and a corner of a roof is neither.
                if square.std() >= _PLAIN and (built == 0 or built > 0.02):
                    squares[built == 0].append(square)
            if all(len(squares[is_empty]) >= min(n, 64) for is_empty, n in wanted.items()):
                break
        laid = [
            squares[is_empty][(i * len(squares[is_empty]) // n) % len(squares[is_empty])]
            for is_empty, n in wanted.items()
            for i in range(n)
        ]
        rows = [np.concatenate(laid[i : i + side], axis=1) for i in range(0, cells, side)]
        return np.concatenate(rows)[:size, :size]

    def _tiles(self, folders: list[Path]) -> Iterator[tuple[Pixels, Label]]:
        for folder in folders:
            for tile in list_tiles(folder):
                image, label = tile.read()
                yield image.pixels, label
        if not folders:
            for seed in range(1000):
                scene = generate_scene(2 * CELL, 2 * CELL, seed=seed, gsd=0.5)
                yield scene.pixels, scene.label


def _squares(label: Label, size: int) -> WindowGrid:
    height, width = label.shape
    return plan_windows(height, width, size, overlap=0)


def jpeg(pixels: Pixels) -> bytes:
    """Encode pixels as most imagery that is uploaded is."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
