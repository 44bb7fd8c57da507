"""Check that PROJ's data are there, on which every coordinate reference system rests."""

import os

import pyproj
import rasterio
from pyproj.exceptions import DataDirError, ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ..errors import StartupError
from .gdal import environment

_VARIABLES = ("PROJ_DATA", "PROJ_LIB")
_PROBE = 32633
"""UTM zone 33 north on WGS 84: in every database of PROJ's."""


def check_proj() -> None:
    """Check that rasterio and pyproj find a database of PROJ's that fits them.

    Both bring one along, and rasterio prefers the one that an environment variable names. PostGIS,
    QGIS and conda set it. With another version's, or none, rasterio reads an image's coordinate
    reference system as a local one without a place on earth, and raises nothing.

    Raises:
        StartupError: they don't; the message names the variable and the remedy.
    """
    try:
        with environment():  # without it, GDAL prints errors too
            found = CRS.from_epsg(_PROBE).to_epsg()
        pyproj.Transformer.from_crs(_PROBE, 4326)
    except (CRSError, ProjError, DataDirError) as error:
        found, cause = None, str(error)
    else:
        cause = f"EPSG:{_PROBE} is read as EPSG:{found}"
    if found == _PROBE:
        return
    named = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    remedy = (
        f"The environment has {' and '.join(named)}, which is another installation's: unset "
        f"{' and '.join(name for name in _VARIABLES if name in os.environ)}."
        if named
        else "Install rasterio and pyproj again, from their wheels, or set PROJ_DATA to the folder "
        "of a proj.db that fits them."
    )
    raise StartupError(
        f"PROJ's data can't be used, so no coordinate reference system can be read. {remedy} "
        f"PROJ says: {cause}"
    )


def libraries() -> str:
    """Name the GDAL and the PROJ in use, and the folder of PROJ's data."""
    return (
        f"GDAL {rasterio.__gdal_version__} of rasterio {rasterio.__version__}, PROJ "
        f"{pyproj.proj_version_str} with data in {pyproj.datadir.get_data_dir()}"
    )
