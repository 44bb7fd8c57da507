"""What a long run has found so far, beside its output: an interrupted one goes on from there.

While `out.tif` is made, the folder `out.tif.partial` holds the bands that are finished, each a file
of raw rows, and in `run.json` what they were made of. Bands have the same bits whether or not those
above them were computed in the same run, and so has what a writer makes of them.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from app.errors import InputError, InvalidOption
from app.inference.segmenter import SegmentedBand

_RUN = "run.json"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, BadZipFile)


class Work:
    """The folder of a run that is not finished."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self.result = folder / target.name
        """Where the output is written until it is whole."""
        self._saved: list[Path] = []
        self.rows = 0
        """Rows of the image, from the first on, whose bands are saved."""
        for path in sorted(folder.glob("*.npz")):
            try:
                band = _load(path)
            except _UNREADABLE:  # the machine went down while it was written
                break
            if band.row != self.rows:
                break
            self.rows = band.rows.stop
            self._saved.append(path)

    def bands(self) -> Iterator[SegmentedBand]:
        """Read the saved bands."""
        return map(_load, list(self._saved))

    def save(self, bands: Iterable[SegmentedBand]) -> Iterator[SegmentedBand]:
        """Pass on the bands that follow, each saved before it goes."""
        for band in bands:
            path = self._folder / f"{band.row:010}.npz"
            with path.with_suffix(".tmp").open("wb") as file:
                np.savez(
                    file,
                    probability=band.probability,
                    disagreement=band.disagreement,
                    mask=band.mask,
                    valid=np.zeros(0, np.bool_) if band.valid is None else band.valid,
                )
            path.with_suffix(".tmp").replace(path)
            yield band


def partial_folder(target: Path) -> Path:
    """Return where the unfinished run of an output lies."""
    return target.with_name(f"{target.name}.partial")


@contextmanager
def working(target: Path, made_of: Mapping[str, str], *, resume: bool) -> Iterator[Work]:
    """Open the work of an output, and put what was written to `result` in its place at the end.

    `made_of` names all that decides the bits of the bands. An input at fault leaves nothing behind;
    anything else that goes wrong leaves the work, for `resume`.

    Raises:
        InvalidOption: there is work that is not to be resumed, or was made of something else.
    """
    folder = partial_folder(target)
    if not resume:
        check_no_partial(target)
    before = _made_of(folder) if resume else None
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "run.tmp").write_text(json.dumps(dict(made_of), indent=2))
        (folder / "run.tmp").replace(folder / _RUN)
    elif changed := [name for name in made_of if before.get(name) != made_of[name]]:
        name = changed[0]
        raise InvalidOption(
            f"{folder} can't be resumed: its {name} was {before.get(name)} and is {made_of[name]} "
            "now. Delete the folder to start again."
        )
    work = Work(folder, target)
    try:
        yield work
    except InputError:
        shutil.rmtree(folder)
        raise
    work.result.replace(target)
    shutil.rmtree(folder)


def check_no_partial(target: Path) -> None:
    """Check that no run of this output is unfinished.

    Raises:
        InvalidOption: one is.
    """
    if (folder := partial_folder(target)).exists():
        raise InvalidOption(
            f"{folder} holds an unfinished run: add --resume to go on with it, or delete it"
        )


def _made_of(folder: Path) -> dict[str, str] | None:
    try:
        made_of: dict[str, str] = json.loads((folder / _RUN).read_text())
    except (OSError, ValueError):
        return None
    return made_of


def _load(path: Path) -> SegmentedBand:
    with path.open("rb") as file, np.load(file) as arrays:  # numpy leaves a bad file open
        valid = arrays["valid"]
        return SegmentedBand(
            int(path.stem),
            arrays["probability"],
            arrays["disagreement"],
            arrays["mask"],
            valid if valid.size else None,
        )
