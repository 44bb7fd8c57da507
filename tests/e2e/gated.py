"""A service whose jobs stop at a gate, so that a test meets a job that is still at work.

Jobs get no further than the gate says, on a machine of any speed; requests pass. It is run in place
of the command line, by `running_server(..., module=GATED)`.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.commandline.cli import main
from app.imaging.image import RowSource
from app.jobs import crew, runner
from app.segmentation.plan import Plan
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import Band, Cancelled, never

GATED = "tests.e2e.gated"
LEASE = 3.0
"""Seconds, a fifth of the real ones, so that no test waits long for a killed server's job."""


class Gate:
    """The gate of the services that run in a folder. It is open until it is shut."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "gate"

    def shut(self, after: int) -> None:
        """Let each job make so many bands, and no more."""
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_text(str(after))
        unfinished.replace(self._file)

    def open(self) -> None:
        """Let all jobs pass."""
        self._file.unlink(missing_ok=True)

    def lets_pass(self, band: int) -> bool:
        """Tell whether a job may make its band of this number, counted from 0."""
        try:
            return band < int(self._file.read_text())
        except FileNotFoundError:
            return True


_bands = Segmenter.bands


def _gated(
    self: Segmenter, plan: Plan, image: RowSource, cancelled: Cancelled = never, **options: Any
) -> Iterator[Band]:
    made = _bands(self, plan, image, cancelled, **options)
    if "advanced" not in options:  # a request's
        yield from made
        return
    gate = Gate(Path.cwd())
    for number, band in enumerate(made):
        while not gate.lets_pass(number):
            cancelled()
            time.sleep(0.01)
        yield band


if __name__ == "__main__":
    runner._TELL_AGAIN = 0.0  # every window is noted, however soon it follows the last
    crew.LEASE = LEASE  # type: ignore[attr-defined]  # the name that is read
    Segmenter.bands = _gated  # type: ignore[method-assign]
    sys.exit(main())
