"""How much a mask depends on where the patches fall.

A scene of up to 1500 x 2000 pixels is segmented twice, the second time cut 100 pixels further right
and down. On the area that both share, a perfect stitcher would give the same mask; the share of
pixels that differ is printed for each overlap. Without an image, the scene is a procedural one.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from training.scenes import generate_scene
from training.seams import HEIGHT, WIDTH, cut_twice

SHIFT = 100
OVERLAPS = (0.0, 0.25, 0.5, 0.75)


def differing_share(segmenter: Segmenter, image: Image, overlap: float) -> float:
    """Return the share of pixels, 0 to 1, on which the masks of the two cuts differ."""
    first, second = cut_twice(segmenter, image, Options(overlap=overlap), SHIFT)
    return float(np.mean(first != second))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for one image."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shift", description=__doc__)
    parser.add_argument(
        "image", type=Path, nargs="?", help=f"best of {WIDTH + SHIFT} x {HEIGHT + SHIFT} or more"
    )
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--overlap", type=float, nargs="+", default=OVERLAPS)
    args = parser.parse_args(arguments)
    if args.image:
        image = decode_image(args.image.read_bytes(), max_pixels=1_000_000_000)
    else:
        image = Image(generate_scene(HEIGHT + SHIFT, WIDTH + SHIFT, seed=0, gsd=0.4).pixels)
    with closing(load_segmenter(args.bundle)) as segmenter:
        scene = args.image.name if args.image else "a procedural scene"
        print(f"{segmenter.manifest.version} on {scene}, shifted by {SHIFT} px")
        for overlap in args.overlap:
            share = differing_share(segmenter, image, overlap)
            print(f"overlap {overlap:.2f}: {share:7.3%} of pixels differ", flush=True)


if __name__ == "__main__":
    main()
