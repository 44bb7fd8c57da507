"""Walk TIFF directories, which is also what EXIF is made of.

Source: TIFF 6.0, section 2; BigTIFF, https://www.awaresystems.be/imaging/tiff/bigtiff.html.
"""

from collections.abc import Iterator
from itertools import islice
from mmap import mmap
from struct import Struct
from typing import Literal, NamedTuple

IMAGE_WIDTH, IMAGE_LENGTH, COMPRESSION, _ORIENTATION = 256, 257, 259, 274
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_IFDS = 254, 255, 330
_REDUCED, _OLD_REDUCED = 1, 2  # a bit of the new tag, a value of the old one
_SIZES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}  # bytes of BYTE, SHORT, LONG, IFD, LONG8, IFD8
_MAX_PAGES = 64  # whose sizes are looked up
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


class Page(NamedTuple):
    """A picture in a TIFF: its size, and the offset of its directory.

    `reduced`: a smaller version of another picture. `nested`: a SubIFD of the first directory.
    """

    height: int
    width: int
    offset: int
    reduced: bool
    nested: bool = False


def first_directory(tiff: bytes | mmap) -> dict[int, int]:
    """Read the first directory's numbers, those of its tags that hold a single whole one.

    Where a tag comes twice, the first counts, as it does for libtiff.
    """
    start = next(directory_offsets(tiff), None) if tiff[:2] in (b"II", b"MM") else None
    return {} if start is None else _read_directory(tiff, start)


def pages(tiff: bytes | mmap) -> list[Page]:
    """List a TIFF's pictures: the first one, its SubIFDs, and those that follow."""
    layout = _layout(tiff)
    found: list[Page] = []
    for start in islice(directory_offsets(tiff), _MAX_PAGES):
        found.append(_page(tiff, start))
        if len(found) == 1:
            nested = islice(_sub_directories(tiff, start), _MAX_PAGES)
            inside = [at for at in nested if 0 < at <= len(tiff) - layout.entries.size]
            found += [_page(tiff, at)._replace(nested=True) for at in inside]
    return found


def _page(tiff: bytes | mmap, start: int) -> Page:
    numbers = _read_directory(tiff, start)
    return Page(
        numbers.get(IMAGE_LENGTH, 0),
        numbers.get(IMAGE_WIDTH, 0),
        start,
        reduced=bool(numbers.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED)
        or numbers.get(_SUBFILE_TYPE) == _OLD_REDUCED,
    )


class _Entry(NamedTuple):
    tag: int
    size: int  # of a value
    values: int  # how many
    at: int  # where they stand, or their offset


def _entries(tiff: bytes | mmap, start: int) -> Iterator[_Entry]:
    """Yield the entries that hold whole numbers."""
    layout = _layout(tiff)
    (entries,) = layout.entries.unpack_from(tiff, start)
    position = start + layout.entries.size
    for _ in range(min(entries, _MAX_ENTRIES)):
        if position + layout.entry_size > len(tiff):
            return
        tag, kind = (layout.tag.unpack_from(tiff, position + at)[0] for at in (0, 2))
        (count,) = layout.offset.unpack_from(tiff, position + 4)
        if size := _SIZES.get(kind, 0):
            yield _Entry(tag, size, count, position + layout.entry_size - layout.offset.size)
        position += layout.entry_size


def _read_directory(tiff: bytes | mmap, start: int) -> dict[int, int]:
    layout = _layout(tiff)
    numbers: dict[int, int] = {}
    for tag, size, count, at in _entries(tiff, start):
        if count == 1:
            value = tiff[at : at + min(size, layout.offset.size)]
            numbers.setdefault(tag, int.from_bytes(value, layout.byte_order))
    return numbers


def _sub_directories(tiff: bytes | mmap, start: int) -> Iterator[int]:
    layout = _layout(tiff)
    for tag, size, count, at in _entries(tiff, start):
        if tag == _SUB_IFDS:
            if count * size > layout.offset.size:
                (at,) = layout.offset.unpack_from(tiff, at)
            for position in range(at, at + min(count, _MAX_PAGES) * size, size):
                yield int.from_bytes(tiff[position : position + size], layout.byte_order)
            return


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
