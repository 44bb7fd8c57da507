"""The straight line from an upload's bytes to a result's, for HTTP and the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from app.formats import Format, Result
from app.imaging.decode import decode_image
from app.inference.segmenter import Checkpoint, Segmenter, SegmentOptions, keep_going
from app.masks.rle import PixelOrder


@dataclass
class Stages:
    """How long each stage of the line took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - started


@dataclass(frozen=True)
class Pipeline:
    """Everything about a request that is settled before its bytes are looked at."""

    segmenter: Segmenter
    options: SegmentOptions
    max_pixels: int
    checkpoint: Checkpoint = keep_going
    order: PixelOrder = "row"

    def segment(self, filename: str, data: bytes, stages: Stages) -> Result:
        """Decode an image and find its buildings.

        Raises:
            InputError: not an image that is accepted, or an option that the bundle can't honour.
            InferenceError: a member failed.
            Exception: whatever `checkpoint` raises.
        """
        with stages.measure("decode"):
            image = decode_image(data, max_pixels=self.max_pixels)
        with stages.measure("infer"):
            segmentation = self.segmenter.segment(image, self.options, checkpoint=self.checkpoint)
        return Result(filename, image, segmentation, self.order)

    def encode(self, result: Result, format: Format, stages: Stages) -> bytes:
        """Encode a result in one of the formats."""
        with stages.measure("encode"):
            return format.encode(result)
