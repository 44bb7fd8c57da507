"""A terminal of a test's own."""

import os
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import IO


@contextmanager
def terminal(columns: int = 120) -> Iterator[tuple[IO[str], Callable[[], str]]]:
    """Yield a stream that is a terminal, and a function that returns what it showed.

    The function is for after the end: until then more may come.
    """
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    shown: list[bytes] = []

    def read() -> None:
        with os.fdopen(ours, "rb", buffering=0) as reader, suppress(OSError):  # which ends it
            while piece := reader.read(65536):
                shown.append(piece)

    thread = Thread(target=read)
    thread.start()
    with os.fdopen(theirs, "w") as stream:
        yield stream, lambda: b"".join(shown).decode()
    thread.join()
