"""Open an image that the user of this machine names: a file, or GDAL's name for a raster.

Clients of the service never reach this module.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Unpack
from xml.sax.saxutils import escape

import rasterio.shutil
from rasterio.io import DatasetReader

from ..errors import DamagedImage, UnsupportedFormat
from .checks import translate_errors
from .choices import Decoding
from .decode import decode_image
from .gdal import GDAL_ERRORS, open_name, open_path
from .image import RowSource
from .place import read_place
from .raster import Fits, open_raster, read_rows
from .sniff import Format, sniff_file

_DRIVERS = {Format.PNG: "PNG", Format.JPEG: "JPEG", Format.WEBP: "WEBP"}


@contextmanager
def open_image(
    path: Path, *, max_pixels: int, fits: Fits | None = None, **wanted: Unpack[Decoding]
) -> Iterator[RowSource]:
    """Open a file as rows. A TIFF of any size is read a few rows at a time, any other file whole.

    A world file (such as .jgw), .aux.xml and .prj beside it tell its place; a mask (.msk) beside a
    TIFF tells which pixels are valid.

    Raises:
        OSError: the file can't be read.
        InputError: as `decode_image`; only other files than TIFFs have a limit of pixels.
        Exception: any that `fits` raises of a TIFF.
    """
    _check_name(path)
    if (kind := sniff_file(path)) is Format.TIFF:
        with open_raster(path, fits, **wanted) as raster:
            yield raster
        return
    image = decode_image(path.read_bytes(), max_pixels=max_pixels, **wanted)
    # GDAL tells the place. A file that it cannot read has pixels, but no known place.
    with suppress(*GDAL_ERRORS), open_path(path, _DRIVERS[kind]) as source:
        place, gsd, notices = read_place(source, kind, beside=path)
        image = replace(image, georeference=place, gsd=gsd, notices=(*image.notices, *notices))
    yield image


@contextmanager
def open_named(
    name: str, *, max_pixels: int, fits: Fits | None = None, **wanted: Unpack[Decoding]
) -> Iterator[RowSource]:
    """Open what GDAL has a name for: a TIFF or a VRT of any size as rows, a picture whole.

    `gdal.allow_named` comes first. Which page of a TIFF is the picture, and how it is turned, is
    not looked up over the network: the first page is read as it is stored.

    Raises:
        OSError: it can't be opened, or reading fails, now or later.
        InputError: as `decode_image`.
        Exception: any that `fits` raises of a TIFF or a VRT.
    """
    path = re.split(r"[?#]", name)[0] if name.startswith("/vsi") else name
    vrt = path.lower().endswith(".vrt")
    drivers = ["VRT"] if vrt else ["GTiff", *_DRIVERS.values()]
    try:
        with ExitStack() as opened:
            source = opened.enter_context(open_name(name, drivers))
            if vrt and (whole := _with_query(source, name)):
                source = opened.enter_context(open_name(whole, ["VRT"]))
            if vrt or source.driver == "GTiff":
                with translate_errors():
                    raster = read_rows(source, None, wanted, fits)
                yield raster
                return
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, "picture")
                rasterio.shutil.copyfiles(name, str(copy))
                with open_image(copy, max_pixels=max_pixels, **wanted) as image:
                    yield image
    except DamagedImage as error:
        if isinstance(cause := error.__cause__, GDAL_ERRORS):
            # A connection that fails is no damage: what is finished is worth keeping.
            raise OSError(f"GDAL can't read it: {cause.__cause__ or cause}") from error
        raise


def _check_name(path: Path) -> None:
    """Refuse a name that is not UTF-8, which GDAL can't open."""
    try:
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise UnsupportedFormat(
            "The file's name, or its folder's, is not UTF-8 (it may be Latin-1), and can't be "
            "opened. Rename it, such as with convmv -f latin1 -t utf8 --notest."
        ) from None


def _with_query(source: DatasetReader, name: str) -> str | None:
    """Return the XML of a VRT whose address has a query, with the query after each relative name.

    GDAL 3.10 has it before these names. None if there is no query.
    """
    address, _, query = name.partition("?")
    if not query or not name.startswith("/vsicurl/"):
        return None
    folder = escape(address.rpartition("/")[0])
    return re.sub(
        r'relativeToVRT="1"([^>]*)>([^<]+)<',
        lambda found: f'relativeToVRT="0"{found[1]}>{folder}/{found[2]}?{escape(query)}<',
        source.tags(ns="xml:VRT")["xml:VRT"],
    )
