"""A request for work on images, from its admission to its response."""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from .. import errors
from ..outputs.formats import Format
from ..segmentation.stream import SegmentedStream
from .admission import Deadline, Place
from .engine import Answer, encode, in_turn
from .headers import add_notices
from .parameters import refuse_repeated
from .service import Running
from .stages import Stages
from .uploads import Upload, announced_length, unless_gone
from .work import Work

T = TypeVar("T")

FAILURES = (
    errors.MalformedUpload,
    errors.NotAcceptable,
    errors.UploadTimeout,
    errors.UploadTooLarge,
    errors.UnsupportedFormat,
    errors.InvalidOption,
    errors.InferenceError,
    errors.QueueFull,
    errors.DeadlineExceeded,
)
"""Problems of every request that segments."""
IMAGE_FAILURES = (
    errors.EmptyUpload,
    errors.DamagedImage,
    errors.UnsupportedImage,
    errors.ImpossibleOutput,
)
"""Problems of a single image."""


class Call:
    """A request for work on images: its models, its deadline, and how long each stage took."""

    def __init__(self, request: Request, service: Running) -> None:
        self.request = request
        self.service = service
        self.segmenter = service.segmenter  # kept to its end, even if a reload brings another
        self.deadline = Deadline(service.settings.deadline)
        self.stages = Stages()
        request.state.stages = self.stages.seconds

    def admit(self) -> AbstractAsyncContextManager[Place]:
        """Let the request in, before its body is read.

        Raises:
            UploadTooLarge: its `Content-Length` is more than the settings allow.
            QueueFull: the queue is full, or there is no memory for the body.
        """
        length = announced_length(self.request, self.service.settings)
        return self.service.admission.admit(length)

    async def segment(self, work: Work, upload: Upload) -> Response:
        """Have the engine segment an upload, and return the response.

        Raises:
            ClientGone: the client has left.
            Exception: as `Engine.segment`.
        """
        segment = self.service.engine.segment
        return await self._answer(segment(self.segmenter, work, upload, self.stages, self.deadline))

    async def answer(
        self,
        data: bytes,
        begin: Callable[[int], tuple[Format, SegmentedStream]],
        providers: Sequence[str],
        *,
        document: bool = False,
    ) -> Response:
        """Write a stream of kept bands in its turn, without the engine, and return the response.

        `data` is the image's file, and `begin` takes the number of pixels that it may have.
        `document`: put the result into a JSON document, as a process does.

        Raises:
            DeadlineExceeded: it was not done in time.
            ClientGone: the client has left.
            Exception: any that `begin` or its stream raises.
        """

        def written(max_pixels: int) -> Answer:
            format, stream = begin(max_pixels)
            return encode(format, stream, providers, self.stages, document=document)

        admission = self.service.admission
        return await self._answer(in_turn(admission, data, written, self.stages, self.deadline))

    async def _answer(self, running: Coroutine[Any, Any, Answer]) -> Response:
        answer = await unless_gone(self.request, self.service.recorded(running, self.stages))
        self.service.metrics.pixels.inc(answer.pixels)
        seconds = self.stages.seconds
        timing = ", ".join(f"{stage};dur={1000 * seconds[stage]:.1f}" for stage in seconds)
        headers = {"Server-Timing": timing, **answer.headers}
        response = Response(answer.body, media_type=answer.media_type, headers=headers)
        add_notices(response, answer.notices)
        return response

    async def run(self, data: bytes, work: Callable[[int], T], outcome: str) -> T:
        """Run other work on an image in a thread of this process, in its turn, and record it.

        `work` takes the number of pixels that the image may have.
        """
        running = in_turn(self.service.admission, data, work, self.stages, self.deadline)
        return await self.service.recorded(running, self.stages, outcome)


async def _call(request: Request, service: Running) -> Call:
    refuse_repeated(request)
    return Call(request, service)


Calling = Annotated[Call, Depends(_call)]
"""The type of an endpoint's argument that receives its `Call`. Refuses repeated parameters."""


def accepted(request: Request) -> str:
    """Return the value of all `Accept` headers together."""
    return ", ".join(request.headers.getlist("accept"))
