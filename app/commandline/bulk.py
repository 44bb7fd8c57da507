"""Segment many files as one map: the work of `rooftrace bulk` after its arguments are read."""

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from ..bundle.manifest import Manifest, load_manifest
from ..errors import InvalidOption
from ..scale.finish import finish, save_files
from ..scale.outcome import Crew, Outcome
from ..scale.sources import File, list_bucket, list_catalogue
from ..scale.tiles import Tile, lay_out, with_neighbours
from ..scale.work import BulkWork, Record, made_of, margin_of, read_record
from ..segmentation.options import Options
from ..segmentation.plan import Plan
from ..segmentation.segmenter import Segmenter
from ..settings import Settings
from ..terminal import counted, printable, progress_bar
from .files import Source, expand, images_among
from .resume import keep_others_out
from .runs import BAR, tell

_WORK = ".work"
"""Folder below the output that keeps all that a further run can use."""


@dataclass(frozen=True)
class Bulk:
    """Many files, to be segmented as one map into the folder `dest`.

    `zoom` is that of the quadkeys. Only one run at a time may be in `dest`.
    """

    dest: Path
    options: Options
    settings: Settings
    load: Callable[[], Segmenter]
    crew: Crew
    zoom: int
    quiet: bool
    failed: dict[str, str] = field(default_factory=dict)
    """Error messages of files, by the files' names."""

    def run(self, files: Sequence[File]) -> int:
        """Segment the files that have no mask yet, finish the map; return how many files failed.

        Raises:
            InvalidOption: as `Plan.check`; `dest` holds something else, or another run is at work
                there; the crew can't be had.
        """
        manifest = load_manifest(self.settings.bundle)
        Plan.check(manifest, self.options)
        work = BulkWork(
            self.options,
            self.settings.max_pixels,
            (self.dest / _WORK).resolve(),
            (self.dest / "masks").resolve(),
            self.zoom,
            named=any(file.named for file in files),
        )
        with _opened(self.dest), self.crew:
            work.masks.mkdir(exist_ok=True)
            self._run(files, work, manifest)
        return len(self.failed)

    def _run(self, files: Sequence[File], work: BulkWork, manifest: Manifest) -> None:
        began = perf_counter()
        tiles = lay_out(self._probed(files, work))
        reference, patch = manifest.gsd.reference, manifest.patch_size
        margins = [margin_of(tile, work.options, reference, patch) for tile in tiles]
        todo, records = [], dict[str, Record]()
        for tile, neighbours in with_neighbours(tiles, margins):
            record = read_record(work, tile.id)
            wanted = made_of(tile, neighbours, work.options, manifest.version)
            if record and record.made_of == wanted:
                records[tile.id] = record
            else:
                todo.append((tile, neighbours))
        left = len(records)
        records |= self._segmented(todo, work)
        buildings = finish(self.dest, tiles, records, work) if records else 0
        save_files(self.dest / "files.parquet", tiles, records, self.failed)
        if not self.quiet:
            area = sum(tile.area for tile in tiles if tile.id in records) / 1e6
            done = [f"{counted(len(records) - left, 'file')} segmented"]
            done += [f"{left} already there"] if left else []
            done += [f"{len(self.failed)} failed", f"{perf_counter() - began:.1f} s"]
            summary = ", ".join(done)
            if records:
                summary += f"; the map has {counted(len(records), 'file')}, {area:.3g} km²"
                summary += f" and {counted(buildings, 'building')}"
            print(summary, file=sys.stderr)

    def _probed(self, files: Sequence[File], work: BulkWork) -> list[Tile]:
        """Return the files as tiles, and note the errors of those that can't be read."""
        tiles, found = [], self.crew.probe(files, work)
        # Closed whatever happens, so that a message that ends the run has a line of its own.
        with progress_bar(
            found, "probing", len(files), unit="file", leave=False, disable=self.quiet
        ) as bar:
            for outcome in bar:
                if outcome.result is not None:
                    tiles.append(outcome.result)
                else:
                    self._fail(outcome)
        return tiles

    def _segmented(
        self, todo: Sequence[tuple[Tile, list[Tile]]], work: BulkWork
    ) -> dict[str, Record]:
        """Segment tiles, and show how many km² are done, how fast, and what is left."""
        records: dict[str, Record] = {}
        if not todo:
            return records
        by_name = {tile.name: tile for tile, _ in todo}
        total = sum(tile.area for tile in by_name.values()) / 1e6
        began = perf_counter()
        with progress_bar(
            desc=str(self.dest), total=total, unit="km²", bar_format=BAR, disable=self.quiet
        ) as bar:
            for outcome in self.crew.segment(todo, work, self.load):
                tile = by_name[outcome.name]
                if outcome.result is not None:
                    records[tile.id] = outcome.result
                    for notice in outcome.result.notices:
                        tell("notice", printable(tile.name), notice)
                else:
                    self._fail(outcome)
                pace = 60 * (bar.n + tile.area / 1e6) / (perf_counter() - began)
                bar.set_postfix_str(f"{pace:.3g} km²/min", refresh=False)
                bar.update(min(tile.area / 1e6, total - bar.n))  # sums round
        return records

    def _fail(self, outcome: Outcome[Any]) -> None:
        self.failed[outcome.name] = outcome.error
        tell("error", printable(outcome.name), outcome.error)


