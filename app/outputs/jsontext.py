"""A JSON document whose longest list is written item by item."""

import json
from collections.abc import Iterable
from typing import IO

from ..segmentation.stream import SegmentedStream


def write_json(
    file: IO[bytes],
    stream: SegmentedStream,
    head: dict[str, object],
    name: str,
    items: Iterable[object],
) -> None:
    """Write an object: the members of `head`, then `items` under `name`, a line each, in UTF-8.

    Last come the notices, and count and area of the buildings in m² (null where the GSD is not
    known), since `stream` is read to its end by then.
    """
    file.write(f"{_json(head)[:-1]},{_json(name)}:[".encode())
    separator = "\n"
    for item in items:
        file.write(f"{separator}{_json(item)}".encode())
        separator = ",\n"
    tail = {
        "notices": stream.notices,
        "building_count": stream.building_count,
        "building_area_m2": stream.building_area,
    }
    file.write(f"\n],{_json(tail)[1:]}\n".encode())


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
