"""Shared by all command lines: usage errors of two lines, and counts such as "2 files"."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that does not print all of its flags when one is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2, a message, and a pointer to --help."""
        self.exit(2, f"error: {message}\nusage: {self.prog} --help lists what there is\n")


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as `1 file` and `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
