"""Command-line flags for the options of a client, made from the model `Options`."""

import argparse
from collections.abc import Iterable
from types import NoneType
from typing import Any, get_args

from .options import Options


def add_flags(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Add a flag for each of these fields of `Options`; one that is left out is None."""
    for name in names:
        field = Options.model_fields[name]
        types = [kind for kind in (get_args(field.annotation) or [field.annotation]) if kind]
        choices = types if all(isinstance(kind, str) for kind in types) else None
        converter: Any = str if choices else next(kind for kind in types if kind is not NoneType)
        help = " ".join((field.description or "").split()).replace("`", "").replace("%", "%%")
        if field.default is not None:
            help += f" Default: {field.default}."
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=converter,
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
