"""How much memory a raster takes that is larger than memory.

A GeoTIFF of each height is generated, tiled and compressed, and segmented by `rooftrace segment` in
a process of its own. With a toy bundle, unless one is named, memory and pace are those of
everything around the networks. Peak memory is what the kernel counted as resident. What follows
`--` goes to `rooftrace segment`, such as `-- --gsd 0.6 --min-area 20`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from tests.factories import write_toy_bundle

_TILE = 512
_GSD = 0.35
_ROOT = Path(__file__).parents[1]


def write_raster(path: Path, height: int, width: int, dtype: str = "uint8") -> None:
    """Write an RGB GeoTIFF of dark ground with bright roofs of 30 x 40 pixels, 100 apart.

    Of `uint8`, compressed as JPEG, or of `uint16`, without loss and 16 times as bright.
    """
    deep = np.dtype(dtype) != np.uint8
    rows, cols = np.ogrid[:_TILE, :width]
    ground = np.random.default_rng(0).integers(40, 90, (3, _TILE, width), np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype=dtype,
        crs="EPSG:32633",
        transform=Affine(_GSD, 0, 500_000, 0, -_GSD, 5_000_000),
        tiled=True,
        blockxsize=_TILE,
        blockysize=_TILE,
        bigtiff="if_safer",
        compress="deflate" if deep else "jpeg",
        photometric="rgb" if deep else "ycbcr",
    ) as file:
        for top in range(0, height, _TILE):
            here = min(_TILE, height - top)
            roofs = ((rows + top) % 100 < 30) & (cols % 100 < 40)
            strip = np.where(roofs, np.uint8(220), ground)[:, :here]
            file.write(
                strip.astype(dtype) * (16 if deep else 1), window=Window(0, top, width, here)
            )


@dataclass(frozen=True)
class Cost:
    """What a run of `rooftrace segment` took, from its start to its end."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def segment(bundle: Path, raster: Path, out: Path, options: Sequence[str] = ()) -> Cost:
    """Run `rooftrace segment` on a file, on the CPU.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "app", "segment", "--bundle", bundle, raster]
    command += [*options, "-o", out, "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "ROOFTRACE_DEVICE": "cpu"}
    started = perf_counter()
    process = subprocess.Popen(list(map(str, command)), env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    if process.returncode:
        raise SystemExit(f"`rooftrace segment` ended with status {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line for each height."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--dtype", choices=("uint8", "uint16"), default="uint8")
    parser.add_argument("--output", default="out.tif", help="its ending chooses the format")
    parser.add_argument("--bundle", type=Path, help="default: a toy")
    parser.add_argument("--folder", type=Path, help="where there is room for 15 bytes a pixel")
    parser.add_argument("options", nargs="*", help="of `rooftrace segment`, after --")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bundle = args.bundle or write_toy_bundle(Path(folder, "bundle"))
        for height in args.height:
            raster, out = Path(folder, "in.tif"), Path(folder, args.output)
            write_raster(raster, height, args.width, args.dtype)
            cost = segment(bundle, raster, out, args.options)
            km2 = height * args.width * _GSD**2 / 1e6
            print(
                f"{args.width} x {height}: peak {cost.peak_bytes / 2**20:.0f} MiB, "
                f"{cost.seconds:.0f} s ({cost.processor_seconds:.0f} s of CPU), "
                f"{60 * km2 / cost.seconds:.1f} km²/min; "
                f"{raster.stat().st_size / 2**20:.0f} MiB in, {out.stat().st_size / 2**20:.1f} out",
                flush=True,
            )
            out.unlink()


if __name__ == "__main__":
    main()
