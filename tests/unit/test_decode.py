"""PNG, JPEG and WebP, and what is refused before a decoder sees it."""

import io
import re
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.errors import (
    DamagedImage,
    EmptyUpload,
    InputError,
    UnsupportedFormat,
    UnsupportedImage,
    UploadTooLarge,
)
from app.imaging.decode import decode_image
from app.imaging.image import Image

# pytest's own filters go before the one that app.imaging.gdal installs; the last test here runs
# without pytest's.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

LIMIT = 1_000_000
RNG = np.random.default_rng(7)
RGB: NDArray[np.uint8] = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def decode(data: bytes, max_pixels: int = LIMIT) -> Image:
    return decode_image(data, max_pixels=max_pixels)


def encode(
    pixels: NDArray[np.generic] | PIL.Image.Image, kind: str = "PNG", **options: object
) -> bytes:
    picture = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """Decode as Pillow alone would: shows that a file which we refuse is one that it accepts."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + zlib.crc32(kind + payload).to_bytes(4)


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    *between: bytes,
    interlace: int = 0,
) -> bytes:
    """Build a PNG by hand from filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *between,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def exif(orientation: int) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[274] = orientation
    return tags


# Format


def test_nothing_is_empty() -> None:
    with pytest.raises(EmptyUpload):
        decode(b"")


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (encode(RGB, "GIF"), "GIF"),
        (encode(RGB, "BMP"), "BMP"),
        (encode(RGB, "PDF"), "PDF"),
        (encode(RGB, "EPS"), "PostScript"),
        (encode(RGB, "JPEG2000"), "JPEG 2000"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"PK\x03\x04\x14\0", "ZIP"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        (b"\xef\xbb\xbf<!DOCTYPE html><p>", "HTML"),
        (b"<html lang=en>", "HTML"),
        (b"<?xml version='1.0'?>\n<!-- a -->\n<svg width='1'/>", "SVG"),
        (b" <svg/>", "SVG"),
        (b"<kml/>", "XML"),
        (b"<!--" * 300, "XML"),
        (b"vrt:///etc/passwd?bands=1", "VRT"),
        (b"hello", "is not an image of a known format"),
        (b"\x89PNG", "is not an image of a known format"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "is not an image of a known format"),
    ],
)
def test_other_formats_are_named_and_refused(data: bytes, looks: str) -> None:
    with pytest.raises(UnsupportedFormat) as refusal:
        decode(data)
    assert looks in str(refusal.value)
    assert "Give a PNG, JPEG, TIFF or WebP." in str(refusal.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF"])
def test_a_signature_alone_is_damaged(kind: str) -> None:
    with pytest.raises(DamagedImage):
        decode(encode(RGB, kind)[:12])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF"])
def test_one_pixel_too_many_is_too_large(kind: str) -> None:
    data = encode(RGB, kind)
    assert decode(data, max_pixels=37 * 53).pixels.shape == RGB.shape
    with pytest.raises(UploadTooLarge, match=r"53 x 37 = 0\.001961 megapixels.* 0\.00196 mega"):
        decode(data, max_pixels=37 * 53 - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF"])
@pytest.mark.parametrize("cut", [1, 2, 9, 30, 60, 0.5])
def test_a_file_that_stops_early_is_damaged(kind: str, cut: float) -> None:
    data = encode(RGB, kind)
    lost = int(cut * len(data)) if isinstance(cut, float) else cut
    with pytest.raises(DamagedImage):
        decode(data[:-lost])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP", "TIFF"])
def test_flipped_bytes_end_in_an_image_or_in_an_input_error(kind: str) -> None:
    data = encode(RGB[:8, :8], kind)
    outcomes: set[type] = set()
    messages: set[str] = set()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        try:
            outcomes.add(type(decode(bytes(broken))))
        except InputError as error:
            outcomes.add(type(error))
            messages.add(str(error))
    assert DamagedImage in outcomes
    assert not re.search(
        r"pil|gdal(?!_translate)|vsimem|lib|\.tif", " ".join(messages), re.IGNORECASE
    )


# PNG


@pytest.mark.parametrize("optimize", [False, True])
def test_png_pixels_are_exact(optimize: bool) -> None:
    image = decode(encode(RGB, optimize=optimize))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert (image.height, image.width) == (37, 53)
    assert (image.valid, image.georeference, image.notices) == (None, None, ())


def test_a_tall_png_is_converted_in_pieces() -> None:
    tall = RNG.integers(0, 256, (1200, 3, 4), dtype=np.uint8)
    image = decode(encode(tall))
    np.testing.assert_array_equal(image.pixels, tall[..., :3])
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, tall[..., 3] > 0)


def test_png_with_half_its_rows_is_damaged_though_its_stream_ends_cleanly() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in RGB)
    half = png(53, 37, 8, 2, rows[: 18 * (1 + 3 * 53)])
    assert not by_pillow(half)[18:].any()
    with pytest.raises(DamagedImage, match=r"2880 of 5920 bytes"):
        decode(half)
    np.testing.assert_array_equal(decode(png(53, 37, 8, 2, rows)).pixels, RGB)


