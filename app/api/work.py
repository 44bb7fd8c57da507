"""The work of a request on one image: bytes in, a stream for its writer out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import ImpossibleOutput, InvalidOption
from ..imaging.decode import decode_image
from ..imaging.header import announced_pixels
from ..imaging.image import RowSource
from ..outputs.formats import BYTES_PER_PIXEL, Format
from ..segmentation.options import Options
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import Cancelled, SegmentedStream
from .stages import Stages


def working_memory(data: bytes, max_pixels: int) -> int:
    """Return how many bytes it takes to segment a file, from its header alone."""
    return BYTES_PER_PIXEL * announced_pixels(data, max_pixels)


@dataclass(frozen=True)
class Work:
    """Everything about a request that is settled before its bytes are looked at.

    `formats` are those that the client accepts, the preferred one first: an image gets the first
    that it can have.
    """

    segmenter: Segmenter
    options: Options
    formats: tuple[Format, ...]
    max_pixels: int
    cancelled: Cancelled
    document: bool = False
    """Whether the result goes into a JSON document, as a process's does."""

    def begin(self, name: str, data: bytes, stages: Stages) -> tuple[Format, SegmentedStream]:
        """Decode an image, and return its format and its stream, which is segmented as it is read.

        Raises:
            InputError: not an image that is accepted, or a format that the image can't have.
            InferenceError: a member failed, as the stream is read.
            Exception: whatever `cancelled` raises.
        """
        with stages.measure("decode"):
            # No more than what memory was set aside for, whatever the decoder finds.
            max_pixels = announced_pixels(data, self.max_pixels)
            image = decode_image(data, max_pixels=max_pixels, **self.options.decoding)
            format, notices = choose_possible(self.formats, image)
            plan = self.segmenter.plan(
                image, self.options, buildings=format.buildings, notices=notices
            )
        count = plan.count()
        bands = self.segmenter.bands(plan, image, self.cancelled, count=count)
        measured = stages.measure_items("infer", bands)
        return format, stream(plan, image, measured, self.cancelled, name=name, cascade_count=count)


def choose_possible(formats: Sequence[Format], image: RowSource) -> tuple[Format, tuple[str, ...]]:
    """Choose the first format that an image can have; say what the client should know.

    Raises:
        ImpossibleOutput: it can have none of them.
    """
    preferred, *others = formats
    try:
        return preferred, preferred.check(image)
    except ImpossibleOutput as error:
        for format in others:
            with suppress(ImpossibleOutput, InvalidOption):
                notices = format.check(image)
                instead = f"The result is {format.name}, not {preferred.name}: {error}"
                return format, (instead, *notices)
        raise
