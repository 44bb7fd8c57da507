"""Read where an image lies, as GDAL finds it in the file and beside it."""

from functools import lru_cache
from pathlib import Path

import pyproj
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.enums import WktVersion
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from .georeference import GeoReference, Gsd

_WORLD_FILES = (".wld", ".wpw", ".webpw", ".WLD")


Place = tuple[GeoReference | None, Gsd | None, tuple[str, ...]]
"""Where an image lies, its GSD, and what its client should know."""


def read_place(source: DatasetReader, kind: str, beside: Path | None = None) -> Place:
    """Read the place of an open file.

    Without a transform, coordinate reference system or control points there is no georeference.
    `kind` is the file's format. `beside`: a path beside which other files tell what GDAL does not
    find.
    """
    transform, crs, (control_points, _) = source.transform, source.crs, source.gcps
    if beside is not None:
        transform = _read_world_file(beside) or transform if transform.is_identity else transform
        crs = crs or _read_prj(beside)
    if transform.is_identity and crs is None and not control_points:
        by_camera = (
            f"The {kind} tells its place by rational polynomials (RPC), which are not used: warp "
            "it with gdalwarp -rpc.",
        )
        return (None, None, by_camera if source.rpcs else ())
    a, b, c, d, e, f = transform[:6]
    # WKT 1 does not tell all methods apart.
    named = _as_named(crs.to_wkt(version=WktVersion.WKT2_2019)) if crs else None
    georeference = GeoReference(named, (a, b, c, d, e, f))
    if not georeference.has_grid:
        useless = f"The {kind}'s georeference has no usable transform: it was ignored."
        return (georeference, None, (useless,))
    gsd = georeference.gsd(source.height, source.width)
    if gsd is None:
        unknown = f"The {kind}'s georeference does not tell its GSD: give gsd= in metres per pixel."
        return (georeference, None, (unknown,))
    return (georeference, gsd, ())


@lru_cache(maxsize=16)
def _as_named(wkt: str) -> str:
    """Return EPSG's own definition of a system that bears its code, where GDAL's is another.

    A GeoTIFF has one code for several methods: GDAL reads EPSG:9311, of a sphere, as one of an
    ellipsoid, up to 14 km off. A datum that was renamed after GDAL's database was made is unknown
    to pyproj's, which costs some 100 m. A system whose parameters differ stays as it is.
    """
    read = pyproj.CRS.from_wkt(wkt)
    name = read.to_json_dict().get("id", {})
    try:
        official = pyproj.CRS.from_authority(name["authority"], name["code"])
    except (KeyError, ProjError):
        return wkt
    if _method(read) == _method(official):
        renamed = _datum(read) != _datum(official)
        if not renamed or _values(read) != _values(official):
            return wkt
    return str(official.to_wkt())


def _datum(crs: pyproj.CRS) -> str:
    return "" if crs.datum is None else crs.datum.name


def _values(crs: pyproj.CRS) -> list[str]:
    """Return the parameters of a system's projection, to nine digits."""
    operation = crs.coordinate_operation
    params = [] if operation is None else operation.params
    return [f"{p.value:.9g}" if isinstance(p.value, float) else str(p.value) for p in params]


def _method(crs: pyproj.CRS) -> str:
    operation = crs.coordinate_operation
    return "" if operation is None else operation.method_name.replace("_", " ")


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


def _read_prj(path: Path) -> CRS | None:
    """Read a .prj file, as ESRI's programs write it, which GDAL does not look for."""
    for ending in (".prj", ".PRJ"):
        try:
            text = path.with_suffix(ending).read_text(encoding="utf-8", errors="replace").strip()
            return CRS.from_wkt(pyproj.CRS.from_wkt(text).to_wkt())
        except (OSError, ProjError, CRSError):
            continue
    return None
