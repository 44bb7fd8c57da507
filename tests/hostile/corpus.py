"""Files and requests that nobody should send, each with the status and the problem it must meet.

Everything is made here, from nothing that is committed. `python -m tests.hostile.corpus FOLDER`
writes the files, for other tools to be tried with.
"""

import gzip
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
from affine import Affine
from rasterio.io import MemoryFile

from tests.factories import scene
from tests.serving import encoded

MAX_PIXELS = 1_000_000
MAX_BYTES = 4 * 2**20
"""Limits of the server that the corpus is sent to."""

DAMAGED = (422, "damaged-image")
UNSUPPORTED = (422, "unsupported-image")
TOO_LARGE = (413, "upload-too-large")
OTHER_FORMAT = (415, "unsupported-format")
EMPTY = (400, "empty-upload")
FINE = (200, "")

Answer = tuple[int, str]
"""Status, and the last part of the problem's type."""


class File(NamedTuple):
    """An upload, and what must come of it."""

    name: str
    data: bytes
    answer: Answer


PIXELS = scene(37, 53)


def files() -> list[File]:
    """Make all files."""
    kinds = (_png, _jpeg, _webp, _tiff, _others, _harmless)
    return [File(name, data, answer) for kind in kinds for name, data, answer in kind()]


def _cuts_and_flips(kind: str, whole: bytes) -> Iterator[tuple[str, bytes, Answer]]:
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"{kind} cut at {share}", whole[: int(share * len(whole))], DAMAGED
    yield f"{kind} then noise", whole[:32] + np.random.default_rng(1).bytes(5000), DAMAGED


def chunk(kind: bytes, payload: bytes) -> bytes:
    """Write one chunk of a PNG."""
    return struct.pack(">I", len(payload)) + kind + payload + zlib.crc32(kind + payload).to_bytes(4)


