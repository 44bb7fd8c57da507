"""What early exit saves: scenes of which more and more is empty, with it and without.

The masks are compared bit for bit; a difference ends the benchmark.
"""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from app.errors import DeviceError
from app.imaging.image import Image
from app.inference.backends import Precision
from app.inference.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from benchmarks.imagery import Imagery

EMPTY = (0.0, 0.5, 0.8, 0.95)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def measure(
    bundle: Path, imagery: Imagery, *, size: int = 1344, empty: Sequence[float] = EMPTY
) -> dict[str, Any]:
    """Segment each scene four times, in either precision and in turn."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        segmenters: dict[Precision, Segmenter] = {}
        for precision in PRECISIONS:
            try:
                segmenter = load_segmenter(bundle, device="cpu", precision=precision)
            except DeviceError:
                continue  # no OpenVINO, or no bf16
            segmenters[precision] = stack.enter_context(closing(segmenter))
        for share in empty:
            image = Image(imagery.scene(size, share))
            for precision, segmenter in segmenters.items():
                seconds, masks = [], []
                for mask_only in (False, True):
                    started = perf_counter()
                    masks.append(segmenter.segment(image, mask_only=mask_only).mask)
                    seconds.append(perf_counter() - started)
                if not np.array_equal(masks[0], masks[1]):
                    raise AssertionError(f"early exit changed the mask at {share:.0%} empty")
                rows.append(
                    {
                        "empty": share,
                        "precision": precision,
                        "without": seconds[0],
                        "with": seconds[1],
                        "found": float(masks[0].mean()),
                    }
                )
        manifest = segmenters["fp32"].manifest
    order = (
        manifest.early_exit.order if manifest.early_exit else segmenters["fp32"].predictor.members
    )
    return {
        "bundle": manifest.version,
        "imagery": imagery.origin,
        "size": size,
        "order": list(order),
        "order_is_measured": manifest.early_exit is not None,
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.early_exit", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", type=int, default=1344, help="of the scenes, in pixels")
    args = parser.parse_args(arguments)
    print(json.dumps(measure(args.bundle, Imagery(args.data), size=args.size), indent=2))


if __name__ == "__main__":
    main()
