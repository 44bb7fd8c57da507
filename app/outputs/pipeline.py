"""The straight line from an image to a result, for HTTP and the command line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Self

from app.errors import ImpossibleOutput
from app.imaging.decode import decode_image
from app.imaging.header import announced_pixels
from app.imaging.image import Image, RowSource
from app.imaging.scaling import Limits
from app.imaging.sharpness import check_percent
from app.outputs.findings import Findings, OutputOptions, Provenance, provenance
from app.outputs.formats import Format, Result
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Checkpoint, Segmenter, keep_going, used_gsd
from app.segmentation.stream import SegmentedBand

BYTES_PER_PIXEL = 60
"""Memory at the peak of an image's way through, decoders and encoders included. Most takes GeoJSON
of noise, a third of it text; tests/hostile/test_memory.py measures every format."""


def working_memory(data: bytes, max_pixels: int) -> int:
    """Say how many bytes it takes to segment a file, from its header alone."""
    return BYTES_PER_PIXEL * announced_pixels(data, max_pixels)


@dataclass
class Stages:
    """How long each stage of the line took, in seconds, and when: (stage, began, ended)."""

    seconds: dict[str, float] = field(default_factory=dict)
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        began = perf_counter()
        try:
            yield
        finally:
            self.add(stage, began)

    def add(self, stage: str, began: float) -> None:
        """Add the time since `began`, of the clock `perf_counter`, to `stage`."""
        ended = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + ended - began
        self.spans.append((stage, began, ended))


@dataclass(frozen=True)
class Pipeline:
    """Everything about a request that is settled before its bytes are looked at.

    `otherwise` are the formats that an image gets, whole, which can't have `format`: the first that
    it can have. `rescale` and `sharpen` are what `decode_image` takes.

    Raises:
        InvalidOption: more than is ever sharpened, or less than nothing.
    """

    segmenter: Segmenter
    options: SegmentOptions
    max_pixels: int
    format: Format
    checkpoint: Checkpoint = keep_going
    output: OutputOptions = OutputOptions()
    rescale: Limits | None = None
    sharpen: int | None = None
    otherwise: tuple[Format, ...] = ()

    def __post_init__(self) -> None:
        check_percent(self.sharpen)

    @property
    def mask_only(self) -> bool:
        """Whether the result shows the mask and nothing else, so that members may be spared."""
        shows = self.format.shows
        return shows == "mask" or (shows == "bands" and self.output.bands == ("mask",))

    def segment(self, filename: str, data: bytes, stages: Stages) -> Result:
        """Decode an image and find its buildings.

        Raises:
            InputError: not an image that is accepted, an option that the bundle can't honour, or a
                format that the image can't have, and nothing otherwise.
            InferenceError: a member failed.
            Exception: whatever `checkpoint` raises.
        """
        with stages.measure("decode"):
            # No more than what memory was set aside for, whatever the decoder finds.
            max_pixels = announced_pixels(data, self.max_pixels)
            image = decode_image(
                data, max_pixels=max_pixels, rescale=self.rescale, sharpen=self.sharpen
            )
            line, notices = self._possible(image)
        with stages.measure("infer"):
            segmentation = self.segmenter.segment(
                image,
                self.options,
                disagreement=line.format.shows in ("members", "bands"),
                mask_only=line.mask_only,
                checkpoint=self.checkpoint,
            )
        return Result(
            filename,
            line.format,
            image,
            segmentation,
            line._provenance(image),
            used_gsd(image, self.options),
            self.output,
            (*image.notices, *segmentation.notices, *notices),
            self.checkpoint,
        )

    def _possible(self, image: Image) -> tuple[Self, tuple[str, ...]]:
        """Settle on the first format that an image can have; say what the client should know."""
        try:
            return self, self.format.check(image)
        except ImpossibleOutput as error:
            for format in self.otherwise:
                with suppress(ImpossibleOutput):
                    notices = format.check(image)
                    instead = f"The result is {format.name}, not {self.format.name}: {error}"
                    return replace(self, format=format, otherwise=()), (instead, *notices)
            raise

    def encode(self, result: Result, stages: Stages) -> bytes:
        """Encode a result, and count its buildings.

        Raises:
            ImpossibleOutput: a building lies where the image's reference system is not valid.
            Exception: whatever `checkpoint` raises.
        """
        assert result.format.encode is not None, "a format of the command line alone"
        with stages.measure("encode"):
            return result.format.encode(result)

    def stream(
        self, filename: str, image: RowSource, bands: Iterable[SegmentedBand] | None = None
    ) -> Findings:
        """Find the buildings of an image a band of rows at a time, for `format.write`.

        `bands` are what `bands` made of this image before; None has them made, as the writer takes
        them.

        Raises:
            As `segment`; and once more while the writer works.
        """
        notices = self.format.check(image)
        return Findings(
            filename,
            image,
            self.segmenter.hold_unsure(self.bands(image) if bands is None else bands, self.options),
            self._provenance(image),
            min_pixels=self.options.min_area / self.segmenter.unit_area(image, self.options),
            gsd=used_gsd(image, self.options),
            output=self.output,
            notices=(
                *image.notices,
                *self.segmenter.notices(image, self.options),
                *notices,
            ),
            checkpoint=self.checkpoint,
        )

    def bands(self, image: RowSource, *, first: int = 0) -> Iterator[SegmentedBand]:
        """Segment an image, from its row `first` on, a band of rows at a time.

        Raises:
            As `segment`.
        """
        segmenter, options = self.segmenter, self.options
        found = segmenter.bands(
            image,
            options,
            mask_only=self.mask_only,
            gating=segmenter.gating(options) if self.mask_only else None,
            first=first,
            checkpoint=self.checkpoint,
        )
        return segmenter.combine_bands(image, found, options)

    def _provenance(self, image: RowSource) -> Provenance:
        return provenance(self.segmenter, image, self.options, mask_only=self.mask_only)
