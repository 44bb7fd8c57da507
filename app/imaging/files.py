"""Open an image file on disk, with the files beside it that belong to it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ..errors import UnsupportedFormat
from .choices import Decoding
from .decode import decode_image
from .gdal import GDAL_ERRORS, open_path
from .image import RowSource
from .place import read_place
from .raster import open_raster
from .sniff import Format, sniff_file

_DRIVERS = {Format.PNG: "PNG", Format.JPEG: "JPEG", Format.WEBP: "WEBP"}


@contextmanager
def open_image(path: Path, *, max_pixels: int, **wanted: Unpack[Decoding]) -> Iterator[RowSource]:
    """Open a file as rows. A TIFF of any size is read a few rows at a time, any other file whole.

    A world file (such as .jgw), .aux.xml and .prj beside it tell its place; a mask (.msk) beside a
    TIFF tells which pixels are valid.

    Raises:
        OSError: the file can't be read.
        InputError: as `decode_image`; only other files than TIFFs have a limit of pixels.
    """
    check_name(path)
    if (kind := sniff_file(path)) is Format.TIFF:
        with open_raster(path, **wanted) as raster:
            yield raster
        return
    image = decode_image(path.read_bytes(), max_pixels=max_pixels, **wanted)
    # GDAL tells the place. A file that it cannot read has pixels, but no known place.
    with suppress(*GDAL_ERRORS), open_path(path, _DRIVERS[kind]) as source:
        place, gsd, notices = read_place(source, kind, beside=path)
        image = replace(image, georeference=place, gsd=gsd, notices=(*image.notices, *notices))
    yield image


def check_name(path: Path) -> None:
    """Refuse a name that GDAL can't open.

    Raises:
        UnsupportedFormat: it is not UTF-8.
    """
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise UnsupportedFormat(
            "The file's name, or its folder's, is not UTF-8 (it may be Latin-1), and can't be "
            "opened. Rename it, such as with convmv -f latin1 -t utf8 --notest."
        ) from None
