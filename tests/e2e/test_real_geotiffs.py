"""Real GeoTIFFs, as clients send them: rasters and polygons lie on the imagery."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.io import MemoryFile
from rio_cogeo.cogeo import cog_validate

from app.errors import UnsupportedImage
from app.imaging.decode import decode_image
from app.segmentation.segmenter import Segmenter
from tests.data import DATA, needs_data
from tests.maps import encode, equal_area, iou, polygons, rasterised

ROOT = Path(__file__).parents[2]
FILES = DATA / "geotiff"
NAMES = [
    "joplin_utm15n_rgb_2048",
    "pix4d_utm50s_rgba_alpha",
    "colorado_utm13n_rgba_alpha",
    "vegas_spacenet_epsg4326_rgb_uint16",
]
REFUSED = "atlanta_utm16n_pan_uint16"
pytestmark = needs_data


@pytest.mark.parametrize("name", NAMES)
def test_raster_and_polygons_overlay_the_imagery(small_toy: Segmenter, name: str) -> None:
    path = FILES / f"{name}.tif"
    data = path.read_bytes()
    image = decode_image(data, max_pixels=10**8)
    valid = np.ones((image.height, image.width), bool) if image.valid is None else image.valid
    # The toy bundle calls bright ground building: take its brightest tenth.
    bright = image.pixels[valid] @ np.array([0.5, 0.3, 0.2]) / 255
    options = {"threshold": float(np.quantile(bright, 0.9)), "min_area": 20.0}

    raster = encode(small_toy, data, "geotiff", **options)
    with (
        rasterio.open(path) as source,
        MemoryFile(raster) as file,
        file.open() as result,
    ):
        assert (result.crs, result.transform) == (source.crs, source.transform)
        assert result.shape == source.shape
        assert cog_validate(file.name, strict=True, quiet=True) == (True, [], [])
        stored, crs, transform = result.read(1), source.crs.to_wkt(), source.transform
        # What the file itself says of its alpha and nodata, by another way than ours.
        np.testing.assert_array_equal(result.dataset_mask(), source.dataset_mask())
    np.testing.assert_array_equal(stored == 255, ~valid)
    mask = stored == 1

    collection = json.loads(encode(small_toy, data, "geojson", **options))
    shapes = polygons(collection)
    back = rasterised(shapes, crs, transform, mask.shape)
    assert shapes
    assert iou(back, mask) >= 0.995
    assert not back[~valid].any()
    for feature, shape in zip(collection["features"], shapes, strict=True):
        assert shape.is_valid
        assert feature["properties"]["area_m2"] == pytest.approx(equal_area(shape), rel=0.005)
        assert feature["properties"]["area_m2"] > 19


def test_every_file_is_looked_at() -> None:
    assert {path.stem for path in FILES.glob("*.tif")} == {*NAMES, REFUSED}


def test_what_is_no_colour_image_is_refused(small_toy: Segmenter) -> None:
    with pytest.raises(UnsupportedImage, match="single band, of uint16: the models look at colour"):
        encode(small_toy, (FILES / f"{REFUSED}.tif").read_bytes(), "geotiff")
