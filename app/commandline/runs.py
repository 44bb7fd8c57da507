"""Segment files: the work of `rooftrace segment` after its arguments are read."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from .. import __version__
from ..errors import InvalidOption, StartupError, message_of
from ..imaging.image import RowSource
from ..jobs.bands import KeptBands
from ..outputs.formats import Format
from ..segmentation.cascade import CascadeCount
from ..segmentation.options import Options, ResultOptions
from ..segmentation.plan import Plan
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import Band, Cancelled, SegmentedStream, never
from ..terminal import counted, printable, progress_bar
from .files import STANDARD, Source
from .inputs import open_source
from .resume import partial_folder, partial_run

_AFTER_BANDS = set(ResultOptions.model_fields) - {"threshold"}
"""Options that act on finished bands: a run may go on with others."""
BAR = (
    "{desc}: {percentage:3.0f}%|{bar}| {n:.4g}/{total:.4g} {unit} [{elapsed}<{remaining}{postfix}]"
)
_PARAMETER = re.compile(rf"\b({'|'.join(Options.model_fields)})\b(= ?)?")


def tell(kind: str, name: object, text: str) -> None:
    """Say something about a file; `rgb=3,2,1` and `min_area` are written as flags."""
    tqdm.write(f"{kind}: {name}: {_PARAMETER.sub(_as_flag, text)}", file=sys.stderr)


def _as_flag(parameter: re.Match[str]) -> str:
    name, given = parameter.groups()
    if not given and "_" not in name:  # `models` is a word as well
        return name
    return f"--{name.replace('_', '-')}{' ' if given else ''}"


@dataclass
class _Summary:
    """Counts over the files of a run, one line at its end."""

    files: int = 0
    failed: int = 0
    left: int = 0
    """Files whose result was there already."""
    buildings: int = 0
    area: float = 0.0
    """Area of the buildings in m², of the files whose GSD is known."""
    without_gsd: int = 0
    started: float = field(default_factory=perf_counter)

    def add(self, stream: SegmentedStream) -> None:
        """Count a stream that was read to its end."""
        self.files += 1
        self.buildings += stream.building_count
        if stream.building_area is None:
            self.without_gsd += 1
        else:
            self.area += stream.building_area

    def __str__(self) -> str:
        parts = [f"{counted(self.files, 'file')} segmented", counted(self.buildings, "building")]
        if self.without_gsd < self.files:
            unknown = f" ({counted(self.without_gsd, 'file')} without a GSD not counted)"
            parts.append(f"{self.area:.0f} m²{unknown if self.without_gsd else ''}")
        parts.append(f"{perf_counter() - self.started:.1f} s")
        if self.left:
            parts.append(f"{self.left} already there")
        parts.append(f"{self.failed} failed")
        return ", ".join(parts)


@dataclass(frozen=True)
class Run:
    """Files to be segmented alike, each to a target of its own.

    `load` loads the models once a file needs them: none does that can't be read or is finished.
    `resume`: go on with what an earlier run left unfinished, and leave what it finished.
    `styled`: write the format's style beside a result.
    """

    load: Callable[[], Segmenter]
    options: Options
    format: Format
    targets: Mapping[Source, Path]
    max_pixels: int
    cancelled: Cancelled = never
    resume: bool = False
    styled: bool = True
    quiet: bool = False
    summary: _Summary = field(default_factory=_Summary)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The models."""
        return self.load()

    def segment(self) -> int:
        """Segment file by file; say what is wrong with one, go on, and return how many failed.

        Raises:
            StartupError: the models can't be loaded.
        """
        has_own_bar, files = len(self.targets) == 1, self.targets.items()
        with progress_bar(files, unit="image", disable=self.quiet or has_own_bar) as bar:
            for source, target in bar:
                self._try(source, target)
        if not self.quiet:
            print(self.summary, file=sys.stderr)
        return self.summary.failed

    def _try(self, source: Source, target: Path) -> None:
        """Segment one file, and say what there is to know about it, or what is wrong with it."""
        try:
            for notice in self._segment(source, target):
                tell("notice", source, notice)
        except (StartupError, BrokenPipeError):  # no models, or nowhere to write, for any file
            raise
        except Exception as error:  # whatever it is, the other files go on
            self.summary.failed += 1
            tell("error", source, message_of(error))

    def _segment(self, source: Source, target: Path) -> tuple[str, ...]:
        """Segment one file, and return its notices."""
        if self.resume and _is_done(source, target):
            self.summary.left += 1
            return (f"{target} is there: it was left as it is.",)
        whole = _held_whole(self.format, target)
        with open_source(source, self.options, self.max_pixels, whole) as (image, fingerprint):
            notices = self.format.check(image)
            plan = self.segmenter.plan(
                image, self.options, buildings=self.format.buildings, notices=notices
            )
            count = plan.count()
            if target == STANDARD:
                bands = self.segmenter.bands(plan, image, self.cancelled, count=count)
                segmented = self._stream(plan, image, bands, 0, source, count)
                sys.stdout.buffer.write(self.format.encode(segmented))
                sys.stdout.buffer.flush()
            else:
                made_of = self._made_of(plan, fingerprint)
                with (
                    _written(target),
                    partial_run(target, made_of, resume=self.resume) as (folder, result),
                ):
                    kept = KeptBands(folder, ".", count)
                    bands = self._bands(plan, image, kept, count)
                    segmented = self._stream(plan, image, bands, kept.rows, source, count)
                    self.format.save(segmented, result)
                if self.styled:
                    self._write_style(source, target)
        self.summary.add(segmented)
        return segmented.notices

    def _write_style(self, source: Source, target: Path) -> None:
        """Write the format's style beside a result, but never over or for another file.

        QGIS applies a style to any file of the same name, so none is written beside such an input.
        """
        style = target.with_suffix(".qml")
        beside_input = source.path.resolve().with_suffix(".qml") == style.resolve()
        if self.format.style is not None and not beside_input and not style.exists():
            style.write_text(self.format.style)

    def _stream(
        self,
        plan: Plan,
        image: RowSource,
        bands: Iterable[Band],
        done: int,
        source: Source,
        count: CascadeCount | None,
    ) -> SegmentedStream:
        name = os.fsencode(source.file_name).decode(errors="replace")
        shown = self._with_bar(bands, plan, done, printable(source.file_name))
        return stream(plan, image, shown, self.cancelled, name=name, cascade_count=count)

    def _bands(
        self, plan: Plan, image: RowSource, kept: KeptBands, count: CascadeCount | None
    ) -> Iterator[Band]:
        """Yield the bands that are kept, then those that are not."""
        yield from kept.read(plan, image)
        if kept.rows < image.height:
            following = self.segmenter.bands(
                plan, image, self.cancelled, first=kept.rows, count=count
            )
            yield from kept.save(following)

    def _made_of(self, plan: Plan, fingerprint: str) -> dict[str, str]:
        """Name everything that decides the bits of a file's bands."""
        options = self.options.model_dump(exclude=_AFTER_BANDS)
        return {
            "input": fingerprint,
            "rooftrace": __version__,
            "model": plan.model,
            "provider": ", ".join(self.segmenter.predictor.providers_in_use),
            "disagreement": str(plan.disagreement),
            **{name: str(value) for name, value in options.items()},
        }

    def _with_bar(self, bands: Iterable[Band], plan: Plan, done: int, name: str) -> Iterator[Band]:
        """Show how much of an image is done: in km² where its GSD is known, else in megapixels."""
        areas = plan.row_areas
        unit = "megapixels" if areas is None else "km²"
        row = plan.width * (1.0 if areas is None else float(areas.mean())) / 1e6
        started, before = perf_counter(), done
        with progress_bar(
            desc=name,
            total=plan.height * row,
            initial=done * row,
            unit=unit,
            bar_format=BAR,
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


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Have errors of the system name the result, as the input was open before.

    Raises:
        InvalidOption: the result can't be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InvalidOption(f"{target} can't be written: {reason}") from error


def dry_run(
    targets: Mapping[Source, Path], options: Options, format: Format, max_pixels: int
) -> int:
    """Open each input and tell its size and its target; return how many could not be segmented."""
    failed = 0
    for source, target in targets.items():
        try:
            whole = _held_whole(format, target)
            with open_source(source, options, max_pixels, whole) as (image, _):
                format.check(image)
                gsd = "" if image.gsd is None else f", {image.gsd[0]:.3g} m per pixel"
                size = f"{image.width} x {image.height} pixels{gsd}"
            exists = ", which exists" if target != STANDARD and target.exists() else ""
            print(f"{source} -> {printable(target)}{exists}: {size}")
        except BrokenPipeError:
            raise
        except Exception as error:
            failed += 1
            tell("error", source, message_of(error))
    print(f"{counted(len(targets), 'file')}, {failed} can't be segmented; nothing was written")
    return failed


def _held_whole(format: Format, target: Path) -> Format | None:
    return format if format.whole or target == STANDARD else None


def _is_done(source: Source, target: Path) -> bool:
    if partial_folder(target).exists() or not target.exists():
        return False
    if source.is_named_by_scheme:
        return True  # nothing tells when it changed
    return source.path.exists() and target.stat().st_mtime_ns >= source.path.stat().st_mtime_ns
