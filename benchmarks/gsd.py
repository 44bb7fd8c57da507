"""How well the masks of one scene agree that comes at two GSDs.

Every tile of one GSD is segmented as it is and again at half its size, each pixel the mean of four,
with both GSDs told. The coarse mask is brought onto the fine grid, each pixel as four; micro Dice
between the two is the agreement. Beside it stand the agreement on the coarse grid, where a pixel is
building if at least two of the four of the fine mask are, and both masks' micro Dice with the label
on the fine grid.

What GSD the members see follows from `gsd` in the bundle's manifest, as it is served; `--range`
shows what would be with other figures there.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from operator import add
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import GsdRange
from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from training.data import Tile, list_tiles
from training.metrics import Counts, count

Scalar = TypeVar("Scalar", bound=np.generic)


class Agreement(NamedTuple):
    """Pixels that masks share, of one scene or of many: on the fine grid, on the coarse one.

    Then those that each mask shares with the label, on the fine grid.
    """

    on_fine: Counts = Counts()
    on_coarse: Counts = Counts()
    fine_label: Counts = Counts()
    coarse_label: Counts = Counts()


def agreement(segmenter: Segmenter, tile: Tile, gsd: float) -> Agreement:
    """Segment a tile of `gsd` metres per pixel at that and at twice that, and compare."""
    image, label = tile.read()
    height, width = (side - side % 2 for side in label.shape)
    pixels, label = image.pixels[:height, :width], label[:height, :width]
    halved = np.rint(_fours(pixels).mean(axis=(1, 3))).astype(np.uint8)
    fine, coarse = (
        segmenter.segment_image(Image(seen), Options(gsd=told)).mask
        for seen, told in ((pixels, gsd), (halved, 2 * gsd))
    )
    enlarged = coarse.repeat(2, axis=0).repeat(2, axis=1)
    return Agreement(
        count(enlarged, fine),
        count(coarse, _fours(fine).sum(axis=(1, 3)) >= 2),
        count(fine, label),
        count(enlarged, label),
    )


def _fours(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """View (2h, 2w, …) as (h, 2, w, 2, …)."""
    height, width = (side // 2 for side in values.shape[:2])
    return values.reshape(height, 2, width, 2, *values.shape[2:])


def by_source(segmenter: Segmenter, tiles: Sequence[Tile], gsd: float) -> dict[str, Agreement]:
    """Sum the agreement of tiles by source, and of `all`."""
    found: defaultdict[str, Agreement] = defaultdict(Agreement)
    for tile in tiles:
        of_tile = agreement(segmenter, tile, gsd)
        for name in (tile.source, "all"):
            found[name] = Agreement(*map(add, found[name], of_tile))
    return dict(found)


def take(tiles: Sequence[Tile], gsd: float, most: int) -> list[Tile]:
    """Take the tiles of one GSD, evenly spread where a source has more than `most`."""
    groups: defaultdict[str, list[Tile]] = defaultdict(list)
    for tile in tiles:
        if tile.gsd == gsd:
            groups[tile.source].append(tile)
    return [tile for group in groups.values() for tile in group[:: -(-len(group) // most)]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table: by range, and by source."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gsd", description=__doc__)
    parser.add_argument(
        "data", type=Path, nargs="+", help="folders of tiles, with SOURCES.csv beside them"
    )
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--gsd", type=float, default=0.3, help="of the tiles that are taken")
    parser.add_argument("--most", type=int, default=1000, help="tiles of each source")
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        action="append",
        default=[],
        metavar=("MIN", "REFERENCE"),
        help="the finest and the coarsest GSD that the members see; may come more than once",
    )
    args = parser.parse_args(arguments)
    tiles = take([t for folder in args.data for t in list_tiles(folder)], args.gsd, args.most)
    if not tiles:
        raise SystemExit(f"no tile of {args.gsd} m in {', '.join(map(str, args.data))}")
    with closing(load_segmenter(args.bundle)) as segmenter:
        served = segmenter.manifest
        print(f"{served.version}, {segmenter.predictor.choice}; {len(tiles)} tiles")
        print(f"{'members see':22} {'source':10}" + "".join(f"{n:>14}" for n in Agreement._fields))
        other = [GsdRange(min=m, max=max(r, served.gsd.max), reference=r) for m, r in args.range]
        for seen in (served.gsd, *other):
            segmenter.manifest = served.model_copy(update={"gsd": seen})
            what = " and ".join(f"{seen.shown(gsd):.3g}" for gsd in (args.gsd, 2 * args.gsd)) + " m"
            what += " (served)" * (seen is served.gsd)
            for source, found in by_source(segmenter, tiles, args.gsd).items():
                dice = "".join(f"{counts.dice:14.4f}" for counts in found)
                print(f"{what:22} {source:10}{dice}", flush=True)


if __name__ == "__main__":
    main()
