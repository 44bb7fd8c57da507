"""Check that a PNG is whole, and keep only the chunks that make pixels.

Pillow takes a PNG whose compressed stream ends early but cleanly for a whole one and leaves the
missing rows black; it also skips the checksums of image data and stops caring once the last row
is there. So the file is walked here first. Text, colour profiles and animation never reach Pillow,
so a small one that inflates to gigabytes does no harm.

Source: PNG specification, third edition, https://www.w3.org/TR/png-3/.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import DamagedImage, UnsupportedImage
from .ifd import orientation
from .limits import Stored, check_pixel_count

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MAX_CHUNKS = 100_000  # 64 MiB of empty chunks would keep a processor busy for seconds
_BLOCK = 64 * 1024

_PALETTE = 3
_CHANNELS = {0: 1, 2: 3, _PALETTE: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), _PALETTE: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# First column and row, then the steps between columns and rows, of the seven Adam7 passes.
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


class _Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


def read_png(data: bytes, *, max_pixels: int) -> Stored:
    """Return the pixel-bearing part of a whole PNG of 8 or fewer bits a sample.

    Raises:
        DamagedImage: cut short, a wrong checksum, too little image data, or not a PNG inside.
        UploadTooLarge: more than `max_pixels`, decided before anything is inflated.
        UnsupportedImage: 16 bits a sample.
    """
    header = _read_header(data)
    check_pixel_count(header.height, header.width, max_pixels)
    _check_header(header)
    kept: list[bytes | memoryview] = []
    image_data: list[memoryview] = []
    turned, frames, has_palette = 1, 1, False
    for kind, chunk in _chunks(data):
        payload = chunk[8:-4]
        if kind in _PIXEL_CHUNKS:
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
                raise DamagedImage(
                    f"The PNG is damaged: wrong checksum in its {kind.decode()} chunk."
                )
            kept.append(_spread_grey(chunk, header) if kind == b"tRNS" else chunk)
        if kind == b"IDAT":
            image_data.append(payload)
        elif kind == b"PLTE":
            has_palette = has_palette or not image_data
        elif kind == b"eXIf":
            turned = orientation(bytes(payload))
        elif kind == b"acTL":
            frames = int.from_bytes(payload[:4])
    if header.colour == _PALETTE and not has_palette:
        raise DamagedImage("The PNG is damaged: its colours refer to a palette that is not there.")
    _check_image_data(image_data, _inflated_size(header))
    return Stored(b"".join([_SIGNATURE, *kept]), orientation=turned, frames=frames)


def _read_header(data: bytes) -> _Header:
    start = len(_SIGNATURE)
    if data[start : start + 8] != b"\0\0\0\x0dIHDR" or len(data) < start + 25:
        raise DamagedImage("The PNG is damaged: it does not begin with a header.")
    return _Header(*struct.unpack_from(">IIBBBBB", data, start + 8))


def _check_header(header: _Header) -> None:
    if (
        header.depth not in _DEPTHS.get(header.colour, ())
        or (header.compression, header.filtering) != (0, 0)
        or header.interlace not in (0, 1)
    ):
        raise DamagedImage("The PNG is damaged: its header holds values that no PNG can have.")
    if header.depth == 16:
        raise UnsupportedImage(
            "The PNG has 16 bits a sample; 8 are expected. Rescale it to 8 bits, so that its "
            "darkest and brightest ground lie near 0 and 255. Or give red, green and blue as a "
            "TIFF of 16 bits, which is rescaled here."
        )


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield each chunk's type and its bytes, length and checksum included, up to IEND."""
    view = memoryview(data)
    position = len(_SIGNATURE)
    for number in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            raise DamagedImage("The PNG is cut short: its end chunk is missing.")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DamagedImage("The PNG is cut short: it ends inside a chunk.")
        if (kind == b"IHDR") != (number == 0):
            raise DamagedImage("The PNG is damaged: it has more than one header.")
        yield kind, view[position:end]
        if kind == b"IEND":
            return
        position = end
    raise DamagedImage(f"The PNG is damaged: it has more than {_MAX_CHUNKS} chunks.")


def _spread_grey(transparency: memoryview, header: _Header) -> bytes | memoryview:
    """Scale the transparent grey of 2 and 4 bits to 8 bits: Pillow scales the pixels alone."""
    if header.colour != 0 or header.depth not in (2, 4) or len(transparency) != 14:
        return transparency
    white = (1 << header.depth) - 1
    grey = (int.from_bytes(transparency[8:10]) & white) * 255 // white
    body = b"tRNS" + grey.to_bytes(2)
    return b"\0\0\0\2" + body + zlib.crc32(body).to_bytes(4)


def _inflated_size(header: _Header) -> int:
    """Count the bytes that the image data must inflate to: rows, each led by a filter byte."""
    bits = _CHANNELS[header.colour] * header.depth
    passes = _ADAM7 if header.interlace else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        columns = -(-(header.width - left) // step_x)
        rows = -(-(header.height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def _check_image_data(image_data: Iterable[memoryview], expected: int) -> None:
    """Check that the image data inflates to `expected` bytes, a block at a time, and keep none.

    Bytes after these are ignored, as other readers do.
    """
    inflater = zlib.decompressobj()
    missing = expected
    # Input goes in small blocks: each limited call copies the input that it left over.
    blocks = (
        chunk[at : at + _BLOCK] for chunk in image_data for at in range(0, len(chunk), _BLOCK)
    )
    try:
        for block in blocks:
            if inflater.eof:
                break
            pending: bytes | memoryview = block
            while pending and missing:
                missing -= len(inflater.decompress(pending, min(missing, _BLOCK)))
                pending = inflater.unconsumed_tail
    except zlib.error as error:
        raise DamagedImage("The PNG is damaged: its image data can't be inflated.") from error
    if missing:
        raise DamagedImage(
            f"The PNG is cut short: its image data holds {expected - missing} of {expected} bytes."
        )
