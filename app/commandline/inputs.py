"""Open the inputs of a run as rows."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UploadTooLarge
from ..imaging.decode import decode_image
from ..imaging.files import open_image, open_named
from ..imaging.header import tiff_size
from ..imaging.image import RowSource
from ..imaging.limits import BYTES_PER_PIXEL
from ..outputs.formats import FORMATS, Format
from ..segmentation.options import Options
from .files import Source

_PROBED = 5
"""Rows whose digest stands for a raster that has no time of change."""


@contextmanager
def open_source(
    source: Source, options: Options, max_pixels: int
) -> Iterator[tuple[RowSource, str]]:
    """Open an input. A TIFF or VRT of any size is read a few rows at a time, any other file whole.

    Also yields its fingerprint, by which a resumed run sees that it is still the same.

    Raises:
        OSError: it can't be read.
        InputError: it is no image, or damaged.
    """
    decoding = options.decoding
    if source.is_standard:
        data = sys.stdin.buffer.read()
        image = decode_image(data, max_pixels=max_pixels, **decoding)
        yield image, hashlib.sha256(data).hexdigest()
    elif source.needs_gdal:
        with open_named(source.for_gdal, max_pixels=max_pixels, **decoding) as opened:
            yield opened, f"rows of {_digest(opened)}, at {opened.georeference}"
    else:
        with open_image(source.path, max_pixels=max_pixels, **decoding) as opened:
            yield opened, f"of {source.version}, at {opened.georeference}"


def check_header(source: Source, format: Format, max_pixels: int) -> None:
    """Refuse a file that is too large to be held whole, before it is read.

    Raises:
        UploadTooLarge: as `check_size`.
    """
    if not (source.is_standard or source.needs_gdal):
        size = tiff_size(source.path)
        if size is not None:
            check_size(*size, format, max_pixels)


def check_size(height: int, width: int, format: Format, max_pixels: int) -> None:
    """Refuse a raster that is too large to be held whole.

    Raises:
        UploadTooLarge: it has more than `max_pixels`.
    """
    if height * width <= max_pixels:
        return
    streamed = ", ".join(format.name for format in FORMATS.values() if not format.whole)
    raise UploadTooLarge(
        f"The TIFF has {width} x {height} pixels. As {format.name}, or to -, its result is held in "
        f"memory, which is for {max_pixels} pixels at most. Write {streamed} to a file, which "
        f"takes a TIFF of any size. Or raise ROOFTRACE_MAX_PIXELS, if there are {BYTES_PER_PIXEL} "
        "bytes of memory for each pixel."
    )


def _digest(image: RowSource) -> str:
    digest = hashlib.sha256(f"{image.height} x {image.width}".encode())
    for n in range(_PROBED):
        row = (image.height - 1) * n // (_PROBED - 1)
        digest.update(image.read_pixels(row, row + 1).tobytes())
    return digest.hexdigest()
