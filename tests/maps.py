"""Maps with buildings of known shape, and what independent hands make of the results."""

import json
from typing import Any

import numpy as np
import pyproj
import rasterio.features
import shapely
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from app.imaging.decode import decode_image
from app.outputs.formats import FORMATS
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import Cancelled, SegmentedStream, never

UTM = "EPSG:32633"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 4_000_000)


def plan() -> NDArray[np.bool_]:
    """Draw five buildings: a block, an L, a yard with a hut in it, two that share a corner."""
    mask = np.zeros((90, 120), np.bool_)
    mask[5:25, 6:36] = True
    mask[40:70, 10:20] = mask[60:70, 10:40] = True
    mask[30:80, 60:110] = True
    mask[38:72, 68:102] = False
    mask[50:60, 80:95] = True
    mask[8:14, 60:70] = mask[14:20, 70:80] = True
    return mask


BUILDINGS = 6


def picture(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint a mask so that the toy bundle finds it: white on black, uint8 (H, W, 3)."""
    return np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., np.newaxis], 3, axis=2)


def geotiff(
    pixels: NDArray[np.uint8],
    crs: str | None = UTM,
    transform: Affine = NORTH_UP,
    valid: NDArray[np.bool_] | None = None,
) -> bytes:
    """Write an RGB GeoTIFF, with alpha where `valid` is given."""
    bands = np.moveaxis(pixels, 2, 0)
    if valid is not None:
        bands = np.concatenate([bands, np.where(valid, 255, 0).astype(np.uint8)[np.newaxis]])
    count, height, width = bands.shape
    with MemoryFile() as file:
        with file.open(
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype="uint8",
            crs=crs,
            transform=transform,
            photometric="rgb",
            alpha="unspecified" if valid is None else "yes",
        ) as dataset:
            dataset.write(bands)
        return bytes(file.read())


def stream_of(
    segmenter: Segmenter, data: bytes, format: str, cancelled: Cancelled = never, **options: Any
) -> SegmentedStream:
    """Return the stream of an image file, seen as it is, for a format's writer."""
    chosen = Options.parse({"resample": "off"} | options)
    image = decode_image(data, max_pixels=10**8)
    of = FORMATS[format]
    plan = segmenter.plan(image, chosen, buildings=of.buildings, notices=of.check(image))
    return segmenter.segment(plan, image, cancelled, name="map.tif")


def encode(segmenter: Segmenter, data: bytes, format: str, **options: Any) -> bytes:
    """Segment an image file, and encode the result."""
    return FORMATS[format].encode(stream_of(segmenter, data, format, **options))


def polygons(collection: dict[str, Any]) -> list[Any]:
    """Read the geometries of a FeatureCollection."""
    return [shapely.from_geojson(json.dumps(f["geometry"])) for f in collection["features"]]


def rasterised(
    shapes: list[Any], crs: str, transform: Affine, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Bring polygons in longitude and latitude back on a grid: bool, where a pixel's middle is."""
    to_map = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    on_map = [
        shapely.transform(shape, lambda xy: np.stack(to_map.transform(*xy.T), axis=1))
        for shape in shapes
    ]
    drawn = rasterio.features.rasterize(
        [(shape, 1) for shape in on_map] or [(shapely.Point(0, 0), 0)],
        size,
        transform=transform,
        dtype="uint8",
    )
    return drawn.astype(bool)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the IoU of two masks; 1 for two empty ones."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def equal_area(shape: Any) -> float:
    """Measure a polygon in longitude and latitude, in m², by a projection that keeps areas."""
    middle = shape.centroid
    laea = f"+proj=laea +lat_0={middle.y} +lon_0={middle.x} +datum=WGS84 +units=m"
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", laea, always_xy=True)
    plane = shapely.transform(shape, lambda xy: np.stack(to_plane.transform(*xy.T), axis=1))
    return float(plane.area)
