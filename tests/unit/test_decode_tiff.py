"""TIFF and GeoTIFF."""

import io
import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from app.errors import DamagedImage, UnsupportedFormat, UnsupportedImage, UploadTooLarge
from app.imaging.decode import decode_image
from app.imaging.gdal import open_in_memory
from app.imaging.image import Image
from tests.geotiff import tiff

# For the builders here; and see test_decode.py.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

LIMIT = 1_000_000
RNG = np.random.default_rng(11)
BANDS: NDArray[np.uint8] = RNG.integers(1, 256, (8, 300, 290), dtype=np.uint8)
RGB = BANDS[:3].transpose(1, 2, 0)
UTM = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)


def decode(data: bytes, max_pixels: int = LIMIT) -> Image:
    return decode_image(data, max_pixels=max_pixels)


def directory(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def grey_directory(
    width: int = 1, height: int = 1, samples: int = 1, *extra: tuple[int, int, int, int]
) -> tuple[tuple[int, int, int, int], ...]:
    return (
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, 1, width * height * samples),
        *extra,
    )


# Layouts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compress": "deflate", "predictor": 2},
        {"compress": "lzw", "interleave": "band"},
        {"compress": "zstd"},
        {"tiled": True, "blockxsize": 64, "blockysize": 64},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG"},
        {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
        {"driver": "COG", "compress": "deflate", "blocksize": 128},
    ],
)
def test_pixels_are_exact_in_every_layout(options: dict[str, str]) -> None:
    image = decode(tiff(BANDS[:3], **options))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert (image.valid, image.georeference) == (None, None)


@pytest.mark.parametrize(
    "options",
    [{}, {"compress": "deflate"}, {"tiled": True, "blockxsize": 64, "blockysize": 64}],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_blocks_beyond_the_end_of_the_file_are_damage(
    options: dict[str, Any], share: float
) -> None:
    data = tiff(BANDS[:3], "COG") if not options else tiff(BANDS[:3], **options)
    with pytest.raises(DamagedImage):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_blocks_never_written_are_invalid(interleave: str) -> None:
    with MemoryFile() as file:
        with file.open(
            driver="GTiff",
            count=3,
            height=300,
            width=290,
            dtype="uint8",
            tiled=True,
            blockxsize=64,
            blockysize=64,
            interleave=interleave,
            SPARSE_OK=True,
        ) as dataset:
            dataset.write(BANDS[:3, 64:300, 128:290], window=((64, 300), (128, 290)))
        data = bytes(file.getbuffer())
    written = np.zeros((300, 290), bool)
    written[64:, 128:] = True
    image = decode(data)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, written)
    np.testing.assert_array_equal(image.pixels[written], RGB[written])
    assert any("never written" in notice for notice in image.notices)


def test_a_block_that_one_band_lacks_is_invalid() -> None:
    shape = {"count": 3, "height": 32, "width": 48, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "band"}
    with MemoryFile() as file:
        with file.open(driver="GTiff", **shape, **tiles, SPARSE_OK=True) as dataset:
            dataset.write(BANDS[[0, 2], :32, :48], indexes=[1, 3])
            dataset.write(BANDS[1, :32, :16], indexes=2, window=((0, 32), (0, 16)))
        image = decode(bytes(file.getbuffer()))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, np.broadcast_to(np.arange(48) < 16, (32, 48)))


def test_jpeg_in_tiff_becomes_rgb() -> None:
    smooth = np.broadcast_to(np.array([200, 90, 30], np.uint8)[:, None, None], (3, 64, 64))
    image = decode(tiff(smooth, compress="jpeg", photometric="ycbcr", tiled=True))
    np.testing.assert_allclose(image.pixels, smooth.transpose(1, 2, 0), atol=3)


# Bands


def test_one_band_is_grey() -> None:
    image = decode(tiff(BANDS[:1]))
    np.testing.assert_array_equal(image.pixels, np.repeat(BANDS[0][..., None], 3, axis=2))
    assert [notice for notice in image.notices if "greyscale" in notice]


def test_white_may_be_zero() -> None:
    image = decode(tiff(BANDS[:1], photometric="miniswhite"))
    np.testing.assert_array_equal(image.pixels[..., 1], 255 - BANDS[0])


