"""Usage errors in two lines: what is wrong, and where help is."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that does not print all of its flags when one is wrong."""

    def error(self, message: str) -> NoReturn:
        """End with status 2: say what is wrong, and where help is."""
        self.exit(2, f"error: {message}\nusage: {self.prog} --help lists what there is\n")