def test_png_image_data_may_hold_more_than_the_picture() -> None:
    np.testing.assert_array_equal(
        decode(png(1, 1, 8, 2, b"\0\1\2\3" + b"x" * 99)).pixels, [[[1, 2, 3]]]
    )


def test_png_image_data_may_come_in_many_chunks() -> None:
    data = encode(RGB, compress_level=9)
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4])
    image_data = data[at + 8 : at + 8 + length]
    pieces = b"".join(chunk(b"IDAT", image_data[i : i + 7]) for i in range(0, length, 7))
    split = data[:at] + pieces + data[at + 12 + length :]
    np.testing.assert_array_equal(decode(split).pixels, RGB)


def test_png_with_much_behind_a_stream_that_ended_early_is_refused_in_no_time() -> None:
    behind = chunk(b"IDAT", bytes(60_000_000))
    data = png(9, 9, 8, 0, b"\0" * 10).replace(chunk(b"IEND", b""), behind + chunk(b"IEND", b""))
    start = time.thread_time()
    with pytest.raises(DamagedImage, match="10 of 90 bytes"):
        decode(data)
    assert time.thread_time() - start < 1


def test_png_image_data_is_checked_with_a_highly_compressible_picture() -> None:
    flat = np.zeros((1000, 1000, 3), np.uint8)
    np.testing.assert_array_equal(decode(encode(flat)).pixels, flat)


def test_png_without_its_end_chunk_is_damaged() -> None:
    data = encode(RGB)[:-12]
    by_pillow(data)
    with pytest.raises(DamagedImage, match="end chunk is missing"):
        decode(data)


def test_png_with_a_wrong_checksum_is_damaged() -> None:
    data = bytearray(encode(RGB))
    data[-13] ^= 1  # the last byte of the image data's checksum; the end chunk follows
    by_pillow(bytes(data))
    with pytest.raises(DamagedImage, match="wrong checksum in its IDAT"):
        decode(bytes(data))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (8, 8), (9, 17), (33, 10)])
@pytest.mark.parametrize("depth", [1, 8])
def test_interlaced_png_is_whole_or_damaged(size: tuple[int, int], depth: int) -> None:
    height, width = size
    filtered = 0  # Adam7, counted pixel by pixel rather than by formula
    for y0, x0, dy, dx in [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]:
        columns = len(range(x0, width, dx))
        if columns:
            filtered += len(range(y0, height, dy)) * (1 + (columns * depth + 7) // 8)
    white = bytes([0] * filtered)
    image = decode(png(width, height, depth, 0, white, interlace=1))
    np.testing.assert_array_equal(image.pixels, np.zeros((height, width, 3)))
    with pytest.raises(DamagedImage):
        decode(png(width, height, depth, 0, white[:-1], interlace=1))


def test_png_of_many_chunks_is_refused_in_no_time() -> None:
    flood = png(1, 1, 8, 0, b"\0\0", chunk(b"abCd", b"") * 1_000_000)
    start = time.thread_time()
    with pytest.raises(DamagedImage, match="chunks"):
        decode(flood)
    assert time.thread_time() - start < 1


def test_png_size_is_judged_before_its_image_data() -> None:
    with pytest.raises(UploadTooLarge, match="100000 x 100000 = 10000 megapixels"):
        decode(png(100_000, 100_000, 8, 2, b""))


@pytest.mark.parametrize(
    "header",
    [
        {"width": 0, "height": 5, "depth": 8, "colour": 2},
        {"width": 5, "height": 0, "depth": 8, "colour": 2},
        {"width": 5, "height": 5, "depth": 3, "colour": 0},
        {"width": 5, "height": 5, "depth": 4, "colour": 2},
        {"width": 5, "height": 5, "depth": 8, "colour": 5},
        {"width": 5, "height": 5, "depth": 8, "colour": 2, "interlace": 2},
        {"width": 5, "height": 5, "depth": 8, "colour": 3},  # no palette
    ],
)
def test_png_with_an_impossible_header_is_damaged(header: dict[str, int]) -> None:
    with pytest.raises(DamagedImage):
        decode(png(rows=bytes(5 * 16), **header))


def test_png_text_and_profile_bombs_never_reach_a_decoder() -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    data = png(
        *(1, 1, 8, 2, b"\0\1\2\3"),
        chunk(b"iCCP", b"p\0\0" + bomb),
        *[chunk(b"zTXt", b"t\0\0" + bomb)] * 100,
    )
    with pytest.raises(ValueError, match="too large"):
        by_pillow(data)
    np.testing.assert_array_equal(decode(data).pixels, [[[1, 2, 3]]])


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_unsupported(colour: int, samples: int) -> None:
    data = png(1, 1, 16, colour, bytes(1 + 2 * samples))
    by_pillow(data)
    with pytest.raises(UnsupportedImage, match=r"16 bits.*Rescale"):
        decode(data)


@pytest.mark.parametrize(("depth", "levels"), [(1, 2), (2, 4), (4, 16), (8, 256)])
def test_grey_png_of_any_depth_is_spread_over_0_to_255(depth: int, levels: int) -> None:
    values = np.arange(8)[None] * 37 % levels
    values[0, 0] = levels - 1
    bits = "".join(f"{value:0{depth}b}" for value in values[0])
    row = b"\0" + int(bits, 2).to_bytes(depth)
    image = decode(png(8, 1, depth, 0, row))
    expected = (values * 255 // (levels - 1)).astype(np.uint8)
    np.testing.assert_array_equal(image.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert [notice for notice in image.notices if "greyscale" in notice]

    transparent = chunk(b"tRNS", int(values[0, 0]).to_bytes(2))
    image = decode(png(8, 1, depth, 0, row, transparent))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, values != values[0, 0])


def test_rgb_png_with_a_transparent_colour() -> None:
    colour = chunk(b"tRNS", struct.pack(">HHH", *map(int, RGB[3, 4])))
    image = decode(png(53, 37, 8, 2, b"".join(b"\0" + row.tobytes() for row in RGB), colour))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, (RGB[3, 4] != RGB).any(axis=2))


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_alpha_0_is_invalid_and_no_alpha_changes_colours(kind: str) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:9], alpha[9:12], alpha[12] = 0, 1, 128
    rgba = np.dstack([RGB, alpha])
    image = decode(
        encode(rgba, kind, **({"lossless": True, "exact": True} if kind == "WebP" else {}))
    )
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, alpha > 0)


