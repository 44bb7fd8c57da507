"""Segment files: what `rooftrace segment` does once its arguments are settled."""

import hashlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from app import __version__
from app.commandline.files import STANDARD
from app.commandline.resume import PartialRun, partial_folder, partial_run
from app.errors import RooftraceError, UploadTooLarge
from app.imaging.decode import decode_image
from app.imaging.files import open_image
from app.imaging.header import tiff_size
from app.imaging.image import RowSource
from app.outputs.formats import BYTES_PER_PIXEL, FORMATS, Format
from app.segmentation.options import Options
from app.segmentation.plan import Plan
from app.segmentation.segmenter import Segmenter, stream
from app.segmentation.stream import Band, Cancelled, SegmentedStream, never

_AFTER_BANDS = {"min_area", "min_confidence", "order", "simplify", "rectify", "bands"}
"""Options that act on finished bands: a run may go on with others."""
_BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.4g}/{total:.4g} {unit} [{elapsed}<{remaining}{postfix}]"
)


@dataclass(frozen=True)
class Run:
    """Files to be segmented alike, each to a target of its own.

    `resume`: go on with what an earlier run left unfinished, and leave what it finished.
    """

    segmenter: Segmenter
    options: Options
    format: Format
    targets: Mapping[Path, Path]
    max_pixels: int
    cancelled: Cancelled = never
    resume: bool = False
    quiet: bool = False

    def segment(self) -> int:
        """Segment file by file; say what is wrong with one, go on, and return how many failed."""
        failed = 0
        has_own_bar = len(self.targets) == 1
        files = tqdm(self.targets.items(), unit="image", disable=self.quiet or has_own_bar)
        for source, target in files:
            name = os.fsencode(source).decode(errors="replace")  # may be Latin-1
            try:
                for notice in self._segment(source, target):
                    tqdm.write(f"notice: {name}: {notice}", file=sys.stderr)
            except (OSError, RooftraceError) as error:
                failed += 1
                tqdm.write(f"error: {name}: {error}", file=sys.stderr)
            except Exception as error:  # a fault of ours, which no other file need suffer
                failed += 1
                tqdm.write(f"error: {name}: {_unforeseen(error)}", file=sys.stderr)
        return failed

    def _segment(self, source: Path, target: Path) -> tuple[str, ...]:
        """Segment one file, and return its notices."""
        if self.resume and _is_done(source, target):
            return (f"{target} is there, and newer: it was left as it is.",)
        if self.format.whole or target == STANDARD:
            self._check_size(source)
        with self._open(source) as (image, fingerprint):
            notices = self.format.check(image)
            plan = self.segmenter.plan(
                image, self.options, buildings=self.format.buildings, notices=notices
            )
            if target == STANDARD:
                bands = self.segmenter.bands(plan, image, self.cancelled)
                found = self._with_bar(bands, plan, 0, source.name)
                sys.stdout.buffer.write(
                    self.format.encode(self._stream(plan, image, found, source))
                )
                sys.stdout.buffer.flush()
            else:
                made_of = self._made_of(plan, fingerprint)
                with partial_run(target, made_of, resume=self.resume) as partial:
                    bands = self._bands(plan, image, partial)
                    found = self._with_bar(bands, plan, partial.rows, source.name)
                    self.format.save(self._stream(plan, image, found, source), partial.result)
        return plan.notices

    def _stream(
        self, plan: Plan, image: RowSource, bands: Iterable[Band], source: Path
    ) -> SegmentedStream:
        return stream(plan, image, bands, self.cancelled, name=source.name)

    def _check_size(self, source: Path) -> None:
        """Refuse a raster that is too large to be held whole, before it is read.

        Raises:
            UploadTooLarge: say what to do.
        """
        size = None if source == STANDARD else tiff_size(source)
        if size is None or size[0] * size[1] <= self.max_pixels:
            return
        height, width = size
        streamed = ", ".join(format.name for format in FORMATS.values() if not format.whole)
        raise UploadTooLarge(
            f"The TIFF has {width} x {height} pixels, and as {self.format.name}, or to -, "
            f"it would be held whole: that is for {self.max_pixels} pixels at most. Write "
            f"{streamed} to a file, which takes a TIFF of any size; or raise ROOFTRACE_MAX_PIXELS "
            f"where there are {BYTES_PER_PIXEL} bytes of memory for each."
        )

    @contextmanager
    def _open(self, source: Path) -> Iterator[tuple[RowSource, str]]:
        """Open a file as rows: a TIFF of any size as it lies there, any other whole.

        Also yields the file's fingerprint.
        """
        decoding = self.options.decoding
        if source == STANDARD:
            data = sys.stdin.buffer.read()
            image = decode_image(data, max_pixels=self.max_pixels, **decoding)
            yield image, hashlib.sha256(data).hexdigest()
            return
        with open_image(source, max_pixels=self.max_pixels, **decoding) as opened:
            status, place = source.stat(), opened.georeference
            yield opened, f"of {status.st_size} bytes, changed {status.st_mtime_ns}, at {place}"

    def _bands(self, plan: Plan, image: RowSource, partial: PartialRun) -> Iterator[Band]:
        """Yield the bands that are saved, then those that are not."""
        yield from partial.bands()
        if partial.rows < image.height:
            yield from partial.save(
                self.segmenter.bands(plan, image, self.cancelled, first=partial.rows)
            )

    def _made_of(self, plan: Plan, fingerprint: str) -> dict[str, str]:
        """Name everything that decides the bits of a file's bands."""
        options = self.options.model_dump(exclude=_AFTER_BANDS)
        return {
            "input": fingerprint,
            "rooftrace": __version__,
            "model": plan.model,
            "provider": ", ".join(sorted(set(self.segmenter.predictor.providers.values()))),
            "disagreement": str(plan.disagreement),
            **{name: str(value) for name, value in options.items()},
        }

    def _with_bar(self, bands: Iterable[Band], plan: Plan, done: int, name: str) -> Iterator[Band]:
        """Show how much of an image has gone by: in km² where its GSD is known."""
        areas = plan.row_areas
        unit = "megapixels" if areas is None else "km²"
        row = plan.width * (1.0 if areas is None else float(areas.mean())) / 1e6
        started, before = perf_counter(), done
        with tqdm(
            desc=name,
            total=plan.height * row,
            initial=done * row,
            unit=unit,
            bar_format=_BAR,
            leave=len(self.targets) == 1,
            disable=self.quiet,
        ) as bar:
            for band in bands:
                yield band
                if (new := band.rows.stop - before) > 0:
                    before = band.rows.stop
                    pace = 60 * (before - done) * row / (perf_counter() - started)
                    bar.set_postfix_str(f"{pace:.3g} {unit}/min", refresh=False)
                    bar.update(new * row)


def _unforeseen(error: Exception) -> str:
    """Say what a report of a fault needs: the error, and where it was raised."""
    [*_, last] = traceback.extract_tb(error.__traceback__)
    return (
        f"an unforeseen {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: "
        f"{error}. This is a fault of Rooftrace: report it, with the file if you can."
    )


def _is_done(source: Path, target: Path) -> bool:
    if partial_folder(target).exists() or not (source.exists() and target.exists()):
        return False
    return target.stat().st_mtime_ns >= source.stat().st_mtime_ns
