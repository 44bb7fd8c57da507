"""Make a Cloud Optimized GeoTIFF whose rows come a few at a time."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.transform import Affine
from rasterio.windows import Window

from .gdal import environment
from .georeference import GeoReference

_BLOCK = 256
# Holds a row of blocks until it is full, 3 bands 80,000 pixels wide. GDAL's own limit is a share of
# the machine's memory.
_CACHE_BYTES = 64 << 20
_TILED = {
    "tiled": True,
    "blockxsize": _BLOCK,
    "blockysize": _BLOCK,
    "interleave": "band",
    "compress": "lzw",
    "bigtiff": "if_safer",
}


@dataclass(frozen=True)
class Profile:
    """The parts of a file beside its pixels, which are uint8.

    `scales`: the factor from values to their unit, for each band by name.
    `alpha`: one more band, the last, is alpha. `nodata` is that of every band: a TIFF has but one.
    `colours`: used if `scales` has one band, as a TIFF has no colour table beside more.
    """

    height: int
    width: int
    georeference: GeoReference
    scales: Mapping[str, float]
    alpha: bool
    nodata: int
    colours: Mapping[int, tuple[int, int, int]]
    tags: Mapping[str, str]


Strips = Iterable[tuple[int, NDArray[np.uint8]]]
"""Rows of a file: the first one's number, and uint8 (bands, h, width)."""


def write_cog(path: Path, profile: Profile, strips: Strips) -> None:
    """Write a file from its strips; it appears whole or not at all.

    Meanwhile a temporary folder beside it takes as much room again.

    Raises:
        OSError: no room, or no right to write there.
        Exception: any that `strips` raises.
    """
    with _beside(path) as (rows, made):
        _fill(rows, profile, strips)
        _lay_out(rows, made)


def change_cog(path: Path, change: Callable[[int, NDArray[np.uint8]], None]) -> None:
    """Rewrite a file that `write_cog` made, with other pixels.

    `change` takes a row and uint8 (bands, h, width) from that row on, and changes them in place.

    Raises:
        OSError: as `write_cog`, or it can't be read.
    """
    with _beside(path) as (rows, made):
        rasterio.shutil.copy(path, rows, driver="GTiff", **_TILED)
        with DatasetWriter(rows, "r+", driver="GTiff") as file:
            for row in range(0, file.height, _BLOCK):
                window = Window(0, row, file.width, min(_BLOCK, file.height - row))
                pixels = file.read(window=window)
                change(row, pixels)
                file.write(pixels, window=window)
        _lay_out(rows, made)


def encode_cog(profile: Profile, strips: Strips) -> bytes:
    """Return the bytes of a file made from its strips.

    Raises:
        Exception: any that `strips` raises.
    """
    with (
        environment(GDAL_CACHEMAX=_CACHE_BYTES),
        MemoryFile(ext=".tif") as rows,
        MemoryFile(ext=".tif") as made,
    ):
        _fill(rows.name, profile, strips)
        _lay_out(rows.name, made.name)
        return bytes(made.read())


@contextmanager
def _beside(path: Path) -> Iterator[tuple[str, str]]:
    """Name a file for the rows, and one that takes the place of `path` once both are made."""
    with (
        environment(GDAL_CACHEMAX=_CACHE_BYTES),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder,
    ):
        yield f"{folder}/rows.tif", f"{folder}/cog.tif"
        Path(folder, "cog.tif").replace(path)


def _fill(rows: str, profile: Profile, strips: Strips) -> None:
    paletted = len(profile.scales) == 1
    with DatasetWriter(
        rows,
        "w",
        driver="GTiff",
        width=profile.width,
        height=profile.height,
        count=len(profile.scales) + profile.alpha,
        dtype="uint8",
        nodata=profile.nodata,
        crs=profile.georeference.crs,
        transform=Affine(*profile.georeference.transform),
        photometric="palette" if paletted else "minisblack",
        alpha="unspecified" if profile.alpha else "no",
        **_TILED,
    ) as file:
        file.update_tags(**profile.tags)
        alpha = [ColorInterp.alpha] * profile.alpha
        file.descriptions = (*profile.scales, *["alpha"] * profile.alpha)
        if paletted:
            file.write_colormap(1, profile.colours)
            file.colorinterp = [ColorInterp.palette, *alpha]
        else:
            others = [ColorInterp.undefined] * (len(profile.scales) - 1)
            file.colorinterp = [ColorInterp.gray, *others, *alpha]
            file.scales = (*profile.scales.values(), *[1.0] * profile.alpha)
        for row, pixels in strips:
            file.write(pixels, window=Window(0, row, profile.width, pixels.shape[1]))


def _lay_out(rows: str, made: str) -> None:
    """Let GDAL lay out a tiled file anew."""
    rasterio.shutil.copy(
        rows,
        made,
        driver="COG",
        compress="deflate",
        overview_resampling="nearest",
        bigtiff="if_safer",
    )
