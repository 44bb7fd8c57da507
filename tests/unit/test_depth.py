"""TIFFs of more than 8 bits: which samples become which of the 8 bits that the models see."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from app.errors import InvalidOption, UnsupportedImage
from app.imaging import scaling
from app.imaging.choices import parse_rescale
from app.imaging.decode import decode_image
from app.imaging.image import Image
from tests.data import DATA, needs_data
from tests.factories import scene
from tests.geotiff import tiff
from tests.serving import encoded

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RNG = np.random.default_rng(5)
UTM = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)
FILES = DATA / "geotiff"


def decode(data: bytes, rescale: str | None = None) -> Image:
    limits = None if rescale is None else parse_rescale(rescale)
    return decode_image(data, max_pixels=10**7, rescale=limits)


def samples(dtype: str, count: int = 3, height: int = 120, width: int = 90) -> NDArray[np.generic]:
    """Make bands of which no two have the same spread."""
    means = np.array([400, 900, 2500, 9000])[:count, None, None]
    values = RNG.normal(means, means / 6, (count, height, width))
    return (values - 1000 if dtype != "uint16" else values.clip(1)).astype(dtype)


def expected(bands: NDArray[np.generic], limits: list[tuple[float, float]]) -> NDArray[np.uint8]:
    """Say what the rule gives, sample by sample, in whole arrays of float64."""
    scaled = [
        np.clip(np.rint((band.astype(float) - low) * 255 / (high - low)), 0, 255)
        for band, (low, high) in zip(bands, limits, strict=True)
    ]
    return np.stack(scaled, axis=-1).astype(np.uint8)


def percentiles(bands: NDArray[np.generic]) -> list[tuple[float, float]]:
    """Say what becomes 0 and 255 where the 2nd and 98th percentile of each band become 20 and 205.

    To 6 significant digits, as notices tell it; sorted and looked up, with no help of numpy's
    percentile.
    """
    pairs = []
    for band in bands:
        ordered = np.sort(band.ravel()).astype(float)
        at = [share * (ordered.size - 1) for share in (0.02, 0.98)]
        low, high = np.interp(at, np.arange(ordered.size), ordered)
        level = (high - low) / (205 - 20)
        pairs.append((float(f"{low - 20 * level:.6g}"), float(f"{high + 50 * level:.6g}")))
    return pairs


def assert_close(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
    """Allow what 6 significant digits of a limit may round to its other side."""
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_each_band_is_spread_by_its_2nd_and_98th_percentile(dtype: str) -> None:
    bands = samples(dtype)
    image = decode(tiff(bands, photometric="rgb"))
    assert_close(image.pixels, expected(bands, percentiles(bands)))
    for band in np.moveaxis(image.pixels, 2, 0):
        assert np.percentile(band, (2, 98)) == pytest.approx((20, 205), abs=1)
    (notice,) = image.notices
    assert f"The TIFF's {dtype} samples were scaled to 8 bits with rescale=" in notice


def test_the_limits_of_the_notice_give_the_same_pixels_again() -> None:
    data = tiff(samples("float32"), photometric="rgb")
    image = decode(data)
    limits = image.notices[0].partition("rescale=")[2].partition(", by")[0]
    again = decode(data, limits)
    np.testing.assert_array_equal(again.pixels, image.pixels)
    assert again.notices[0].endswith(f"rescale={limits}, as asked.")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_a_client_may_name_the_limits(dtype: str) -> None:
    bands = samples(dtype) if dtype != "uint8" else RNG.integers(0, 256, (3, 30, 40), np.uint8)
    data = tiff(bands, photometric="rgb")
    found = decode(data, "10,200").pixels
    np.testing.assert_array_equal(found, expected(bands, [(10, 200)] * 3))
    found = decode(data, "-5,200,0,100,7.5,90").pixels
    np.testing.assert_array_equal(found, expected(bands, [(-5, 200), (0, 100), (7.5, 90)]))


def test_limits_apply_to_pictures_and_palettes_too() -> None:
    pixels = scene(30, 40)
    wanted = expected(np.moveaxis(pixels, 2, 0), [(0, 100), (50, 200), (0, 255)])
    found = decode(encoded(pixels), "0,100,50,200,0,255")
    np.testing.assert_array_equal(found.pixels, wanted)
    colours = {i: (i, 255 - i, 7, 255) for i in range(256)}
    index = RNG.integers(0, 256, (1, 20, 30), np.uint8)
    found = decode(tiff(index, photometric="palette", colormap=colours), "0,100")
    rgb = np.stack([index[0], 255 - index[0], np.full_like(index[0], 7)])
    np.testing.assert_array_equal(found.pixels, expected(rgb, [(0, 100)] * 3))


@pytest.mark.parametrize(
    "text", ["", "5", "1,2,3", "1,2,3,4", "2,1", "3,3", "nan,1", "0,inf", "0,1e999", "a,b", "0;1"]
)
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(InvalidOption, match=r"rescale must be LOW,HIGH.*such as 0,3000"):
        parse_rescale(text)


def test_limits_come_from_valid_pixels_alone() -> None:
    bands = samples("uint16")
    bands[:, :40] = 0  # a collar
    bands[:, 40:50] = 65535  # and something bright that a mask hides
    image = decode(tiff(bands, nodata=0, photometric="rgb"))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, bands.any(axis=0))
    assert_close(image.pixels, expected(bands, percentiles(bands[:, 40:])))

    mask = np.ones((120, 90), np.bool_)
    mask[:50] = False
    image = decode(tiff(bands, mask=mask, photometric="rgb"))
    np.testing.assert_array_equal(image.valid, mask)
    assert_close(image.pixels, expected(bands, percentiles(bands[:, 50:])))


def test_black_pixels_tell_nothing_of_the_light() -> None:
    """No nodata value marks them, so they stay valid."""
    bands = samples("uint16")
    bands[:, :40] = 0
    image = decode(tiff(bands, photometric="rgb"))
    assert image.valid is None
    assert_close(image.pixels, expected(bands, percentiles(bands[:, 40:])))

    black = decode(tiff(np.zeros((3, 8, 9), np.uint16), photometric="rgb"))
    assert black.valid is None
    assert np.ptp(black.pixels) == 0


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("nodata", [None, -7])
def test_alpha_counts_at_every_depth_and_beside_nodata(dtype: str, nodata: int | None) -> None:
    if dtype == "uint16" and nodata is not None:
        nodata = 7
    bands = samples(dtype, 4)
    bands[3] = 1
    bands[3, :30] = 0
    wanted = bands[3] > 0
    if nodata is not None:
        bands[:3, 60:70] = nodata
        wanted[60:70] = False
    image = decode(tiff(bands, photometric="rgb", alpha="yes", nodata=nodata))
    np.testing.assert_array_equal(image.valid, wanted)


def test_what_is_no_number_is_invalid() -> None:
    bands = samples("float32")
    bands[0, :20], bands[1, 20:30], bands[2, 30:40] = np.nan, np.inf, -np.inf
    wanted = np.isfinite(bands).all(axis=0)
    for nodata in (None, float("nan")):
        image = decode(tiff(bands, photometric="rgb", nodata=nodata))
        np.testing.assert_array_equal(image.valid, wanted)
        rest = bands[:, 40:]
        assert_close(image.pixels[40:], expected(rest, percentiles(rest)))


def test_a_large_raster_is_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    bands = samples("uint16", height=700, width=100)
    data = tiff(bands, photometric="rgb")
    monkeypatch.setattr(scaling, "_SAMPLED", 10_000)
    found = decode(data)
    assert_close(found.pixels, expected(bands, percentiles(bands[:, ::3, ::3])))


@pytest.mark.parametrize(("rows", "noticed"), [(0, False), (1, False), (2, True), (120, True)])
def test_black_that_may_be_a_collar_is_noticed(rows: int, noticed: bool) -> None:
    bands = samples("uint16")
    bands[:, :rows] = 0
    for nodata in (None, 0):
        notices = decode(tiff(bands, photometric="rgb", nodata=nodata)).notices
        found = [notice for notice in notices if "0 in every band" in notice]
        assert len(found) == (noticed and nodata is None)


def test_bands_without_contrast_or_without_a_valid_pixel() -> None:
    bands = samples("uint16")
    bands[0] = 300
    image = decode(tiff(bands, photometric="rgb"))
    assert (image.pixels[..., 0] == 20).all()
    assert np.ptp(image.pixels[..., 1]) > 185
    image = decode(tiff(np.zeros((3, 8, 9), np.uint16), photometric="rgb", nodata=0))
    assert image.valid is not None
    assert not image.valid.any()


def test_extreme_samples_do_not_overflow() -> None:
    bands = np.broadcast_to(np.linspace(-3e38, 3e38, 99, dtype=np.float32), (3, 5, 99))
    pixels = decode(tiff(bands, photometric="rgb")).pixels
    assert (np.diff(pixels[0, :, 0].astype(int)) >= 0).all()
    assert np.percentile(pixels, (2, 98)) == pytest.approx((20, 205), abs=1)


# 8 bits in unusual light


def flat(height: int, width: int, span: float, middle: float = 120) -> NDArray[np.uint8]:
    """Make noise whose 2nd and 98th percentile over all bands are `span` apart."""
    shares = np.random.default_rng(8).uniform(-0.5, 0.5, (height, width, 3)) / 0.96
    return np.rint(middle + span * shares).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_little_contrast_is_stretched_and_told(kind: str) -> None:
    pixels = flat(500, 510, 90)
    data = (
        tiff(np.moveaxis(pixels, 2, 0), photometric="rgb")
        if kind == "TIFF"
        else encoded(pixels, kind, **({"lossless": True} if kind == "WEBP" else {}))
    )
    image = decode(data)
    assert np.percentile(image.pixels, (2, 98)) == pytest.approx((20, 205), abs=2)
    (notice,) = image.notices
    found = re.search(
        r"has little contrast, corrected with rescale=([\d.,]+): rescale=0,255", notice
    )
    assert found is not None
    again = decode(data, found[1])
    np.testing.assert_array_equal(again.pixels, image.pixels)
    np.testing.assert_array_equal(decode(data, "0,255").pixels, pixels)


@pytest.mark.parametrize(
    ("height", "width", "span"),
    [
        (500, 500, 132),  # as much as other imagery has
        (500, 500, 14),  # nothing to bring out
        (500, 500, 0),
        (490, 500, 90),  # may be a single surface
    ],
)
def test_other_images_of_8_bits_stay_as_they_are(height: int, width: int, span: float) -> None:
    pixels = flat(height, width, span)
    image = decode(encoded(pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.notices == ()


def cast(red: float, green: float, blue: float) -> NDArray[np.uint8]:
    """Make noise that is far from flat, whose bands are multiplied."""
    noise = np.random.default_rng(9).integers(0, 200, (500, 510, 3))
    return np.rint(noise * (red, green, blue)).astype(np.uint8)


@pytest.mark.parametrize(
    "gains", [(1.2, 1, 0.75), (0.75, 1, 1.2), (0.8, 1.1, 0.8), (1.1, 0.8, 1.1)]
)
def test_a_colour_cast_is_taken_out_and_told(gains: tuple[float, float, float]) -> None:
    pixels = cast(*gains)
    image = decode(encoded(pixels))
    highs = np.percentile(image.pixels, 98, axis=(0, 1))
    assert highs == pytest.approx([196 * np.mean(gains)] * 3, abs=2)
    (notice,) = image.notices
    found = re.search(r"has a colour cast, corrected with rescale=([\d.,]+): ", notice)
    assert found is not None
    assert found[1].count(",") == 5
    np.testing.assert_array_equal(decode(encoded(pixels), found[1]).pixels, image.pixels)


@pytest.mark.parametrize("before", [True, False])
def test_a_cast_and_little_contrast_are_corrected_at_once(before: bool) -> None:
    """Warm light in white haze, which hides the cast, or warm haze, with a black of its own."""
    warm = (1.2, 1, 0.7)
    light = flat(500, 510, 180) * (warm if before else (1, 1, 1)) * 0.4
    pixels = np.rint((light + 60) * ((1, 1, 1) if before else warm)).astype(np.uint8)
    image = decode(encoded(pixels))
    assert np.percentile(image.pixels, (2, 98), axis=(0, 1)) == pytest.approx(
        np.repeat([[20.0], [205.0]], 3, axis=1), abs=4
    )
    (notice,) = image.notices
    found = re.search(r"a colour cast and little contrast, corrected.*rescale=([-\d.,]+): ", notice)
    assert found is not None
    np.testing.assert_array_equal(decode(encoded(pixels), found[1]).pixels, image.pixels)


@pytest.mark.parametrize("gains", [(1.2, 1, 0.85), (0.9, 1, 1), (1, 0, 0), (1, 1, 0.07)])
def test_usual_colours_stay_and_bands_too_dark_to_judge(gains: tuple[float, float, float]) -> None:
    pixels = cast(*gains)
    image = decode(encoded(pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.notices == ()


def test_a_surface_of_one_colour_stays() -> None:
    pixels = np.full((600, 600, 3), (200, 100, 50), np.uint8)
    assert decode(encoded(pixels)).notices == ()


def test_contrast_is_that_of_valid_pixels_of_the_whole_image() -> None:
    """Black of nodata is no contrast, and half of an image that has contrast is not stretched."""
    pixels = flat(900, 800, 90)
    bands = np.moveaxis(pixels, 2, 0).copy()
    bands[:, :300] = 0
    image = decode(tiff(bands, nodata=0, photometric="rgb"))
    assert image.valid is not None
    assert np.percentile(image.pixels[300:], (2, 98)) == pytest.approx((20, 205), abs=2)
    assert image.notices
    bands[:, 600:] = 0
    assert decode(tiff(bands, nodata=0, photometric="rgb")).notices == ()  # 300 × 800 valid pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_black_is_no_contrast_and_no_cast(kind: str) -> None:
    """No nodata value marks it, so it stays imagery. The light is judged by the other pixels."""

    def light(pixels: NDArray[np.uint8]) -> Image:
        pixels = np.pad(pixels, ((100, 0), (0, 0), (0, 0)))
        bands = np.moveaxis(pixels, 2, 0)
        return decode(encoded(pixels) if kind == "PNG" else tiff(bands, photometric="rgb"))

    image = light(flat(500, 500, 90))
    assert image.valid is None
    assert (image.pixels[:100] == 0).all()
    assert np.percentile(image.pixels[100:], (2, 98)) == pytest.approx((20, 205), abs=2)
    (notice,) = image.notices
    assert "has little contrast" in notice

    lights = np.random.default_rng(8).integers(1, 101, (500, 500, 3))
    lights[::40] = 200  # 26 in 1,000 pixels; counted with the collar, less than 22
    lights[1::10, :, :2] = 200
    assert light(lights.astype(np.uint8)).notices == ()
    assert light(flat(490, 500, 90)).notices == ()  # too few pixels to judge


def test_a_label_is_never_stretched() -> None:
    label = np.zeros((1, 500, 500), np.uint8)
    label[:, 100:200] = 100
    data = tiff(label)
    image = decode_image(data, max_pixels=10**6, grey=True)
    np.testing.assert_array_equal(image.pixels[..., 0], label[0])


# Bands


def test_near_infrared_is_no_alpha() -> None:
    """Four bands of which the file says nothing: the fourth is left out, and hides no pixel."""
    bands = samples("uint16", 4)
    bands[3, :60] = 0
    image = decode(tiff(bands, photometric="minisblack"))
    assert image.valid is None
    assert_close(image.pixels, expected(bands[:3], percentiles(bands[:3])))
    assert any("first three were used" in notice for notice in image.notices)
    assert any("Band 4 (undefined)" in notice for notice in image.notices)


def test_bands_in_another_order_are_found_by_their_colour() -> None:
    bands = samples("uint16", 4)
    meanings = [ColorInterp.nir, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    image = decode(tiff(bands, photometric="minisblack", colorinterp=meanings))
    rgb = bands[[3, 2, 1]]
    assert_close(image.pixels, expected(rgb, percentiles(rgb)))
    assert any("Band 1 (" in notice for notice in image.notices)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("placed", [False, True])
def test_a_single_band_is_refused_unless_it_is_a_plain_grey_picture(
    dtype: str, placed: bool
) -> None:
    options = {"crs": "EPSG:32633", "transform": UTM} if placed else {}
    data = tiff(np.ones((1, 9, 8), dtype), **options)
    if dtype == "uint8" and not placed:
        assert any("greyscale" in notice for notice in decode(data).notices)
        return
    with pytest.raises(UnsupportedImage, match=rf"single band, of {dtype}.*rgb=1,1,1"):
        decode(data)
    if dtype == "uint8":  # a label, as training reads it
        assert decode_image(data, max_pixels=99, grey=True).pixels.shape == (9, 8, 3)


# Real files


@needs_data
class TestRealFiles:
    def test_eleven_bits_of_spacenet(self) -> None:
        image = decode((FILES / "vegas_spacenet_epsg4326_rgb_uint16.tif").read_bytes())
        assert image.pixels.shape == (650, 650, 3)
        assert image.gsd == pytest.approx((0.2996, 0.2430), rel=2e-3)
        assert image.notices == (
            "The TIFF does not name its bands: the first three were used as RGB.",
            "17% of the TIFF's pixels are 0 in every band and count as imagery: if they are a "
            "collar, say so with gdal_edit.py -a_nodata 0.",
            "The TIFF's uint16 samples were scaled to 8 bits with rescale=47.9503,1196.08,"
            "175.189,1435.03,182.432,941.919, by which the 2nd and 98th percentile of each band "
            "become 20 and 205.",
        )

    def test_panchromatic_is_refused(self) -> None:
        with pytest.raises(UnsupportedImage, match="single band, of uint16"):
            decode((FILES / "atlanta_utm16n_pan_uint16.tif").read_bytes())

    @pytest.mark.parametrize("name", ["colorado_utm13n_rgba_alpha", "pix4d_utm50s_rgba_alpha"])
    def test_transparent_areas_are_invalid(self, name: str) -> None:
        image = decode((FILES / f"{name}.tif").read_bytes())
        assert image.valid is not None
        assert 0.01 < 1 - image.valid.mean() < 0.9
        assert image.notices == ()