def test_alpha_without_a_transparent_pixel_leaves_no_mask() -> None:
    assert decode(encode(np.dstack([RGB, np.full_like(GREY, 1)]))).valid is None


def test_grey_with_alpha() -> None:
    image = decode(encode(np.dstack([GREY, RGB[..., 1] // 128])))
    np.testing.assert_array_equal(image.pixels, np.dstack([GREY] * 3))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, RGB[..., 1] >= 128)
    assert len(image.notices) == 1


@pytest.mark.parametrize("alphas", [None, bytes([255, 0, 255]), bytes([9, 0, 0])])
def test_palette_png_gets_its_colours(alphas: bytes | None) -> None:
    index = RNG.integers(0, 3, (5, 7), dtype=np.uint8)
    colours = np.array([[1, 2, 3], [40, 50, 60], [250, 0, 9]], np.uint8)
    picture = PIL.Image.fromarray(index, "L")
    picture.putpalette(colours.tobytes())
    options: dict[str, Any] = {} if alphas is None else {"transparency": alphas}
    image = decode(encode(picture, **options))
    np.testing.assert_array_equal(image.pixels, colours[index])
    assert image.notices == ()
    if alphas is None:
        assert image.valid is None
    else:
        assert image.valid is not None
        np.testing.assert_array_equal(image.valid, np.array(list(alphas))[index] > 0)


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_of_an_animation_the_first_frame_is_used(kind: str) -> None:
    frames = [PIL.Image.fromarray(RGB), PIL.Image.fromarray(255 - RGB)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.notices == ("The image is an animation of 2 frames: the first was used.",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP"])
@pytest.mark.parametrize("turned", [1, 6])
def test_exif_orientation_is_told_and_not_applied(kind: str, turned: int) -> None:
    data = encode(RGB, kind, exif=exif(turned))
    image = decode(data)
    assert image.pixels.shape == RGB.shape
    assert any("orientation 6 was not applied" in notice for notice in image.notices) == (
        turned != 1
    )
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.getexif()[274] == turned


# JPEG


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_pixels_are_pillows(options: dict[str, object], mode: str) -> None:
    data = encode(PIL.Image.fromarray(RGB).convert(mode), "JPEG", **options)
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, by_pillow(data))
    assert len(image.notices) == (mode == "L")


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (700, 900)])
def test_jpeg_of_any_size_passes_the_check_of_its_scans(size: tuple[int, int]) -> None:
    data = encode(RNG.integers(0, 256, (*size, 3), dtype=np.uint8), "JPEG")
    np.testing.assert_array_equal(decode(data).pixels, by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (700, 900)])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_jpeg_cut_and_closed_again_is_damaged(
    size: tuple[int, int], share: float, progressive: bool
) -> None:
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    data = encode(pixels, "JPEG", progressive=progressive)
    scan = data.index(b"\xff\xda")
    closed = data[: scan + int(share * (len(data) - scan))] + b"\xff\xd9"
    by_pillow(closed)
    with pytest.raises(DamagedImage, match="missing or corrupt"):
        decode(closed)


def test_jpeg_that_lacks_a_few_bytes_of_its_last_row_is_damaged() -> None:
    data = encode(RGB[:17, :17], "JPEG", subsampling=0)
    closed = data[:-12] + data[-2:]
    by_pillow(closed)
    with pytest.raises(DamagedImage, match="missing or corrupt"):
        decode(closed)


def test_jpeg_without_its_end_marker_is_damaged() -> None:
    with pytest.raises(DamagedImage, match="cut short"):
        decode(encode(RGB, "JPEG")[:-2])


def test_what_follows_a_jpeg_is_ignored() -> None:
    data = encode(RGB, "JPEG")
    image = decode(data + encode(255 - RGB, "JPEG")[:-50])
    np.testing.assert_array_equal(image.pixels, by_pillow(data))


def test_cmyk_jpeg_is_converted() -> None:
    data = encode(PIL.Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=100)
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, by_pillow(data))
    assert any("CMYK" in notice for notice in image.notices)


