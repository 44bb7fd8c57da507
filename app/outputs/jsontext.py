"""A JSON document whose longest list is written item by item."""

import json
from collections.abc import Callable, Iterable
from typing import IO


def write_json(
    file: IO[bytes],
    head: dict[str, object],
    name: str,
    items: Iterable[object],
    tail: Callable[[], dict[str, object]],
) -> None:
    """Write an object: the members of `head`, then `items` under `name`, a line each, then `tail`.

    `tail` is asked for when the last item has been written. UTF-8.
    """
    file.write(f"{_json(head)[:-1]},{_json(name)}:[".encode())
    separator = "\n"
    for item in items:
        file.write(f"{separator}{_json(item)}".encode())
        separator = ",\n"
    file.write(f"\n],{_json(tail())[1:]}\n".encode())


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
