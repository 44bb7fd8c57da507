"""Places and areas in projected systems, against PROJ's own geodesic answers."""

from collections import Counter

import numpy as np
import pyproj
import pytest
import shapely
from rasterio.transform import Affine

from app.imaging.decode import decode_image
from app.imaging.georeference import GeoReference
from app.outputs.earth import area_on_earth, to_earth
from tests.geotiff import tiff
from tests.sweep_projections import BANDS, GRIDS, outcome, projected, sweep

GEOD = pyproj.Geod(ellps="WGS84")


def check(systems: list[str]) -> None:
    found = list(sweep(systems))
    assert [one for one in found if one.kind == "wrong"] == []
    count = Counter(one.kind for one in found)
    assert count["right"] > 0.9 * len(found), count


def test_a_sample_of_all_systems() -> None:
    check(projected()[3::40])


@pytest.mark.slow
def test_all_systems() -> None:
    systems = projected()
    assert len(systems) > 1500
    check(systems)


@pytest.mark.parametrize("code", ["EPSG:9311", "EPSG:3295", "EPSG:2216", "EPSG:5514", "EPSG:2193"])
def test_systems_that_gdal_reads_as_others(code: str) -> None:
    for found in sweep([code]):
        assert found.kind == "right", found


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("ESRI:54009", 100.0, 50.0),  # Mollweide
        ("ESRI:54008", -120.0, 61.0),  # sinusoidal
        ("+proj=sinu +R=6371007.181 +units=m", 70.0, -40.0),  # MODIS
        ("EPSG:8857", 140.0, -35.0),  # Equal Earth
        ("ESRI:54012", 30.0, 60.0),  # Eckert IV
        ("ESRI:54030", 80.0, 57.0),  # Robinson, which PROJ has in pieces of 5 degrees
        ("EPSG:3413", 20.0, 89.9),
        ("EPSG:3031", -70.0, -66.0),
        ("EPSG:3857", 10.0, 60.0),
    ],
)
@pytest.mark.parametrize("pixel", [0.1, 1.0, 30.0])
def test_projections_that_shear(crs: str, lon: float, lat: float, grid: str, pixel: float) -> None:
    found = outcome(crs, pyproj.CRS(crs), lon, lat, grid, pixel)
    assert found.kind == "right", found


@pytest.mark.parametrize("crs", ["ESRI:54009", "EPSG:8857"])
def test_where_the_grid_is_sheared_a_pixel_is_no_product_of_two_lengths(crs: str) -> None:
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_map.transform(140, 60)
    image = decode_image(tiff(BANDS, crs=crs, transform=Affine(1, 0, x, 0, -1, y)), max_pixels=9999)
    assert image.georeference is not None
    assert image.gsd is not None
    areas = image.georeference.row_areas(image.height, image.width)
    assert areas is not None
    assert areas == pytest.approx(1, rel=5e-3)  # they keep areas, of a sphere
    assert np.prod(image.gsd) > 1.2


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_areas_are_each_rows_own(crs: str) -> None:
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    (west, south), (east, north) = to_map.transform(10, 50), to_map.transform(11, 62)
    height, width = 600, 10
    transform = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    place = GeoReference(pyproj.CRS(crs).to_wkt(), tuple(transform)[:6])
    areas = place.row_areas(height, width)
    assert areas is not None
    rows = [shapely.box(0, row, width, row + 1) for row in (0, 7, 300, 599)]
    for row in rows:
        on_map = shapely.transform(row, lambda xy: np.stack(transform @ xy.T, axis=1))
        right = area_on_earth(shapely.segmentize(to_earth(on_map, place.to_degrees()), 0.01))
        assert width * areas[int(row.bounds[1])] == pytest.approx(right, rel=1e-4)
    assert max(areas) / min(areas) > 1.3
    assert place.area_notice(height, width) is None


def test_a_row_whose_areas_differ_is_noticed() -> None:
    transform = (0.0, 2000.0, 1e6, 2000.0, 0.0, 6e6)  # Web Mercator, turned by a right angle
    notice = GeoReference("EPSG:3857", transform).area_notice(100, 100)
    assert notice is not None
    assert "along a row" in notice


def test_a_datum_that_is_not_known_is_noticed() -> None:
    place = GeoReference(
        pyproj.CRS("+proj=utm +zone=32 +ellps=intl").to_wkt(), (0.5, 0, 5e5, 0, -0.5, 5.4e6)
    )
    notice = place.position_notice(40, 40)
    assert notice is not None
    assert "datum" in notice
    named = GeoReference("EPSG:26715", place.transform).position_notice(40, 40)
    assert named is not None  # NAD27 to WGS 84
    assert "accurate to" in named
    for crs in ("EPSG:25832", "EPSG:4326", "EPSG:3857", "EPSG:26915", "EPSG:27700"):
        assert GeoReference(crs, (1, 0, 50, 0, -1, 50)).position_notice(9, 9) is None
