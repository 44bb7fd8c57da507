"""Where an image lies on the earth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GeoReference:
    """Carry an image's coordinate reference system and its pixel-to-map transform.

    `crs` is WKT, or None when the file has a transform but names no system.
    `transform` is (a, b, c, d, e, f) with x = a·col + b·row + c and y = d·col + e·row + f, where
    (0, 0) is the outer corner of the first pixel. Source: rasterio's `Affine` order.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]
