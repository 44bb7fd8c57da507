"""Tell a file's format by its first bytes, never by its name or its declared type."""

import re
from enum import StrEnum
from pathlib import Path

from ..errors import EmptyUpload, UnsupportedFormat


class Format(StrEnum):
    """The formats that are accepted."""

    PNG = "PNG"
    JPEG = "JPEG"
    TIFF = "TIFF"
    WEBP = "WebP"


ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Endings of the names of such files. They choose files, and never say what is in one."""

_ACCEPTED = {
    Format.PNG: rb"\x89PNG\r\n\x1a\n",
    Format.JPEG: rb"\xff\xd8\xff",
    Format.TIFF: rb"II[*+]\0|MM\0[*+]",  # 42 is classic TIFF, 43 (a plus sign) is BigTIFF
    Format.WEBP: rb"RIFF....WEBP",
}

# Only to name what came; nothing here is ever handed to a decoder.
_REFUSED = {
    "a GIF image": rb"GIF8[79]a",
    "a PDF document": rb"%PDF-",
    "a BMP image": rb"BM.{4}\0\0\0\0",
    "a ZIP archive": rb"PK(\x03\x04|\x05\x06)",
    "an AVIF image": rb"....ftypavi[fs]",
    "a HEIC image": rb"....ftyp(hei[cmsx]|hev[cmx]|mif1|msf1)",
    "a JPEG 2000 image": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "an HDF5 file": rb"\x89HDF\r\n\x1a\n",
    "a FITS image": rb"SIMPLE  =",
    "compressed with gzip": rb"\x1f\x8b",
    "compressed with bzip2": rb"BZh[1-9]1AY&SY",
    "compressed with xz": rb"\xfd7zXZ\0",
    "compressed with Zstandard": rb"\x28\xb5\x2f\xfd",
    "a 7z archive": rb"7z\xbc\xaf\x27\x1c",
    "a RAR archive": rb"Rar!\x1a\x07",
    "an image in base64": rb"data:image/|iVBORw0KGgo|/9j/|UklGR|SUkqA|SUkrA|TU0AK",
    "a multipart form, whose Content-Type must say so": rb"--[^\r\n]+\r\n(?i:content-)",
    "a PostScript document": rb"%!PS",
    "a GDAL virtual raster (VRT)": rb"(?i:vrt://)",
    "an HTML page": rb"(?i:<!doctype html)",
}
_MARKUP = {  # by the first element
    b"vrtdataset": "a GDAL virtual raster (VRT)",
    b"svg": "an SVG drawing",
    b"html": "an HTML page",
}
_HEAD = 1024  # bytes that tell a format
_ELEMENT = re.compile(rb"<([A-Za-z]\w*)")
_TEXT_LEAD = b"\xef\xbb\xbf \t\r\n"  # byte order mark and white space, legal before markup


def sniff(data: bytes) -> Format:
    """Name the format of a whole file.

    Raises:
        EmptyUpload: no bytes.
        UnsupportedFormat: any format that is not accepted.
    """
    if not data:
        raise EmptyUpload("The file is empty. Give an image.")
    for accepted, signature in _ACCEPTED.items():
        if re.match(signature, data, re.DOTALL):
            return accepted
    *most, last = Format
    raise UnsupportedFormat(
        f"The file {_looks_like(data[:_HEAD].lstrip(_TEXT_LEAD))}. "
        f"Give a {', '.join(most)} or {last}."
    )


def sniff_file(path: Path) -> Format:
    """Name the format of a file on disk by its first bytes.

    Raises:
        OSError: it can't be read.
        EmptyUpload, UnsupportedFormat: as `sniff`.
    """
    with path.open("rb") as file:
        return sniff(file.read(_HEAD))


def _looks_like(head: bytes) -> str:
    for name, signature in _REFUSED.items():
        if re.match(signature, head, re.DOTALL):
            return f"is {name}"
    if head.startswith(b"<"):
        element = _ELEMENT.search(head)
        return f"is {_MARKUP.get(element[1].lower() if element else b'', 'an XML document')}"
    return "is not an image of a known format"
