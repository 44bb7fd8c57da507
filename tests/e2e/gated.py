"""A service whose work stops at a gate, so that a test meets a job or a request still at work.

Work gets no further than its gate says, on a machine of any speed: jobs have one, and requests
another. It is run in place of the command line, by `running_server(..., module=GATED)`.
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
    """The gate of the work in a folder. It is open until it is shut."""

    def __init__(self, folder: Path, of: str = "jobs") -> None:
        self._file = folder / f"{of}.gate"
        self._reached = folder / f"{of}.reached"

    @property
    def is_reached(self) -> bool:
        """Whether somebody has waited here since it was shut."""
        return self._reached.exists()

    def shut(self, after: int = 0) -> None:
        """Let each job or request make so many bands, and no more; or a run, so many files."""
        self._reached.unlink(missing_ok=True)
        unfinished = self._file.with_suffix(".tmp")
        unfinished.write_text(str(after))
        unfinished.replace(self._file)

    def open(self) -> None:
        """Let all jobs pass."""
        self._file.unlink(missing_ok=True)

    def lets_pass(self, number: int) -> bool:
        """Tell whether what has this number, counted from 0, may be made."""
        try:
            passes = number < int(self._file.read_text())
        except FileNotFoundError:
            return True
        if not passes:
            self._reached.touch()
        return passes


_bands = Segmenter.bands


def _gated(
    self: Segmenter, plan: Plan, image: RowSource, cancelled: Cancelled = never, **options: Any
) -> Iterator[Band]:
    gate = Gate(Path.cwd(), "jobs" if "advanced" in options else "requests")
    for number, band in enumerate(_bands(self, plan, image, cancelled, **options)):
        while not gate.lets_pass(number):
            cancelled()
            time.sleep(0.01)
        yield band


if __name__ == "__main__":
    runner._TELL_AGAIN = 0.0  # every window is noted, however soon it follows the last
    crew.LEASE = LEASE  # type: ignore[attr-defined]  # the name that is read
    Segmenter.bands = _gated  # type: ignore[method-assign]
    sys.exit(main())
