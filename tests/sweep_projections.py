"""Every projected system of EPSG against PROJ's own answers: `python -m tests.sweep_projections`.

An image is written as GeoTIFF in each system, in the middle of its area of use and near a corner of
it, north-up, south-up, rotated or sheared. It is read back as an upload is. Then a place on it must
lie within 1 m of where PROJ puts the same coordinates of the same EPSG code, and its area must be
within 1 % of the geodesic one; or the image is refused, or a notice says what is wrong.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyproj
import rasterio.crs
import shapely
from pyproj.database import query_crs_info
from pyproj.enums import PJType
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.transform import Affine

from app.errors import InputError
from app.imaging.decode import decode_image
from app.imaging.georeference import GeoReference
from app.outputs.earth import area_on_earth, to_earth
from tests.geotiff import tiff

SIDE = 40
BANDS = np.full((3, SIDE, SIDE), 90, np.uint8)
METRES, SQUARE = 1.0, 0.01
GEOD = pyproj.Geod(ellps="WGS84")

GRIDS = {
    "north-up": Affine.scale(1, -1),
    "south-up": Affine.scale(1, 1),
    "rotated": Affine.rotation(33) @ Affine.scale(1, -1),
    "sheared": Affine(1, 0.8, 0, 0.1, -1, 0),
    "oblong": Affine.scale(1, -3),
}


class Outcome(NamedTuple):
    """What came of one image."""

    crs: str
    grid: str
    kind: str
    """right, noticed, refused, wrong, or no truth: PROJ has no answer, or GDAL can't write it."""
    detail: str = ""


def projected() -> list[str]:
    """List the projected systems of EPSG that are not deprecated."""
    kinds = [PJType.PROJECTED_CRS]
    return [f"EPSG:{i.code}" for i in query_crs_info("EPSG", kinds) if not i.deprecated]


def places(crs: pyproj.CRS) -> Iterator[tuple[float, float]]:
    """Give longitude and latitude in the middle of a system's area of use, and near a corner."""
    area = crs.area_of_use
    west, south, east, north = area.bounds if area else (-10, 40, 10, 50)
    east += 360 if east < west else 0
    for across, up in ((0.5, 0.5), (0.12, 0.9)):
        lon = west + across * (east - west)
        yield (lon + 180) % 360 - 180, south + up * (north - south)


def sweep(systems: Iterable[str], pixel: float = 1.0) -> Iterator[Outcome]:
    """Try systems, each with two places and a grid for each; pixels are of so many metres."""
    for number, code in enumerate(systems):
        crs = pyproj.CRS(code)
        for turn, (lon, lat) in enumerate(places(crs)):
            grid = list(GRIDS)[(number + 2 * turn) % len(GRIDS)]
            yield outcome(code, crs, lon, lat, grid, pixel)


def outcome(
    code: str, crs: pyproj.CRS, lon: float, lat: float, grid: str, pixel: float = 1.0
) -> Outcome:
    """Try one system at one place."""
    try:
        truth = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        x, y = truth.transform(lon, lat, direction="INVERSE", errcheck=True)
    except ProjError as error:
        return Outcome(code, grid, "no truth", str(error))
    unit = pixel / crs.axis_info[0].unit_conversion_factor
    transform = Affine.translation(x, y) @ Affine.scale(unit) @ GRIDS[grid]
    transform = transform @ Affine.translation(-SIDE / 2, -SIDE / 2)
    corners = np.array([(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)], np.float64)
    try:
        x, y = transform @ corners.T
        lons, lats = truth.transform(x, y, errcheck=True)
        data = tiff(BANDS, crs=rasterio.crs.CRS.from_string(code), transform=transform)
    except (ProjError, RasterioError) as error:
        return Outcome(code, grid, "no truth", str(error))
    try:
        image = decode_image(data, max_pixels=10**6)
        place = image.georeference
        if place is None or image.gsd is None:
            return Outcome(code, grid, "refused", "; ".join(image.notices))
        notice = place.position_notice(SIDE, SIDE) or place.area_notice(SIDE, SIDE)
        found, area = _found(place, corners)
    except InputError as error:
        return Outcome(code, grid, "refused", str(error))
    outline = shapely.Polygon(np.stack([lons, lats], axis=1))
    off = _off(outline, found)
    right = abs(GEOD.geometry_area_perimeter(outline)[0])
    areas = place.row_areas(SIDE, SIDE)
    assert areas is not None
    bad = [f"{off:.3g} m off"] if off > METRES else []
    for name, value in (("polygon", area), ("pixels", SIDE * float(areas.sum()))):
        if abs(value / right - 1) > SQUARE:
            bad.append(f"area of {name} {value / right:.4f} of what is right")
    if not bad:
        return Outcome(code, grid, "right", notice or "")
    return Outcome(code, grid, "noticed" if notice else "wrong", ", ".join(bad))


def _found(place: GeoReference, corners: np.ndarray) -> tuple[shapely.Geometry, float]:
    x, y = Affine(*place.transform) @ corners.T
    found = to_earth(shapely.Polygon(np.stack([x, y], axis=1)), place.to_degrees())
    return found, area_on_earth(found)


def _off(right: shapely.Polygon, found: shapely.Geometry) -> float:
    """Return the metres from each right corner to the nearest one that was found, at most."""
    lons, lats = shapely.get_coordinates(found).T
    return max(
        float(np.min(GEOD.inv(np.full_like(lons, lon), np.full_like(lats, lat), lons, lats)[2]))
        for lon, lat in shapely.get_coordinates(right)
    )


def main() -> int:
    """Try all of them, print what is wrong and how many are what; 1 if any is wrong."""
    warnings.simplefilter("ignore")
    every = projected()
    step = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    count: Counter[str] = Counter()
    for found in sweep(every[::step]):
        count[found.kind] += 1
        if found.kind not in ("right",):
            print(*found, sep="\t", flush=True)
    print(f"{len(every[::step])} systems, {count.total()} images:", dict(count))
    return 1 if count["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
