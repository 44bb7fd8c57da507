"""Command-line flags for the options of a client, made from the model `Options`."""

import argparse
from collections.abc import Iterable
from typing import get_args

from .options import Options


def add_flags(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Add a flag for each of these fields of `Options`; one that is left out is None.

    `Options` reads their values, so that a refusal has the words that it has over HTTP.
    """
    for name in names:
        field = Options.model_fields[name]
        kinds = get_args(field.annotation)
        choices = kinds if kinds and all(isinstance(kind, str) for kind in kinds) else None
        help = " ".join((field.description or "").split()).replace("`", "").replace("%", "%%")
        if field.default is not None:
            help += f" Default: {field.default}."
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            choices=choices,
            metavar=None if choices else name.upper(),
            help=help,
        )


def given_options(args: argparse.Namespace) -> Options:
    """Return the options that flags gave.

    Raises:
        InvalidOption: a value out of range.
    """
    given = {name: getattr(args, name, None) for name in Options.model_fields}
    return Options.parse({name: value for name, value in given.items() if value is not None})
