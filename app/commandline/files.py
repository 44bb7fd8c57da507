"""Which files a run reads, which it writes, and in which format."""

import glob
from collections.abc import Sequence
from pathlib import Path

from app.errors import InvalidOption
from app.outputs.formats import FORMATS, Format

STANDARD = Path("-")
"""Standard input or output."""


def expand(inputs: Sequence[str]) -> list[Path]:
    """Return the files that are named, once each; patterns such as `**/*.tif` are looked up.

    Raises:
        InvalidOption: a pattern that no file matches, or standard input beside other files.
    """
    paths: dict[Path, None] = {}
    for name in inputs:
        found = [name]
        if glob.has_magic(name) and not Path(name).exists():
            # Path.glob takes no absolute pattern.
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            if not found:
                raise InvalidOption(f"{name} matches no file")
        paths |= dict.fromkeys(map(Path, found))
    if STANDARD in paths and len(paths) > 1:
        raise InvalidOption("- is standard input, and can't be one of several inputs")
    return list(paths)


def choose_format(output: str, name: str | None) -> Format:
    """Return the format that is named, else the one of the output file's ending, else PNG."""
    if name is not None:
        return FORMATS[name]
    if _is_folder(output) or Path(output) == STANDARD:
        return FORMATS["png"]
    endings = {format.extension: format for format in FORMATS.values()}
    fitting = [ending for ending in endings if output.lower().endswith(ending)]
    if not fitting:
        raise InvalidOption(
            f"-o {output} ends like no result format: {', '.join(endings)}. "
            "Name one with --format, or end a folder's name with /"
        )
    return endings[max(fitting, key=len)]


def plan_targets(inputs: Sequence[Path], output: str, format: Format) -> dict[Path, Path]:
    """Give each input a file of its own, and make the folders that these lie in.

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
        names = {source: _stem(source) + format.extension for source in inputs}
        targets = {source: Path(output, name) for source, name in names.items()}
    elif len(inputs) > 1:
        raise InvalidOption(f"-o {output} is one file for {len(inputs)} inputs: name a folder")
    else:
        targets = {inputs[0]: Path(output)}
    sources = {source.resolve() for source in inputs}
    owners: dict[Path, Path] = {}
    for source, target in targets.items():
        if target in owners:
            raise InvalidOption(
                f"{owners[target]} and {source} would both be written to {target}: "
                "run them with different -o folders"
            )
        if target.resolve() in sources:
            raise InvalidOption(f"{target} would be overwritten: name another -o")
        owners[target] = source
    for folder in {target.parent for target in targets.values()}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidOption(f"{folder} can't be a folder: {error.strerror}") from error
    return targets


def _is_folder(output: str) -> bool:
    return Path(output) != STANDARD and (
        output.endswith("/") or Path(output).is_dir() or not Path(output).suffix
    )


def _stem(source: Path) -> str:
    return "stdin" if source == STANDARD else source.stem
