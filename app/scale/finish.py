"""The end of a run over many files: buildings across tiles, one table, one STAC collection.

All of it is made from the tiles' results in the folder of the work, so it can be made again.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..outputs.footprints import Footprint, draw_footprints
from ..outputs.geotiff import show_parts
from ..outputs.partitions import save_buildings, save_partitions, save_rows
from ..segmentation.seams import is_building, join_parts
from ..segmentation.stream import Building
from .catalogue import save_collection
from .tiles import Tile, grid_of
from .work import BUILDINGS, ERASED, BulkWork, Record, described, read_parts, runs_of

_ACROSS = "across.parquet"


def finish(dest: Path, tiles: Sequence[Tile], records: Mapping[str, Record], work: BulkWork) -> int:
    """Write `buildings/` and the collection of the tiles with a record; return the buildings.

    Raises:
        OSError: no room, or no right to write there.
    """
    done = [tile for tile in tiles if tile.id in records]
    across = work.folder / _ACROSS
    mosaics = [
        [tile for tile in done if tile.mosaic == mosaic]
        for mosaic in sorted({tile.mosaic for tile in done})
    ]
    joined = (building for tiles in mosaics for building in _across(tiles, records, work))
    count = sum(record.buildings for record in records.values())
    count += save_buildings(across, joined, work.zoom)
    unfinished = work.folder / "buildings"
    shutil.rmtree(unfinished, ignore_errors=True)
    tables = [*(work.folder / tile.id / BUILDINGS for tile in done), across]
    save_partitions(unfinished, tables, described(records))
    shutil.rmtree(dest / "buildings", ignore_errors=True)
    unfinished.replace(dest / "buildings")
    save_collection(dest, done, records, work, count)
    return count


def save_files(
    path: Path, tiles: Iterable[Tile], records: Mapping[str, Record], failed: Mapping[str, str]
) -> None:
    """Write a table with a row for each file. `failed` has the error messages, by file name.

    Raises:
        OSError: no room, or no right to write there.
    """
    rows: list[dict[str, object]] = [
        {
            "file": tile.name,
            "status": "segmented",
            "error": None,
            "image": tile.id,
            "area_km2": tile.area / 1e6,
            "buildings": record.buildings,
            "parts": record.parts,
            "seconds": record.seconds,
            "notices": list(record.notices),
        }
        for tile in tiles
        if (record := records.get(tile.id)) is not None
    ]
    empty = dict.fromkeys(("image", "area_km2", "buildings", "parts", "seconds"))
    rows += [
        {"file": name, "status": "failed", "error": error, **empty, "notices": []}
        for name, error in failed.items()
    ]
    save_rows(path, sorted(rows, key=lambda row: str(row["file"])))


def _across(
    tiles: Sequence[Tile], records: Mapping[str, Record], work: BulkWork
) -> Iterator[tuple[Footprint, list[str]]]:
    """Yield the buildings on seams of one grid, and erase the others from the tiles' masks."""
    parts: list[Building] = []
    areas: list[float] = []
    owners: list[Tile] = []
    own: dict[str, slice] = {}
    for tile in tiles:
        of_tile, of_areas = read_parts(work, tile.id)
        place = np.array([tile.row, tile.col, tile.col], np.int32)
        parts += [replace(part, runs=part.runs + place) for part in of_tile]
        areas += of_areas
        owners += [tile] * len(of_tile)
        own[tile.id] = slice(len(parts) - len(of_tile), len(parts))
    erased: dict[str, list[Building]] = {tile.id: [] for tile in tiles}
    for building, numbers in join_parts(parts):
        area = sum(areas[number] for number in numbers)
        images = sorted({owners[number].id for number in numbers})
        record = records[images[0]]
        if is_building(building, area, record.min_confidence, record.min_area):
            [footprint] = draw_footprints([building], grid_of(owners[numbers[0]]), record)
            yield footprint, images
        else:
            for number in numbers:
                erased[owners[number].id].append(parts[number])
    for tile in tiles:
        _erase(tile, parts[own[tile.id]], erased[tile.id], work)


def _erase(
    tile: Tile, parts: Sequence[Building], erased: Sequence[Building], work: BulkWork
) -> None:
    """Have a tile's mask show the parts of buildings, and no others.

    Erased parts are noted beside the record: with a further neighbour, they may be a building.
    """
    place = np.array([tile.row, tile.col, tile.col], np.int32)
    noted = work.folder / tile.id / ERASED
    runs = runs_of(erased) - place
    try:
        before = json.loads(noted.read_text())
    except (OSError, ValueError):
        before = []
    if runs.tolist() == before:
        return
    noted.unlink(missing_ok=True)  # it is false while the mask changes
    show_parts(work.mask(tile.id), runs_of(parts) - place, runs)
    noted.write_text(json.dumps(runs.tolist()))
