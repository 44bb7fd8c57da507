"""Measure what computing in a precision below fp32 does to the masks of a bundle."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from app.bundle.manifest import Lower, Manifest, PrecisionCost
from app.errors import DeviceError
from app.runtime.choices import CpuPrecision
from app.runtime.select import load_predictor, openvino_problem
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.data import Tile
from training.metrics import Counts, count

logger = logging.getLogger(__name__)

_ALL_MEMBERS = Options(cascade="off")


def fastest(manifest: Manifest) -> CpuPrecision:
    """Return the precision that serves on this machine's CPU, if it turns out to keep the masks.

    What it does to masks (`costs`) depends on what is fitted after the cascade, which depends on
    how fast the members are served.
    """
    if openvino_problem():
        return "fp32"
    from app.runtime.capabilities import float_precision, native_precisions

    if any(member.int8 for member in manifest.members) and "int8" in native_precisions():
        return "int8"
    return float_precision()


def costs(
    bundle: Path, exact: Segmenter, tiles: Sequence[Tile], split: str, *, progress: bool = False
) -> dict[Lower, PrecisionCost]:
    """Measure a bundle in each precision that it and this machine have, along the served path.

    In int8 the members without ranges are in bf16 where this machine has it, else in fp32.
    """
    precisions: list[Lower] = ["bf16"]
    if any(member.int8 for member in exact.manifest.members):
        precisions.append("int8")
    found: dict[Lower, PrecisionCost] = {}
    for precision in precisions:
        try:
            predictor = load_predictor(bundle, exact.manifest, device="cpu", precision=precision)
        except DeviceError as error:
            logger.warning("not measured, so nobody is served in it unasked: %s", error)
            continue
        with closing(Segmenter(exact.manifest, predictor)) as other:
            found[precision] = compare_masks(exact, other, tiles, split, progress=progress)
    return found


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
    for tile in progress_bar(tiles, desc="precision", unit="tile", disable=not progress):
        image, label = tile.read()
        one, two = (s.segment_image(image, _ALL_MEMBERS).mask for s in (exact, other))
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