def png(
    width: int, height: int, rows: bytes, *between: bytes, depth: int = 8, colour: int = 2
) -> bytes:
    """Write a PNG of filtered rows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + data + chunk(b"IEND", b"")


def _png() -> Iterator[tuple[str, bytes, Answer]]:
    whole = encoded(PIXELS)
    row = bytes(1 + 3 * 20)
    bomb = zlib.compress(bytes(50_000_000), 9)
    yield from _cuts_and_flips("png", whole)
    yield "png signature", whole[:8], DAMAGED
    yield "png header alone", whole[:33], DAMAGED
    yield "png half its rows, ended cleanly", png(20, 20, 10 * row), DAMAGED
    yield "png a row too many", png(20, 20, 21 * row), FINE
    yield "png no width", png(0, 20, b""), DAMAGED
    yield "png no height", png(20, 0, b""), DAMAGED
    yield "png negative width", png(2**31, 1, row), TOO_LARGE
    yield "png over the limit by a row", png(1000, 1001, b""), TOO_LARGE
    yield "png gigapixels in a few bytes", png(100_000, 100_000, b""), TOO_LARGE
    yield "png inflates beyond its size", png(20, 20, bytes(50_000_000)), FINE
    yield "png bad filter", png(20, 20, 20 * (b"\x09" + row[1:])), DAMAGED
    yield "png no such colour type", png(20, 20, 20 * row, colour=5), DAMAGED
    yield "png no such depth", png(20, 20, 20 * row, depth=3), DAMAGED
    yield "png 16 bits", encoded(np.full((9, 9), 60_000, np.uint16)), UNSUPPORTED
    yield "png bad checksum", whole[:-20] + b"\0" + whole[-19:], DAMAGED
    yield "png bit flipped in its data", _flipped(whole, len(whole) // 2), DAMAGED
    yield "png palette missing", png(20, 20, 20 * bytes(21), colour=3), DAMAGED
    for kind, name in ((b"zTXt", "text"), (b"iCCP", "profile"), (b"iTXt", "international text")):
        middle = b"\0\1\0\0\0" if kind == b"iTXt" else b"\0\0"
        yield f"png {name} bomb", png(20, 20, 20 * row, chunk(kind, b"a" + middle + bomb)), FINE
    many = [chunk(b"tEXt", b"a\0b")] * 50_000
    yield "png fifty thousand texts", png(20, 20, 20 * row, *many), FINE
    yield "png length beyond the end", whole[:33] + b"\xff\xff\xff\xff" + whole[37:], DAMAGED
    yield "png with a zip behind", whole + _zip(), FINE


def _jpeg() -> Iterator[tuple[str, bytes, Answer]]:
    whole = encoded(PIXELS, "JPEG", quality=90)
    progressive = encoded(PIXELS, "JPEG", progressive=True)
    frame = whole.index(b"\xff\xc0")
    yield from _cuts_and_flips("jpeg", whole)
    yield "jpeg signature", whole[:3], DAMAGED
    yield "jpeg cut and closed", whole[: len(whole) * 2 // 3] + b"\xff\xd9", DAMAGED
    yield "jpeg of markers alone", b"\xff\xd8\xff\xd9", DAMAGED
    yield "jpeg no width", _patched(whole, frame + 7, b"\0\0"), DAMAGED
    yield "jpeg no height", _patched(whole, frame + 5, b"\0\0"), DAMAGED
    yield "jpeg enormous", _patched(whole, frame + 5, b"\xff\xff\xff\xff"), TOO_LARGE
    yield "jpeg higher than its data", _patched(whole, frame + 5, b"\x03\x00"), DAMAGED
    yield "jpeg 12 bits", _patched(whole, frame + 4, b"\x0c"), UNSUPPORTED
    yield "jpeg lossless", _patched(whole, frame + 1, b"\xc3"), UNSUPPORTED
    yield "jpeg arithmetic", _patched(whole, frame + 1, b"\xc9"), UNSUPPORTED
    yield "jpeg hierarchical", _patched(whole, frame + 1, b"\xc5"), UNSUPPORTED
    lie = b"\xff\xc0" + struct.pack(">HBHHB", 8, 8, 1, 1, 0)
    yield "jpeg two frames", whole[:2] + lie + whole[2:], TOO_LARGE
    scan = progressive.rindex(b"\xff\xda")
    scans = progressive[scan:-2] * 3000
    yield "jpeg three thousand scans", progressive[:scan] + scans + b"\xff\xd9", DAMAGED
    comments = b"\xff\xfe\0\2" * 400_000
    yield "jpeg empty comments", whole[:2] + comments + whole[2:], DAMAGED
    yield "jpeg segment beyond the end", whole[:4] + b"\xff\xff" + whole[6:40], DAMAGED
    yield (
        "jpeg exif of nonsense",
        encoded(PIXELS, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 500),
        FINE,
    )
    loop = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + bytes(12) + b"\x08\0\0\0"
    yield "jpeg exif in circles", encoded(PIXELS, "JPEG", exif=loop), FINE


def _webp() -> Iterator[tuple[str, bytes, Answer]]:
    whole = encoded(PIXELS, "WEBP", lossless=True)
    yield from _cuts_and_flips("webp", whole)
    yield "webp signature", whole[:12], DAMAGED
    yield "webp length of nothing", _patched(whole, 4, bytes(4)), DAMAGED
    yield "webp length of all", _patched(whole, 4, b"\xff\xff\xff\xff"), DAMAGED
    extended = b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\xff\xff" * 2
    yield "webp enormous canvas", b"RIFF" + struct.pack("<I", len(extended)) + extended, TOO_LARGE
    big = io.BytesIO()
    PIL.Image.new("RGB", (1001, 1000)).save(big, "WEBP")
    yield "webp over the limit", big.getvalue(), TOO_LARGE


def tiff_of(tags: dict[int, tuple[int, int, int]], rest: bytes = b"", following: int = 0) -> bytes:
    """Write a little-endian TIFF by hand: tag → (type, count, value), then `rest`."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0\x08\0\0\0" + directory + rest


def _strip(
    width: int, height: int, **other: tuple[int, int, int]
) -> dict[int, tuple[int, int, int]]:
    """Describe an uncompressed grey image of one strip behind the directory."""
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8 + 2 + 9 * 12 + 4),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height % 2**32),
    }
    return tags | {int(tag[1:]): entry for tag, entry in other.items()}


