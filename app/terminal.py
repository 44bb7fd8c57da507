"""Shared by all command lines: usage errors, names of files, counts such as "2 files", and bars."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import refusal

if TYPE_CHECKING:
    from tqdm import tqdm

_FLAG = re.compile(r"-[^\d. ][^ ]*$|-[^\d. ][^ =]*=")
"""A word that argparse takes for a flag. Others that begin with - are numbers, texts with a space,
or standard input."""
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, those that end a line, and those that turn the direction of writing."""
_KINDS: dict[object, str] = {int: "int_parsing", float: "float_parsing"}
"""Pydantic's names for what is refused, by the type of a flag."""


class Parser(argparse.ArgumentParser):
    """A parser that takes whole names alone, and refuses as the service does, in two lines.

    What is unknown is refused before argparse asks for what is missing: `--out` may be meant for
    `--output`, and `--log-level debug settings` names its command too late.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is unknown here, where it is known what would be right."""
        words = sys.argv[1:] if args is None else list(args)
        for word in self._own(words):
            if refused := self._refused(word.partition("=")[0]):
                self.error(refused)
        parsed, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many")
        return parsed, unknown

    def _own(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the words that argparse takes for flags of this parser, and not of a command."""
        for word in words:
            if word == "--" or (self._subparsers and not word.startswith("-")):
                return
            if _FLAG.match(word):
                yield word

    def _refused(self, name: str) -> str:
        """Say why a flag is refused. Empty if it exists, such as `-o` in `-oFILE`."""
        flags = self._option_string_actions
        known = [flag for flag in flags if flag.startswith("--")]
        meant = [flag for flag in known if flag.startswith(f"--{name.lstrip('-')}")]
        if name in flags or (name[:2] in flags and not meant):
            return ""
        meant = meant or difflib.get_close_matches(name, known, n=1)
        if meant:
            return f"{name} is no option: did you mean {' or '.join(meant)}?"
        if self._subparsers:
            return f"{name} comes too early: the command comes first, then its options"
        hint = f": write ./{name} for the file of this name" if Path(name).exists() else ""
        return f"{name} is no option{hint}"

    def _get_value(self, action: argparse.Action, arg_string: str) -> object:
        kind = _KINDS.get(action.type)
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            if kind is None:
                raise
            raise _refusal(action, {"type": kind, "input": arg_string}) from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            *others, last = [repr(choice) for choice in action.choices]
            expected = f"{', '.join(others)} or {last}" if others else last
            if isinstance(action.choices, range):
                expected = f"from {action.choices[0]} to {action.choices[-1]}"
            context = {"expected": expected}
            raise _refusal(action, {"type": "literal_error", "ctx": context, "input": value})

    def error(self, message: str) -> NoReturn:
        """End with status 2, a message, and a pointer to --help."""
        self.exit(2, f"error: {message}\nusage: {self.prog} --help lists what there is\n")


def _refusal(action: argparse.Action, refused: Mapping[str, Any]) -> argparse.ArgumentError:
    return argparse.ArgumentError(None, refusal(action.dest, refused))


def printable(name: str | Path) -> str:
    """Return a file's name for a terminal: one line, which neither colours it nor moves its cursor.

    Bytes that are no text and control characters become U+FFFD.
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", os.fsencode(name).decode(errors="replace"))


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as `1 file` and `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def progress_bar(*args: Any, disable: bool = False, **options: Any) -> "tqdm":
    """Return tqdm's bar with these arguments, disabled unless standard error is a terminal.

    In a log or a pipe, each step of a bar would be written one after the other, on one line.
    """
    from tqdm import tqdm  # not above: the doctor looks whether it is there

    return tqdm(*args, disable=disable or None, **options)
