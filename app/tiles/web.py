"""HTTP to the hosts that the operator has named, and to no other: no redirect is followed."""

import threading
import time
from collections.abc import Mapping

import httpx2

from .. import __version__
from ..errors import SourceDown

CONNECTIONS = 8
"""Connections to a source at once."""
MAX_BYTES = 16 * 2**20
"""Largest response in bytes; a tile has some 100 kB."""
_FIRST_WAIT, _LONGEST_WAIT = 2.0, 60.0
"""Seconds that a source is left alone after a failure; twice as long after each further one."""
_NOTHING = (204, 404, 410)
"""Statuses by which a server of tiles says that it has no imagery there."""


class Web:
    """HTTP to one source, which is left alone for a while when it fails."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._client = httpx2.Client(
            timeout=timeout,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=CONNECTIONS),
            headers={"User-Agent": f"rooftrace/{__version__}", "Accept-Encoding": "identity"},
        )
        self._lock = threading.Lock()
        self._failures = 0
        self._alone_until = 0.0
        self._reason = ""

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """Return a whole response: a success, or one that says that there is no imagery.

        Raises:
            SourceDown: the source has failed now, or a moment ago.
        """
        with self._lock:
            if (left := self._alone_until - time.monotonic()) > 0:
                raise self._down(left)
        try:
            response = self._read(url, headers or {})
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = "did not answer in time" if isinstance(error, httpx2.TimeoutException) else ""
            raise self.failed(reason or "can't be reached") from error
        if not (response.is_success or response.status_code in _NOTHING):
            where = " elsewhere, and redirects are not followed" * response.has_redirect_location
            raise self.failed(f"answered with status {response.status_code}{where}")
        with self._lock:
            self._failures, self._alone_until = 0, 0.0
        return response

    def _read(self, url: str, headers: Mapping[str, str]) -> httpx2.Response:
        with self._client.stream("GET", url, headers=headers) as response:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise self.failed(f"sent more than {MAX_BYTES} bytes")
        kept = {k: v for k, v in response.headers.items() if k in ("content-range", "etag")}
        if location := response.headers.get("location"):
            kept["location"] = location
        return httpx2.Response(response.status_code, headers=kept, content=bytes(body))

    def failed(self, reason: str) -> SourceDown:
        """Leave the source alone for a while, and return the error that says so."""
        with self._lock:
            now = time.monotonic()
            if now >= self._alone_until:  # of requests that fail together, one counts
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**self._failures)
                self._failures += 1
                self._alone_until, self._reason = now + wait, reason
            return self._down(self._alone_until - now)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _down(self, seconds: float) -> SourceDown:
        return SourceDown(
            f"The source {self._name!r} {self._reason}. Try again in {seconds:.0f} seconds.",
            seconds,
        )
