"""The COG: on the upload's grid, band by band, and what it says of itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from app.errors import DeadlineExceeded, ImpossibleOutput
from app.outputs.formats import FORMATS
from app.segmentation.segmenter import Segmenter
from tests.factories import scene, without_small
from tests.maps import NORTH_UP, UTM, encode, geotiff, picture, plan, stream_of
from tests.serving import encoded, toy_mask, toy_probability

PIXELS = scene(300, 520)
VALID = np.ones((300, 520), np.bool_)
VALID[:40, :30] = VALID[100:130, 200:320] = False
ALL = ("mask", "probability", "disagreement")
TURNED = Affine(0.3, 0.4, 5e5, 0.4, -0.3, 4e6)


def read(data: bytes) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Read the bands of a COG, and what it says, once it is found to be one."""
    with MemoryFile(data) as file:
        assert cog_validate(file.name, strict=True, quiet=True) == (True, [], [])
        with file.open() as dataset:
            said = {
                "crs": dataset.crs,
                "transform": dataset.transform,
                "nodata": dataset.nodatavals,
                "scales": dataset.scales,
                "names": dataset.descriptions,
                "tags": dataset.tags(),
                "colorinterp": dataset.colorinterp,
                "colours": (
                    dataset.colormap(1) if dataset.colorinterp[0] == ColorInterp.palette else None
                ),
                "overviews": dataset.overviews(1),
            }
            return dataset.read(), said


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326", "EPSG:3857", None])
@pytest.mark.parametrize("transform", [NORTH_UP, TURNED])
def test_the_mask_lies_on_the_uploads_own_grid(
    small_toy: Segmenter, crs: str | None, transform: Affine
) -> None:
    data = geotiff(PIXELS, crs, transform, VALID)
    bands, said = read(encode(small_toy, data, "geotiff", threshold=0.5002, gsd=0.5))
    mask = toy_mask(PIXELS)
    np.testing.assert_array_equal(bands[0], np.where(VALID, mask, 255))
    np.testing.assert_array_equal(bands[1], np.where(VALID, mask * 180, 255))
    assert said["crs"] == (None if crs is None else CRS.from_user_input(crs))
    assert said["transform"].almost_equals(transform, 1e-9)
    assert said["nodata"] == (255, 255)
    assert said["names"] == ("mask", "alpha")
    assert said["colorinterp"] == (ColorInterp.palette, ColorInterp.alpha)
    assert said["colours"][1][:3] == (255, 64, 32)
    assert said["colours"][0][:3] == (0, 0, 0)


def test_alpha_is_for_drawing_and_leaves_background_valid(small_toy: Segmenter) -> None:
    data = encode(small_toy, geotiff(PIXELS, valid=VALID), "geotiff", threshold=0.5002)
    with MemoryFile(data) as file, file.open() as dataset:
        masked = dataset.read(1, masked=True)
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, VALID)
    np.testing.assert_array_equal(~masked.mask, VALID)
    assert masked.mean() == pytest.approx(toy_mask(PIXELS)[VALID].mean())


def test_an_opaque_background_needs_no_alpha(small_toy: Segmenter) -> None:
    data = geotiff(PIXELS, valid=VALID)
    whole, said = read(encode(small_toy, data, "geotiff", bands=",".join(ALL)))
    assert said["names"] == (*ALL, "alpha")
    assert said["colorinterp"][-1] == ColorInterp.alpha
    for bands, kept in ((",".join(ALL), 3), ("mask", 1)):
        opaque, said = read(encode(small_toy, data, "geotiff", bands=bands, background="opaque"))
        np.testing.assert_array_equal(opaque, whole[:kept])
        assert ColorInterp.alpha not in said["colorinterp"]


def test_other_bands_are_steps_of_a_250th(small_toy: Segmenter) -> None:
    data = geotiff(PIXELS, valid=VALID)
    options: dict[str, Any] = {"bands": ",".join(ALL), "background": "opaque"}
    bands, said = read(encode(small_toy, data, "geotiff", threshold=0.5002, **options))
    assert said["names"] == ALL
    assert said["scales"] == (1, 1 / 250, 1 / 250)
    assert said["nodata"] == (255, 255, 255)
    np.testing.assert_array_equal(bands[0], np.where(VALID, toy_mask(PIXELS), 255))
    assert (bands[:, ~VALID] == 255).all()
    probability, disagreement = (bands[1:] / 250)[:, VALID]
    np.testing.assert_allclose(probability, toy_probability(PIXELS)[VALID], atol=0.0021)
    np.testing.assert_allclose(disagreement, np.ptp(PIXELS, axis=2)[VALID] / 255, atol=0.0021)


