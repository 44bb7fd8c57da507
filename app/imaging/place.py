"""Read where an image lies, as GDAL finds it in the file and beside it."""

from pathlib import Path

import pyproj
from pyproj.exceptions import ProjError
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from app.imaging.georeference import GeoReference, Gsd

_WORLD_FILES = (".wld", ".wpw", ".webpw", ".WLD")


def read_place(
    source: DatasetReader, kind: str, beside: Path | None = None
) -> tuple[GeoReference | None, Gsd | None, list[str]]:
    """Return the georeference and the GSD of an open file, and notices on what is wrong with them.

    Without a transform, coordinate reference system or control points there is no georeference.
    `kind` is the file's format. `beside`: a path beside which other files tell what GDAL does not
    find.
    """
    transform, (control_points, _) = source.transform, source.gcps
    if beside is not None and transform.is_identity:
        transform = _read_world_file(beside) or transform
    if transform.is_identity and source.crs is None and not control_points:
        by_camera = source.tags(ns="RPC")
        return (
            None,
            None,
            [
                f"The {kind} tells its place by rational polynomials (RPC), which are not used: "
                "warp it with gdalwarp -rpc."
            ]
            * bool(by_camera),
        )
    crs: str | None = source.crs.to_wkt() if source.crs is not None else None
    if crs is None and beside is not None:
        crs = _read_prj(beside)
    a, b, c, d, e, f = transform[:6]
    georeference = GeoReference(crs, (a, b, c, d, e, f))
    if not georeference.has_grid:
        return (
            georeference,
            None,
            [f"The {kind}'s georeference has no usable transform: it was ignored."],
        )
    gsd = georeference.gsd(source.height, source.width)
    if gsd is None:
        return (
            georeference,
            None,
            [f"The {kind}'s georeference does not tell its GSD: give gsd= in metres per pixel."],
        )
    differing = georeference.area_notice(source.height, source.width)
    return georeference, gsd, [] if differing is None else [differing]


def _read_world_file(path: Path) -> Affine | None:
    """Read the transform that a world file tells, which GDAL does not look for beside WebP.

    Source: ESRI, "World files for raster datasets": a, d, b, e, and the middle of the first pixel.
    """
    for ending in _WORLD_FILES:
        try:
            a, d, b, e, x, y = map(float, path.with_suffix(ending).read_text("ascii").split())
        except (OSError, ValueError):
            continue
        return Affine(a, b, x, d, e, y) @ Affine.translation(-0.5, -0.5)
    return None


def _read_prj(path: Path) -> str | None:
    """Return the WKT of a .prj file, as ESRI's programs write it, which GDAL does not look for."""
    for ending in (".prj", ".PRJ"):
        try:
            text = path.with_suffix(ending).read_text(encoding="utf-8", errors="replace").strip()
            return str(pyproj.CRS.from_wkt(text).to_wkt())
        except (OSError, ProjError):
            continue
    return None
