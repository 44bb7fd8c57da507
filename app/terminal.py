"""Shared by all command lines: usage errors of two lines, and counts such as "2 files"."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that takes whole names alone, and does not print all flags when one is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, and refuse what is unknown here, where it is known what would be right."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._refused(unknown[0].partition("=")[0]))
        return parsed, unknown

    def _refused(self, name: str) -> str:
        if not name.startswith("-"):
            return f"{name!r} is one argument too many"
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        meant = [flag for flag in known if flag.startswith(name)]
        meant = meant or difflib.get_close_matches(name, known, n=1)
        return f"{name} is no option" + (f": did you mean {' or '.join(meant)}?" if meant else "")

    def error(self, message: str) -> NoReturn:
        """End with status 2, a message, and a pointer to --help."""
        self.exit(2, f"error: {message}\nusage: {self.prog} --help lists what there is\n")


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as `1 file` and `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
