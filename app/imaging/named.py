"""Open a raster by GDAL's name for it: a VRT, or a file over the network.

Such a name comes from the user of this machine. No client of the service gets as far as here.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Unpack
from xml.sax.saxutils import escape

import rasterio.shutil
from rasterio.io import DatasetReader

from ..errors import DamagedImage
from .checks import check_blocks, translate_errors
from .choices import Decoding
from .files import open_image
from .gdal import GDAL_ERRORS, open_name
from .image import RowSource
from .raster import MAX_BLOCK_SAMPLES, Raster

_DRIVERS = ("GTiff", "PNG", "JPEG", "WEBP")


@contextmanager
def open_named(name: str, *, max_pixels: int, **wanted: Unpack[Decoding]) -> Iterator[RowSource]:
    """Open what GDAL has a name for: a TIFF or a VRT of any size as rows, a picture whole.

    `gdal.allow_named` comes first. Which page of a TIFF is the picture, and how it is turned, is
    not looked up over the network: the first page is read as it is stored.

    Raises:
        OSError: it can't be opened, or reading fails, now or later.
        InputError: as `decode_image`.
    """
    path = re.split(r"[?#]", name)[0] if name.startswith("/vsi") else name
    vrt = path.lower().endswith(".vrt")
    try:
        with ExitStack() as opened:
            source = opened.enter_context(open_name(name, ["VRT"] if vrt else list(_DRIVERS)))
            if vrt and (whole := _with_query(source, name)):
                source = opened.enter_context(open_name(whole, ["VRT"]))
            if vrt or source.driver == "GTiff":
                with translate_errors():
                    check_blocks(source, MAX_BLOCK_SAMPLES, None)
                    raster = Raster(source, None, wanted)
                    raster.correct(wanted.get("sharpen"))
                yield raster
                return
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, "picture")
                rasterio.shutil.copyfiles(name, str(copy))
                with open_image(copy, max_pixels=max_pixels, **wanted) as image:
                    yield image
    except DamagedImage as error:
        if isinstance(error.__cause__, GDAL_ERRORS):
            # A connection that fails is no damage: what is finished is worth keeping.
            raise OSError(f"GDAL can't read it: {_reason(error.__cause__)}") from error
        raise


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


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error)
