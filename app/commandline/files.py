"""Which inputs a run reads, which files it writes, and in which format."""

import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ..errors import InvalidOption, message_of
from ..imaging.sniff import ENDINGS
from ..outputs.formats import FORMATS, Format
from ..terminal import counted, printable
from .resume import check_no_partial

STANDARD = Path("-")
"""Standard input or output."""

_SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
"""GDAL's prefix for the addresses of a scheme. Source: GDAL, Virtual File Systems."""
_URL = re.compile(rf"({'|'.join(_SCHEMES)})://", re.IGNORECASE)
_LIKE_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)")


@dataclass(frozen=True)
class Source:
    """An input as its user named it. `folder`: where below a searched folder it was found."""

    name: str
    folder: Path = Path()

    def __str__(self) -> str:
        return "standard input" if self.is_standard else printable(self.name)

    @property
    def is_standard(self) -> bool:
        """Whether it is standard input."""
        return self.name == "-"

    @property
    def is_named_by_scheme(self) -> bool:
        """Whether it is a URL or one of GDAL's /vsi names, and no file here."""
        return self.name.startswith("/vsi") or _URL.match(self.name) is not None

    @property
    def needs_gdal(self) -> bool:
        """Whether it is opened by GDAL's name for it: a virtual raster, or no file here."""
        return self.is_named_by_scheme or self.name.lower().endswith(".vrt")

    @property
    def version(self) -> str:
        """Size and time of change, which tell the file from a later one of the same name."""
        status = self.path.stat()
        return f"{status.st_size} bytes, changed {status.st_mtime_ns}"

    @property
    def for_gdal(self) -> str:
        """GDAL's name for it."""
        if match := _URL.match(self.name):
            return _SCHEMES[match[1].lower()] + self.name[match.end() :]
        return self.name if self.is_named_by_scheme else str(self.path.resolve())

    @property
    def path(self) -> Path:
        """Its path, where it is a file here."""
        return Path(self.name)

    @property
    def place(self) -> str:
        """Its path without links to folders, so that each file has one; else its name."""
        no_file = self.is_standard or self.is_named_by_scheme
        return self.name if no_file else str(self.path.parent.resolve() / self.path.name)

    @property
    def file_name(self) -> str:
        """The last part of its name, of a URL without query and fragment."""
        if not self.is_named_by_scheme:
            return self.path.name
        return unquote(Path(re.split(r"[?#]", self.name)[0]).name)

    @property
    def stem(self) -> str:
        """Name of its results, without ending."""
        name = self.file_name.rstrip(".") or self.file_name  # a last dot begins no ending
        return "stdin" if self.is_standard else Path(name).stem


def expand(inputs: Sequence[str], output: str) -> list[Source]:
    """Return the inputs that are named, once each.

    Patterns such as `**/*.tif` are looked up, and folders searched with all that lies below them,
    linked folders too, but for the output folder, hidden folders and those of unfinished runs.

    Raises:
        InvalidOption: a pattern that no file matches, a folder without an image, a scheme that is
            not read, or standard input beside other inputs.
    """
    sources: dict[str, Source] = {}
    for name in inputs:
        found = [name]
        if _LIKE_URL.match(name):
            if not _URL.match(name) and not Path(name).exists():
                known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
                raise InvalidOption(
                    f"{name} has a scheme that is not read: use {known} or a /vsi name"
                )
        elif glob.has_magic(name) and not Path(name).exists():
            # Path.glob takes no absolute pattern. Where links lead to a file twice, the shortest
            # path comes first.
            found = glob.glob(name, recursive=True)  # noqa: PTH207
            found.sort(key=lambda path: (path.count("/"), path))
            if not found:
                raise InvalidOption(f"{name} matches no file")
        for source in map(Source, found):
            is_folder = not source.is_named_by_scheme and source.path.is_dir()
            for inside in _images_in(source.name, output) if is_folder else [source]:
                sources.setdefault(inside.place, inside)
    if "-" in sources and len(sources) > 1:
        raise InvalidOption("- is standard input, and can't be one of several inputs")
    return list(sources.values())


def _images_in(folder: str, output: str) -> list[Source]:
    """Find the images in a folder and below it, in the order of their names."""
    left_out = Path(output).resolve() if output != "-" else None
    found = images_among(sorted(map(str, _walk(Path(folder), left_out))))
    if not found:
        raise InvalidOption(f"{folder} holds no image: no file ends in {', '.join(ENDINGS)}")
    return [Source(path, Path(path).parent.relative_to(folder)) for path in found]


def images_among(paths: Sequence[str]) -> list[str]:
    """Return the paths of images, known by their endings, and say what is left out.

    Files beside an image are its own, and need no word. A .vrt is left out: usually it is made of
    the others.
    """
    found = [path for path in paths if path.rstrip(".").lower().endswith(ENDINGS)]
    stems = {path.rstrip(".").rpartition(".")[0] for path in found}
    others = [path for path in paths if stems.isdisjoint(_stems(path))]
    if found and others:
        more = f" and {counted(len(others) - 1, 'more file')}" if len(others) > 1 else ""
        _leave_out(others[0], f"{more}: images end in {', '.join(ENDINGS)}")
    return found


