"""A raster on disk, a few rows at a time: what an upload of the same bytes gives."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import Affine

from app.errors import DamagedImage, EmptyUpload, UnsupportedFormat, UnsupportedImage
from app.imaging import raster
from app.imaging.choices import Limits
from app.imaging.decode import decode_image
from app.imaging.files import open_image
from app.imaging.raster import open_raster
from tests.geotiff import tiff
from tests.unit.test_decode_tiff import VRT

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RNG = np.random.default_rng(6)
HEIGHT, WIDTH = 210, 130
RGBA: NDArray[np.uint8] = RNG.integers(0, 3, (4, HEIGHT, WIDTH), np.uint8) * 100
DEEP = RNG.integers(0, 3000, (4, HEIGHT, WIDTH)).astype(np.uint16)
TILES: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 32, "compress": "deflate"}
PLACED: dict[str, Any] = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 5e5, 0, -0.5, 4e6)}
FILES: dict[str, bytes] = {
    "rgb": tiff(RGBA[:3], photometric="rgb", **TILES),
    "rgba": tiff(RGBA, photometric="rgb", alpha="yes", **PLACED),
    "nodata": tiff(RGBA[:3], photometric="rgb", nodata=0, **TILES),
    "mask": tiff(RGBA[:3], photometric="rgb", mask=RGBA[3] > 0, **TILES),
    "deep": tiff(DEEP, photometric="minisblack", interleave="band", **TILES, **PLACED),
    "deep nodata": tiff(DEEP[:3] // 1000 * 1000, photometric="rgb", nodata=1000, **TILES),
    "deep alpha": tiff(DEEP // 1500, photometric="rgb", alpha="yes", BIGTIFF="YES"),
    "float": tiff(np.where(DEEP[:3] > 9, DEEP[:3], np.nan).astype(np.float32), photometric="rgb"),
    "palette": tiff(
        RGBA[:1], photometric="palette", colormap={0: (9, 8, 7), 100: (4, 5, 6), 200: (1, 2, 3)}
    ),
    "grey": tiff(RGBA[:1], photometric="miniswhite"),
    "cog": tiff(RGBA[:3], "COG", compress="deflate", blocksize=128),
}
names = st.sampled_from(sorted(FILES))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rasters")
    for name, data in FILES.items():
        (folder / f"{name}.tif").write_bytes(data)
    return folder


def write(folder: Path, data: bytes) -> Path:
    path = folder / "raster.tif"
    path.write_bytes(data)
    return path


@settings(max_examples=50)
@given(
    name=names, rows=st.lists(st.integers(0, HEIGHT), min_size=2, max_size=8), deep=st.booleans()
)
def test_any_rows_are_those_of_the_upload(
    folder: Path, name: str, rows: list[int], deep: bool
) -> None:
    rescale: Limits | None = ((0, 100), (50, 2000), (7, 8)) if deep else None
    whole = decode_image(FILES[name], max_pixels=10**6, rescale=rescale)
    with open_raster(folder / f"{name}.tif", rescale=rescale) as found:
        assert (found.height, found.width) == (whole.height, whole.width)
        assert found.georeference == whole.georeference
        assert (found.gsd, found.notices) == (whole.gsd, whole.notices)
        for start, stop in pairwise(rows):
            start, stop = sorted((start, stop))
            if start == stop:
                continue
            np.testing.assert_array_equal(found.read_pixels(start, stop), whole.pixels[start:stop])
            valid, wanted = found.read_valid(start, stop), whole.read_valid(start, stop)
            if valid is None:
                assert wanted is None or wanted.all()
            else:
                np.testing.assert_array_equal(valid, wanted)


SOFT: NDArray[np.uint8] = np.repeat(RNG.integers(0, 256, (3, 300, 60), np.uint8), 5, axis=2)
SOFT = (
    np.stack([np.convolve(row, np.ones(9) / 9, "same") for row in SOFT.reshape(-1, 300)])
    .astype(np.uint8)
    .reshape(3, 300, 300)
)
FLAT: NDArray[np.uint8] = RNG.integers(90, 190, (3, 560, 510), np.uint8)
FLAT[:, :40] = 7  # a collar, by which the whole would have contrast
COLLAR = np.arange(560) < 40


@pytest.mark.parametrize(
    "data",
    [
        tiff(FLAT, photometric="rgb", nodata=7, **TILES),
        tiff(FLAT, photometric="rgb", mask=np.repeat(~COLLAR[:, None], 510, axis=1)),
        tiff(FLAT[:, 40:] // np.array([[[1]], [[1]], [[2]]], np.uint8), photometric="rgb"),
        tiff(FLAT[:1, 40:], photometric="miniswhite"),
        tiff(
            FLAT[:1, 40:],
            photometric="palette",
            colormap={value: (value, value // 2 + 40, 99) for value in range(256)},
        ),
    ],
    ids=["nodata", "mask", "cast", "grey", "palette"],
)
def test_light_is_corrected_as_in_an_upload(data: bytes, tmp_path: Path) -> None:
    whole = decode_image(data, max_pixels=10**6)
    assert ", corrected with rescale=" in whole.notices[-1]
    with open_raster(write(tmp_path, data)) as found:
        assert found.notices == whole.notices
        for start, stop in pairwise((0, 39, 41, 300, found.height)):
            np.testing.assert_array_equal(found.read_pixels(start, stop), whole.pixels[start:stop])


@pytest.mark.parametrize("deep", [False, True])
def test_a_soft_raster_is_sharpened_as_an_upload(deep: bool, tmp_path: Path) -> None:
    data = tiff(SOFT.astype(np.uint16) * 40 if deep else SOFT, photometric="rgb", **TILES)
    whole = decode_image(data, max_pixels=10**6)
    assert "was sharpened with sharpen=" in whole.notices[-1]
    with open_raster(write(tmp_path, data)) as found:
        assert found.notices == whole.notices
        for start, stop in pairwise((0, 1, 39, 41, 200, found.height)):
            np.testing.assert_array_equal(found.read_pixels(start, stop), whole.pixels[start:stop])
    with open_raster(write(tmp_path, data), sharpen=77) as found:
        asked = decode_image(data, max_pixels=10**6, sharpen=77)
        np.testing.assert_array_equal(found.read_pixels(0, 300), asked.pixels)


def test_light_of_deep_samples_is_corrected_once(tmp_path: Path) -> None:
    """A blank band looks like a cast after scaling, by limits that are no samples of the file."""
    bands = FLAT[:, 40:].astype(np.uint16) * 9
    bands[2] = 0
    data = tiff(bands, photometric="rgb")
    whole = decode_image(data, max_pixels=10**6)
    assert not any("corrected" in notice for notice in whole.notices)
    with open_raster(write(tmp_path, data)) as found:
        assert found.notices == whole.notices
        np.testing.assert_array_equal(found.read_pixels(0, found.height), whole.pixels)


def test_some_of_these_files_have_something_to_hide() -> None:
    for name in ("rgba", "nodata", "mask", "deep nodata", "deep alpha", "float"):
        valid = decode_image(FILES[name], max_pixels=10**6).valid
        assert valid is not None, name
        assert 0 < valid.mean() < 1, name


@pytest.mark.parametrize("top", [0, 64, 70])
def test_blocks_never_written_are_invalid(tmp_path: Path, top: int) -> None:
    path = tmp_path / "sparse.tif"
    shape = {"count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **TILES, SPARSE_OK=True) as file:
        file.write(RGBA[:3, 64:, 64:] + 1, window=((64, HEIGHT), (64, WIDTH)))
    written = np.zeros((HEIGHT, WIDTH), np.bool_)
    written[64:, 64:] = True
    with open_raster(path) as found:
        valid = found.read_valid(top, HEIGHT)
        np.testing.assert_array_equal(valid, written[top:])
        assert any("never written" in notice for notice in found.notices)


def test_rows_that_are_damaged_are_told_when_they_are_read(tmp_path: Path) -> None:
    data = tiff(RNG.integers(0, 256, (3, 900, 400), np.uint8), photometric="rgb")
    path = write(tmp_path, data[: len(data) // 2])
    with pytest.raises(DamagedImage, match="cut short"), open_raster(path):
        pass  # its light is looked at
    with open_raster(path, rescale=((0, 255),) * 3, sharpen=0) as found:
        assert found.read_pixels(0, 100).shape == (100, 400, 3)
        with pytest.raises(DamagedImage, match="cut short"):
            found.read_pixels(800, 900)


def test_what_goes_wrong_outside_is_not_called_damage(folder: Path) -> None:
    with pytest.raises(OSError, match="disk full"), open_raster(folder / "rgb.tif"):
        raise OSError("disk full")


def test_more_pixels_than_an_upload_may_have(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    shape = {"count": 3, "height": 300_000, "width": 200_000, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": 4096, "blockysize": 4096}
    with rasterio.open(path, "w", driver="GTiff", **shape, **tiles, SPARSE_OK=True, BIGTIFF="YES"):
        pass
    with open_raster(path) as found:
        assert (found.height, found.width) == (300_000, 200_000)
        valid = found.read_valid(299_999, 300_000)
        assert valid is not None
        assert not valid.any()


def test_sidecars_of_the_operators_own_count(tmp_path: Path) -> None:
    path = write(tmp_path, FILES["rgb"])
    path.with_suffix(".tfw").write_text("0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n")
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"),
        rasterio.open(path, "r+") as file,
    ):
        file.write_mask(RGBA[3] > 0)
    assert (tmp_path / "raster.tif.msk").exists()
    with open_raster(path) as found:
        np.testing.assert_array_equal(found.read_valid(0, HEIGHT), RGBA[3] > 0)
        assert found.georeference is not None
        assert found.georeference.transform == (0.5, 0, 500_000, 0, -0.5, 4_000_000)


def test_a_name_that_gdal_would_take_for_more_than_a_name(tmp_path: Path) -> None:
    for name in ("a b.tif", "zip!x#y?z.tif", "GTIFF_DIR:2:x.tif"):
        path = tmp_path / name
        path.write_bytes(FILES["rgb"])
        with open_raster(path) as found:
            assert found.read_pixels(0, 1).shape == (1, WIDTH, 3)


class TestRefusals:
    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(EmptyUpload), open_image(write(tmp_path, b""), max_pixels=1):
            pass
        with pytest.raises(FileNotFoundError), open_image(tmp_path / "none.tif", max_pixels=1):
            pass

    def test_a_vrt_in_any_disguise(self, tmp_path: Path) -> None:
        secret = write(tmp_path, FILES["grey"])
        path = tmp_path / "map.tif"
        for prefix, error in ((b"", UnsupportedFormat), (b"II*\0", DamagedImage)):
            path.write_bytes(prefix + VRT.format(source=secret).encode())
            with pytest.raises(error), open_image(path, max_pixels=1):
                pass

    def test_a_block_that_does_not_fit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(raster, "_MAX_BLOCK_SAMPLES", 64 * 32 * 3 - 1)
        path = write(tmp_path, FILES["rgb"])
        with pytest.raises(UnsupportedImage, match="blocks of 64 x 32"), open_raster(path):
            pass
