"""The command line: `rooftrace serve | segment | bulk | models | settings | doctor | completion`.

A command's module is imported once the command is known: help and usage errors wait for no library.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

_REFUSED, _INTERRUPTED, _CLOSED_PIPE = 2, 130, 141
_GOING_ON = {
    "segment": ": run it again with --resume to go on",
    "bulk": ": run it again to go on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 when some inputs failed, or 2 when it could not start."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Python flushes again at its end, and
        # would print an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return _CLOSED_PIPE


def _run(arguments: Sequence[str]) -> int:
    with _starting():
        from ..errors import InvalidOption, StartupError, message_of
        from .parser import build_parser

        command = next((word for word in arguments if not word.startswith("-")), "")
        args = build_parser(command).parse_args(arguments)
    try:
        # The doctor must run even where a library that the other commands import is broken.
        name = "doctor" if command == "doctor" else "commands"
        with _starting():
            module = import_module(f"{__package__}.{name}")
        status: int = getattr(module, args.command)(args)
    except (StartupError, InvalidOption) as error:
        print(f"error: {error}", file=sys.stderr)
        return _REFUSED
    except BrokenPipeError:
        raise
    except OSError as error:  # that no command foresaw, such as a name that is too long
        name = f"{error.filename}: " if error.filename else ""
        print(f"error: {name}{message_of(error)}", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends it, without a traceback
        print(f"interrupted{_GOING_ON.get(args.command, '')}", file=sys.stderr)
        return _INTERRUPTED
    return status


@contextmanager
def _starting() -> Iterator[None]:
    """Have Ctrl-C end the process without a word: no work has begun.

    While modules are imported, KeyboardInterrupt would be a traceback, or be lost in C code.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # such as a shell's background job, which ignores it
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
