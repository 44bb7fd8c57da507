"""Polygons near poles and on the antimeridian, against what PROJ and Shapely make of them."""

import json
import math
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from rasterio.transform import Affine
from scipy import ndimage

from app.errors import ImpossibleOutput
from app.imaging.georeference import GeoReference
from app.imaging.outline import outline
from app.outputs.earth import area_on_earth, to_earth
from app.segmentation.segmenter import Segmenter
from tests.maps import encode, geotiff, picture, polygons


def degrees_of(crs: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


def holds(polygon: Any, lon: float, lat: float) -> bool:
    return bool(shapely.covers(polygon, shapely.Point(lon, lat)))


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413", "EPSG:3995", "EPSG:32661", "EPSG:6931"])
@pytest.mark.parametrize("x", [-64.0, -64.13, -50.0, 150.0, 900.0])
@pytest.mark.parametrize("pixel", [0.5, 40.0])
def test_buildings_around_a_pole(small_toy: Segmenter, crs: str, x: float, pixel: float) -> None:
    mask = np.zeros((256, 256), bool)
    mask[60:200, 100:220] = True  # over the pole
    mask[128:160, 40:90] = mask[20:40, 128:140] = True
    mask[100:110, 130:150] = False  # a hole
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    south = crs == "EPSG:3031"
    easting, northing = to_map.transform(0, -90 if south else 90)
    shift = x * pixel / 0.5
    transform = Affine(pixel, 0, easting + shift, 0, -pixel, northing + 64 * pixel / 0.5)
    found = json.loads(encode(small_toy, geotiff(picture(mask), crs, transform), "geojson"))
    shapes = polygons(found)
    assert len(shapes) == 3
    assert all(shape.is_valid for shape in shapes)
    west, low, east, high = shapely.total_bounds(shapes)
    assert west >= -180
    assert east <= 180
    assert low >= -90
    assert high <= 90
    to_degrees = degrees_of(crs)
    rows, cols = np.mgrid[0.5:256:9, 0.5:256:9]
    lon, lat = to_degrees.transform(*(transform @ (cols, rows)))
    inside = shapely.intersects_xy(shapely.union_all(shapes), lon, lat)
    np.testing.assert_array_equal(inside, mask[rows.astype(int), cols.astype(int)])
    total = sum(feature["properties"]["area_m2"] for feature in found["features"])
    assert total == pytest.approx(found["building_area_m2"], rel=0.01)


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413"])
@pytest.mark.parametrize("share", [0.45, 0.6, 0.8])
@pytest.mark.parametrize("shift", [0.0, 0.13])
def test_components_of_noise_around_a_pole(crs: str, share: float, shift: float) -> None:
    """They touch themselves and their holes at corners."""
    mask = np.random.default_rng(5).random((64, 64)) < share
    labels, count = ndimage.label(mask)
    to_degrees = degrees_of(crs)
    total = 0.0
    for component in range(1, count + 1):
        on_map = shapely.transform(
            outline(labels == component, 0, 0),
            lambda points: points * (0.5, -0.5) + (shift - 16, 16 + shift),
        )
        polygon = to_earth(on_map, to_degrees)
        assert polygon.is_valid
        total += area_on_earth(polygon)
    transform = (0.5, 0.0, shift - 16, 0.0, -0.5, 16 + shift)
    right = GeoReference(crs, transform).pixel_area(32, 32, reach=10) * np.count_nonzero(mask)
    assert total == pytest.approx(float(right), rel=1e-3)


@pytest.mark.parametrize("lat", [-90.0, 90.0])
def test_a_square_over_a_pole_is_open_there(lat: float) -> None:
    crs = f"+proj=laea +lat_0={lat} +datum=WGS84"
    square = shapely.box(-100, -100, 100, 100)
    polygon = to_earth(square, degrees_of(crs))
    assert polygon.geom_type == "Polygon"
    assert polygon.is_valid
    assert polygon.bounds[0] == -180
    assert polygon.bounds[2] == 180
    assert holds(polygon, 12.0, lat)
    assert area_on_earth(polygon) == pytest.approx(200 * 200, rel=1e-4)


def test_a_square_that_a_pole_touches() -> None:
    to_degrees = degrees_of("+proj=laea +lat_0=90 +datum=WGS84")
    for square, area in (
        (shapely.box(0, 0, 50, 50), 2500),
        (shapely.box(-50, 0, 50, 50), 5000),
        (shapely.box(-50, -50, 50, 50) - shapely.box(0, 0, 50, 50), 7500),
        (shapely.box(-90, -90, 90, 90) - shapely.box(-50, -50, 50, 50), 180**2 - 10000),
    ):
        polygon = to_earth(square, to_degrees)
        assert polygon.is_valid
        assert area_on_earth(polygon) == pytest.approx(area, rel=1e-4)


def test_pixels_of_degrees_at_the_end_of_the_map() -> None:
    polygon = to_earth(shapely.box(10, 89.5, 20, 90), degrees_of("EPSG:4326"))
    assert polygon.is_valid
    assert polygon.bounds == pytest.approx((10, 89.5, 20, 90))
    assert area_on_earth(polygon) == pytest.approx(
        math.radians(10) * (0.5 * 111_694) ** 2 / 2, rel=2e-3
    )


@pytest.mark.parametrize(
    ("crs", "x", "y"),
    [
        ("EPSG:4326", 10, 90.4),
        ("ESRI:54009", 17_000_000, 6_000_000),  # beside Mollweide's ellipse
        ("EPSG:4326", 5e5, 4),
    ],
)
def test_what_is_no_place_is_refused(crs: str, x: float, y: float) -> None:
    with pytest.raises(ImpossibleOutput, match="not valid"):
        to_earth(shapely.box(x, y, x + 1, y + 1), degrees_of(crs))
