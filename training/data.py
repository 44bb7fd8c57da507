"""Labelled tiles, and the endless, repeatable stream of training samples drawn from them.

Sample number n of a run is a pure function of the run's seed and n: no state has to be saved for a
run to resume exactly, and the number of workers or GPUs does not change what is seen.
"""

import csv
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.outputs.rle import decode_rle
from training.augment import Augmentation
from training.config import PATCH_SIZE, AugmentConfig, DataConfig
from training.scenes import generate_scene

Label = NDArray[np.bool_]

SOURCES_CSV = "SOURCES.csv"
_MAX_RLE = 1 << 30  # the encoding of a large mask exceeds the csv module's own 128 KiB
_MAX_PIXELS = 1_000_000_000  # our own tiles: the service's limit for strangers does not apply
_SCENE_SIZE = PATCH_SIZE * 3 // 2  # as large as the widest cut of the `aerial` recipe
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Tile:
    """One labelled image: its file, and a mask file or a row-major RLE."""

    name: str
    image: Path
    label: Path | str
    gsd: float | None = None
    """Metres per pixel, as far as `SOURCES.csv` beside the tile's folder states it."""

    @property
    def source(self) -> str:
        """Return the name up to its first `_`: what sampling and scores are grouped by."""
        return self.name.split("_")[0]

    def read(self) -> tuple[Image, Label]:
        """Decode the image as the service would, and its label, bool (H, W).

        Raises:
            ValueError: a label whose size is not the image's.
            InputError: a file that the service would refuse too.
        """
        image = read_image(self.image)
        if isinstance(self.label, str):
            return image, decode_rle(self.label, image.height, image.width, "row")
        label = read_image(self.label, grey=True).pixels[..., 0] > 127
        if label.shape != (image.height, image.width):
            raise ValueError(
                f"{self.label} is {label.shape}, its image is {(image.height, image.width)}"
            )
        return image, label


def read_image(path: Path, *, grey: bool = False) -> Image:
    """Decode an image file of our own; `grey` lets it be a GeoTIFF of a single band."""
    return decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS, grey=grey)


