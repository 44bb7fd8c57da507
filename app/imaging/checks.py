"""Checks of a TIFF before its pixels are read, and the errors of one that can't be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from mmap import mmap

from rasterio.enums import ColorInterp, Interleaving
from rasterio.io import DatasetReader

from ..errors import DamagedImage, UnsupportedImage
from .gdal import GDAL_ERRORS
from .ifd import COMPRESSION, Page, directory_offsets, first_directory, pages

_DTYPES = ("uint8", "uint16", "int16", "float32")
_MAX_BANDS = 16
_MAX_DIRECTORIES = 1_000  # pages, overviews and masks; GDAL takes seconds to list 65,535
_COMPRESSIONS = {
    34661: "JBIG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",  # Aperio's
    33005: "JPEG 2000",
    34713: "Nikon NEF",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Codecs that builds of GDAL may lack, by their number in the file. Source: libtiff's tiff.h."""


@contextmanager
def translate_errors(data: bytes | mmap | None = None) -> Iterator[None]:
    """Turn GDAL's errors while it opens and reads a TIFF into domain errors.

    `data` is the file, to look up how it is compressed.

    Raises:
        UnsupportedImage: this build of GDAL lacks the codec, or rasterio can't read its texts.
        DamagedImage: anything else.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise UnsupportedImage(
            "The TIFF's texts, such as the name of its coordinate reference system, are not UTF-8. "
            "Name the system anew, such as with gdal_translate -a_srs EPSG:32633."
        ) from error
    except GDAL_ERRORS as error:
        if "missing codec" in str(error) and data is not None:
            number = first_directory(data).get(COMPRESSION, 0)
            name = _COMPRESSIONS.get(number, f"method {number}")
            raise UnsupportedImage(
                f"The TIFF is compressed with {name}, which can't be read here. Compress it in "
                "another way, such as with the program of QGIS: "
                "gdal_translate -co COMPRESS=DEFLATE"
            ) from error
        raise DamagedImage(
            "The TIFF is damaged: its directory or image data can't be read. It may be cut short."
        ) from error


def check_pages(data: bytes | mmap) -> None:
    """Refuse a TIFF with more than 1,000 directories, or whose first picture previews another.

    GDAL would list all directories, and the first picture is the one that is read.
    Source: TIFF 6.0, tags 254 and 255; Adobe TIFF Technical Note 1 (SubIFDs).

    Raises:
        UnsupportedImage: it is one of these; the message says where the other picture is.
    """
    directories = sum(1 for _ in islice(directory_offsets(data), _MAX_DIRECTORIES + 1))
    if directories > _MAX_DIRECTORIES:
        raise UnsupportedImage(
            f"The TIFF has more than {_MAX_DIRECTORIES} pages. Give one page alone."
        )
    first, *others = pages(data) or [Page(0, 0, 0, reduced=False)]
    larger = [
        page
        for page in others
        if page.height * page.width > first.height * first.width and (first.reduced or page.nested)
    ]
    if not larger:
        return
    page = max(larger, key=lambda page: page.height * page.width)
    raise UnsupportedImage(
        f"The TIFF's first picture, of {first.width} x {first.height}, is a preview of another, of "
        f"{page.width} x {page.height}. Give that one alone: "
        f"gdal_translate GTIFF_DIR:off:{page.offset}:NAME"
    )


def check_samples(source: DatasetReader) -> None:
    """Refuse samples that can't become 8 bits.

    Raises:
        UnsupportedImage: another type than uint8, uint16, int16 and float32, or fewer than 8 bits.
    """
    if (dtype := source.dtypes[0]) not in _DTYPES:
        *most, last = _DTYPES
        raise UnsupportedImage(
            f"The TIFF's samples are {dtype}; {', '.join(most)} or {last} is expected. "
            "Save it as one of these."
        )
    bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
    if dtype == "uint8" and bits != "8" and source.colorinterp[0] is not ColorInterp.palette:
        raise UnsupportedImage(
            f"The TIFF has {bits} bits a sample; 8 or more are expected. Save it with 8 bits."
        )


def check_blocks(source: DatasetReader, max_samples: int, max_blocks: int | None) -> None:
    """Refuse a TIFF that would take too much memory or time to read.

    `max_samples` is the limit of a block, `max_blocks` that of their number, None without one.

    Raises:
        UnsupportedImage: too many bands, too large blocks, or too many of them.
    """
    if source.count > _MAX_BANDS:
        raise UnsupportedImage(
            f"The TIFF has {source.count} bands; at most {_MAX_BANDS} are read. "
            "Give red, green and blue."
        )
    height, width = source.block_shapes[0]
    interleaved = source.count if is_interleaved(source) else 1
    if height * width * interleaved > max_samples:
        raise UnsupportedImage(
            f"The TIFF is stored in blocks of {width} x {height} pixels, too large to be read. "
            "Rewrite it with tiles of 256 x 256."
        )
    blocks = -(-source.height // height) * -(-source.width // width)
    if max_blocks is not None and blocks > max_blocks:
        raise UnsupportedImage(
            f"The TIFF is stored in {blocks} blocks, too many to be read. "
            "Rewrite it with tiles of 256 x 256."
        )


def is_interleaved(source: DatasetReader) -> bool:
    """Tell whether a block holds all bands."""
    return source.interleaving is Interleaving.pixel
