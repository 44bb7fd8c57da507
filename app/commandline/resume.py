"""Resume an interrupted run from the bands that it has finished.

While `out.tif` is made, the folder `out.tif.partial` holds the finished bands, and in `run.json`
what they were made from.

A run holds a lock in its folder, so that no two work there. The kernel releases it when the process
ends, however it ends.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import InputError, InvalidOption
from ..jobs.blobs import Folder

logger = logging.getLogger(__name__)

_RUN = "run.json"
_LOCK = "lock"


def partial_folder(target: Path) -> Path:
    """Return where the unfinished run of an output lies."""
    return target.with_name(f"{target.name}.partial")


@contextmanager
def partial_run(
    target: Path, made_of: Mapping[str, str], *, resume: bool
) -> Iterator[tuple[Folder, Path]]:
    """Open the unfinished run of an output; yield the folder of its bands, and where to write.

    At the end, the output is moved into place.

    `made_of` names everything that decides the bits of the bands. A bad input leaves nothing
    behind; any other error leaves the bands, for `resume`.

    Raises:
        InvalidOption: there is an unfinished run without `resume`, or one that was made from
            something else, or another process is at work on it.
    """
    folder = partial_folder(target)
    with _locked(folder):
        before = _made_of(folder)
        if before is None:
            _clear(folder)
            (folder / "run.tmp").write_text(json.dumps(dict(made_of), indent=2))
            (folder / "run.tmp").replace(folder / _RUN)
        elif not resume:
            raise _unfinished(folder)
        elif changed := [name for name in made_of if before.get(name) != made_of[name]]:
            name = changed[0]
            raise InvalidOption(
                f"{folder} can't be resumed: its {name} was {before.get(name)} and is "
                f"{made_of[name]} now. Delete the folder to start again."
            )
        result = folder / target.name
        try:
            yield Folder(folder), result
        except InputError:
            _remove(folder)
            raise
        result.replace(target)
        _remove(folder)


def check_no_partial(target: Path) -> None:
    """Check that no run of this output is unfinished.

    Raises:
        InvalidOption: one is, or is at work now.
    """
    folder = partial_folder(target)
    with suppress(OSError):  # `partial_run` says so
        if (lock := _lock(folder)) is not None:
            lock.close()
    if folder.exists():
        raise _unfinished(folder)


def _unfinished(folder: Path) -> InvalidOption:
    return InvalidOption(
        f"{folder} holds an unfinished run: add --resume to go on with it, or delete it"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder and keep other runs out of it. At the end it is removed if it is empty.

    Raises:
        InvalidOption: another run is in it.
    """
    while (lock := _lock(folder)) is None:  # a run that ends takes its folder along
        folder.mkdir(exist_ok=True)
    try:
        with lock:
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def _lock(folder: Path) -> IO[str] | None:
    """Keep other runs out of a folder until the file is closed; None where there is no folder.

    Raises:
        InvalidOption: another run is in it.
        OSError: no right to write there.
    """
    path = folder / _LOCK
    with suppress(FileNotFoundError), ExitStack() as stack:
        file = stack.enter_context(path.open("a"))
        keep_others_out(folder, file)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            stack.pop_all()
            return file
    return None


def keep_others_out(folder: Path, lock: IO[str]) -> None:
    """Keep other runs out of a folder until the file `lock` in it is closed.

    Raises:
        InvalidOption: another run is in it.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidOption(
            f"another run is at work in {folder}: wait for its end, or name another -o"
        ) from None
    except OSError as error:  # not every network's file system can
        logger.warning("%s can't be locked (%s): let no other run write there", lock.name, error)


def _remove(folder: Path) -> None:
    """Empty a locked folder, for `_locked` to remove: on NFS not before its lock is closed."""
    _clear(folder)
    (folder / _LOCK).unlink()


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _made_of(folder: Path) -> dict[str, str] | None:
    try:
        made_of: dict[str, str] = json.loads((folder / _RUN).read_text())
    except (OSError, ValueError):
        return None
    return made_of
