"""Measure what computing in bf16 does to the masks of a bundle, for its manifest."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from app.errors import DeviceError
from app.inference.manifest import PrecisionCost
from app.inference.segmenter import Segmenter, SegmentOptions, load_segmenter
from training.data import Tile
from training.metrics import Counts, count

logger = logging.getLogger(__name__)

_UNGATED = SegmentOptions(gate="off")


def cost_of_bf16(
    bundle: Path, exact: Segmenter, tiles: Sequence[Tile], split: str, *, progress: bool = False
) -> PrecisionCost | None:
    """Measure a bundle in bf16, along the path that serves; None where this machine can't."""
    try:
        other = load_segmenter(bundle, device="cpu", precision="bf16")
    except DeviceError as error:
        logger.warning("bf16 is not measured, so nobody is served in it unasked: %s", error)
        return None
    with closing(other):
        return compare_masks(exact, other, tiles, split, progress=progress)


def compare_masks(
    exact: Segmenter,
    other: Segmenter,
    tiles: Sequence[Tile],
    split: str,
    *,
    progress: bool = False,
) -> PrecisionCost:
    """Segment tiles twice, and compare the masks with each other and with the labels."""
    in_fp32, in_other, shared, pixels = Counts(), Counts(), Counts(), 0
    for tile in tqdm(tiles, desc="bf16", unit="tile", disable=not progress):
        image, label = tile.read()
        one, two = (s.segment(image, _UNGATED, mask_only=True).mask for s in (exact, other))
        in_fp32 += count(one, label)
        in_other += count(two, label)
        shared += count(two, one)
        pixels += one.size
    differ = shared.false_positives + shared.false_negatives
    return PrecisionCost(
        dice_micro_change=in_other.dice - in_fp32.dice,
        agreement=1 - differ / pixels,
        iou=shared.iou,
        measured_on=f"{split} ({len(tiles)} images)",
    )
