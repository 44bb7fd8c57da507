"""Make a Cloud Optimized GeoTIFF whose rows come a few at a time."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.transform import Affine
from rasterio.windows import Window

from .gdal import environment, open_path
from .georeference import GeoReference

_BLOCK = 256
# Holds a row of blocks until it is full, 3 bands 80,000 pixels wide. GDAL's own limit is a share of
# the machine's memory.
_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Profile:
    """What a file holds besides its pixels, which are uint8.

    `scales` gives for each band, by name, what its values are multiplied by to mean something.
    `alpha`: one more band, the last, is alpha. `nodata` is that of every band: a TIFF has but one.
    `colours` apply where `scales` has one band: a TIFF has no room for a colour table beside more.
    """

    height: int
    width: int
    georeference: GeoReference
    scales: Mapping[str, float]
    alpha: bool
    nodata: int
    colours: Mapping[int, tuple[int, int, int]]
    tags: Mapping[str, str]


class Draft:
    """The tiled file while it is being made."""

    def __init__(self, file: DatasetWriter) -> None:
        self._file = file

    def write(self, row: int, pixels: NDArray[np.uint8]) -> None:
        """Write uint8 (bands, h, width) from row `row` on."""
        _, height, width = pixels.shape
        self._file.write(pixels, window=Window(0, row, width, height))


def write_cog(path: Path, profile: Profile, draw: Callable[[Draft], None]) -> None:
    """Make a file at `path` of what `draw` writes; it is whole, or not there at all.

    It is made in a folder beside it, that comes and goes and takes as much room again.

    Raises:
        OSError: no room, or no right to write there.
        Exception: whatever `draw` raises.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = Path(folder, "cog.tif")
        _make(f"{folder}/rows.tif", str(made), profile, draw)
        made.replace(path)


def change_cog(path: Path, change: Callable[[int, NDArray[np.uint8]], None]) -> None:
    """Make a file that `write_cog` made anew, its pixels changed in place by `change`.

    `change` gets a row and uint8 (bands, h, width) from that row on.

    Raises:
        OSError: as `write_cog`, or it can't be read.
    """
    with open_path(path, "GTiff") as source:
        alpha = source.colorinterp[-1] is ColorInterp.alpha
        scales = dict(zip(source.descriptions, source.scales, strict=True))
        scales = dict(list(scales.items())[: source.count - alpha])
        crs, transform = source.crs.to_wkt() if source.crs else None, tuple(source.transform)[:6]
        profile = Profile(
            source.height,
            source.width,
            GeoReference(crs, transform),
            {str(name): float(scale) for name, scale in scales.items()},
            alpha,
            int(source.nodata),
            source.colormap(1) if len(scales) == 1 else {},
            source.tags(),
        )

        def draw(draft: Draft) -> None:
            for row in range(0, source.height, _BLOCK):
                rows = Window(0, row, source.width, min(_BLOCK, source.height - row))
                pixels = source.read(window=rows)
                change(row, pixels)
                draft.write(row, pixels)

        write_cog(path, profile, draw)


def encode_cog(profile: Profile, draw: Callable[[Draft], None]) -> bytes:
    """Make a file in memory of what `draw` writes.

    Raises:
        Exception: whatever `draw` raises.
    """
    with MemoryFile(ext=".tif") as rows, MemoryFile(ext=".tif") as made:
        _make(rows.name, made.name, profile, draw)
        return bytes(made.read())


def _make(rows: str, made: str, profile: Profile, draw: Callable[[Draft], None]) -> None:
    """Fill a tiled file `rows`, then let GDAL lay it out as `made`."""
    paletted = len(profile.scales) == 1
    with environment(GDAL_CACHEMAX=_CACHE_BYTES):
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
            tiled=True,
            blockxsize=_BLOCK,
            blockysize=_BLOCK,
            interleave="band",
            photometric="palette" if paletted else "minisblack",
            alpha="unspecified" if profile.alpha else "no",
            compress="lzw",
            bigtiff="if_safer",
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
            draw(Draft(file))
        rasterio.shutil.copy(
            rows,
            made,
            driver="COG",
            compress="deflate",
            overview_resampling="nearest",
            bigtiff="if_safer",
        )