@pytest.mark.parametrize("count", [2, 4])
def test_alpha_0_is_invalid_and_partial_alpha_is_not(count: int) -> None:
    bands = BANDS[:count].copy()
    bands[-1] = 255
    bands[-1, :50], bands[-1, 50:60] = 0, 1
    meanings = [ColorInterp.gray] if count == 2 else list(ColorInterp)[3:6]
    data = tiff(bands, alpha="yes", colorinterp=[*meanings, ColorInterp.alpha])
    image = decode(data)
    np.testing.assert_array_equal(
        image.pixels, np.broadcast_to(bands[:-1].transpose(1, 2, 0), (300, 290, 3))
    )
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, bands[-1] > 0)
    assert len(image.notices) == (count == 2)


def test_a_fourth_band_that_is_not_alpha_is_ignored() -> None:
    bands = BANDS[:4].copy()
    bands[3] = 0
    image = decode(tiff(bands, photometric="rgb"))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.valid is None
    assert image.notices == (
        "Band 4 (undefined) is neither red, green, blue nor alpha: it was ignored.",
    )


def test_unnamed_bands_are_taken_in_order() -> None:
    image = decode(tiff(BANDS[:3], photometric="minisblack"))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.notices == ("The TIFF does not name its bands: the first three were used as RGB.",)


def test_red_green_and_blue_are_found_among_many() -> None:
    meanings = [ColorInterp.undefined] * 8
    meanings[4], meanings[2], meanings[1] = ColorInterp.red, ColorInterp.green, ColorInterp.blue
    with MemoryFile() as file:  # GDAL keeps such an order in its own metadata
        with file.open(
            driver="GTiff", count=8, height=300, width=290, dtype="uint8", photometric="minisblack"
        ) as dataset:
            dataset.write(BANDS)
            dataset.colorinterp = meanings
        data = bytes(file.getbuffer())
    with open_in_memory(data, "GTiff") as source:
        assert list(source.colorinterp) == meanings
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, BANDS[[4, 2, 1]].transpose(1, 2, 0))
    assert len(image.notices) == 5


@pytest.mark.parametrize("count", [2, 5, 8])
def test_bands_that_cannot_be_told_apart_are_unsupported(count: int) -> None:
    with pytest.raises(UnsupportedImage, match="Expected are red, green and blue"):
        decode(tiff(BANDS[:count], photometric="minisblack"))


def test_palette_gets_its_colours() -> None:
    colours = {0: (9, 8, 7, 255), 1: (250, 120, 3, 255), 2: (0, 0, 40, 255)}
    index = RNG.integers(0, 3, (1, 1300, 9), dtype=np.uint8)
    image = decode(tiff(index, photometric="palette", colormap=colours))
    expected = np.array([colours[i][:3] for i in range(3)], np.uint8)[index[0]]
    np.testing.assert_array_equal(image.pixels, expected)
    [notice] = image.notices
    assert "uses 3 colours" in notice


def test_cmyk_is_converted() -> None:
    picture = PIL.Image.fromarray(RGB).convert("CMYK")
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    image = decode(buffer.getvalue())
    np.testing.assert_allclose(image.pixels, np.asarray(picture.convert("RGB")), atol=1)
    assert image.valid is None
    assert any("CMYK" in notice for notice in image.notices)


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "float64", "complex64"])
def test_other_samples_are_unsupported(dtype: str) -> None:
    with pytest.raises(UnsupportedImage, match=rf"{dtype}; uint8, uint16, int16 or float32 is"):
        decode(tiff(np.zeros((3, 4, 4), dtype)))


def test_fewer_than_8_bits_are_unsupported() -> None:
    with pytest.raises(UnsupportedImage, match="4 bits a sample"):
        decode(tiff(BANDS[:1] // 16, nbits=4))


# Validity


def test_a_pixel_is_nodata_when_all_its_colours_are() -> None:
    bands = BANDS[:4].copy()  # the fourth is never 0, and must not make a pixel valid
    bands[:3, :20] = 0
    bands[0, 30:40] = 0
    image = decode(tiff(bands, nodata=0, photometric="rgb"))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, bands[:3].any(axis=0))
    assert not image.valid[:20].any()
    assert image.valid[20:].all()


def test_an_internal_mask_is_kept() -> None:
    mask = RNG.integers(0, 2, (300, 290)).astype(bool)
    image = decode(tiff(BANDS[:3], mask=mask))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, mask)
    assert image.notices == ()


# Georeference