def tiff(bands: int = 3, dtype: str = "uint8", **profile: object) -> bytes:
    """Write a TIFF by GDAL."""
    with MemoryFile() as file:
        with file.open(
            driver="GTiff", height=37, width=53, count=bands, dtype=dtype, **profile
        ) as sink:
            sink.write(np.resize(np.moveaxis(PIXELS, 2, 0), (bands, 37, 53)).astype(dtype))
        return file.read()


def _tiff() -> Iterator[tuple[str, bytes, Answer]]:
    whole = tiff()
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"tiff cut at {share}", whole[: int(share * len(whole))], DAMAGED
    yield "tiff signature", whole[:4], DAMAGED
    yield "tiff header alone", whole[:8], DAMAGED
    yield "tiff directory beyond the end", b"II*\0\xff\xff\xff\x7f", DAMAGED
    yield "bigtiff directory beyond the end", b"II+\0\x08\0\0\0" + b"\xff" * 8, DAMAGED
    yield "tiff by hand", tiff_of(_strip(20, 20), bytes(400)), FINE
    yield "tiff no width", tiff_of(_strip(0, 20)), DAMAGED
    yield "tiff no height", tiff_of(_strip(20, 0)), DAMAGED
    yield "tiff enormous", tiff_of(_strip(60_000, 60_000)), TOO_LARGE
    yield "tiff as large as its numbers go", tiff_of(_strip(2**31 - 1, 2**31 - 1)), TOO_LARGE
    yield "tiff negative", tiff_of(_strip(2**32 - 1, 2**32 - 1)), DAMAGED
    yield "tiff over the limit by a row", tiff_of(_strip(1000, 1001)), TOO_LARGE
    yield "tiff without its strip", tiff_of(_strip(20, 20)), DAMAGED
    for name, number in (("no such", 9999), ("JPEG XL", 50002), ("JPEG 2000", 34712)):
        data = tiff_of(_strip(20, 20, t259=(3, 1, number)), bytes(400))
        yield f"tiff {name} compression", data, UNSUPPORTED
    yield "tiff no directory", tiff_of({}), DAMAGED
    yield "tiff in circles", tiff_of(_strip(20, 20), bytes(400), following=8), FINE
    page = tiff_of(_strip(20, 20))[8:-4]
    ends = range(8 + len(page) + 4, 4 * 10**6, len(page) + 4)
    pages = b"".join(page + struct.pack("<I", end) for end in ends)
    yield "tiff thirty thousand pages", b"II*\0\x08\0\0\0" + pages, UNSUPPORTED
    yield "tiff a count of all", tiff_of(_strip(20, 20, t258=(3, 2**31, 8)), bytes(400)), DAMAGED
    yield "tiff 300 bands", tiff(300), UNSUPPORTED
    for dtype in ("uint16", "int16", "float32"):
        yield f"tiff one band of {dtype}", tiff(1, dtype), UNSUPPORTED
        yield f"fine tiff {dtype}", tiff(3, dtype), FINE
    for dtype in ("int8", "uint32", "int64", "float64", "complex64"):
        yield f"tiff {dtype}", tiff(3, dtype), UNSUPPORTED
    finite = struct.pack("<f", float(PIXELS[0, 0, 0]))
    for name, other in (("nan", b"\0\0\xc0\x7f"), ("infinity", b"\0\0\x80\x7f")):
        yield f"fine tiff with {name}", tiff(3, "float32").replace(finite, other), FINE
    bomb = zlib.compress(bytes(50_000_000), 9)
    deflated = _strip(20, 20, t259=(3, 1, 8), t279=(4, 1, len(bomb)))
    yield "tiff deflate bomb", tiff_of(deflated, bomb), FINE
    wide = _strip(20, 20, t322=(4, 1, 2**20), t323=(4, 1, 2**20), t324=(4, 1, 122), t325=(4, 1, 9))
    yield "tiff of one enormous tile", tiff_of(wide), UNSUPPORTED
    yield "tiff pixels of no size", tiff(transform=Affine(0, 0, 5, 0, 0, 5)), FINE
    yield (
        "tiff pixels of NaN",
        tiff(crs="EPSG:3857", transform=Affine(float("nan"), 0, 5, 0, 1, 5)),
        FINE,
    )
    yield "tiff rotated", tiff(crs="EPSG:3857", transform=Affine(1, 0.5, 5, 0.5, -1, 5)), FINE
    yield (
        "tiff off the earth",
        tiff(crs="EPSG:4326", transform=Affine(90, 0, 500, 0, 90, 500)),
        FINE,
    )


