"""The budget of memory that bodies, images and jobs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from .errors import QueueFull, SettingsError
from .imaging.header import announced_pixels
from .imaging.limits import BYTES_PER_PIXEL
from .segmentation.stream import Cancelled
from .settings import Settings

COPIES = 2
"""How often a body is in memory at most: its pieces, and the whole while they are joined."""

_GLANCE = 0.1
"""Seconds after which a thread that waits for memory checks whether it is cancelled."""


class Memory:
    """A budget of bytes: bodies get theirs at once or not at all, images wait for it in threads.

    The share of the largest image is never given to bodies. So an image waits for other images
    alone, each of which ends, and uploads that wait behind it can't lock it out.
    """

    def __init__(self, budget: int, *, largest_body: int, largest_image: int) -> None:
        """Share `budget` bytes.

        Raises:
            SettingsError: they are too few for the largest body and the largest image.
        """
        if budget < (least := COPIES * largest_body + largest_image):
            raise SettingsError(
                f"ROOFTRACE_MEMORY_BUDGET={budget} does not hold one upload of "
                f"ROOFTRACE_MAX_UPLOAD_BYTES and one image of ROOFTRACE_MAX_PIXELS, which is "
                f"{least} bytes: raise it, or lower these"
            )
        self._budget = budget
        self._largest_image = largest_image
        self.largest_job = budget - least
        """Bytes that jobs may have while the largest body and the largest image find room too."""
        self._bodies = self._images = 0
        self._changed = Condition()

    @property
    def reserved(self) -> int:
        """Return how many bytes are reserved."""
        return self._bodies + self._images

    def resize_body(self, old: int, new: int) -> None:
        """Change a body's reservation.

        Raises:
            QueueFull: there is no memory left for bodies.
        """
        with self._changed:
            room = self._budget - self._largest_image - (self._bodies - old)
            if new > max(room, old):
                raise QueueFull(
                    f"Other uploads leave {max(0, room)} bytes of memory, and this one needs "
                    f"{new}. Try again shortly."
                )
            self._bodies += new - old
            self._changed.notify_all()

    @contextmanager
    def for_image(self, size: int, check: Cancelled) -> Iterator[None]:
        """Wait in a thread until `size` bytes are free, and hold them while inside.

        Raises:
            Exception: any that `check` raises.
        """
        size = min(size, self._largest_image)
        with self._changed:
            while self.reserved + size > self._budget:
                check()
                self._changed.wait(_GLANCE)
            self._images += size
        try:
            yield
        finally:
            with self._changed:
                self._images -= size
                self._changed.notify_all()

    @contextmanager
    def for_file(self, data: bytes, check: Cancelled) -> Iterator[int]:
        """Wait as `for_image` for an image's file; return how many pixels its decoder may find.

        These are as many as the file's header announces: the memory is for no more.
        """
        pixels = announced_pixels(data, self._largest_image // BYTES_PER_PIXEL)
        del data  # so that its owner can free it inside
        with self.for_image(BYTES_PER_PIXEL * pixels, check):
            yield pixels

    @contextmanager
    def for_job(self, size: int, check: Cancelled) -> Iterator[None]:
        """Wait in a thread until `size` bytes are free, and hold them while inside.

        A job may take an hour. So it takes its bytes from the bodies' share, and no image waits
        for it.

        Raises:
            Exception: any that `check` raises.
        """
        while True:
            check()
            with self._changed:
                try:
                    self.resize_body(0, size)
                    break
                except QueueFull:
                    self._changed.wait(_GLANCE)
        try:
            yield
        finally:
            self.resize_body(size, 0)


def memory_of(settings: Settings) -> Memory:
    """Return the budget of memory that the settings name.

    Raises:
        SettingsError: it is too small for the largest upload and image that they allow.
    """
    return Memory(
        settings.memory_budget,
        largest_body=settings.max_upload_bytes,
        largest_image=BYTES_PER_PIXEL * settings.max_pixels,
    )
