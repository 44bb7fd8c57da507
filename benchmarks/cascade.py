"""Measure the cascade: time spared, and change of the mask, on scenes of rising emptiness."""

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import DeviceError
from app.imaging.image import Image
from app.runtime.choices import Precision
from app.segmentation.cascade import CascadeCount
from app.segmentation.options import Options, Switch
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import collect
from app.settings import Settings
from benchmarks.imagery import Imagery
from training.metrics import count

EMPTY = (0.0, 0.5, 0.8, 0.9)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def measure(
    bundle: Path, imagery: Imagery, *, size: int = 1344, empty: Sequence[float] = EMPTY
) -> dict[str, Any]:
    """Segment each scene in each precision, without the cascade and with it.

    `rows` is empty where the bundle has no cascade.
    """
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        segmenters: dict[Precision, Segmenter] = {}
        for precision in PRECISIONS:
            try:
                segmenter = load_segmenter(bundle, device="cpu", precision=precision)
            except DeviceError:
                continue  # no OpenVINO, not in this CPU, or not in this bundle
            segmenters[precision] = stack.enter_context(closing(segmenter))
        manifest = segmenters["fp32"].manifest
        for share in empty if manifest.cascade else ():
            image = Image(imagery.scene(size, share))
            for precision, segmenter in segmenters.items():
                without, off, _ = _segment(segmenter, image, "off")
                with_cascade, on, patches = _segment(segmenter, image, "on")
                assert patches is not None, "the plan has the manifest's cascade"
                rows.append(
                    {
                        "empty": share,
                        "precision": precision,
                        "without": without,
                        "with": with_cascade,
                        "decided": [decided / patches.asked for decided in patches.decided],
                        "agreement": float(np.mean(on == off)),
                        "iou": count(on, off).iou,
                        "building": float(off.mean()),
                    }
                )
    return {
        "bundle": manifest.version,
        "imagery": imagery.origin,
        "size": size,
        "cascade": manifest.cascade.model_dump() if manifest.cascade else None,
        "rows": rows,
    }


def _segment(
    segmenter: Segmenter, image: Image, cascade: Switch
) -> tuple[float, NDArray[np.bool_], CascadeCount | None]:
    """Return the seconds that an image takes, its mask, and the count of spared patches."""
    plan = segmenter.plan(image, Options(cascade=cascade))
    started = perf_counter()
    stream = segmenter.segment(plan, image)
    mask = collect(stream).mask
    return perf_counter() - started, mask, stream.cascade_count


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", type=int, default=1344, help="of the scenes, in pixels")
    args = parser.parse_args(arguments)
    print(json.dumps(measure(args.bundle, Imagery(args.data), size=args.size), indent=2))


if __name__ == "__main__":
    main()