def test_a_small_picture_may_lie_in_one_large_tile() -> None:
    """As the service decodes it: a picture is promised memory by what its header announces."""
    pixels = np.arange(3 * 12 * 20, dtype=np.uint8).reshape(3, 12, 20)
    data = tiff(pixels, tiled=True, blockxsize=512, blockysize=512, photometric="rgb")
    image = decode_image(data, max_pixels=12 * 20)
    np.testing.assert_array_equal(image.pixels, np.moveaxis(pixels, 0, 2))


def test_georeference_is_carried() -> None:
    image = decode(tiff(BANDS[:3], crs="EPSG:32633", transform=UTM))
    assert image.georeference is not None
    assert image.georeference.transform == (0.5, 0, 500_000, 0, -0.5, 4_000_000)
    assert image.georeference.crs is not None
    assert "UTM zone 33N" in image.georeference.crs


def test_a_transform_without_a_system_and_a_rotated_one() -> None:
    turned = Affine(0.3, 0.4, 10, 0.4, -0.3, 20)
    image = decode(tiff(BANDS[:3], transform=turned))
    assert image.georeference is not None
    assert image.georeference.crs is None
    assert image.georeference.transform == pytest.approx(tuple(turned)[:6])


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_a_georeference_without_a_usable_transform_is_no_grid_and_a_notice(scale: float) -> None:
    data = tiff(BANDS[:3], crs="EPSG:32633", transform=UTM)
    pixel_scale = struct.pack("<ddd", 0.5, 0.5, 0)
    assert data.count(pixel_scale) == 1
    image = decode(data.replace(pixel_scale, struct.pack("<ddd", scale, scale, 0)))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.georeference is not None
    assert not image.georeference.has_grid
    assert image.gsd is None
    assert image.notices == ("The TIFF's georeference has no usable transform: it was ignored.",)


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        # On the central meridian, where UTM's scale is 0.9996.
        ("EPSG:32633", UTM, (0.5 / 0.9996, 0.5 / 0.9996)),
        ("EPSG:32633", Affine(0.3, 0.4, 5e5, 0.4, -0.3, 4e6), (0.5 / 0.9996, 0.5 / 0.9996)),
        ("EPSG:32633", Affine(0.5, 0, 5e5, 0, -2.0, 4e6), (2 / 0.9996, 0.5 / 0.9996)),
        # A minute of latitude is 1852 m or so, of longitude half of that at 60 degrees.
        ("EPSG:4326", Affine(1e-5 / 6, 0, 10, 0, -1e-5 / 6, 60), (0.1857, 0.0930)),
        ("EPSG:3857", Affine(1, 0, 0, 0, -1, 8_399_738), (0.5004, 0.5013)),
        # Feet.
        ("EPSG:2263", Affine(1, 0, 980_000, 0, -1, 200_000), (0.3048, 0.3048)),
    ],
)
def test_gsd_is_in_metres_on_the_ground(
    crs: str, transform: Affine, expected: tuple[float, float]
) -> None:
    image = decode(tiff(BANDS[:3], crs=crs, transform=transform))
    assert image.gsd == pytest.approx(expected, rel=2e-3)
    assert image.notices == ()


@pytest.mark.parametrize(
    "options",
    [
        {"transform": UTM},  # of which system?
        {"crs": "EPSG:4326", "transform": UTM},  # nowhere on earth
    ],
)
def test_a_georeference_that_does_not_tell_the_gsd_is_noticed(options: dict[str, Any]) -> None:
    image = decode(tiff(BANDS[:3], **options))
    assert image.gsd is None
    assert image.notices == (
        "The TIFF's georeference does not tell its GSD: give gsd= in metres per pixel.",
    )


def test_an_image_without_georeference_has_no_gsd() -> None:
    assert decode(tiff(BANDS[:3])).gsd is None


# Pages


