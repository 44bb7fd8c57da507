"""The straight line from an upload's bytes to a result's, for HTTP and the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from app.formats import Format, Result
from app.imaging.decode import decode_image
from app.imaging.header import announced_pixels
from app.inference.segmenter import Checkpoint, Segmenter, SegmentOptions, keep_going
from app.masks.rle import PixelOrder

BYTES_PER_PIXEL = 40
"""Memory at the peak of an image's way through, decoders and encoders included. Most takes the
run-length encoding of noise; tests/hostile/test_memory.py measures every format."""


def working_memory(data: bytes, max_pixels: int) -> int:
    """Say how many bytes it takes to segment a file, from its header alone."""
    return BYTES_PER_PIXEL * announced_pixels(data, max_pixels)


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
            # No more than what memory was set aside for, whatever the decoder finds.
            max_pixels = announced_pixels(data, self.max_pixels)
            image = decode_image(data, max_pixels=max_pixels)
        with stages.measure("infer"):
            segmentation = self.segmenter.segment(image, self.options, checkpoint=self.checkpoint)
        return Result(filename, image, segmentation, self.order)

    def encode(self, result: Result, format: Format, stages: Stages) -> bytes:
        """Encode a result in one of the formats."""
        with stages.measure("encode"):
            return format.encode(result)
