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
from .headers import result_headers
from .stages import Stages
from .uploads import Upload
from .work import Work

T = TypeVar("T")

OUTPUT = "result"
"""Name of the one output of the process."""


@dataclass(frozen=True)
class Answer:
    """An encoded result, and what the headers of its response need."""

    body: bytes
    media_type: str
    version: str
    headers: Mapping[str, str]
    notices: tuple[str, ...]
    pixels: int


class Engine:
    """Segments whole images in threads of this process.

    A subclass may hand them to other processes, with the same bytes and the same errors.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission

    async def segment(
        self, segmenter: Segmenter, work: Work, upload: Upload, stages: Stages, deadline: Deadline
    ) -> Answer:
        """Segment an upload when its turn comes, and add to `stages` how long each stage took.

        Raises:
            InputError: as `Work.begin`.
            OverloadError: there is no room, or the deadline has passed.
            InferenceError: a member failed.
        """

        def segmented(max_pixels: int) -> Answer:
            format, stream = work.begin(segmenter, upload, max_pixels, stages, deadline.check)
            providers = segmenter.predictor.providers_in_use
            return encode(format, stream, providers, stages, document=work.document)

        return await in_turn(self.admission, upload.content, segmented, stages, deadline)

    def start(self) -> None:
        """Start. It is called on the event loop of the service."""

    def check(self) -> None:
        """Check that the engine takes images.

        Raises:
            NotReady: it does not at the moment.
        """

    def close(self) -> None:
        """Stop."""


async def in_turn(
    admission: Admission, data: bytes, work: Callable[[int], T], stages: Stages, deadline: Deadline
) -> T:
    """Run `work` on an image's file in a thread, in its turn, once there is memory for it.

    `work` takes the number of pixels that there is memory for.

    Raises:
        DeadlineExceeded: it was not done in time.
        Exception: any that `work` raises.
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
            result_headers(stream, providers),
            stream.notices,
            math.prod(stream.plan.size),
        )


def documented(format: Format, body: bytes) -> bytes:
    """Put a result into a process's JSON document: JSON as it is, anything else in base64.

    Source: OGC 18-062r2, section 7.13.2.
    """
    described: dict[str, object] = {"mediaType": format.media_type}
    if "json" in format.media_type:
        described["value"] = json.loads(body)
    else:
        described |= {"value": base64.b64encode(body).decode(), "encoding": "base64"}
    return json.dumps({OUTPUT: described}).encode()
