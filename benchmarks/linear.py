"""Whether cost grows with the area, and no faster: `python -m benchmarks.linear`.

Square GeoTIFFs, each of four times as many pixels as the last, go through `rooftrace segment`, a
process each. What the smallest one takes, starting and loading, is taken off the others. With a toy
bundle, unless one is named, time is that of everything around the networks; their own is linear by
its nature. Prints a table, and draws it with `--plot`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots, report
from benchmarks.large import Cost, segment, write_raster
from tests.factories import write_toy_bundle

SIDES = (256, 512, 1024, 2048, 4096, 8192, 16384)


def measure(bundle: Path, sides: Sequence[int], folder: Path) -> dict[int, Cost]:
    """Segment a raster of each side, in pixels; `folder` has room for the largest."""
    costs = {}
    raster, out = folder / "in.tif", folder / "out.tif"
    for side in sides:
        write_raster(raster, side, side)
        costs[side] = segment(bundle, raster, out)
        out.unlink()
    return costs


def table(costs: dict[int, Cost]) -> str:
    """Lay the costs out in Markdown."""
    start = next(iter(costs.values())).processor_seconds
    rows = [
        (
            f"{side}²",
            f"{cost.seconds:.1f}",
            f"{cost.processor_seconds:.1f}",
            # Less than a tenth of what starting takes can't be told from it.
            f"{(cost.processor_seconds - start) / side**2 * 1e6:.3f}"
            if cost.processor_seconds > 1.1 * start
            else "–",
            f"{cost.peak_bytes / 2**20:.0f}",
        )
        for side, cost in costs.items()
    ]
    header = "pixels", "s", "s of CPU", "s of CPU/megapixel, start taken off", "peak MiB"
    return report.table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--side", type=int, nargs="+", default=SIDES)
    parser.add_argument("--bundle", type=Path, help="default: a toy")
    parser.add_argument("--plot", type=Path, help="a PNG file to draw")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = args.bundle or write_toy_bundle(folder / "bundle")
        costs = measure(bundle, args.side, folder)
    print(table(costs))
    if args.plot:
        plots.linear(costs, args.plot)


if __name__ == "__main__":
    main()
