"""The work on one tile in any process: probe its file, segment it, and keep the results."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import ImpossibleOutput
from ..imaging.files import open_image, open_named
from ..imaging.gdal import allow_named
from ..imaging.georeference import Gsd
from ..imaging.image import RowSource
from ..outputs.footprints import check_place, draw_footprints
from ..outputs.geotiff import save_geotiff
from ..outputs.partitions import save_buildings
from ..outputs.provenance import provenance
from ..segmentation.options import Options, Rectify
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import Band, Building, SegmentedStream
from .mosaic import Mosaic, NeighbourAtFault
from .sources import File
from .tiles import Tile

_RECORD, _PARTS = "record.json", "parts.npz"
BUILDINGS = "buildings.parquet"
"""The table of the buildings that end inside a tile."""
ERASED = "erased.json"
"""The file in which `finish` notes the parts that it erased from a tile's mask."""
_NOTHING_COUNTS = (
    "No pixel of the image counts: each is transparent, nodata, unwritten, or shown by a neighbour."
)
_LEAST_MARGIN = 0.25
"""Share of a patch that a margin has at least, even if windows overlap less."""


@dataclass(frozen=True)
class BulkWork:
    """The decisions that hold for all tiles.

    `folder` has the results other than masks, in a folder for each tile, and `masks` the masks. All
    processes see both.
    `zoom` is that of the quadkeys.
    """

    options: Options
    max_pixels: int
    folder: Path
    masks: Path
    zoom: int
    named: bool = False
    """Whether GDAL opens some files by its own names, which every process must allow."""

    def mask(self, tile: str) -> Path:
        """Return the path of a tile's mask."""
        return self.masks / f"{tile}.tif"

    def open(self, file: File) -> AbstractContextManager[RowSource]:
        """Open a file as rows.

        Raises:
            OSError: it can't be read.
            InputError: it is no image, or damaged.
        """
        decoding, pixels = self.options.decoding, self.max_pixels
        if file.named:
            return open_named(file.path, max_pixels=pixels, **decoding)
        return open_image(Path(file.path), max_pixels=pixels, **decoding)

    def begin(self) -> None:
        """Get a process ready, before it opens anything."""
        if self.named:
            allow_named()


@dataclass(frozen=True)
class Record:
    """The record of a segmented tile: what a `Drawing` needs, from the tile's plan.

    `made_of` names everything that decided it. `buildings` counts those inside the tile, `parts`
    those on a seam.
    """

    id: str
    made_of: dict[str, str]
    provenance: dict[str, object]
    notices: tuple[str, ...]
    segmented: str
    seconds: float
    buildings: int
    parts: int
    min_confidence: float
    min_area: float
    gsd: Gsd
    simplify: float
    rectify: Rectify


def probe(file: File, work: BulkWork) -> Tile:
    """Read a file's size and place.

    Raises:
        ImpossibleOutput: it has no place on a map.
        OSError, InputError: as `BulkWork.open`.
    """
    with work.open(file) as image:
        if image.georeference is None:
            raise ImpossibleOutput(
                "A map of many images needs the place of each, and this image has no "
                "georeference. Give a GeoTIFF, or a picture with a world file and a .prj."
            )
        check_place(image)
        areas = image.georeference.row_areas(image.height, image.width)
        assert areas is not None, "check_place comes first"
        return Tile(
            **{field.name: getattr(file, field.name) for field in fields(File)},
            georeference=image.georeference,
            height=image.height,
            width=image.width,
            area=float(areas.sum()) * image.width,
        )


def margin_of(tile: Tile, options: Options, reference: float | None, patch: int) -> int:
    """Return how many pixels of its neighbours a tile is seen with.

    With this margin a tile's outermost pixels lie where windows overlap, as those in its middle do.
    `reference` is the GSD at which the models see imagery, if there is one; `patch` is the side of
    their patches in pixels.
    """
    gsd = tile.georeference.gsd(tile.height, tile.width)
    shown = max(options.overlap, _LEAST_MARGIN) * patch
    if gsd is None or reference is None or options.resample == "off":
        return max(1, round(shown))
    return max(1, round(shown * reference / min(gsd)))


def made_of(tile: Tile, neighbours: Sequence[Tile], options: Options, model: str) -> dict[str, str]:
    """Name everything that decides a tile's results."""
    return {
        "input": f"{tile.name}, {tile.version}",
        "neighbours": json.dumps([(near.name, near.version) for near in neighbours]),
        "rooftrace": __version__,
        "model": model,
        **{name: str(value) for name, value in options.model_dump().items()},
    }


