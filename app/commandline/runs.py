"""Segment files: what `rooftrace segment` does once its arguments are settled."""

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from app import __version__
from app.commandline.files import STANDARD
from app.commandline.resume import Work, partial_folder, working
from app.errors import RooftraceError, UploadTooLarge
from app.imaging.decode import decode_image
from app.imaging.header import tiff_size
from app.imaging.image import RowSource
from app.imaging.raster import open_raster
from app.imaging.scaling import format_rescale
from app.imaging.sniff import Format as FileFormat
from app.imaging.sniff import sniff_file
from app.outputs.formats import FORMATS
from app.outputs.pipeline import BYTES_PER_PIXEL, Pipeline, Stages
from app.segmentation.segmenter import used_gsd
from app.segmentation.stream import SegmentedBand

_BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.4g}/{total:.4g} {unit} [{elapsed}<{remaining}{postfix}]"
)


@dataclass(frozen=True)
class Run:
    """Files to be segmented alike, each to a target of its own.

    `resume`: go on with what an earlier run left unfinished, and leave what it finished.
    """

    pipeline: Pipeline
    targets: Mapping[Path, Path]
    resume: bool = False
    quiet: bool = False

    def segment(self) -> int:
        """Segment file by file; say what is wrong with one, go on, and return how many failed."""
        failed = 0
        has_own_bar = self.pipeline.format.write is not None and len(self.targets) == 1
        files = tqdm(self.targets.items(), unit="image", disable=self.quiet or has_own_bar)
        for source, target in files:
            try:
                for notice in self._segment(source, target):
                    tqdm.write(f"notice: {source}: {notice}", file=sys.stderr)
            except (OSError, RooftraceError) as error:
                failed += 1
                tqdm.write(f"error: {source}: {error}", file=sys.stderr)
        return failed

    def _segment(self, source: Path, target: Path) -> tuple[str, ...]:
        """Segment one file, and return what one should know about it."""
        if self.resume and _is_done(source, target):
            return (f"{target} is there, and newer: it was left as it is.",)
        write = self.pipeline.format.write
        if write is None or target == STANDARD:
            self._check_size(source)
            stages = Stages()
            result = self.pipeline.segment(source.name, _read(source), stages)
            _write(target, self.pipeline.encode(result, stages))
            return result.notices
        with self._open(source) as (image, digest):
            with working(target, self._made_of(digest), resume=self.resume) as work:
                bands = self._with_bar(self._bands(image, work), image, work.rows, source.name)
                found = self.pipeline.stream(source.name, image, bands)
                write(found, work.result)
            return found.notices

    def _check_size(self, source: Path) -> None:
        """Refuse a raster that is too large to be held whole, before it is read.

        Raises:
            UploadTooLarge: say what to do.
        """
        size = None if source == STANDARD else tiff_size(source)
        if size is None or size[0] * size[1] <= (most := self.pipeline.max_pixels):
            return
        height, width = size
        streamed = ", ".join(format.name for format in FORMATS.values() if format.write)
        raise UploadTooLarge(
            f"The TIFF has {width} x {height} pixels, and as {self.pipeline.format.name}, or to -, "
            f"it would be held whole: that is for {most} pixels at most. Write {streamed} to a "
            "file, which takes a TIFF of any size; or raise ROOFTRACE_MAX_PIXELS where there are "
            f"{BYTES_PER_PIXEL} bytes of memory for each."
        )

    @contextmanager
    def _open(self, source: Path) -> Iterator[tuple[RowSource, str]]:
        """Open a file as rows: a TIFF of any size as it lies there, any other whole.

        With it comes what tells it from any other file.
        """
        pipeline = self.pipeline
        if source != STANDARD and sniff_file(source) is FileFormat.TIFF:
            status = source.stat()
            with open_raster(source, rescale=pipeline.rescale, sharpen=pipeline.sharpen) as raster:
                yield raster, f"of {status.st_size} bytes, changed {status.st_mtime_ns}"
        else:
            data = _read(source)
            image = decode_image(
                data,
                max_pixels=pipeline.max_pixels,
                rescale=pipeline.rescale,
                sharpen=pipeline.sharpen,
            )
            yield image, hashlib.sha256(data).hexdigest()

    def _bands(self, image: RowSource, work: Work) -> Iterator[SegmentedBand]:
        """Give the bands that are saved, then those that are not."""
        yield from work.bands()
        if work.rows < image.height:
            yield from work.save(self.pipeline.bands(image, first=work.rows))

    def _made_of(self, digest: str) -> dict[str, str]:
        """Name all that decides the bits of a file's bands."""
        segmenter, rescale = self.pipeline.segmenter, self.pipeline.rescale
        sharpen = self.pipeline.sharpen
        return {
            "input": digest,
            "rooftrace": __version__,
            "model": segmenter.manifest.version,
            "provider": ", ".join(sorted(set(segmenter.predictor.providers.values()))),
            "answer": "a mask" if self.pipeline.mask_only else "probabilities",
            "rescale": "none" if rescale is None else format_rescale(rescale),
            "sharpen": "none" if sharpen is None else str(sharpen),
            **{name: str(value) for name, value in asdict(self.pipeline.options).items()},
        }

    def _with_bar(
        self, bands: Iterable[SegmentedBand], image: RowSource, done: int, name: str
    ) -> Iterator[SegmentedBand]:
        """Show how much of an image has gone by: in km² where its GSD is known."""
        gsd = used_gsd(image, self.pipeline.options)
        unit = "km²" if gsd else "megapixels"
        row = image.width * (math.prod(gsd) if gsd else 1) / 1e6
        started, before = perf_counter(), done
        with tqdm(
            desc=name,
            total=image.height * row,
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


def _is_done(source: Path, target: Path) -> bool:
    if partial_folder(target).exists() or not (source.exists() and target.exists()):
        return False
    return target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _read(source: Path) -> bytes:
    return sys.stdin.buffer.read() if source == STANDARD else source.read_bytes()


def _write(target: Path, data: bytes) -> None:
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        # Whole or not there at all, and never a mixture of what two runs write at once.
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
