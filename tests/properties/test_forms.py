"""Forms of any header: each is read or refused in words, and every name fits into JSON."""

import asyncio
import json
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from app.api.uploads import Upload, read_uploads
from app.errors import InputError
from app.settings import Settings
from tests.serving import END

SETTINGS = Settings(_env_file=None)
PIECES = [
    b'form-data; name="files"',
    b"; filename=",
    b"; filename*=",
    b"; filename*0*=",
    b"utf-8''caf%C3%A9.png",
    b"utf-7''%2b2AA-",
    b'"a.png"',
    b'"',
    b";",
    b"'",
    b"\\",
    b"%",
    b"\xe9",
    b"\r\nContent-Type: image/png",
    b"\r\nContent-Type: text/plain; charset=",
    b"\r\nContent-Encoding: br",
    b"\r\nContent-Transfer-Encoding: base64",
]
CHARSETS = ["utf-8", "utf-7", "utf-16", "undefined", "idna", "base64", "unicode_escape", "none"]


class _Room:
    """A place in a queue that nobody else is in."""

    def receive(self, size: int) -> None:
        """Take it."""

    def complete(self) -> None:
        """Take all."""


def read(content_type: bytes, body: bytes) -> list[Upload]:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/segment/rle",
        "query_string": b"",
        "headers": [(b"content-type", content_type)],
    }
    return asyncio.run(read_uploads(Request(scope, receive), SETTINGS, _Room()))  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=8),
    st.sampled_from(CHARSETS),
    st.binary(max_size=4),
)
@example([PIECES[0], b'; filename="+2AA-.png"'], "utf-7", b"x")
@example([PIECES[0], b'; filename="\xe9"'], "undefined", b"x")
@example([PIECES[0], b"; filename*=u\0tf-8''a"], "utf-8", b"x")
def test_any_header(pieces: list[bytes], charset: str, content: bytes) -> None:
    body = b"--B\r\nContent-Disposition: " + b"".join(pieces) + b"\r\n\r\n" + content + b"\r\n"
    with suppress(InputError):
        for upload in read(
            f"multipart/form-data; boundary=B; charset={charset}".encode(), body + END
        ):
            json.dumps(upload.filename, ensure_ascii=False).encode()
