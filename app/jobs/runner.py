"""The work on one job, beside the requests and in bounded memory."""

import errno
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import JobsAway, RooftraceError, StorageFull, UploadTooLarge
from ..imaging.decode import decode_image
from ..imaging.image import Image
from ..imaging.limits import BYTES_PER_PIXEL
from ..memory import Memory
from ..segmentation.options import Options
from ..segmentation.plan import Plan
from ..segmentation.resampling import first_needed
from ..segmentation.segmenter import Segmenter, stream
from ..segmentation.stream import SegmentedStream
from .bands import KeptBands
from .blobs import Blobs
from .records import MANIFEST, Job
from .results import Kept
from .store import JobTable

_Scalar = TypeVar("_Scalar", bound=np.generic)

logger = logging.getLogger(__name__)

LEAST = 64 * 1024
"""Bytes that a job counts for at least, so that the budget bounds their number too."""

LEASE = 15.0
"""Seconds after which another process may take over a job whose lease was not renewed."""

_TELL_AGAIN = 0.1
"""Seconds between two notes of a job's progress."""


class Stopped(Exception):
    """The work ends here: the process stops, or the job was dismissed or taken over."""


def running_memory(plan: Plan) -> int:
    """Return how many bytes it takes to segment an image whose pixels are on disk.

    A row of windows is in memory, at the size of the upload or at that which the members see.
    """
    rows = math.ceil(plan.grid.patch * max(1.0, plan.height / plan.seen[0]))
    return BYTES_PER_PIXEL * max(plan.width, plan.seen[1]) * min(rows, plan.height)


def check_width(plan: Plan, memory: Memory) -> None:
    """Check that an image can be a job.

    Raises:
        UploadTooLarge: its rows are too long.
    """
    if (needed := running_memory(plan)) > memory.largest_job:
        raise UploadTooLarge(
            f"As a job, an image of {plan.width} x {plan.height} pixels takes {needed} bytes of "
            f"memory for its long rows; {memory.largest_job} are left for jobs beside requests. "
            "Cut it into narrower pieces, use POST /segment, or raise ROOFTRACE_MEMORY_BUDGET."
        )


@dataclass
class JobWork:
    """One job's work, from its upload to its last band."""

    job: Job
    worker: str
    table: JobTable
    blobs: Blobs
    scratch: Path
    segmenter: Segmenter
    memory: Memory
    stopped: Event
    _told_at: float = 0.0

    def run(self) -> None:
        """Segment the image, or what is left of it, and note the outcome.

        Raises:
            Stopped: see there.
            InputError, InferenceError, StorageFull: the job failed.
            NoSuchJob: its upload is gone or damaged, and the job failed.
            JobsAway: the database can't be reached; the bands are kept.
        """
        options = Options.parse(self.job.options)
        data = Kept(self.job, self.blobs).upload()
        with self.memory.for_file(data, self._check) as max_pixels:
            decoded = decode_image(data, max_pixels=max_pixels, **options.decoding)
            del data
            image = _spool(decoded, self.scratch)
            del decoded
        # Disagreement is kept for formats that show it.
        plan = self.segmenter.plan(image, options, buildings=True)
        check_width(plan, self.memory)
        anew = self._begin(plan)
        with self.memory.for_job(running_memory(plan), self._check):
            read = self._segment(image, plan)
        outcome = {
            "model": plan.model,
            "providers": self.segmenter.predictor.providers_in_use,
            "building_count": read.building_count,
            "building_fraction": round(read.building_fraction, 6),
            "building_area_m2": read.building_area,
            "notices": [*read.notices, *anew],
        }
        now = time.time()
        self._note(
            status="successful",
            message=" ".join(["Its results are ready.", *anew]),
            progress=100,
            finished=now,
            updated=now,
            outcome=outcome,
            bytes=max(LEAST, self.blobs.size(self.job.id)),
            lease_until=0.0,
        )

    def _begin(self, plan: Plan) -> list[str]:
        """Note that the work begins or goes on; drop bands that were made of something else."""
        made_of = {
            "rooftrace": __version__,
            "model": plan.model,
            "execution provider": ", ".join(self.segmenter.predictor.providers_in_use),
        }
        before, anew = self.job.made_of, []
        if before is not None and before != made_of:
            [changed, *_] = [name for name in made_of if before.get(name) != made_of[name]]
            anew = [
                f"The job was begun anew: its {changed} was {before.get(changed)} and is "
                f"{made_of[changed]} now."
            ]
            logger.warning("job %s: %s", self.job.id, anew[0])
            self.blobs.remove(self.job.bands)
        manifest = self.segmenter.manifest.model_dump_json()
        self.blobs.write(self.job.file(MANIFEST), manifest.encode())
        self._note(
            status="running",
            message=" ".join(["The image is being segmented.", *anew]),
            started=self.job.started or time.time(),
            made_of=made_of,
        )
        return anew

    def _segment(self, image: Image, plan: Plan) -> SegmentedStream:
        """Make the bands that are missing, then read all of them for the totals."""
        count = plan.count()
        kept = KeptBands(self.blobs, self.job.bands, count)
        first = kept.rows
        if first < image.height:
            bands = self.segmenter.bands(
                plan,
                image,
                self._check,
                first=first,
                count=count,
                advanced=self._advance(plan, first),
            )
            for _ in kept.save(bands):
                self._check()
        masks = replace(plan, buildings=False)
        whole = KeptBands(self.blobs, self.job.bands, check=False).read(masks, image)
        read = stream(masks, image, whole, self._check, cascade_count=count)
        for _ in read:
            pass
        return read

    def _advance(self, plan: Plan, first: int) -> Callable[[], None]:
        """Return a function to call after every window, which notes the progress."""
        needed = first_needed(plan.grid.row_offsets, plan.seen, plan.size, first)
        total = len(plan.grid)
        done = total - sum(1 for _ in plan.grid.windows_from(needed))

        def advanced() -> None:
            nonlocal done
            done += 1
            if time.monotonic() - self._told_at >= _TELL_AGAIN:
                self._told_at = time.monotonic()
                with suppress(JobsAway):  # the work itself does not need it
                    self._note(progress=min(99, 100 * done // total))

        return advanced

    def _check(self) -> None:
        if self.stopped.is_set():
            raise Stopped

    def _note(self, **values: object) -> None:
        if not self.table.change(self.job.id, self.worker, **values):
            raise Stopped


def _spool(image: Image, folder: Path) -> Image:
    """Return the image with its pixels in temporary files in `folder`.

    The files have no names, so they vanish with the image or the process, however it ends.
    """
    valid = None if image.valid is None else _on_disk(image.valid, folder)
    return replace(image, pixels=_on_disk(image.pixels, folder), valid=valid)


def _on_disk(array: NDArray[_Scalar], folder: Path) -> NDArray[_Scalar]:
    with TemporaryFile(dir=folder) as file:
        # Written as a file: a full disk is an error then, and ends the process in a memory map.
        for row in array:
            file.write(row.tobytes())
        file.flush()
        return np.memmap(file, array.dtype, "r", shape=array.shape)


def failure(error: Exception) -> dict[str, str]:
    """Describe the error that a job ended with, for its results."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        error = StorageFull("There was no room on disk for the job. Create it again later.")
    if isinstance(error, RooftraceError):
        return {"kind": type(error).__name__, "detail": str(error)}
    return {"kind": "Exception", "detail": ""}