VRT = """<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def _others() -> Iterator[tuple[str, bytes, Answer]]:
    for kind in ("GIF", "BMP", "PDF", "EPS", "JPEG2000", "PPM", "TGA", "ICO", "PCX"):
        yield f"other {kind}", encoded(PIXELS, kind), OTHER_FORMAT
    vrt = VRT.format("/etc/passwd").encode()
    yield "vrt", vrt, OTHER_FORMAT
    yield "vrt behind a byte order mark", b"\xef\xbb\xbf" + vrt, OTHER_FORMAT
    yield "vrt to the network", VRT.format("/vsicurl/http://127.0.0.1:1/x").encode(), OTHER_FORMAT
    yield "vrt as an address", b"vrt:///etc/passwd?bands=1", OTHER_FORMAT
    entity = b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'
    yield "svg with an entity", entity, OTHER_FORMAT
    yield "zip", _zip(), OTHER_FORMAT
    yield "gzip", gzip.compress(encoded(PIXELS)), OTHER_FORMAT
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(500), OTHER_FORMAT
    yield "fits", b"SIMPLE  =                    T" + b" " * 2850, OTHER_FORMAT
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500), OTHER_FORMAT
    yield "avif", b"\0\0\0\x1cftypavif" + bytes(500), OTHER_FORMAT
    yield "elf", b"\x7fELF" + bytes(500), OTHER_FORMAT
    yield "pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR.", OTHER_FORMAT
    yield "path", b"/etc/passwd", OTHER_FORMAT
    yield "address", b"http://127.0.0.1:1/x.png", OTHER_FORMAT
    yield "noise", np.random.default_rng(0).bytes(10_000), OTHER_FORMAT
    yield "zeros", bytes(10_000), OTHER_FORMAT
    yield "one byte", b"\x89", OTHER_FORMAT
    yield "nothing", b"", EMPTY


def _harmless() -> Iterator[tuple[str, bytes, Answer]]:
    """Make what looks odd and is right: refusing these would be a fault as well."""
    frames = [PIL.Image.fromarray(PIXELS), PIL.Image.fromarray(255 - PIXELS)]
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        yield f"fine animated {kind}", buffer.getvalue(), FINE
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield (
            f"fine png {mode}",
            _as(frames[0], mode, "PNG"),
            FINE,
        )
    yield "fine jpeg CMYK", _as(frames[0], "CMYK", "JPEG"), FINE
    yield "fine jpeg grey", _as(frames[0], "L", "JPEG"), FINE
    yield "fine jpeg progressive", encoded(PIXELS, "JPEG", progressive=True), FINE
    yield "fine png of one pixel", encoded(PIXELS[:1, :1]), FINE
    yield "fine png at the limit", encoded(np.zeros((1000, 1000, 3), np.uint8)), FINE
    yield "fine png long and thin", encoded(np.zeros((1, 100_000, 3), np.uint8)), FINE
    yield "fine tiff deflate", tiff(compress="deflate"), FINE
    yield "fine bigtiff", tiff(BIGTIFF="YES"), FINE
    exif = PIL.Image.Exif()
    exif[274] = 6
    yield "fine jpeg turned", encoded(PIXELS, "JPEG", exif=exif), FINE


def _as(picture: PIL.Image.Image, mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _flipped(data: bytes, at: int) -> bytes:
    return _patched(data, at, bytes([data[at] ^ 1]))


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.png", encoded(PIXELS))
    return buffer.getvalue()


def write(folder: Path) -> None:
    """Write each file under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files():
        (folder / file.name.replace(" ", "_").replace(",", "")).write_bytes(file.data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
