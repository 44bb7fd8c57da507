"""The work of a request on one image: bytes in, a stream for its writer out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import ImpossibleOutput, InvalidOption
from ..imaging.decode import decode_image
from ..imaging.image import RowSource
from ..outputs.formats import FORMATS, Format
from ..segmentation.options import Options
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import Cancelled, SegmentedStream
from .stages import Stages
from .uploads import Upload


@dataclass(frozen=True)
class Work:
    """A client's wishes for one image, settled before any byte of it is decoded.

    `formats` are those that the client accepts, the preferred one first. The result has the first
    that is possible for the image.
    """

    options: Options
    formats: Sequence[str]
    document: bool = False
    """Whether the result goes into a JSON document, as a process's does."""

    def begin(
        self,
        segmenter: Segmenter,
        upload: Upload,
        max_pixels: int,
        stages: Stages,
        cancelled: Cancelled,
    ) -> tuple[Format, SegmentedStream]:
        """Decode an image, and return its format and its stream, which is segmented as it is read.

        Raises:
            InputError: not an image that is accepted, or a format that the image can't have.
            InferenceError: a member failed; the stream raises it as it is read.
            Exception: any that `cancelled` raises.
        """
        with stages.measure("decode"):
            image = decode_image(upload.data, max_pixels=max_pixels, **self.options.decoding)
            format, notices = choose_possible(self.formats, image)
            plan = segmenter.plan(image, self.options, buildings=format.buildings, notices=notices)
        count = plan.count()
        bands = segmenter.bands(plan, image, cancelled, count=count)
        measured = stages.measure_items("infer", bands)
        name = upload.filename
        return format, stream(plan, image, measured, cancelled, name=name, cascade_count=count)


def choose_possible(names: Sequence[str], image: RowSource) -> tuple[Format, tuple[str, ...]]:
    """Return the first of the named formats that is possible for an image, and its notices.

    Raises:
        ImpossibleOutput: none of them is possible.
    """
    preferred, *others = (FORMATS[name] for name in names)
    try:
        return preferred, preferred.check(image)
    except ImpossibleOutput as error:
        for format in others:
            with suppress(ImpossibleOutput, InvalidOption):
                notices = format.check(image)
                instead = f"The result is {format.name}, not {preferred.name}: {error}"
                return format, (instead, *notices)
        raise
