"""Read a file on a web server by ranges of bytes, so that GDAL can open a remote COG."""

import io
import re
from collections.abc import Iterator

from ..errors import SourceDown
from .cache import Cache
from .web import MAX_BYTES, Web

_CHUNK = 2**16
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RemoteFile:
    """Bytes of a URL, read by HTTP ranges in chunks that the cache keeps."""

    def __init__(self, web: Web, url: str, cache: Cache) -> None:
        """Read the first chunk, which tells the size.

        Raises:
            SourceDown: it can't be read.
        """
        self.error: SourceDown | None = None
        """The last error, since GDAL does not pass it on."""
        self._web, self._url, self._cache = web, url, cache
        first, self.size, self._etag = self._fetch(0, _CHUNK)
        self._keep(0, first)

    def open(self) -> io.RawIOBase:
        """Return it as a file, at its beginning. GDAL opens it several times."""
        return _Cursor(self)

    def read(self, start: int, stop: int) -> bytes:
        """Return some bytes.

        Raises:
            OSError: they can't be read; `error` says why.
        """
        first, last = start // _CHUNK, (stop - 1) // _CHUNK
        try:
            chunks = b"".join(self._chunks(first, last))
        except SourceDown as error:
            self.error = error
            raise OSError(str(error)) from error
        before = first * _CHUNK
        return chunks[start - before : stop - before]

    def _chunks(self, first: int, last: int) -> Iterator[bytes]:
        """Yield chunks, and ask for those that are missing: neighbours in one request."""
        index = first
        while index <= last:
            kept = self._cache.get(self._key(index))
            if isinstance(kept, bytes):
                yield kept
                index += 1
                continue
            stop = index + 1
            most = index + MAX_BYTES // 2 // _CHUNK
            while stop <= min(last, most) and self._cache.get(self._key(stop)) is None:
                stop += 1
            data, size, etag = self._fetch(index * _CHUNK, min(self.size, stop * _CHUNK))
            if (size, etag) != (self.size, self._etag):
                raise self._web.failed("has changed while it was read")
            self._keep(index, data)
            yield data
            index = stop

    def _fetch(self, start: int, stop: int) -> tuple[bytes, int, str]:
        """Return bytes `start` to `stop`, the size of the file, and its tag.

        Source: RFC 9110, section 14.
        """
        response = self._web.get(self._url, {"Range": f"bytes={start}-{stop - 1}"})
        sent = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code != 206 or not sent or int(sent[1]) != start:
            raise self._web.failed(
                f"answered with status {response.status_code}; a COG needs a server that answers "
                "range requests with 206"
            )
        data, size = response.content, int(sent[3])
        if len(data) != min(stop, size) - start:
            raise self._web.failed("sent fewer bytes than it announced")
        return data, size, response.headers.get("etag", "")

    def _keep(self, index: int, data: bytes) -> None:
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            self._cache.put(self._key(index + start // _CHUNK), chunk, len(chunk))

    def _key(self, index: int) -> tuple[object, ...]:
        return "chunk", self._url, self._etag, self.size, index


class _Cursor(io.RawIOBase):
    """A position in a remote file."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size if size < 0 else min(self._file.size, self._at + size)
        if stop <= self._at:
            return b""
        data = self._file.read(self._at, stop)
        self._at = stop
        return data
