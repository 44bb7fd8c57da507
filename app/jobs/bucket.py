"""Files of long work in a bucket of S3, or of a server that speaks its protocol."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from ..errors import JobsAway

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

logger = logging.getLogger(__name__)

_CLIENT: "ClientConfig" = {
    "allow_http": True,  # where the operator's AWS_ENDPOINT_URL says so
    "connect_timeout": timedelta(seconds=3),
    "read_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=120),
}
_RETRIES: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
_BACK_OFF = 2.0
"""Seconds to wait before asking a store again that did not answer."""
_PAST_ALL = "~"
"""It comes after the names of all jobs."""


class Bucket:
    """Blobs as objects below `s3://bucket/prefix`. A put of S3 is whole or not there at all.

    Credentials, region and endpoint are those of the environment (`AWS_…`), or of the role that the
    machine or container has. Every method raises JobsAway if the store can't be reached.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        prefix = parts.path.strip("/") or None
        self._store = S3Store(
            parts.netloc, prefix=prefix, client_options=_CLIENT, retry_config=_RETRIES
        )
        self.is_away = False
        self._again_at = 0.0

    def check(self) -> None:
        """See whether the store can be reached, by a list of nothing."""
        with self._asking():
            for _ in obstore.list(self._store, offset=_PAST_ALL):
                return

    def write(self, name: str, data: bytes) -> None:
        """Store a file."""
        with self._asking():
            obstore.put(self._store, name, data)

    def read(self, name: str) -> bytes:
        """Return a file."""
        with self._asking():
            return obstore.get(self._store, name).bytes().to_bytes()

    def names(self, folder: str) -> list[str]:
        """Return what lies in a folder."""
        with self._asking():
            found = obstore.list_with_delimiter(self._store, _inside(folder))
        return sorted([*found["common_prefixes"], *(each["path"] for each in found["objects"])])

    def size(self, folder: str) -> int:
        """Return the bytes of a folder's files."""
        with self._asking():
            return sum(each["size"] for some in self._below(folder) for each in some)

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        with self._asking():
            for some in self._below(folder):
                obstore.delete(self._store, [each["path"] for each in some])

    def _below(self, folder: str) -> "Iterator[Sequence[ObjectMeta]]":
        return obstore.list(self._store, _inside(folder))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of a store that can't be reached into JobsAway.

        A file that is not there stays a FileNotFoundError.
        """
        if time.monotonic() < self._again_at:
            raise _away()
        try:
            yield
            self.is_away = False
        except (BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
                self.is_away = False
                raise
            self.is_away, self._again_at = True, time.monotonic() + _BACK_OFF
            logger.warning("the store of jobs: %s", str(error).partition("\n\n")[0])
            raise _away() from error


def _inside(folder: str) -> str | None:
    return None if folder == "." else folder


def _away() -> JobsAway:
    return JobsAway(
        "The store of jobs can't be reached. Try again shortly; jobs that were accepted are kept."
    )
