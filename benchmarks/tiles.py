"""How far four stitched live tiles are from the mask of their stitched imagery.

Places are all 4 x 4 tiles (2 x 2 blocks) that fit into the imagery, and in each of them 2 x 2 tiles
at every alignment: of one block, of two beside or above each other, of four. Compared are:

- `tiles`: the tiles as a map shows them;
- `alone`: `POST /segment` of the 512 x 512 pixels, as PNG, with their `gsd`;
- `larger`: the same of 1536 x 1536 pixels around the place, cropped to the tiles.

Imagery without a place, such as a labelled tile, is laid where the zoom has its `--gsd`. What
differs is a share of the pixels.
"""

import argparse
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

from app.imaging.decode import decode_image
from app.segmentation.options import Options, TileOptions
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import never
from app.settings import Settings
from app.tiles.cache import Cache
from app.tiles.grid import TILE, Area, Block, Tile, gsd_at, pixel_at
from app.tiles.maps import Map, draw, open_maps
from app.tiles.spec import MAX_ZOOM

Mask = NDArray[np.bool_]
_SIDE = 2 * TILE
_AROUND = 256
_LONGITUDE = -90.0
_MAX_LATITUDE = 66.0


def place(path: Path, gsd: float, folder: Path) -> tuple[Path, int]:
    """Lay a picture on the corner of a block, on the grid of the zoom nearest to its GSD."""
    zoom = max(z for z in range(MAX_ZOOM) if gsd_at(z, 0) >= gsd)
    latitude = math.degrees(math.acos(gsd / gsd_at(zoom, 0)))
    if latitude > _MAX_LATITUDE:
        raise ValueError(f"no zoom has a GSD near {gsd} m below {_MAX_LATITUDE:g} degrees")
    column, row = (n // _SIDE * _SIDE for n in pixel_at(_LONGITUDE, latitude, zoom))
    with PIL.Image.open(path) as picture:
        bands = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    georeference = Area(zoom, column, row, *bands.shape[:0:-1]).georeference
    placed = folder / f"{path.stem}.tif"
    with rasterio.open(
        placed, "w", driver="GTiff", count=3, height=bands.shape[1], width=bands.shape[2],
        dtype="uint8", crs="EPSG:3857", transform=Affine(*georeference.transform), tiled=True,
        photometric="rgb",
    ) as file:  # fmt: skip
        file.write(bands)
    return placed, zoom


def places(map: Map, zoom: int) -> Iterator[Block]:
    """Return the first block of each 2 x 2 blocks that the imagery has whole."""
    west, south, east, north = map.source.bounds()
    left, top = (math.ceil((n - 1) / _SIDE) for n in pixel_at(west, north, zoom))
    right, bottom = ((n + 1) // _SIDE for n in pixel_at(east, south, zoom))
    for row in range(top, bottom - 1, 2):
        for column in range(left, right - 1, 2):
            yield Block(zoom, column, row)


def tiles_of(map: Map, first: Block, segmenter: Segmenter) -> Mask:
    """Draw the tiles of 2 x 2 blocks: bool (1024, 1024)."""
    drawn = np.empty((2 * _SIDE, 2 * _SIDE), np.bool_)
    for down in range(2):
        for across in range(2):
            block = Block(first.z, first.column + across, first.row + down)
            known = map.predict(block, TileOptions(), segmenter, never)
            for y in range(2):
                for x in range(2):
                    tile = Tile(block.z, 2 * block.column + x, 2 * block.row + y)
                    png = draw(known, tile, TileOptions(), segmenter)
                    with PIL.Image.open(io.BytesIO(png)) as picture:
                        shown = np.asarray(picture.convert("RGBA"))[..., 3] > 0
                    top, left = _SIDE * down + TILE * y, _SIDE * across + TILE * x
                    drawn[top : top + TILE, left : left + TILE] = shown
    return drawn


def answer(pixels: NDArray[np.uint8], gsd: float, segmenter: Segmenter) -> Mask:
    """Return the mask that `POST /segment` gives of a PNG of these pixels."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    image = decode_image(file.getvalue(), max_pixels=pixels.size)
    return segmenter.segment_image(image, Options(gsd=gsd)).mask


def measure(map: Map, first: Block, segmenter: Segmenter) -> Iterator[dict[str, float]]:
    """Give for each alignment the share of pixels that differ, by what is compared."""
    masks = {"tiles": tiles_of(map, first, segmenter)}
    side = 2 * _SIDE + 2 * _AROUND
    corner = Area(first.z, first.column * _SIDE - _AROUND, first.row * _SIDE - _AROUND, side, side)
    pixels = map.source.read(corner, never).pixels
    inner = np.s_[_AROUND:-_AROUND, _AROUND:-_AROUND]
    masks["larger"] = answer(pixels, first.gsd, segmenter)[inner]
    for top in (0, TILE):
        for left in (0, TILE):
            cut = np.s_[top : top + _SIDE, left : left + _SIDE]
            alone = np.ascontiguousarray(pixels[inner][cut])
            shown = {name: mask[cut] for name, mask in masks.items()}
            shown["alone"] = answer(alone, first.gsd, segmenter)
            yield {
                f"{one} and {other}": float(np.mean(shown[one] != shown[other]))
                for one, other in combinations(("tiles", "alone", "larger"), 2)
            }


def table(found: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Write what was found, in Markdown."""
    yield "| compared | median | nine in ten below | worst | at most 1 % |"
    yield "| --- | --- | --- | --- | --- |"
    for name, shares in found.items():
        low, high, worst = np.percentile(shares, (50, 90, 100))
        few = np.mean(np.array(shares) <= 0.01)
        yield f"| {name} | {low:.2%} | {high:.2%} | {worst:.2%} | {few:.0%} of {len(shares)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print each place, and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", help="GeoTIFFs, or others with --gsd")
    parser.add_argument("--gsd", type=float, help="metres per pixel of images without a place")
    parser.add_argument("--zoom", type=int, default=18, help="of GeoTIFFs")
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    args = parser.parse_args(arguments)
    found = defaultdict[str, list[float]](list)
    with ExitStack() as stack:
        segmenter = stack.enter_context(closing(load_segmenter(args.bundle)))
        print(f"{segmenter.manifest.version}, {segmenter.predictor.choice}\n")
        folder = Path(stack.enter_context(TemporaryDirectory()))
        for path in args.images:
            file, zoom = place(path, args.gsd, folder) if args.gsd else (path, args.zoom)
            settings = Settings(_env_file=None, tile_sources={"it": str(file)})
            map = open_maps(settings.tile_sources, settings.tile_timeout, Cache(2**28, 3600))["it"]
            for first in places(map, zoom):
                here = list(measure(map, first, segmenter))
                for shares in here:
                    for name, share in shares.items():
                        found[name].append(share)
                told = " ".join(f"{shares['tiles and alone']:.2%}" for shares in here)
                print(f"{path.name} {first.z}/{first.column}/{first.row}: {told}", flush=True)
    print("\n" + "\n".join(table(found)))


if __name__ == "__main__":
    main()
