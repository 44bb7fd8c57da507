"""Which bands are the picture: as the client says, the file says, or a notice tells."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from app.errors import InvalidOption, UnsupportedImage
from app.imaging.choices import parse_rgb
from app.imaging.decode import decode_image
from app.imaging.image import Image
from tests.hostile.corpus import tiff_of
from tests.serving import encoded

RNG = np.random.default_rng(3)
BANDS: NDArray[np.uint8] = RNG.integers(1, 256, (8, 70, 60), dtype=np.uint8)


def tiff(
    bands: NDArray[np.generic],
    descriptions: tuple[str, ...] = (),
    meanings: list[ColorInterp] | None = None,
    **profile: object,
) -> bytes:
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with MemoryFile() as file:
        with file.open(driver="GTiff", **shape, **profile) as dataset:
            dataset.write(bands)
            if descriptions:
                dataset.descriptions = descriptions
            if meanings:
                dataset.colorinterp = meanings
        return bytes(file.getbuffer())


def decode(data: bytes, rgb: tuple[int, int, int] | None = None) -> Image:
    return decode_image(data, max_pixels=10**6, rgb=rgb, rescale=((0, 255), (0, 255), (0, 255)))


def picture(*bands: int) -> NDArray[np.uint8]:
    return np.stack([BANDS[band - 1] for band in bands], axis=-1)


@pytest.mark.parametrize(
    ("descriptions", "bands"),
    [
        (("blue", "green", "red", "nir"), (3, 2, 1)),
        (("Blue", "Green", "Red"), (3, 2, 1)),
        (("B", "G", "R"), (3, 2, 1)),
        (("red", "green", "blue", "nir"), (1, 2, 3)),
        (("nir", "red", "green", "blue"), (2, 3, 4)),
        (("B02 blue 490 nm", "B03 green 560 nm", "B04 red 665 nm", "B08 NIR"), (3, 2, 1)),
        (
            ("coastal blue", "blue", "green_i", "green", "yellow", "red", "red edge", "nir"),
            (6, 4, 2),
        ),
        (("Near Infra-Red", "sr_band_red", "sr_band_green", "sr_band_blue", "rededge"), (2, 3, 4)),
    ],
)
def test_bands_are_found_by_their_descriptions(
    descriptions: tuple[str, ...], bands: tuple[int, ...]
) -> None:
    data = tiff(BANDS[: len(descriptions)], descriptions, photometric="minisblack")
    image = decode(data)
    np.testing.assert_array_equal(image.pixels, picture(*bands))
    if bands != (1, 2, 3):
        assert any("as they are described" in notice for notice in image.notices)


@pytest.mark.parametrize(
    "descriptions",
    [
        ("nir", "red", "green"),
        ("near infrared", "band 2", "band 3"),
        ("red edge", "green", "blue"),
        ("swir", "nir", "red", "green"),
        ("red", "red", "blue"),
    ],
)
def test_bands_described_as_others_are_refused(descriptions: tuple[str, ...]) -> None:
    data = tiff(BANDS[: len(descriptions)], descriptions, photometric="minisblack")
    with pytest.raises(UnsupportedImage, match=f"'{descriptions[0]}'.*rgb=3,2,1"):
        decode(data)
    np.testing.assert_array_equal(decode(data, (1, 2, 3)).pixels, picture(1, 2, 3))


def test_descriptions_that_name_no_colour_are_told() -> None:
    image = decode(tiff(BANDS[:3], ("B2", "B3", "B\r\n4"), photometric="minisblack"))
    np.testing.assert_array_equal(image.pixels, picture(1, 2, 3))
    [notice] = image.notices
    assert r"('B2', 'B3', 'B\r\n4')" in notice
    assert notice.isascii()
    assert "rgb=3,2,1" in notice


def test_an_interpretation_that_contradicts_descriptions_is_told() -> None:
    image = decode(tiff(BANDS[:3], ("blue", "green", "red"), photometric="rgb"))
    np.testing.assert_array_equal(image.pixels, picture(1, 2, 3))
    [notice] = image.notices
    assert "rgb=3,2,1 takes" in notice


def test_interpretations_of_newer_gdal_are_known() -> None:
    meanings = [ColorInterp.nir, ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    image = decode(tiff(BANDS[:4], meanings=meanings, photometric="minisblack"))
    np.testing.assert_array_equal(image.pixels, picture(2, 3, 4))
    with pytest.raises(UnsupportedImage, match="nir, red, green"):
        decode(tiff(BANDS[:3], meanings=meanings[:3], photometric="minisblack"))


class TestRgb:
    def test_it_is_read(self) -> None:
        assert parse_rgb("3,2,1") == (3, 2, 1)

    @pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "0,1,2", "-1,2,3", "a,b,c", "1.0,2,3"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidOption, match="such as 3,2,1"):
            parse_rgb(text)

    @pytest.mark.parametrize("bands", [(3, 2, 1), (8, 1, 1), (5, 4, 3)])
    def test_bands_of_a_tiff(self, bands: tuple[int, int, int]) -> None:
        image = decode(tiff(BANDS, photometric="minisblack"), bands)
        np.testing.assert_array_equal(image.pixels, picture(*bands))
        assert image.notices == ()

    def test_a_single_band_thrice(self) -> None:
        place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 5e5, 0, -1, 4e6)}
        image = decode(tiff(BANDS[:1], **place), (1, 1, 1))
        np.testing.assert_array_equal(image.pixels, picture(1, 1, 1))

    def test_alpha_that_is_meant_as_a_colour_hides_nothing(self) -> None:
        bands = BANDS[:4].copy()
        bands[3, :30] = 0
        data = tiff(bands, photometric="rgb", alpha="yes")
        assert decode(data).valid is not None
        image = decode(data, (4, 1, 2))
        assert image.valid is None
        np.testing.assert_array_equal(image.pixels[..., 0], bands[3])

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_of_a_picture(self, kind: str) -> None:
        data = encoded(picture(1, 2, 3), kind, **({"lossless": True} if kind == "WEBP" else {}))
        np.testing.assert_array_equal(decode(data, (3, 2, 1)).pixels, picture(3, 2, 1))

    @pytest.mark.parametrize(
        "data", [encoded(picture(1, 2, 3)), tiff(BANDS[:3], photometric="rgb")]
    )
    def test_a_band_that_is_not_there(self, data: bytes) -> None:
        with pytest.raises(InvalidOption, match="rgb names band 4; the image has bands 1 to 3"):
            decode(data, (4, 1, 2))


class TestAlpha:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_near_infrared_that_is_called_alpha_is_told(self, kind: str, dtype: str) -> None:
        bands = BANDS[:4].astype(dtype)
        bands[3, :7] = 0  # 10 % of water
        if kind == "PNG" and dtype == "uint8":
            buffer = io.BytesIO()
            PIL.Image.fromarray(np.moveaxis(bands, 0, 2)).save(buffer, "PNG")
            data = buffer.getvalue()
        else:
            data = tiff(bands, photometric="rgb", alpha="yes")
        notices = decode(data).notices
        [notice] = [notice for notice in notices if "near infrared" in notice]
        assert "10.00%" in notice

    @pytest.mark.parametrize("edge", [0, 6])
    def test_alpha_is_not(self, edge: int) -> None:
        bands = BANDS[:4].copy()
        bands[3] = 255
        bands[3, :20] = 0
        bands[3, 20 : 20 + edge] = RNG.integers(1, 255, (edge, 60))
        image = decode(tiff(bands, photometric="rgb", alpha="yes"))
        assert image.valid is not None
        assert image.notices == ()


@pytest.mark.parametrize(("colours", "told"), [(11, True), (200, False)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_palette_of_classes_is_told(colours: int, told: bool, kind: str) -> None:
    index = RNG.integers(0, colours, (90, 90), dtype=np.uint8)
    picture = PIL.Image.fromarray(index, "P")
    picture.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    notices = [notice for notice in decode(buffer.getvalue()).notices if "land cover" in notice]
    assert len(notices) == told


class TestPreviews:
    def pages(self, *kinds: tuple[int, int]) -> bytes:
        """Make pages of (NewSubfileType, side)."""
        data = b"II*\0\x08\0\0\0"
        for kind, side in kinds:
            following = len(data) + 2 + 10 * 12 + 4 + side * side
            page = strip(side, len(data), following if (kind, side) != kinds[-1] else 0)
            data += page.replace(
                struct.pack("<HHII", 254, 4, 1, 0), struct.pack("<HHII", 254, 4, 1, kind)
            )
        return data

    def test_a_preview_that_comes_first_is_refused(self) -> None:
        data = self.pages((1, 20), (0, 80))
        with pytest.raises(
            UnsupportedImage, match=r"20 x 20, is a preview .*80 x 80.*GTIFF_DIR:off"
        ):
            decode(data)

    def test_what_is_smaller_and_comes_later_is_not(self) -> None:
        assert decode(self.pages((0, 80), (1, 40))).pixels.shape == (80, 80, 3)

    def test_alone_it_is_all_there_is(self) -> None:
        assert decode(self.pages((1, 20))).pixels.shape == (20, 20, 3)

    def test_a_later_page_that_is_larger_is_told(self) -> None:
        notices = decode(self.pages((0, 20), (0, 80))).notices
        assert any("Another is of 80 x 80" in notice for notice in notices)

    @pytest.mark.parametrize("nested", [40, 10])
    def test_a_picture_in_a_sub_directory(self, nested: int) -> None:
        first = strip(20, 8, 0, sub=8 + 2 + 11 * 12 + 4 + 400)
        data = b"II*\0\x08\0\0\0" + first
        data += strip(nested, len(data), 0)
        if nested < 20:
            assert decode(data).pixels.shape == (20, 20, 3)
        else:
            with pytest.raises(UnsupportedImage, match="preview"):
                decode(data)


def strip(side: int, at: int, following: int, sub: int = 0) -> bytes:
    """Write a directory of a grey picture at `at`, and its pixels behind it."""
    tags = {
        254: (4, 1, 0),
        256: (4, 1, side),
        257: (4, 1, side),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, at + 2 + (11 if sub else 10) * 12 + 4),
        277: (3, 1, 1),
        278: (4, 1, side),
        279: (4, 1, side * side),
    }
    tags |= {330: (13, 1, sub)} if sub else {}
    return tiff_of(tags, bytes(side * side), following)[8:]


@pytest.mark.parametrize(
    ("number", "name"), [(50002, "JPEG XL"), (34712, "JPEG 2000"), (9999, "method 9999")]
)
def test_a_codec_that_is_missing_is_named(number: int, name: str) -> None:
    data = (b"II*\0\x08\0\0\0" + strip(20, 8, 0)).replace(
        struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, number)
    )
    with pytest.raises(UnsupportedImage, match=f"compressed with {name}.*COMPRESS=DEFLATE"):
        decode(data)


def test_descriptions_in_latin_1_are_none() -> None:
    data = tiff(BANDS[:3], ("rot 1", "gr++n", "blau"), photometric="minisblack")
    assert b"gr++n" in data
    image = decode(data.replace(b"gr++n", b"gr\xfcn "))
    np.testing.assert_array_equal(image.pixels, picture(1, 2, 3))
