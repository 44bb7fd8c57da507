"""Metres on the ground against the formulas of the ellipsoid."""

import math
import struct

import numpy as np
import pytest
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from app.errors import UnsupportedImage
from app.imaging.decode import decode_image
from app.imaging.georeference import GeoReference
from app.imaging.image import Image
from tests.geotiff import tiff

A, F = 6378137.0, 1 / 298.257223563  # WGS 84
E2 = F * (2 - F)
BANDS = np.ones((3, 20, 30), np.uint8)


def radii(latitude: float) -> tuple[float, float]:
    """Return metres per radian of latitude, and of longitude.

    Source: Snyder, "Map Projections: A Working Manual", USGS 1395, 1987, eq. 4-18 to 4-21.
    """
    phi = math.radians(latitude)
    w = math.sqrt(1 - E2 * math.sin(phi) ** 2)
    return A * (1 - E2) / w**3, A / w * math.cos(phi)


def gsd_of(crs: str, transform: Affine) -> tuple[float, float]:
    gsd = GeoReference(crs, tuple(transform)[:6]).gsd(*BANDS.shape[1:])
    assert gsd is not None
    return gsd


@pytest.mark.parametrize("latitude", [-78.0, -33.0, 0.0, 51.5, 70.0, 84.0])
@pytest.mark.parametrize("turn", [0, 30, 90, 200])
def test_degrees(latitude: float, turn: float) -> None:
    pixel = 3e-6
    centre = Affine.translation(12, latitude) @ Affine.rotation(turn) @ Affine.scale(pixel, -pixel)
    down, across = gsd_of("EPSG:4326", centre @ Affine.translation(-15, -10))
    north, east = radii(latitude)
    step, angle = math.radians(pixel), math.radians(turn)
    assert across == pytest.approx(
        step * math.hypot(east * math.cos(angle), north * math.sin(angle)), rel=1e-5
    )
    assert down == pytest.approx(
        step * math.hypot(east * math.sin(angle), north * math.cos(angle)), rel=1e-5
    )


@pytest.mark.parametrize("latitude", [-60.0, 0.0, 45.0, 71.0, 83.0])
def test_web_mercator_is_stretched_by_latitude(latitude: float) -> None:
    # y = a ln tan(45° + latitude / 2), of the geodetic latitude taken for one on a sphere.
    y = A * math.asinh(math.tan(math.radians(latitude)))
    transform = Affine.translation(1e6, y) @ Affine.scale(0.6, -0.6) @ Affine.translation(-15, -10)
    down, across = gsd_of("EPSG:3857", transform)
    north, east = radii(latitude)
    assert down == pytest.approx(0.6 * north * math.cos(math.radians(latitude)) / A, rel=1e-5)
    assert across == pytest.approx(0.6 * east / A, rel=1e-5)


@pytest.mark.parametrize(
    ("crs", "easting", "northing", "foot"),
    [
        ("EPSG:2263", 984_250, 200_000, 1200 / 3937),  # New York, US survey feet
        ("EPSG:2222", 700_000, 1_000_000, 0.3048),  # Arizona, international feet
    ],
)
@pytest.mark.parametrize("turn", [0, 25])
def test_feet(crs: str, easting: float, northing: float, foot: float, turn: float) -> None:
    transform = Affine.translation(easting, northing) @ Affine.rotation(turn) @ Affine.scale(2, -3)
    down, across = gsd_of(crs, transform)
    # A state plane's own scale is within 1 : 10,000.
    assert (down, across) == pytest.approx((3 * foot, 2 * foot), rel=1.2e-4)


def test_metres_of_earth_centred_coordinates_are_none_on_the_ground() -> None:
    assert GeoReference("EPSG:4978", (0.5, 0, 5e5, 0, -0.5, 4e6)).gsd(20, 30) is None


@pytest.mark.parametrize("code", [0, 2, 9999, 32767, 65535])
def test_a_system_that_nobody_knows_is_noticed(code: int) -> None:
    data = tiff(BANDS, crs="EPSG:32633", transform=Affine(0.5, 0, 5e5, 0, -0.5, 4e6))
    key = struct.pack("<HHHH", 3072, 0, 1, 32633)  # ProjectedCSTypeGeoKey
    assert data.count(key) == 1
    image: Image = decode_image(
        data.replace(key, struct.pack("<HHHH", 3072, 0, 1, code)), max_pixels=999
    )
    assert image.gsd is None
    assert image.georeference is not None
    assert image.notices == (
        "The TIFF's georeference does not tell its GSD: give gsd= in metres per pixel.",
    )


def test_a_name_in_latin_1_is_the_cause() -> None:
    crs = "+proj=laea +lat_0=10 +lon_0=20 +ellps=intl"
    data = tiff(BANDS, crs=crs, transform=Affine(0.5, 0, 5e5, 0, -0.5, 4e6))
    assert b"Hayford" in data
    with pytest.raises(UnsupportedImage, match="not UTF-8"):
        decode_image(data.replace(b"Hayford", b"Hayf\xf6rd"), max_pixels=999)


def test_a_place_by_control_points_alone_is_noticed() -> None:
    corners = [(0, 0), (0, 30), (20, 0), (20, 30)]
    points = [GroundControlPoint(row, col, 5e5 + col, 4e6 - row) for row, col in corners]
    image = decode_image(tiff(BANDS, gcps=points, crs="EPSG:32633"), max_pixels=999)
    assert image.gsd is None
    assert image.notices == ("The TIFF's georeference has no usable transform: it was ignored.",)
