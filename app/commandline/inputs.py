"""Open the inputs of a run as rows."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ..errors import UploadTooLarge
from ..imaging.decode import decode_image
from ..imaging.files import open_image, open_named
from ..imaging.image import RowSource
from ..imaging.limits import BYTES_PER_PIXEL
from ..outputs.formats import FORMATS, Format
from ..segmentation.options import Options
from .files import Source

_PROBED = 5
"""Rows whose digest stands for a raster that has no time of change."""


@contextmanager
def open_source(
    source: Source, options: Options, max_pixels: int, whole: Format | None
) -> Iterator[tuple[RowSource, str]]:
    """Open an input. A TIFF or VRT of any size is read a few rows at a time, any other file whole.

    Also yields its fingerprint, by which a resumed run sees that it is still the same. `whole`: the
    format of a result that is held whole, so that the image may have `max_pixels` at most.

    Raises:
        OSError: it can't be read.
        InputError: it is no image, damaged or too large.
    """
    decoding = options.decoding
    fits = None if whole is None else partial(_check_size, whole, max_pixels)
    if source.is_standard:
        data = sys.stdin.buffer.read()
        image = decode_image(data, max_pixels=max_pixels, **decoding)
        yield image, hashlib.sha256(data).hexdigest()
    elif source.needs_gdal:
        with open_named(source.for_gdal, max_pixels=max_pixels, fits=fits, **decoding) as opened:
            yield opened, f"rows of {_digest(opened)}, at {opened.georeference}"
    else:
        with open_image(source.path, max_pixels=max_pixels, fits=fits, **decoding) as opened:
            yield opened, f"of {source.version}, at {opened.georeference}"


def _check_size(format: Format, max_pixels: int, height: int, width: int) -> None:
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
