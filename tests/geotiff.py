"""TIFF files as the tests make them, in memory."""

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile


def tiff(bands: NDArray[np.generic], driver: str = "GTiff", **options: object) -> bytes:
    """Write (bands, height, width); `colorinterp`, `mask` and `colormap` are set on the dataset."""
    count, height, width = bands.shape
    later = {key: options.pop(key) for key in ("colorinterp", "mask", "colormap") if key in options}
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with MemoryFile() as file:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),
            file.open(driver=driver, **shape, **options) as dataset,
        ):
            if "colorinterp" in later:
                dataset.colorinterp = later["colorinterp"]
            dataset.write(bands)
            if "colormap" in later:
                dataset.write_colormap(1, later["colormap"])
            if "mask" in later:
                dataset.write_mask(later["mask"])
        return bytes(file.getbuffer())