def test_bands_come_in_the_order_asked_for(small_toy: Segmenter) -> None:
    bands, said = read(encode(small_toy, geotiff(PIXELS), "geotiff", bands="mask,disagreement"))
    assert said["names"] == ("mask", "disagreement", "alpha")
    np.testing.assert_allclose(bands[1] / 250, np.ptp(PIXELS, axis=2) / 255, atol=0.0021)


def test_how_it_came_about_stands_in_the_tags(small_toy: Segmenter) -> None:
    _, said = read(encode(small_toy, geotiff(PIXELS), "geotiff", models="red,green"))
    assert said["tags"]["TIFFTAG_SOFTWARE"].startswith("rooftrace ")
    assert {name: text for name, text in said["tags"].items() if name.startswith("rooftrace")} == {
        "rooftrace_model": small_toy.manifest.version,
        "rooftrace_threshold": "0.5",
        "rooftrace_weights": "red 0.625, green 0.375",
        "rooftrace_combine": "average",
        "rooftrace_min_confidence": "0",
        "rooftrace_gsd": "0.5002 m",
        "rooftrace_cascade": "off",
    }


@pytest.mark.parametrize("min_area", [0.0, 1.0, 5.0])
def test_an_image_that_comes_in_bands_gives_the_same_file(
    small_toy: Segmenter, tmp_path: Path, min_area: float
) -> None:
    data = geotiff(PIXELS, valid=VALID)
    options: dict[str, Any] = {"min_area": min_area, "threshold": 0.5002, "overlap": 0.5}
    options["bands"] = ",".join(ALL)
    whole = encode(small_toy, data, "geotiff", **options)
    stream = stream_of(small_toy, data, "geotiff", **options)
    FORMATS["geotiff"].save(stream, tmp_path / "out.tif")
    assert (tmp_path / "out.tif").read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    bands, _ = read(whole)
    assert stream.plan.row_areas is not None
    kept = without_small(toy_mask(PIXELS) & VALID, min_area / stream.plan.row_areas.mean())
    np.testing.assert_array_equal(bands[0], np.where(VALID, kept, 255))
    assert stream.building_pixels == kept.sum()
    assert stream.valid_pixels == VALID.sum()


def test_a_large_file_has_overviews(small_toy: Segmenter) -> None:
    pixels = np.tile(picture(plan()), (8, 8, 1))
    [mask, _], said = read(encode(small_toy, geotiff(pixels), "geotiff"))
    np.testing.assert_array_equal(mask, np.tile(plan(), (8, 8)))
    assert said["overviews"]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_the_smallest_images(small_toy: Segmenter, size: tuple[int, int]) -> None:
    pixels = scene(*size)
    [mask, _], _ = read(encode(small_toy, geotiff(pixels), "geotiff", threshold=0.5002))
    np.testing.assert_array_equal(mask, toy_mask(pixels))


def test_work_that_is_stopped_leaves_no_file(small_toy: Segmenter, tmp_path: Path) -> None:
    calls = iter(range(5))

    def stop() -> None:
        if next(calls, None) is None:
            raise DeadlineExceeded("enough")

    stream = stream_of(small_toy, geotiff(PIXELS), "geotiff", stop)
    with pytest.raises(DeadlineExceeded):
        FORMATS["geotiff"].save(stream, tmp_path / "out.tif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(PIXELS), "has no georeference, which this format needs. Give a GeoTIFF"),
        (geotiff(PIXELS, transform=Affine(0, 0, 5e5, 0, 0, 4e6)), "no place or no area"),
    ],
)
def test_an_image_without_a_grid_is_refused(small_toy: Segmenter, data: bytes, words: str) -> None:
    with pytest.raises(ImpossibleOutput, match=words):
        encode(small_toy, data, "geotiff")