def test_of_several_pages_the_first_is_used() -> None:
    buffer = io.BytesIO()
    pages = [PIL.Image.fromarray(RGB), PIL.Image.fromarray(255 - RGB)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    image = decode(buffer.getvalue())
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.notices == ("The TIFF has 2 pages: the first was used.",)


def test_overviews_are_no_pages() -> None:
    data = tiff(RNG.integers(0, 256, (3, 900, 900), dtype=np.uint8), "COG", blocksize=128)
    with open_in_memory(data, "GTiff") as source:
        assert source.overviews(1)
    assert not any("page" in notice for notice in decode(data).notices)


def test_a_loop_of_directories_ends() -> None:
    page = directory(*grey_directory(), following=8)
    assert decode(b"II*\0\x08\0\0\0" + page).pixels.shape == (1, 1, 3)


def test_too_many_directories_are_refused_in_no_time() -> None:
    size = len(directory(*grey_directory()))
    pages = (directory(*grey_directory(), following=8 + (n + 1) * size) for n in range(65_000))
    data = b"II*\0\x08\0\0\0" + b"".join(pages)
    start = time.thread_time()
    with pytest.raises(UnsupportedImage, match="pages"):
        decode(data)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize("turned", [1, 6])
def test_orientation_is_told_and_not_applied(turned: int) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(RGB).save(buffer, "TIFF", tiffinfo={274: turned})
    image = decode(buffer.getvalue())
    np.testing.assert_array_equal(image.pixels, RGB)
    assert any("orientation 6" in notice for notice in image.notices) == (turned == 6)


# Hostile


@pytest.mark.parametrize("side", [100_000, 2**31 - 1])
def test_size_is_judged_before_pixels(side: int) -> None:
    data = b"II*\0\x08\0\0\0" + directory(*grey_directory(side, side)[:-1], (279, 4, 1, 9))
    with pytest.raises(UploadTooLarge):
        decode(data)


def test_a_tiny_picture_in_a_giant_tile_is_refused() -> None:
    entries = [entry for entry in grey_directory() if entry[0] not in (273, 278, 279)]
    tile = [(322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 100)]
    with pytest.raises(UnsupportedImage, match="blocks of 40000 x 40000"):
        decode(b"II*\0\x08\0\0\0" + directory(*entries, *tile) + bytes(200))


def test_thousands_of_bands_are_refused_in_no_time() -> None:
    data = b"II*\0\x08\0\0\0" + directory(*grey_directory(samples=30_000)) + bytes(30_000)
    start = time.thread_time()
    with pytest.raises(UnsupportedImage, match="30000 bands"):
        decode(data)
    assert time.thread_time() - start < 1


def test_a_million_one_pixel_blocks_are_refused() -> None:
    count = 600_000
    entries = {entry[0]: entry for entry in grey_directory(1, count)}
    end = 8 + len(directory(*entries.values()))
    entries |= {
        278: (278, 4, 1, 1),
        273: (273, 4, count, end),
        279: (279, 4, count, end + 4 * count),
    }
    data = b"II*\0\x08\0\0\0" + directory(*entries.values()) + bytes(8 * count)
    with pytest.raises(UnsupportedImage, match="600000 blocks"):
        decode(data)


VRT = """<VRTDataset rasterXSize="290" rasterYSize="300">
<VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.tif"
    path.write_bytes(tiff(BANDS[:1]))
    return path


@pytest.mark.parametrize("prolog", ["", "\n ", "<?xml version='1.0'?>", "<!-- II*\0 -->"])
def test_a_vrt_reads_nothing(secret: Path, prolog: str) -> None:
    vrt = (prolog + VRT.format(source=secret)).encode()
    with pytest.raises(UnsupportedFormat, match="VRT"):
        decode(vrt)


def test_a_vrt_behind_a_tiff_signature_reads_nothing(secret: Path) -> None:
    for signature in (b"II*\0", b"MM\0*", b"II+\0"):
        with pytest.raises(DamagedImage):
            decode(signature + VRT.format(source=secret).encode())


def test_only_the_named_driver_is_asked(secret: Path) -> None:
    """The second wall: were `sniff` to let it pass, the TIFF driver would still refuse it."""
    vrt = VRT.format(source=secret).encode()
    with pytest.raises(rasterio.errors.RasterioIOError), open_in_memory(vrt, "GTiff"):
        pass


def test_a_tiff_that_names_remote_overviews_makes_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        remote = f"/vsicurl/http://127.0.0.1:{server.getsockname()[1]}/a.tif"
        with MemoryFile() as file:
            with file.open(driver="GTiff", count=3, height=300, width=290, dtype="uint8") as out:
                out.write(BANDS[:3])
                out.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=remote)
            data = bytes(file.getbuffer())
        assert remote.encode() in data
        np.testing.assert_array_equal(decode(data).pixels, RGB)
        # We ask for no overviews. Were they asked for, it would be in vain.
        with open_in_memory(data, "GTiff", GDAL_HTTP_TIMEOUT="1") as source:
            assert source.overviews(1) == []
        with pytest.raises(TimeoutError):
            server.accept()