def test_jpeg_of_many_segments_is_refused_in_no_time() -> None:
    data = encode(RGB, "JPEG")
    start = time.thread_time()
    with pytest.raises(DamagedImage):
        decode(data[:2] + b"\xff\xfe\0\2" * 2_000_000 + data[2:])
    assert time.thread_time() - start < 1


def test_jpeg_of_many_scans_is_damaged() -> None:
    data = encode(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    by_pillow(data[:-2] + scan * 100 + data[-2:])
    with pytest.raises(DamagedImage, match="scans"):
        decode(data[:-2] + scan * 100 + data[-2:])


@pytest.mark.parametrize(
    ("marker", "precision", "message"),
    [(0xC0, 12, "12 bits"), (0xC3, 8, "lossless"), (0xC9, 8, "arithmetic")],
)
def test_exotic_jpeg_is_unsupported(marker: int, precision: int, message: str) -> None:
    data = bytearray(encode(RGB, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = marker, precision
    with pytest.raises(UnsupportedImage, match=message):
        decode(bytes(data))


def test_jpeg_size_is_judged_before_its_scans() -> None:
    data = bytearray(encode(RGB, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(UploadTooLarge, match="65535 x 65535"):
        decode(bytes(data))
    data[frame + 5 : frame + 9] = b"\0\0\0\5"
    with pytest.raises(DamagedImage, match="no pixels"):
        decode(bytes(data))


def test_corrupt_metadata_is_no_damage() -> None:
    data = encode(RGB, "JPEG")
    odd = b"".join(
        b"\xff\xe1" + (len(body) + 2).to_bytes(2) + body
        for body in (
            b"Exif\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        )
    )
    np.testing.assert_array_equal(decode(data[:2] + odd + data[2:]).pixels, by_pillow(data))


# All


def test_size_limits_are_ours_and_pillow_says_nothing() -> None:
    side = 9_600  # 92 megapixels, where Pillow's own limit warns; the filter here makes that raise
    data = png(side, side, 1, 0, bytes(side * (1 + side // 8)))
    with pytest.raises(PIL.Image.DecompressionBombWarning):
        PIL.Image.open(io.BytesIO(data))
    image = decode(data, max_pixels=side * side)
    assert image.pixels.shape == (side, side, 3)


def test_decoding_in_threads_gives_what_decoding_alone_gives() -> None:
    files = [encode(RGB, kind) for kind in ("PNG", "JPEG", "WebP", "TIFF")]
    alone = [decode(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda data: decode(data).pixels, files * 25)
        for number, pixels in enumerate(together):
            np.testing.assert_array_equal(pixels, alone[number % len(files)])


def test_no_warning_leaves_the_decoders() -> None:
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from app.imaging.decode import decode_image
files = [bytes.fromhex(line) for line in sys.stdin]
with ThreadPoolExecutor(4) as pool:
    print(len(list(pool.map(lambda data: decode_image(data, max_pixels=10**6), files * 10))))
"""
    files = [encode(RGB[:4, :4], kind) for kind in ("PNG", "JPEG", "WebP", "TIFF")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input="\n".join(data.hex() for data in files),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("40\n", "", 0)
