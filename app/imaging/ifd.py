"""Walk TIFF directories, which is also what EXIF is made of.

Source: TIFF 6.0, section 2; BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html.
"""

from collections.abc import Iterator
from mmap import mmap
from struct import Struct
from typing import Literal, NamedTuple

IMAGE_WIDTH, IMAGE_LENGTH, _ORIENTATION = 256, 257, 274
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}  # bytes of a BYTE, SHORT, LONG, LONG8
_MAX_ENTRIES = 0xFFFF  # of classic TIFF; BigTIFF's count would let a file be walked for long


class _Layout(NamedTuple):
    byte_order: Literal["little", "big"]
    tag: Struct
    entries: Struct  # how many there are, at the head of a directory
    offset: Struct
    entry_size: int
    first: int  # where the offset of the first directory stands


def directory_offsets(tiff: bytes | mmap) -> Iterator[int]:
    """Yield where each directory starts; end quietly at a loop or at the end of the bytes."""
    layout = _layout(tiff)
    seen: set[int] = set()
    position = layout.first
    while position + layout.offset.size <= len(tiff):
        (start,) = layout.offset.unpack_from(tiff, position)
        if start == 0 or start in seen or start + layout.entries.size > len(tiff):
            return
        seen.add(start)
        yield start
        (entries,) = layout.entries.unpack_from(tiff, start)
        position = start + layout.entries.size + entries * layout.entry_size


def first_directory(tiff: bytes | mmap) -> dict[int, int]:
    """Read the first directory's numbers, those of its tags that hold a single whole one.

    Of a tag that comes twice the first counts, as it does for libtiff.
    """
    if tiff[:2] not in (b"II", b"MM"):
        return {}
    layout = _layout(tiff)
    start = next(directory_offsets(tiff), None)
    if start is None:
        return {}
    (entries,) = layout.entries.unpack_from(tiff, start)
    position = start + layout.entries.size
    numbers: dict[int, int] = {}
    for _ in range(min(entries, _MAX_ENTRIES)):
        if position + layout.entry_size > len(tiff):
            break
        tag, kind = (layout.tag.unpack_from(tiff, position + at)[0] for at in (0, 2))
        (count,) = layout.offset.unpack_from(tiff, position + 4)
        if count == 1 and (size := _SIZES.get(kind, 0)):
            value_at = position + layout.entry_size - layout.offset.size
            value = tiff[value_at : value_at + min(size, layout.offset.size)]
            numbers.setdefault(tag, int.from_bytes(value, layout.byte_order))
        position += layout.entry_size
    return numbers


def orientation(tiff: bytes | mmap) -> int:
    """Read the first directory's orientation, 1 to 8; 1 (upright) when there is none to be read.

    Source: TIFF 6.0, tag 274; EXIF 2.3, section 4.6.4.
    """
    value = first_directory(tiff).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _layout(tiff: bytes | mmap) -> _Layout:
    named: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"
    order = "<" if named == "little" else ">"
    short, long, long8 = Struct(order + "H"), Struct(order + "I"), Struct(order + "Q")
    if tiff[2:4] == short.pack(43):
        return _Layout(named, tag=short, entries=long8, offset=long8, entry_size=20, first=8)
    return _Layout(named, tag=short, entries=short, offset=long, entry_size=12, first=4)
