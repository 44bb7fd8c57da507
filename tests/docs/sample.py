"""Draw the sample of the page: `python -m tests.docs.sample`.

It is a scene that the project drew itself, so anyone may have it. It lies in the sea, where the
equator meets the meridian of Greenwich, so nobody takes it for a real place.
"""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from training.scenes import generate_scene

SAMPLE = Path(__file__).parents[2] / "app" / "web" / "page" / "sample.tif"
_SIZE, _GSD, _SEED = 640, 0.4, 11
_EAST, _NORTH = 166_021.0, 128.0  # of the top left corner, in UTM zone 31 North


def write_sample(path: Path = SAMPLE) -> None:
    """Write the scene as a GeoTIFF, JPEG inside."""
    scene = generate_scene(_SIZE, _SIZE, seed=_SEED, gsd=_GSD, land_use="suburb")
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=_SIZE,
        height=_SIZE,
        count=3,
        dtype="uint8",
        crs="EPSG:32631",
        transform=from_origin(_EAST, _NORTH, _GSD, _GSD),
        compress="JPEG",
        photometric="YCBCR",
        jpeg_quality=80,
        tiled=True,
        blockxsize=_SIZE,
        blockysize=_SIZE,
    ) as file:
        file.write(np.moveaxis(scene.pixels, -1, 0))


if __name__ == "__main__":
    write_sample()
