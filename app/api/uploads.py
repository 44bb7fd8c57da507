"""Read a request's body into files in memory, within limits of size and time."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from ..errors import (
    ClientGone,
    InputError,
    MalformedUpload,
    UnsupportedEncoding,
    UnsupportedFormat,
    UploadTimeout,
    UploadTooLarge,
)
from ..imaging.limits import ANY_SIZE
from ..settings import Settings
from .admission import Place

T = TypeVar("T")

IMAGE_TYPES = ("image/png", "image/jpeg", "image/tiff", "image/webp")
"""Media types that a body may have when it is the image itself."""

_MAX_TEXT_FIELDS = 16  # none is used, but the message about the first must name it

_EXTENDED = re.compile(rb"filename\*\s*=\s*\"?(utf-8|iso-8859-1)'[^']*'([^\";\s]*)", re.IGNORECASE)
"""A file name and its charset, as RFC 5987 writes them. Source: RFC 6266, section 4.3."""

_FILE_TYPES = b"image/", b"application/octet-stream"

_PLAIN = {
    "Content-Encoding": {"", "identity"},
    "Content-Transfer-Encoding": {"", "7bit", "8bit", "binary"},
}
"""Headers that name an encoding of the bytes, and their values that mean none."""


@dataclass(frozen=True)
class Upload:
    """A file as it came: its name is a label and never a path."""

    filename: str
    content: bytes
    fault: InputError | None = None
    """An error that its headers show. `data` raises it, so other files of a batch go on."""

    @property
    def data(self) -> bytes:
        """Return the file's bytes.

        Raises:
            InputError: the fault.
        """
        if self.fault is not None:
            raise self.fault
        return self.content


class _Form(MultiPartParser):
    """Starlette's parser; keeps files in memory, and refuses a form without its closing boundary.

    A part with a `filename` is a file. So is a part with `filename*`, which old urllib3 sends
    instead, and .NET beside an unreadable `filename`. So is a part with neither, but with the
    Content-Type of a file.
    """

    spool_max_size = 0  # 0: never to disk; the limit on the whole body bounds the memory

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes], *, max_files: int) -> None:
        stream = self._to_the_end(stream)
        super().__init__(headers, stream, max_files=max_files, max_fields=_MAX_TEXT_FIELDS)
        self._ended = False

    def on_headers_finished(self) -> None:
        part = self._current_part
        disposition = part.content_disposition or b""
        content_type = dict(part.item_headers).get(b"content-type", b"").lower()
        if b"filename*" in disposition.lower() or content_type.startswith(_FILE_TYPES):
            kind, semicolon, parameters = disposition.partition(b";")
            part.content_disposition = kind + b'; filename=""' + semicolon + parameters
        super().on_headers_finished()
        if part.file is not None and (extended := _EXTENDED.search(disposition)):
            name = unquote_to_bytes(extended[2]).decode(extended[1].decode(), "replace")
            part.file.filename = name

    def on_end(self) -> None:
        self._ended = True

    async def _to_the_end(self, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in stream:
            yield chunk
        if not self._ended:  # raised from in here, it makes the parser close its files
            raise MultiPartException("It ends before its closing boundary.")


async def read_upload(request: Request, settings: Settings, place: Place) -> Upload:
    """Read the one image of a request: a multipart part named `file`, or the body itself.

    Raises:
        MalformedUpload: no multipart form, or not exactly one file in it.
        UnsupportedFormat: a content type that is neither a form nor an accepted image.
        UnsupportedEncoding: a compressed body.
        UploadTooLarge: more bytes than the settings allow.
        UploadTimeout: the body took longer than the settings allow.
        QueueFull: the body came slowly, and other requests have filled the queue or the memory.
        ClientGone: the connection closed.
    """
    if content_type(request) in IMAGE_TYPES:
        return Upload("body", await read_body(request, settings, place))
    [upload] = await _read_form(request, settings, place, field="file", max_files=1)
    return upload


async def read_body(request: Request, settings: Settings, place: Place) -> bytes:
    """Read a body as it is.

    Raises:
        As `read_upload`.
    """
    async with _in_time(settings):
        return b"".join([chunk async for chunk in _limited(request, settings, place)])


async def read_uploads(request: Request, settings: Settings, place: Place) -> list[Upload]:
    """Read a batch: the multipart parts named `files`, at least one.

    Raises:
        As `read_upload`.
    """
    max_files = settings.max_batch_files
    return await _read_form(request, settings, place, field="files", max_files=max_files)


async def _read_form(
    request: Request, settings: Settings, place: Place, *, field: str, max_files: int
) -> list[Upload]:
    hint = f"Send multipart/form-data with {field}=@IMAGE"
    if (came := content_type(request)) != "multipart/form-data":
        *types, last = IMAGE_TYPES
        itself = f", or the image itself as {', '.join(types)} or {last}"
        raise (UnsupportedFormat if came else MalformedUpload)(
            f"The body's Content-Type is {came or 'missing'}. {hint}"
            f"{itself if field == 'file' else ''}."
        )
    if "boundary=" not in request.headers["content-type"].lower():
        raise MalformedUpload(
            "The body's Content-Type names no boundary. Leave this header to your HTTP client, "
            f"which knows the boundary. {hint}."
        )
    parser = _Form(request.headers, _limited(request, settings, place), max_files=max_files)
    try:
        async with _in_time(settings):
            form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            most = f"{max_files} files" if max_files > 1 else "one file"
            many = " Send many to /segment/rle." if field == "file" else ""
            raise UploadTooLarge(
                f"More than {most} came, and {request.url.path} takes {most} at most.{many}"
            ) from None
        reason = str(error.__cause__ or error.message).rstrip(".")
        raise MalformedUpload(f"The multipart form can't be read: {reason}. {hint}.") from None
    except UnicodeError:
        raise MalformedUpload(
            "The names in the multipart form can't be read in the charset of its Content-Type. "
            f"Leave the charset out, and write names in UTF-8. {hint}."
        ) from None
    uploads = []
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise MalformedUpload(
                    f"The form holds a text field {name!r}. {hint}, a part with a file name, and "
                    f"parameters in the query string: {request.url.path}?threshold=0.5."
                )
            if name != field:
                raise MalformedUpload(f"The form holds a file field {name!r}. {hint}.")
            uploads.append(await _upload(value))
    finally:
        await form.close()
    if not uploads:
        raise MalformedUpload(f"The form holds no file. {hint}.")
    return uploads


async def _upload(file: UploadFile) -> Upload:
    fault = None
    try:
        _refuse_encoded(file.headers, "The file")
    except UnsupportedEncoding as error:
        fault = error
    # Some charsets give half a surrogate pair, which JSON can't hold.
    filename = (file.filename or "").encode(errors="replace").decode()
    return Upload(filename, await file.read(), fault)


def _refuse_encoded(headers: Headers, what: str) -> None:
    for header, plain in _PLAIN.items():
        for value in ",".join(headers.getlist(header)).split(","):
            if value.strip().lower() not in plain:
                raise UnsupportedEncoding(
                    f"{what} comes with {header}: {value.strip()[:40]}. Image formats compress "
                    "already: send it as it is, without this header."
                )


def announced_length(request: Request, settings: Settings) -> int:
    """Return the body's `Content-Length` in bytes, 0 without one.

    Raises:
        UploadTooLarge: longer than the settings allow.
    """
    announced = request.headers.get("content-length", "")[:20]
    length = int(announced) if announced.isascii() and announced.isdecimal() else 0
    if length > settings.max_upload_bytes:
        raise _too_large(announced, settings.max_upload_bytes)
    return length


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work` for as long as the client is there, and cancel it when it is not.

    Raises:
        ClientGone: the connection closed.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = working, asyncio.create_task(leave())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone("The client left before its result was ready.")
        return await working
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _limited(request: Request, settings: Settings, place: Place) -> AsyncGenerator[bytes]:
    """Stream the body; refuse it past its limit, or when there is no memory for more of it."""
    _refuse_encoded(request.headers, "The body")
    limit = settings.max_upload_bytes
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise _too_large(f"more than {limit}", limit)
            place.receive(len(chunk))
            yield chunk
    except ClientDisconnect:
        raise ClientGone("The connection closed before the body was complete.") from None
    place.complete()


def _too_large(came: str, limit: int) -> UploadTooLarge:
    return UploadTooLarge(
        f"The body has {came} bytes; the limit is {limit}. Send smaller pieces or fewer files; "
        f"{ANY_SIZE}"
    )


@asynccontextmanager
async def _in_time(settings: Settings) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(settings.receive_timeout):
            yield
    except TimeoutError:
        raise UploadTimeout(
            f"The body did not arrive within {settings.receive_timeout:g} seconds."
        ) from None


def content_type(request: Request) -> str:
    """Return the media type in the body's `Content-Type`, empty without one."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
