"""The threads of a process that work on jobs, renew leases and remove old jobs."""

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from ..errors import InputError, JobsAway, StorageFull
from ..memory import Memory
from ..segmentation.segmenter import Segmenter
from .blobs import Blobs
from .records import Job, is_id
from .runner import LEASE, LEAST, JobWork, Stopped, failure
from .store import JobTable

logger = logging.getLogger(__name__)

_GLANCE = 1.0
"""Seconds after which a thread without work looks for jobs of other processes."""
_AGAIN = 3.0
"""Seconds after which a job that waits for its files is tried again."""


def _name() -> str:
    return f"{socket.gethostname()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclass(eq=False)
class Crew:
    """A thread that works on one job after the other, and one that looks after all of them.

    `models` returns the segmenter that a job begins with. `ended` is called with the outcome of
    each job.
    """

    table: JobTable
    blobs: Blobs
    scratch: Path
    """Folder for the pixels of the job that is worked on."""
    retention: float
    """Seconds that a job is kept after its end."""
    models: Callable[[], Segmenter]
    memory: Memory
    ended: Callable[[str], None]
    name: str = field(default_factory=_name)
    """Name of the worker in leases."""
    totals: dict[str, int] = field(default_factory=dict)
    """How many jobs have each status, as of a few seconds ago."""
    bytes: int = 0
    """Bytes on disk of all jobs, as of a few seconds ago."""
    wake: Event = field(default_factory=Event)
    """Says that there is a new job."""
    _stopping: Event = field(default_factory=Event)
    _stops: dict[str, Event] = field(default_factory=dict)
    """By id, the event that stops the work on a job here."""
    _left: set[str] = field(default_factory=set)
    """Jobs that are gone, and whose files could not be removed yet."""
    _threads: list[Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to work."""
        for target in (self._work, self._look_after):
            thread = Thread(target=target, name=f"jobs{target.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def leave(self, id: str) -> None:
        """Stop the work on a job, if it is worked on here."""
        if (stopped := self._stops.get(id)) is not None:
            stopped.set()

    def remove(self, id: str) -> None:
        """Remove a job and its files; stop the work on it.

        Raises:
            JobsAway: the database can't be reached.
            StorageFull: its disk is full, and the job's files made no room.
        """
        try:
            self.table.remove(id)
        except StorageFull:  # to remove a row takes room too, which the files may make
            self.leave(id)
            self.clear(id)
            self.table.remove(id)
        self.leave(id)
        self.clear(id)

    def clear(self, id: str) -> None:
        """Remove the files of a job that is gone; later, if the store is away."""
        try:
            self.blobs.remove(id)
            self._left.discard(id)
        except JobsAway:
            self._left.add(id)

    def close(self) -> None:
        """Stop the threads. Any process may take unfinished jobs at once."""
        self._stopping.set()
        self.wake.set()
        for id in list(self._stops):
            self.leave(id)
        for thread in self._threads:
            thread.join()
        if self._threads:
            with suppress(JobsAway, StorageFull):
                self.table.free(self.name)
        self._threads.clear()
        self._stopping.clear()  # the next start begins anew

    def _work(self) -> None:
        while not self._stopping.is_set():
            self.wake.clear()
            try:
                job = self.table.claim(self.name, LEASE)
            except (JobsAway, StorageFull):  # the log says so
                job = None
            if job is None:
                self.wake.wait(_GLANCE)
            else:
                self._run(job)

    def _run(self, job: Job) -> None:
        stopped = self._stops[job.id] = Event()
        try:
            if self._stopping.is_set():
                raise Stopped
            JobWork(
                job=job,
                worker=self.name,
                table=self.table,
                blobs=self.blobs,
                scratch=self.scratch,
                segmenter=self.models(),
                memory=self.memory,
                stopped=stopped,
            ).run()
            self.ended("successful")
            logger.info("job %s is finished", job.id)
        except Stopped:
            self._remove_if_gone(job)
        except JobsAway as error:
            logger.warning("job %s waits: %s", job.id, error)
            with suppress(JobsAway, StorageFull):  # any process may try again after so long
                self.table.renew(job.id, self.name, _AGAIN)
            self.wake.wait(_GLANCE)
        except Exception as error:
            # A file may be missing because the job was dismissed as it was read.
            if self._is_mine(job):
                self._fail(job, error)
            else:
                self._remove_if_gone(job)
        finally:
            del self._stops[job.id]

    def _is_mine(self, job: Job) -> bool:
        try:
            return self.table.renew(job.id, self.name, LEASE)
        except (JobsAway, StorageFull):
            return True

    def _remove_if_gone(self, job: Job) -> None:
        """Remove the files of a job that was dismissed as they were written."""
        with suppress(JobsAway):
            if not self.table.known([job.id]):
                self.clear(job.id)

    def _fail(self, job: Job, error: Exception) -> None:
        problem = failure(error)
        trace = None if problem["detail"] else error
        level = logging.INFO if isinstance(error, InputError) else logging.ERROR
        logger.log(level, "job %s failed: %s", job.id, error, exc_info=trace)
        with suppress(JobsAway, StorageFull):  # its lease ends, and it is begun again
            self.blobs.remove(job.bands)
            noted = self.table.change(
                job.id,
                self.name,
                status="failed",
                message=problem["detail"] or "A fault of the service; its log has the details.",
                problem=problem,
                finished=time.time(),
                bytes=max(LEAST, self.blobs.size(job.id)),
                lease_until=0.0,
            )
            if noted:
                self.ended("failed")
            else:
                self._remove_if_gone(job)

    def _look_after(self) -> None:
        """Renew leases, remove old jobs, and count all jobs, every few seconds."""
        is_swept = self._sweep()
        while not self._stopping.wait(LEASE / 5):
            with suppress(JobsAway, StorageFull):
                for id in list(self._stops):
                    if not self.table.renew(id, self.name, LEASE):
                        self.leave(id)
                for id in self.table.expired(time.time() - self.retention):
                    self.remove(id)
                self.totals, self.bytes = self.table.totals()
            with suppress(JobsAway):
                self.blobs.check()
                is_swept = is_swept or self._sweep()
                for id in list(self._left):
                    self.clear(id)

    def _sweep(self) -> bool:
        """Remove the files of jobs that are gone; return whether they could be looked for."""
        try:
            names = [name.removeprefix("./") for name in self.blobs.names(".")]
            ids = [name for name in names if is_id(name)]  # a bucket may hold other things
            for id in set(ids) - self.table.known(ids):
                self.blobs.remove(id)
        except (JobsAway, OSError):
            return False
        return True
