"""A finding of the doctor."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import RooftraceError

State = Literal["ok", "warning", "problem"]
"""`warning`: the service works, but worse than it could. `problem`: it does not start or fails."""


@dataclass(frozen=True)
class Finding:
    """One row: the name of a check, its state, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def look(name: str, check: Callable[[], Iterable[Finding]], advice: str) -> Iterator[Finding]:
    """Yield the findings of a check. If the check fails, that is a problem, and others go on."""
    try:
        yield from check()
    except RooftraceError as error:
        yield Finding(name, "problem", str(error), advice)
    except Exception as error:  # whatever is broken, the rest must be looked at
        yield Finding(name, "problem", f"{type(error).__name__}: {error}", advice)


def written_bytes(count: float) -> str:
    """Write a number of bytes for a person."""
    gib = count / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{count / 2**20:.0f} MiB"
