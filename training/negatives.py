"""Tiles without a building that no network learnt from: false buildings are counted there."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from app.bundle.manifest import Negatives
from app.segmentation.segmenter import Segmenter
from training.config import DataConfig, RunConfig
from training.data import Tile, list_tiles, read_image
from training.metrics import has_building


def unseen_negatives(paths: Sequence[Path], runs: Iterable[RunConfig]) -> list[Tile]:
    """List the tiles of folders or CSV files that are `empty` and that no run trained on.

    A run trained on all tiles of its own folders and CSV files but those of `data.without`. What an
    earlier run saw, from whose weights it went on, is not known here.

    Raises:
        ValueError: none is left of a folder or CSV file, or it can't be read.
    """
    data = [run.data for run in runs]
    found = []
    for path in paths:
        empty = [tile for tile in list_tiles(path) if tile.labels == "empty"]
        unseen = [t for t in empty if not any(_trained_on(t, path, one) for one in data)]
        if not unseen:
            raise ValueError(
                f"{path} holds {len(empty)} tiles whose labels are `empty` in SOURCES.csv, and the "
                "networks trained on all of them: expected some that data.without kept out"
            )
        found += unseen
    return found


def count_false(segmenter: Segmenter, tiles: Sequence[Tile]) -> Negatives | None:
    """Count the tiles on which a building is found, as they are served; None without tiles."""
    if not tiles:
        return None
    masks = (segmenter.segment_image(read_image(tile.image)).mask for tile in tiles)
    return Negatives(tiles=len(tiles), found=sum(map(has_building, masks)))


def left_out(tile: Tile, data: DataConfig) -> bool:
    """Tell whether `data.without` keeps a tile from being trained on."""
    return any(fnmatchcase(tile.name, pattern) for pattern in data.without)


def _trained_on(tile: Tile, path: Path, data: DataConfig) -> bool:
    places = {(data.root / own).resolve() for own in (*data.folders, *data.csv)}
    return path.resolve() in places and not left_out(tile, data)