def list_tiles(path: Path) -> list[Tile]:
    """List the tiles of a folder with `images/` and `masks/`, or of a competition CSV.

    Raises:
        ValueError: an image without a mask, a CSV without the expected columns, or no tile at all.
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
    if missing := sorted(images.keys() - masks.keys()):
        raise ValueError(f"{folder}: {len(missing)} images without a mask, such as {missing[0]}")
    gsd = stated_gsd(folder)
    return [Tile(name, image, masks[name], gsd.get(name)) for name, image in images.items()]


def _csv_tiles(path: Path) -> list[Tile]:
    gsd = stated_gsd(path)
    return [
        Tile(name, path.parent / row["img_path"], row["mask_rle"], gsd.get(name))
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
        if not set(columns) <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} has columns {rows.fieldnames}; expected {list(columns)}")
        for row in rows:
            if any(row[column] is None for column in columns):
                raise ValueError(f"{path}, line {rows.line_num}: expected {list(columns)}")
            yield row


def described(path: Path) -> dict[str, dict[str, str]]:
    """Read what `SOURCES.csv` beside a folder or CSV of tiles says, by tile name; {} without one.

    Columns that are read: `name`, `licence` and `gsd_m`.
    """
    file_path = path.parent / SOURCES_CSV
    if not file_path.exists():
        return {}
    with file_path.open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


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


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


class TrainingSamples(Dataset[tuple[Tensor, Tensor]]):
    """Sample number n: a patch and its label, drawn and augmented from seed and n alone."""

    def __init__(self, config: DataConfig, augment: AugmentConfig, seed: int) -> None:
        """List the tiles of every training source.

        Raises:
            ValueError: nothing to train on, or a weight for a source that has no tiles.
        """
        paths = [config.root / path for path in (*config.folders, *config.csv)]
        tiles = [tile for path in paths for tile in list_tiles(path)]
        if config.min_building_fraction > 0:
            tiles = [t for t in tiles if t.read()[1].mean() >= config.min_building_fraction]
        if not tiles and config.scenes < 1:
            raise ValueError("nothing to train on: name folders or csv files, or set scenes to 1.0")
        self.tiles: dict[str, list[Tile]] = defaultdict(list)
        for tile in tiles:
            self.tiles[tile.source].append(tile)
        for source, of in self.tiles.items():
            self.tiles[source] = _some(of, config.share)
        self._weights = _source_weights(self.tiles, config.source_weights)
        self._unlabelled = frozenset(config.unlabelled)
        if unknown := sorted(self._unlabelled - self.tiles.keys()):
            raise ValueError(
                f"unlabelled names {unknown}, but there are tiles of {list(self.tiles)}"
            )
        self._scenes = config.scenes
        self._seed = seed
        self._gsd = config.gsd
        self._augment = Augmentation(augment)
        self._cache: dict[Tile, tuple[Image, Label]] | None = {} if config.cache else None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return pixels uint8 (S, S, 3) and label float32 (S, S).

        The label is 0 or 1, or between at an edge, and NaN all over where the source has none.
        """
        random = np.random.default_rng((self._seed, number))
        if random.random() < self._scenes:
            scene = generate_scene(_SCENE_SIZE, _SCENE_SIZE, seed=int(random.integers(2**31)))
            gsd: float | None
            pixels, label, gsd = scene.pixels, scene.label, scene.gsd
            labelled = True
        else:
            tiles = self.tiles[random.choice(list(self.tiles), p=self._weights)]
            tile = tiles[random.integers(len(tiles))]
            image, label = self._read(tile)
            pixels, gsd = image.pixels, tile.gsd
            labelled = tile.source not in self._unlabelled
        patch, target = self._augment(
            pixels,
            label,
            seed=int(random.integers(2**31)),
            scale=gsd / self._gsd if gsd and self._gsd else 1.0,
        )
        # A copy only if it is needed: torch wants memory that it may write to.
        owned = np.require(patch, requirements=["C", "W"])
        return torch.from_numpy(owned), torch.from_numpy(
            target if labelled else np.full_like(target, np.nan)
        )

    def _read(self, tile: Tile) -> tuple[Image, Label]:
        if self._cache is None:
            return tile.read()
        if tile not in self._cache:
            self._cache[tile] = tile.read()
        return self._cache[tile]


def _some(tiles: list[Tile], share: float) -> list[Tile]:
    """Choose a share of the tiles, at least one, by a digest of their names."""
    chosen = sorted(tiles, key=lambda tile: zlib.crc32(tile.name.encode()))
    return chosen[: max(1, round(share * len(tiles)))] if share < 1 else tiles


def _source_weights(tiles: dict[str, list[Tile]], given: dict[str, float]) -> list[float]:
    """Give each source its draw probability; those without one share the rest by tile count."""
    if unknown := sorted(given.keys() - tiles.keys()):
        raise ValueError(f"source_weights names {unknown}, but there are tiles of {sorted(tiles)}")
    if not tiles:
        return []
    others = sum(len(of) for source, of in tiles.items() if source not in given)
    rest = 1 - sum(given.values())
    if rest < 0 or (rest > 1e-9 and not others):
        raise ValueError("source_weights must sum to 1, or less when other sources share the rest")
    return [
        given[source] if source in given else rest * len(of) / others
        for source, of in tiles.items()
    ]


class SampleNumbers(Sampler[int]):
    """The sample numbers of one epoch after another, dealt out to `world` processes."""

    def __init__(self, per_epoch: int, *, rank: int = 0, world: int = 1) -> None:
        self._per_epoch, self._rank, self._world = per_epoch, rank, world
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(range(self._rank, self._per_epoch, self._world))

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self._per_epoch
        return iter(range(first + self._rank, first + self._per_epoch, self._world))


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
