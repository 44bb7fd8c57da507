"""The budget of memory that bodies, images and jobs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from .errors import QueueFull, SettingsError
from .imaging.header import announced_pixels
from .outputs.formats import BYTES_PER_PIXEL
from .segmentation.stream import Cancelled
from .settings import Settings

COPIES = 2
"""A body is held as it comes in, and once more while it is put together."""

_GLANCE = 0.1
"""Seconds after which a thread that waits for memory looks whether anybody still wants it."""


class Memory:
    """A budget of bytes: bodies get theirs at once or not at all, images wait for it in threads.

    The share of the largest image is never given to bodies. So an image waits for other images
    alone, each of which ends, and none can be locked out by uploads that wait behind it.
    """

    def __init__(self, budget: int, *, largest_body: int, largest_image: int) -> None:
        """Share `budget` bytes.

        Raises:
            SettingsError: it does not hold the largest body and the largest image.
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
            QueueFull: the bodies have no more to share.
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
            Exception: whatever `check` raises.
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
        """Wait as `for_image` does for an image's file; return how many pixels it may have.

        The memory is what the file's header announces. So no decoder may find more pixels.
        """
        pixels = announced_pixels(data, self._largest_image // BYTES_PER_PIXEL)
        del data  # its owner may let go of it inside
        with self.for_image(BYTES_PER_PIXEL * pixels, check):
            yield pixels

    @contextmanager
    def for_job(self, size: int, check: Cancelled) -> Iterator[None]:
        """Wait, not on the event loop, until there are `size` bytes; hold them while inside.

        A job may take an hour. So it takes its bytes from the bodies' share, and no image waits
        for it.

        Raises:
            Exception: whatever `check` raises.
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
    """Share the memory that the settings allow.

    Raises:
        SettingsError: it does not hold what they allow one request to bring.
    """
    return Memory(
        settings.memory_budget,
        largest_body=settings.max_upload_bytes,
        largest_image=BYTES_PER_PIXEL * settings.max_pixels,
    )