@contextmanager
def _opened(dest: Path) -> Iterator[None]:
    """Make the folder of the output, and keep other runs out of it.

    Raises:
        InvalidOption: it is none, holds something else, or another run is in it.
    """
    if dest.exists() and not dest.is_dir():
        raise InvalidOption(f"-o {dest} is a file: name a folder")
    if dest.is_dir() and any(dest.iterdir()) and not (dest / _WORK).is_dir():
        raise InvalidOption(f"-o {dest} holds something else: name an empty or a new folder")
    try:
        (dest / _WORK).mkdir(parents=True, exist_ok=True)
        lock = (dest / _WORK / "lock").open("a")
    except OSError as error:
        raise InvalidOption(f"-o {dest} can't be written to: {error.strerror}") from error
    with lock:
        keep_others_out(dest, lock)
        yield


def find_files(inputs: Sequence[str], dest: str, asset: str | None) -> list[File]:
    """Return the files that are named, once each.

    Names are as `expand` takes them. Beyond these, a folder or a pattern of a bucket such as
    s3://city/2026/**/*.tif is listed, and so is a STAC catalogue, which ends with .json.

    Raises:
        InvalidOption: as `expand`, `list_bucket` and `list_catalogue`.
    """
    files: dict[str, File] = {}
    for name in inputs:
        for source, taken in _named(name, dest, asset):
            if source.is_standard:
                raise InvalidOption("- is standard input, and bulk reads files")
            local = not source.is_named_by_scheme and source.path.exists()
            version = source.version if local else ""
            file = File(source.name, source.for_gdal, source.needs_gdal, version, taken)
            files.setdefault(source.place, file)
    return list(files.values())


def _named(name: str, dest: str, asset: str | None) -> list[tuple[Source, str | None]]:
    source = Source(name)
    if name.lower().split("?")[0].endswith(".json"):
        return [(Source(href), taken) for href, taken in list_catalogue(name, asset)]
    scheme, _, rest = name.partition("://")
    if scheme.lower() in ("http", "https"):
        rest = rest.partition("?")[0]  # a query, and no pattern
    if source.is_named_by_scheme and rest and (name.endswith("/") or glob.has_magic(rest)):
        fixed = rest.split("/")
        first = next((n for n, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
        folder = f"{scheme}://{'/'.join(fixed[:first])}".rstrip("/")
        pattern = "/".join(fixed[first:])
        images = images_among(list_bucket(Source(folder).for_gdal, pattern))
        if not images:
            raise InvalidOption(
                f"{folder} has no image{f' that fits {pattern}' if pattern else ''}, or can't be "
                "listed: check its name, and the credentials and the region in AWS_…"
            )
        return [(Source(path), None) for path in images]
    return [(found, None) for found in expand([name], dest)]
