"""How many pixels a file announces: what decoding then finds, or the most that is allowed."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from app.errors import UploadTooLarge
from app.imaging.decode import decode_image
from app.imaging.header import announced_pixels
from tests.factories import scene
from tests.serving import encoded

LIMIT = 1_000_000


def tiff(height: int, width: int, **profile: object) -> bytes:
    """Write a TIFF by GDAL."""
    with MemoryFile() as file:
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", **profile}
        with file.open(height=height, width=width, **profile) as sink:
            sink.write(np.moveaxis(scene(height, width), 2, 0))
        return file.read()


def alpha(height: int, width: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.zeros((height, width, 4), np.uint8))


def saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "png": encoded(scene(31, 47)),
    "jpeg": encoded(scene(31, 47), "JPEG"),
    "progressive": encoded(scene(31, 47), "JPEG", progressive=True),
    "exif": encoded(scene(31, 47), "JPEG", exif=b"Exif\0\0" + bytes(3000)),
    "webp lossy": encoded(scene(31, 47), "WEBP"),
    "webp lossless": encoded(scene(31, 47), "WEBP", lossless=True),
    "webp alpha": saved(alpha(31, 47), "WEBP"),
    "tiff": tiff(31, 47),
    "bigtiff": tiff(31, 47, BIGTIFF="YES"),
    "bigendian": tiff(31, 47, ENDIANNESS="BIG"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=list(FILES))
def test_it_is_what_decoding_finds(data: bytes) -> None:
    image = decode_image(data, max_pixels=LIMIT)
    assert (image.height, image.width) == (31, 47)
    assert announced_pixels(data, LIMIT) == 31 * 47
    assert announced_pixels(data, 1000) == 1000


@pytest.mark.parametrize("data", [b"", b"?", *(f[:9] for f in FILES.values()), b"II*\0" + bytes(9)])
def test_the_most_that_is_allowed_where_it_is_not_said(data: bytes) -> None:
    assert announced_pixels(data, LIMIT) == LIMIT


def test_a_file_that_says_two_things_is_refused() -> None:
    """The first frame header announces a pixel; the picture has more."""
    data = FILES["jpeg"]
    lie = b"\xff\xc0" + struct.pack(">HBHHB", 8, 8, 1, 1, 0)
    both = data[:2] + lie + data[2:]
    assert announced_pixels(both, LIMIT) == 1
    with pytest.raises(UploadTooLarge):
        decode_image(both, max_pixels=announced_pixels(both, LIMIT))


@given(st.sampled_from(sorted(FILES)), st.integers(0, 10_000), st.integers(0, 255))
def test_it_never_raises(name: str, at: int, value: int) -> None:
    data = bytearray(FILES[name])
    data[at % len(data)] = value
    for file in (bytes(data), bytes(data[: at % len(data)])):
        assert 0 <= announced_pixels(file, LIMIT) <= LIMIT
