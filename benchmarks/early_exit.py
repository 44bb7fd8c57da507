"""What early exit and the gate save: scenes of which more and more is empty.

Masks with early exit are compared with those of full runs bit for bit, and a difference ends the
benchmark; those with the gate may differ, and by how much is counted.
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
from app.runtime.select import Precision
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import Segmentation
from app.settings import Settings
from benchmarks.imagery import Imagery

EMPTY = (0.0, 0.5, 0.8, 0.95)
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
_WAYS = (
    (False, SegmentOptions(gate="off")),
    (True, SegmentOptions(gate="off")),
    (True, SegmentOptions()),
)
"""Whether a mask is all that is asked for, and the gate: a full run, early exit, both."""


def measure(
    bundle: Path, imagery: Imagery, *, size: int = 1344, empty: Sequence[float] = EMPTY
) -> dict[str, Any]:
    """Segment each scene in either precision, in full, with early exit, and with a gate if any."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        segmenters: dict[Precision, Segmenter] = {}
        for precision in PRECISIONS:
            try:
                segmenter = load_segmenter(bundle, device="cpu", precision=precision)
            except DeviceError:
                continue  # no OpenVINO, not in this CPU, or not in this bundle
            segmenters[precision] = stack.enter_context(closing(segmenter))
        for share in empty:
            image = Image(imagery.scene(size, share))
            for precision, segmenter in segmenters.items():
                seconds, found = [], []
                for mask_only, gate in _WAYS if segmenter.manifest.gate else _WAYS[:2]:
                    started = perf_counter()
                    found.append(segmenter.segment(image, gate, mask_only=mask_only))
                    seconds.append(perf_counter() - started)
                full, early, *gated = found
                if not np.array_equal(full.mask, early.mask):
                    raise AssertionError(f"early exit changed the mask at {share:.0%} empty")
                rows.append(
                    {
                        "empty": share,
                        "precision": precision,
                        "without": seconds[0],
                        "with": seconds[1],
                        "found": float(full.mask.mean()),
                        "gated": _gated(full, gated[0], seconds[2]) if gated else None,
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
        "gate": manifest.gate.model_dump() if manifest.gate else None,
        "rows": rows,
    }


def _gated(full: Segmentation, found: Segmentation, seconds: float) -> dict[str, float]:
    """Say how long it took with the gate, what that cleared, and what the mask lost."""
    assert found.gating is not None
    before = int(np.count_nonzero(full.mask))
    kept = int(np.count_nonzero(found.mask & full.mask))
    return {
        "seconds": seconds,
        "cleared": found.gating.cleared / found.gating.asked,
        "lost": 1 - kept / before if before else 0.0,
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
