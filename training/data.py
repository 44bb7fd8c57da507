"""Tiles: images, their labels, and what `SOURCES.csv` says of them."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from app.imaging.choices import Decoding
from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.outputs.rle import decode_rle
from training.config import Labels
from training.labels import DRAWN_TOGETHER, parse_labels

Label = NDArray[np.bool_]

SOURCES_CSV = "SOURCES.csv"
"""The file beside a folder or CSV of tiles that says more of them: `described`."""
_MAX_RLE = 1 << 30  # the encoding of a large mask exceeds the csv module's own 128 KiB
_MAX_PIXELS = 1_000_000_000  # our own tiles: the service's limit for strangers does not apply
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Tile:
    """One image and its label: a mask file, a row-major RLE, or None."""

    name: str
    image: Path
    label: Path | str | None
    gsd: float | None = None
    """Metres per pixel, as far as `SOURCES.csv` beside the tile's folder states it."""
    labels: Labels = "complete"
    """How far the label is to be trusted."""

    @property
    def source(self) -> str:
        """Return the name up to its first `_`: what sampling and scores are grouped by."""
        return self.name.split("_")[0]

    @property
    def group(self) -> str:
        """Return what the tile is drawn with: its source, or `empty`, `weak` or `none`."""
        return self.labels if self.labels in DRAWN_TOGETHER else self.source

    def read(self, **wanted: Unpack[Decoding]) -> tuple[Image, Label]:
        """Decode the image as the service would, and its label, bool (H, W).

        Raises:
            ValueError: no label, or one whose size is not the image's.
            InputError: a file that the service would refuse too.
        """
        if self.label is None:
            raise ValueError(f"{self.image} has no label, so nothing can be scored on it")
        image = read_image(self.image, **wanted)
        if isinstance(self.label, str):
            return image, decode_rle(self.label, image.height, image.width, "row")
        label = _read_mask(self.label)
        if label.shape != (image.height, image.width):
            raise ValueError(
                f"{self.label} is {label.shape}, its image is {(image.height, image.width)}"
            )
        return image, label

    def building_fraction(self) -> float:
        """Return the share of building in the label. A mask file is read without its image.

        Raises:
            As `read`.
        """
        label = _read_mask(self.label) if isinstance(self.label, Path) else self.read()[1]
        return float(label.mean())


def _read_mask(path: Path) -> Label:
    return read_image(path, grey=True).pixels[..., 0] > 127


def read_image(path: Path, *, grey: bool = False, **wanted: Unpack[Decoding]) -> Image:
    """Decode an image file of our own; `grey` lets it be a GeoTIFF of a single band."""
    return decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS, grey=grey, **wanted)


def list_tiles(path: Path) -> list[Tile]:
    """List the tiles of a folder with `images/` and `masks/`, or of a competition CSV.

    Without `masks/`, the tiles of a folder have no labels.

    Raises:
        ValueError: an image without a mask beside others that have one, a CSV without the expected
            columns, an unknown word in the column `labels` of `SOURCES.csv`, or no tile at all.
    """
    tiles = _csv_tiles(path) if path.is_file() else _folder_tiles(path)
    if not tiles:
        raise ValueError(f"{path} holds no tiles; expected images/ and masks/, or a CSV file")
    return tiles


def _folder_tiles(folder: Path) -> list[Tile]:
    images, masks = (
        {path.stem: path for path in sorted((folder / part).glob("*")) if _is_image(path)}
        for part in ("images", "masks")
    )
    labelled = (folder / "masks").exists()
    missing = sorted(images.keys() - masks.keys())
    if missing and labelled:
        raise ValueError(f"{folder}: {len(missing)} images without a mask, such as {missing[0]}")
    gsd = stated_gsd(folder)
    labels = stated_labels(folder)
    return [
        Tile(name, image, masks[name], gsd.get(name), labels.get(name, "complete"))
        if labelled
        else Tile(name, image, None, gsd.get(name), "none")
        for name, image in images.items()
    ]


def _csv_tiles(path: Path) -> list[Tile]:
    gsd, labels = stated_gsd(path), stated_labels(path)
    return [
        Tile(
            name,
            path.parent / row["img_path"],
            row["mask_rle"],
            gsd.get(name),
            labels.get(name, "complete"),
        )
        for row in read_rows(path, ("img_id", "img_path", "mask_rle"))
        for name in [row["img_id"]]
    ]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read the rows of one of the competition's CSV files, which have at least `columns`.

    Raises:
        ValueError: a column is missing, or a row has fewer fields.
    """
    csv.field_size_limit(_MAX_RLE)
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        try:
            if not set(columns) <= set(found := rows.fieldnames or ()):
                raise ValueError(f"{path} has columns {list(found)}; expected {list(columns)}")
            for row in rows:
                if any(row[column] is None for column in columns):
                    raise ValueError(f"{path}, line {rows.line_num}: expected {list(columns)}")
                yield row
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def described(path: Path) -> dict[str, dict[str, str]]:
    """Read what `SOURCES.csv` beside a folder or CSV of tiles says, by tile name; {} without one.

    Columns that are read: `name`, `licence`, `gsd_m` and `labels`.
    """
    file_path = path.parent / SOURCES_CSV
    if not file_path.exists():
        return {}
    return {row["name"]: row for row in read_rows(file_path, ("name",))}


def stated_gsd(path: Path) -> dict[str, float]:
    """Return the GSD of the tiles of a folder or CSV, by name, in metres per pixel.

    A range counts as its middle, and what stands in parentheses is a remark: `~0.3-0.4 (est.)` is
    0.35, `unknown (~0.5-1)` is not known.
    """
    gsd = {}
    for name, row in described(path).items():
        figures = re.findall(r"\d+(?:\.\d+)?", (row.get("gsd_m") or "").split("(")[0])
        if figures:
            gsd[name] = sum(map(float, figures)) / len(figures)
    return gsd


def stated_labels(path: Path) -> dict[str, Labels]:
    """Return how far the labels of a folder or CSV are to be trusted, by name, where it is stated.

    Raises:
        ValueError: an unknown word.
    """
    labels = {}
    for name, row in described(path).items():
        if text := (row.get("labels") or "").strip():
            try:
                labels[name] = parse_labels(text)
            except ValueError as error:
                raise ValueError(f"{path.parent / SOURCES_CSV}, {name}: {error}") from None
    return labels


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


class WholeTiles(Dataset[tuple[Tensor, Tensor]]):
    """Whole tiles as they are, for validation."""

    def __init__(self, tiles: Sequence[Tile]) -> None:
        self._tiles = tiles

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return pixels uint8 (H, W, 3) and label bool (H, W)."""
        image, label = self._tiles[index].read()
        return torch.from_numpy(image.pixels.copy()), torch.from_numpy(label)
