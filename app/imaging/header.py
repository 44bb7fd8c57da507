"""Read how many pixels a file announces, without a decoder and without memory for pixels.

The number decides how much memory is reserved for an image, and how many pixels its decoder may
find. So a file whose decoder finds more than its header announces is refused.
"""

import struct

from ..errors import InputError
from .ifd import IMAGE_LENGTH, IMAGE_WIDTH, first_directory
from .jpeg import frame_size
from .sniff import Format, sniff

Size = tuple[int, int]
"""Height and width."""


def announced_pixels(data: bytes, max_pixels: int) -> int:
    """Return how many pixels a file announces, at most `max_pixels`; these if it does not say.

    It raises nothing for a bad file: decoding says what is wrong with it.
    """
    try:
        height, width = _READERS[sniff(data)](data)
    except (InputError, struct.error, KeyError):
        return max_pixels
    return min(height * width, max_pixels)


def _png(data: bytes) -> Size:
    """Read the image header. Source: Portable Network Graphics, third edition, section 11.2.1."""
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _webp(data: bytes) -> Size:
    """Read the first chunk. Source: RFC 9649, sections 2.5 to 2.7; RFC 6386, section 9.1."""
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case other:
            raise KeyError(other)
    return height, width


def _tiff(data: bytes) -> Size:
    tags = first_directory(data)
    return tags[IMAGE_LENGTH], tags[IMAGE_WIDTH]


_READERS = {Format.PNG: _png, Format.JPEG: frame_size, Format.WEBP: _webp, Format.TIFF: _tiff}