def read_record(work: BulkWork, tile: str) -> Record | None:
    """Return the record of a tile; None where no complete one is kept."""
    try:
        kept = json.loads((work.folder / tile / _RECORD).read_text())
        record = Record(**{**kept, "notices": tuple(kept["notices"]), "gsd": tuple(kept["gsd"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if work.mask(tile).exists() else None


def segment_tile(
    tile: Tile, neighbours: Sequence[Tile], work: BulkWork, segmenter: Segmenter
) -> Record:
    """Segment a tile with its margin; write its mask, its buildings, its parts and, last, a record.

    A neighbour that can't be read is left out, and a notice says so.

    Raises:
        OSError, InputError, InferenceError: the tile can't be read or segmented.
    """
    left_out: dict[str, str] = {}
    while True:
        near = [other for other in neighbours if other.id not in left_out]
        try:
            return _segment(tile, near, neighbours, work, segmenter, tuple(left_out.values()))
        except NeighbourAtFault as error:
            left_out[error.neighbour.id] = f"A neighbour could not be read: {error}"


def _segment(
    tile: Tile,
    near: Sequence[Tile],
    neighbours: Sequence[Tile],
    work: BulkWork,
    segmenter: Segmenter,
    notices: tuple[str, ...],
) -> Record:
    began, manifest = perf_counter(), segmenter.manifest
    margin = margin_of(tile, work.options, manifest.gsd.reference, manifest.patch_size)
    folder = work.folder / tile.id
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_RECORD, ERASED):  # of another mask
        (folder / name).unlink(missing_ok=True)
    with ExitStack() as stack:
        image, others = stack.enter_context(work.open(tile)), []
        for other in near:
            try:
                others.append((other, stack.enter_context(work.open(other))))
            except Exception as error:
                raise NeighbourAtFault(other, error) from error
        mosaic = Mosaic(tile, image, others, margin)
        seen = segmenter.plan(mosaic, work.options, buildings=True, notices=notices)
        assert seen.row_areas is not None, "probe has checked it"
        areas = seen.row_areas[mosaic.core[0]]
        # Components and writers see the tile without its margin.
        plan = replace(seen, height=tile.height, width=tile.width, row_areas=areas)
        bands = mosaic.crop(segmenter.bands(seen, mosaic, count=seen.count()))
        found: list[Building] = []
        shown = SegmentedStream(plan, image, _noting(stream(plan, image, bands), found))
        save_geotiff(shown, work.mask(tile.id))
    inside = [building for building in found if not building.is_part]
    drawn = draw_footprints(inside, tile.georeference, plan)
    save_buildings(folder / BUILDINGS, ((one, [tile.id]) for one in drawn), work.zoom)
    parts = [building for building in found if building.is_part]
    _save_parts(folder / _PARTS, parts, areas)
    assert plan.gsd is not None, "probe has checked it"
    record = Record(
        id=tile.id,
        made_of=made_of(tile, neighbours, work.options, plan.model),
        provenance=provenance(plan),
        notices=plan.notices if shown.valid_pixels else (*plan.notices, _NOTHING_COUNTS),
        segmented=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(perf_counter() - began, 3),
        buildings=len(inside),
        parts=len(parts),
        min_confidence=plan.min_confidence,
        min_area=plan.min_area,
        gsd=plan.gsd,
        simplify=plan.simplify,
        rectify=plan.rectify,
    )
    unfinished = folder / f"{_RECORD}.tmp"
    unfinished.write_text(json.dumps(asdict(record), indent=2))
    unfinished.replace(folder / _RECORD)
    return record


def _noting(bands: Iterable[Band], found: list[Building]) -> Iterator[Band]:
    for band in bands:
        found += band.buildings
        yield band


def _save_parts(path: Path, parts: Sequence[Building], row_areas: NDArray[np.float64]) -> None:
    runs = runs_of(parts)
    areas = row_areas[runs[:, 0]] * (runs[:, 2] - runs[:, 1])
    lengths = np.array([len(part.runs) for part in parts], np.int64)
    firsts = np.cumsum(lengths) - lengths
    np.savez(
        path,
        runs=runs,
        lengths=lengths,
        areas=np.add.reduceat(areas, firsts) if len(parts) else np.zeros(0),
        confidence=np.array([part.confidence for part in parts]),
        agreement=np.array([part.agreement for part in parts]),
    )


def runs_of(buildings: Iterable[Building]) -> NDArray[np.int32]:
    """Return the runs of all buildings, int32 (N, 3)."""
    return np.concatenate([np.zeros((0, 3), np.int32), *(building.runs for building in buildings)])


def read_parts(work: BulkWork, tile: str) -> tuple[list[Building], list[float]]:
    """Return the buildings of a tile that are on a seam, in its own pixels, and their areas."""
    with (work.folder / tile / _PARTS).open("rb") as file, np.load(file) as kept:
        runs = np.split(kept["runs"], np.cumsum(kept["lengths"])[:-1])
        figures = zip(runs, kept["confidence"].tolist(), kept["agreement"].tolist(), strict=False)
        parts = [Building(*of_part, is_part=True) for of_part in figures]
        return parts, kept["areas"].tolist()


def described(records: Mapping[str, Record]) -> dict[str, object]:
    """Return the provenance of all tiles: that of the first, without its GSD."""
    first = next(iter(records.values()))
    return {name: value for name, value in first.provenance.items() if name != "gsd"}
