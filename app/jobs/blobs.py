"""The store of the files of long work. A file is whole or not there at all.

`Folder` keeps them on disk, `app.jobs.bucket` in an object store.
"""

import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol

_UNFINISHED = ".tmp"


class Blobs(Protocol):
    """A store of files. A name is `FOLDER/FILE`, or has folders in between.

    The folder `.` is the store itself. Each method raises JobsAway if the store is on another
    machine and can't be reached.
    """

    @property
    def is_away(self) -> bool:
        """Whether the store could not be reached when it was last asked."""

    def check(self) -> None:
        """See whether the store can be reached."""

    def write(self, name: str, data: bytes) -> None:
        """Store a file, in place of one of the same name.

        Raises:
            OSError: no room, or no right to write there.
        """

    def read(self, name: str) -> bytes:
        """Return a file.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: it can't be read.
        """

    def names(self, folder: str) -> list[str]:
        """Return the names of the files and folders directly in `folder`, sorted."""

    def size(self, folder: str) -> int:
        """Return how many bytes the files in `folder` and below have."""

    def remove(self, folder: str) -> None:
        """Remove all files in `folder` and below. None need be there."""


class Folder:
    """Blobs as files in a folder."""

    is_away = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self) -> None:
        """Do nothing: a folder does not come and go."""

    def write(self, name: str, data: bytes) -> None:
        """Store a file."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may write the same file: one whose lease has ended, and the next.
        unfinished = path.with_name(f"{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes:
        """Return a file."""
        return (self._root / name).read_bytes()

    def names(self, folder: str) -> list[str]:
        """Return what lies in a folder."""
        try:
            return sorted(
                f"{folder}/{path.name}"
                for path in (self._root / folder).iterdir()
                if path.suffix != _UNFINISHED
            )
        except FileNotFoundError:
            return []

    def size(self, folder: str) -> int:
        """Return the bytes of a folder's files."""
        total = 0
        for path in (self._root / folder).rglob("*"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
        return total

    def remove(self, folder: str) -> None:
        """Remove a folder."""
        shutil.rmtree(self._root / folder, ignore_errors=True)
