"""The engine that segments whole images: in this process, or in others."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from ..outputs.formats import Format
from ..segmentation.segmenter import Segmenter
from ..segmentation.stream import SegmentedStream
from .admission import Admission, Deadline
from .headers import figures
from .stages import Stages
from .uploads import Upload
from .work import Work

T = TypeVar("T")

OUTPUT = "result"
"""Name of the one output of the process."""


@dataclass(frozen=True)
class Answer:
    """A result, with all that the headers of a response say of it."""

    body: bytes
    media_type: str
    version: str
    headers: Mapping[str, str]
    notices: tuple[str, ...]
    pixels: int


class Engine:
    """Segments whole images in threads of this process.

    Others hand them on. Wherever an image is segmented, it has the same bytes and the same errors.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission

    async def segment(
        self, segmenter: Segmenter, work: Work, upload: Upload, stages: Stages, deadline: Deadline
    ) -> Answer:
        """Segment an upload when its turn comes, and note in `stages` how long it took.

        Raises:
            InputError: as `Work.begin`.
            OverloadError: it finds no room, or was not there in time.
            InferenceError: a member failed.
        """

        def segmented(max_pixels: int) -> Answer:
            format, stream = work.begin(segmenter, upload, max_pixels, stages, deadline.check)
            providers = segmenter.predictor.providers_in_use
            return encode(format, stream, providers, stages, document=work.document)

        return await in_turn(self.admission, upload.content, segmented, stages, deadline)

    def start(self) -> None:
        """Begin, on the event loop of the service."""

    def check(self) -> None:
        """Ask whether it takes images.

        Raises:
            NotReady: it does not at the moment.
        """

    def close(self) -> None:
        """End."""


async def in_turn(
    admission: Admission, data: bytes, work: Callable[[int], T], stages: Stages, deadline: Deadline
) -> T:
    """Run the work of an image's file in a thread, in its turn, once there is memory for it.

    `work` is told how many pixels there is memory for.

    Raises:
        DeadlineExceeded: it was not there in time.
        Exception: whatever `work` raises.
    """
    submitted = perf_counter()

    def timed() -> T:
        with admission.memory.for_file(data, deadline.check) as max_pixels:
            stages.add_since("queue", submitted)
            return work(max_pixels)

    return await admission.run(timed, deadline)


def encode(
    format: Format,
    stream: SegmentedStream,
    providers: Sequence[str],
    stages: Stages,
    *,
    document: bool = False,
) -> Answer:
    """Read a stream to its end, and write it in its format."""
    with stages.measure("encode"):
        body = format.encode(stream)
        return Answer(
            documented(format, body) if document else body,
            "application/json" if document else format.media_type,
            stream.plan.model,
            figures(stream, providers),
            stream.plan.notices,
            math.prod(stream.plan.size),
        )


def documented(format: Format, body: bytes) -> bytes:
    """Put a result into the document of results: JSON as it is, anything else in base64.

    Source: OGC 18-062r2, section 7.13.2.
    """
    described: dict[str, object] = {"mediaType": format.media_type}
    if "json" in format.media_type:
        described["value"] = json.loads(body)
    else:
        described |= {"value": base64.b64encode(body).decode(), "encoding": "base64"}
    return json.dumps({OUTPUT: described}).encode()
