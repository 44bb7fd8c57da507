"""The jobs of a service: created, listed, dismissed, and worked on in the background."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from threading import Lock
from typing import IO

from ..errors import JobsAway, NoSuchJob, SettingsError, StorageFull
from ..extras import check_extra
from ..memory import Memory
from ..segmentation.segmenter import Segmenter
from .blobs import Blobs, Folder
from .crew import Crew
from .records import UPLOAD, Job
from .results import Kept
from .runner import LEAST
from .store import Filter, JobTable

logger = logging.getLogger(__name__)

_WRITING = 60.0
"""Seconds that an upload has to be written to disk."""
_PER_PIXEL = 12
"""Bytes on disk that a pixel may take while a job runs: two maps of 4 bytes, and 4 decoded."""


class Jobs:
    """The jobs in a folder or a bucket.

    A folder is made with the first job; until then nothing is on disk, and no thread runs.
    """

    def __init__(
        self,
        place: Path | str,
        *,
        database: str | None = None,
        budget: int,
        retention: float,
        models: Callable[[], Segmenter],
        memory: Memory,
        ended: Callable[[str], None],
    ) -> None:
        """Keep jobs in `place`, in `budget` bytes, for `retention` seconds after their end.

        `place`: a folder, or `s3://bucket/prefix`.
        `database`: a PostgreSQL that several processes share, as they share the place.
        `models` and `ended` are those of `Crew`. Nothing is created or connected before `start`.

        Raises:
            SettingsError: a package is not installed, an address is malformed, or a bucket comes
                without a database.
        """
        self.memory = memory
        self._folder = place if isinstance(place, Path) else None
        self._table = open_table(place, database, budget)
        self._blobs = open_store(place)
        self._is_shared = database is not None
        scratch = self._folder / "scratch" if self._folder else Path(gettempdir())
        self.crew = Crew(self._table, self._blobs, scratch, retention, models, memory, ended)
        self._opening = Lock()
        self._is_open = False
        self._shared: IO[str] | None = None

    @property
    def is_away(self) -> bool:
        """Whether the database or the store could not be reached when it was last asked."""
        return self._table.is_away or self._blobs.is_away

    def start(self) -> None:
        """Go on with the jobs of earlier processes, if there are any."""
        try:
            self._may_open()
        except (StorageFull, JobsAway) as error:
            logger.error("jobs are not available: %s", error)

    def close(self) -> None:
        """Stop the work. The next start goes on with unfinished jobs."""
        self.crew.close()
        self._close_files()
        self._is_open = False

    def add(self, job: Job, data: bytes, pixels: int) -> Job:
        """Keep a new job and its upload, an image of so many pixels, and begin its work.

        Raises:
            StorageFull: no room for it.
            JobsAway: the database or the store can't be reached.
        """
        self._open()
        size = max(LEAST, len(data) + _PER_PIXEL * pixels)
        # Nobody works on it before its upload is there.
        until = time.time() + _WRITING
        self._table.add(replace(job, bytes=size, worker=self.crew.name, lease_until=until))
        try:
            self._blobs.write(job.file(UPLOAD), data)
            self._table.change(job.id, self.crew.name, worker=None, lease_until=0.0)
        except BaseException as error:
            with suppress(JobsAway, StorageFull):
                self._table.remove(job.id)
            self.crew.clear(job.id)
            if isinstance(error, OSError):
                raise _no_room(error) from error
            raise
        self.crew.wake.set()
        return job

    def get(self, id: str, owner: str) -> Job:
        """Return the job with this id, if it belongs to this owner.

        Raises:
            NoSuchJob: there is none, or it is another's.
            JobsAway, StorageFull: the database can't be reached, or the folder not be made.
        """
        if not self._may_open():
            raise NoSuchJob("There are no jobs here.")
        return self._table.get(id, owner)

    def find(self, owner: str, filter: Filter, limit: int, offset: int) -> Sequence[Job]:
        """Return jobs of an owner, the newest first.

        Raises:
            JobsAway: the database can't be reached.
        """
        return self._table.find(owner, filter, limit, offset) if self._may_open() else []

    def dismiss(self, id: str, owner: str) -> Job:
        """Cancel a job or remove its results: nothing of it is left.

        Raises:
            NoSuchJob: there is none, or it is another's.
            JobsAway, StorageFull: the database can't be reached, or the folder not be made.
        """
        job = self.get(id, owner)
        self.crew.remove(id)
        self.crew.ended("dismissed")
        return job

    def kept(self, job: Job) -> Kept:
        """Return a job with its files."""
        return Kept(job, self._blobs)

    def _may_open(self) -> bool:
        """Open the jobs if there may be any, and tell whether there may."""
        if self._is_open or self._folder is None or self._is_shared or self._folder.exists():
            self._open()
        return self._is_open

    def _open(self) -> None:
        """Make the folder, take over what nobody works on, and start the threads.

        Raises:
            StorageFull: the folder can't be made or written.
            JobsAway: the database can't be reached.
        """
        with self._opening:
            was_open = self._is_open
            if was_open and not self._is_replaced():
                return
            if was_open:
                logger.error("%s was removed or replaced, with what was in it", self._folder)
                self._close_files()
            if self._folder is not None:
                try:
                    (self._folder / "files").mkdir(parents=True, exist_ok=True)
                    (self._folder / "scratch").mkdir(exist_ok=True)
                    self._shared = (self._folder / "lock").open("a")
                except OSError as error:
                    raise _no_room(error) from error
            if not self._is_shared:
                self._take_over()
            self._is_open = True
            if not was_open:
                self.crew.start()

    def _close_files(self) -> None:
        self._table.close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    def _is_replaced(self) -> bool:
        """Tell whether the folder was removed or replaced, such as by a cleaner or a mount.

        The database would go on in files that have no name any more, and be lost at the next start.
        """
        if self._folder is None:
            return False
        if self._shared is None:  # to open it anew has failed
            return True
        try:
            found = (self._folder / "lock").stat()
        except OSError:
            return True
        return not os.path.samestat(found, os.fstat(self._shared.fileno()))

    def _take_over(self) -> None:
        """End the leases of processes that are gone, if this one is alone with its folder."""
        assert self._shared is not None
        try:
            fcntl.flock(self._shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            logger.info("another process shares the jobs in %s", self._folder)
        else:
            self._table.free()
        fcntl.flock(self._shared, fcntl.LOCK_SH)


def open_table(place: Path | str, database: str | None, budget: int) -> JobTable:
    """Open the table of jobs, which is in SQLite in the folder of jobs without a `database`.

    Raises:
        SettingsError: the package for PostgreSQL is not installed, the address is malformed, or a
            bucket comes without a database.
    """
    if isinstance(place, str) and database is None:
        raise SettingsError(
            f"ROOFTRACE_JOBS={place}: jobs in a bucket are noted in a PostgreSQL. Name one in "
            "ROOFTRACE_DATABASE, or name a folder in ROOFTRACE_JOBS."
        )
    return JobTable(database or f"sqlite:///{place}/jobs.sqlite", budget=budget)


def open_store(place: Path | str) -> Blobs:
    """Open the store of the files of jobs: a folder, or `s3://bucket/prefix`.

    Raises:
        SettingsError: the package for buckets is not installed.
    """
    if isinstance(place, Path):
        return Folder(place / "files")
    check_extra(f"ROOFTRACE_JOBS={place}", "s3", "obstore")
    from .bucket import Bucket

    return Bucket(place)


def _no_room(error: OSError) -> StorageFull:
    logger.error("no room for jobs: %s", error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("The disk that jobs are kept on is full. Try again later.")
    return StorageFull(
        f"Jobs can't be kept: {error.strerror}. The operator names a folder that can be written "
        "in the setting ROOFTRACE_JOBS."
    )
