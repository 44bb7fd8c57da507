"""The endless, repeatable stream of training samples that is drawn from tiles.

Sample number n of a run is a pure function of the run's seed and n: no state has to be saved for a
run to resume exactly, and the number of workers or GPUs does not change what is seen.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from app.imaging.image import Image
from training.augment import Augmentation
from training.config import PATCH_SIZE, AugmentConfig, DataConfig, Labels
from training.data import Label, Tile, list_tiles, read_image
from training.labels import TAUGHT, trusted
from training.negatives import left_out
from training.scenes import generate_scene

_SCENE_SIZE = PATCH_SIZE * 3 // 2  # as large as the widest cut of the `aerial` recipe


class TrainingSamples(Dataset[tuple[Tensor, Tensor]]):
    """Sample number n: a patch and its label, drawn and augmented from seed and n alone."""

    def __init__(self, config: DataConfig, augment: AugmentConfig, seed: int) -> None:
        """List the tiles of every training source.

        Raises:
            ValueError: nothing to train on, or a weight for a source that has no tiles.
        """
        paths = [config.root / path for path in (*config.folders, *config.csv)]
        tiles = [_labelled(tile, config) for path in paths for tile in list_tiles(path)]
        if unknown := sorted(config.labels.keys() - {tile.source for tile in tiles}):
            raise ValueError(f"labels names {unknown}, but there are no tiles of such a source")
        tiles = [tile for tile in tiles if not left_out(tile, config)]
        if config.min_building_fraction > 0:
            tiles = [
                t
                for t in tiles
                if t.labels in TAUGHT or t.building_fraction() >= config.min_building_fraction
            ]
        if not tiles and config.scenes < 1:
            raise ValueError("nothing to train on: name folders or csv files, or set scenes to 1.0")
        self.tiles: dict[str, list[Tile]] = defaultdict(list)
        """The tiles by group: those of a source, but `empty`, `weak` and `none` by that word."""
        for tile in tiles:
            self.tiles[tile.group].append(tile)
        for group, of in self.tiles.items():
            self.tiles[group] = _some(of, config.share)
        self._weights = _source_weights(self.tiles, config.source_weights)
        self._edge_tolerance = config.edge_tolerance
        self._scenes = config.scenes
        self._seed = seed
        self._gsd = config.gsd
        self._augment = Augmentation(augment)
        self._cache: dict[Tile, tuple[Image, Label]] | None = {} if config.cache else None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return pixels uint8 (S, S, 3) and label float32 (S, S).

        The label is 0 or 1, or between at an edge, and NaN where it is not to be trusted.
        """
        random = np.random.default_rng((self._seed, number))
        if random.random() < self._scenes:
            scene = generate_scene(_SCENE_SIZE, _SCENE_SIZE, seed=int(random.integers(2**31)))
            gsd: float | None
            pixels, label, gsd = scene.pixels, scene.label, scene.gsd
            labels: Labels = "complete"
        else:
            tiles = self.tiles[random.choice(list(self.tiles), p=self._weights)]
            tile = tiles[random.integers(len(tiles))]
            image, label = self._read(tile)
            pixels, gsd = image.pixels, tile.gsd
            labels = tile.labels
        patch, target = self._augment(
            pixels,
            label,
            seed=int(random.integers(2**31)),
            scale=gsd / self._gsd if gsd and self._gsd else 1.0,
        )
        # A copy only if it is needed: torch wants memory that it may write to.
        owned = np.require(patch, requirements=["C", "W"])
        target = trusted(target, labels, self._edge_tolerance)
        return torch.from_numpy(owned), torch.from_numpy(target)

    def _read(self, tile: Tile) -> tuple[Image, Label]:
        if self._cache is None:
            return _read(tile)
        if tile not in self._cache:
            self._cache[tile] = _read(tile)
        return self._cache[tile]

    def check_taught(self) -> None:
        """Refuse tiles of which nothing is learnt without a teacher.

        Raises:
            ValueError: there are some.
        """
        tiles = [tile for of in self.tiles.values() for tile in of if tile.labels in TAUGHT]
        if tiles:
            raise ValueError(
                f"{len(tiles)} tiles, such as {tiles[0].name}, have no label to be trusted "
                f"({tiles[0].labels}): name teacher.checkpoints, or leave their folder out"
            )


def _labelled(tile: Tile, config: DataConfig) -> Tile:
    """Return the tile with what the configuration says of its source's labels."""
    if tile.label is not None and tile.source in config.labels:
        return replace(tile, labels=config.labels[tile.source])
    return tile


def _read(tile: Tile) -> tuple[Image, Label]:
    """Read a tile, with a label of nothing but background where it has none."""
    if tile.label is not None:
        return tile.read()
    image = read_image(tile.image)
    return image, np.zeros((image.height, image.width), np.bool_)


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
