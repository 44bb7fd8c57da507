"""Open one file with one GDAL driver, and let nothing in the file open another."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError  # some of rasterio's getters raise it
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)
"""Exceptions that rasterio raises when a file is at fault."""

_ENVIRONMENT = {
    # The driver is named at every opening. If a file leads GDAL to a second file all the same,
    # these drivers, which open further files, are missing. GDAL registers its drivers once in a
    # process.
    "GDAL_SKIP": "VRT DERIVED GTI HTTP WMS WMTS WCS STACIT STACTA EEDA EEDAI PLMOSAIC",
    # A TIFF's own metadata may name a remote file for its overviews. No file has this name.
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    # Bytes of decoded blocks that are kept, of all open files; by default a share of the memory.
    "GDAL_CACHEMAX": 128 * 2**20,
}
_ALONE = {
    # No sidecars: a file stands for itself.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
}
_REMOTE = "remote"
"""Name by which GDAL asks for what Python reads."""

# An image without georeference is welcome here, and alpha is read beside nodata. The filters are
# set once, since `warnings.catch_warnings` is not safe in threads, and only for our own calls.
for _category in (NotGeoreferencedWarning, NodataShadowWarning):
    warnings.filterwarnings("ignore", category=_category, module=re.escape(f"{__package__}."))


def environment(**options: str | int) -> rasterio.Env:
    """Return GDAL's environment for opening and writing files; `options` are GDAL's."""
    return rasterio.Env(**{**_ENVIRONMENT, **_ALONE, **options})


def allow_named() -> None:
    """Let this process open VRTs and files over the network, by `open_name`.

    It is for the command line, where the user names them, and comes before anything is opened,
    since GDAL registers its drivers once. The service never calls it.
    """
    _ENVIRONMENT["GDAL_SKIP"] = str(_ENVIRONMENT["GDAL_SKIP"]).replace("VRT ", "")
    _ENVIRONMENT.pop("CPL_VSIL_CURL_ALLOWED_FILENAME", None)


@contextmanager
def open_name(name: str, drivers: list[str]) -> Iterator[DatasetReader]:
    """Open what GDAL has a name for, or the XML of a VRT, with one of these drivers.

    Raises:
        OSError: none of them can open it; GDAL's own reason is in it.
    """
    # Over the network, looking for sidecars would be a request for each.
    alone = _ALONE if name.startswith(("/vsi", "<")) else {}
    with rasterio.Env(**{**_ENVIRONMENT, **alone}):
        try:
            source = DatasetReader(name, driver=drivers)
        except GDAL_ERRORS as error:
            raise OSError(f"GDAL can't open it: {error}") from error
        with source:
            yield source


@contextmanager
def open_in_memory(data: bytes, driver: str, **options: str) -> Iterator[DatasetReader]:
    """Open bytes as a dataset, without a copy, with `driver` and no other.

    `options` are GDAL configuration options, in force as long as the dataset is open.

    Raises:
        GDAL_ERRORS: the driver can't open it.
    """
    with (
        environment(**options),
        MemoryFile(data) as file,
        DatasetReader(file.name, driver=driver) as dataset,
    ):
        yield dataset


@contextmanager
def open_path(path: Path, driver: str) -> Iterator[DatasetReader]:
    """Open a file of the operator's own, with `driver` and no other.

    Sidecars beside it count: a mask (.msk), a world file, what GIS programs add (.aux.xml).

    Raises:
        GDAL_ERRORS: the driver can't open it.
    """
    with rasterio.Env(**_ENVIRONMENT), DatasetReader(path.resolve(), driver=driver) as dataset:
        yield dataset


@contextmanager
def open_remote(opener: Callable[[], RawIOBase], driver: str) -> Iterator[DatasetReader]:
    """Open what Python reads, such as a file on a web server, with `driver` and no other.

    `opener` returns it as a file. It is called more than once.

    Raises:
        GDAL_ERRORS: the driver can't open it.
    """

    def by_name(name: str, mode: str = "rb") -> RawIOBase:
        if name.startswith(f"{_REMOTE}."):
            raise FileNotFoundError(name)  # a sidecar
        return opener()

    with environment(), rasterio.open(_REMOTE, driver=driver, opener=by_name) as dataset:
        yield dataset