def _stems(path: str) -> Iterator[str]:
    """Yield a path up to each dot of its name: `city` of `city.tif.aux.xml` is an image's."""
    name = path.rpartition("/")[2]
    yield from (path[:at] for at in range(len(path) - len(name), len(path)) if path[at] == ".")


def _walk(folder: Path, left_out: Path | None) -> Iterator[Path]:
    """Yield the files in a folder and below it. No folder comes twice, whatever links do."""
    passed = {left_out, folder.resolve()}

    def is_new(path: Path) -> bool:
        if path.name.startswith(".") or path.suffix == ".partial" or path.resolve() in passed:
            return False
        passed.add(path.resolve())
        return True

    def tell(error: OSError) -> None:
        _leave_out(error.filename, f": {message_of(error)}")

    for root, folders, files in os.walk(folder, onerror=tell, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_new(Path(root, name))]
        yield from (Path(root, name) for name in files if not name.startswith("."))


def _leave_out(path: str, why: str) -> None:
    print(f"notice: left out {printable(path)}{why}", file=sys.stderr)


def check_output(output: str) -> None:
    """Check that an output is no address, which would become a folder of an odd name.

    Raises:
        InvalidOption: it is.
    """
    if "://" in output or output.startswith("/vsi"):
        raise InvalidOption(
            f"-o {output} is an address, and results are written to folders and files alone. Name "
            "a folder, and copy it when the run has ended"
        )


def choose_format(output: str, name: str | None) -> Format:
    """Return the format that is named, else the one of the output file's ending, else PNG.

    Raises:
        InvalidOption: no format has this ending.
    """
    if name is not None:
        return FORMATS[name]
    if _is_folder(output) or Path(output) == STANDARD:
        return FORMATS["png"]
    endings = {format.extension: format for format in FORMATS.values()}
    fitting = [ending for ending in endings if output.lower().endswith(ending)]
    if not fitting:
        raise InvalidOption(
            f"-o {output} has none of the endings of results: {', '.join(endings)}. "
            "Use one of them, name a --format, or end a folder's name with /"
        )
    return endings[max(fitting, key=len)]


def plan_targets(inputs: Sequence[Source], output: str, format: Format) -> dict[Source, Path]:
    """Give each input a file of its own: below an output folder as it lay below a searched one.

    `output` is a folder if it exists as one, ends with a slash or has no ending, else the one file.

    Raises:
        InvalidOption: an input, or another input's result, would be overwritten.
    """
    if Path(output) == STANDARD:
        if len(inputs) > 1:
            raise InvalidOption(f"-o - takes the result of one input, got {len(inputs)}")
        if format.write is None:
            raise InvalidOption(f"{format.name} can't be written to -: name a file")
        return {inputs[0]: STANDARD}
    if _is_folder(output):
        targets = {
            source: Path(output, source.folder, source.stem + format.extension) for source in inputs
        }
    elif len(inputs) > 1:
        raise InvalidOption(f"-o {output} is one file for {len(inputs)} inputs: name a folder")
    else:
        targets = {inputs[0]: Path(output)}
    sources = {source.path.resolve() for source in inputs if not source.is_named_by_scheme}
    owners: dict[Path, Source] = {}
    for source, target in targets.items():
        if target in owners:
            raise InvalidOption(
                f"{owners[target]} and {source} would both be written to {printable(target)}: "
                "run them with different -o folders"
            )
        if target.resolve() in sources:
            raise InvalidOption(f"{printable(target)} would be overwritten: name another -o")
        owners[target] = source
    return targets


def check_targets(targets: Iterable[Path], *, overwrite: bool) -> None:
    """Check that no existing result would be lost. An empty file is none.

    Raises:
        InvalidOption: a result exists and may not be overwritten, or a run of it is unfinished.
    """
    existing = []
    for target in targets:
        with suppress(OSError):  # such as a name that is too long, which costs no other file
            if target != STANDARD:
                check_no_partial(target)
                if target.is_file() and target.stat().st_size:
                    existing.append(target)
    if existing and not overwrite:
        more = f", and {len(existing) - 1} more," if len(existing) > 1 else ""
        raise InvalidOption(
            f"{printable(existing[0])}{more} exists: add --overwrite to replace it, --resume to "
            "leave what is finished, or name another -o"
        )


def make_folders(targets: Iterable[Path]) -> None:
    """Make the folders that results will lie in.

    Raises:
        InvalidOption: a file is in the place of one, or there is no right to make it.
    """
    for folder in {target.parent for target in targets}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidOption(f"{folder} can't be a folder: {error.strerror}") from error


def _is_folder(output: str) -> bool:
    return Path(output) != STANDARD and (
        output.endswith("/") or Path(output).is_dir() or not Path(output).suffix
    )
