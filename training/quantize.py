"""Choose the members that are to compute in int8, and calibrate them, for the manifest.

What a member's convolutions take is measured on tiles that it was trained on. It is to compute in
int8 only if that makes it faster, and if its own masks on validation tiles stay what they are:
members that gain little, or whose activations are too uneven for 8 bits, stay as they were.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, Manifest, Member
from app.bundle.verification import read_model
from app.runtime.predictor import Predictor
from app.runtime.select import openvino_problem
from app.segmentation.windows import plan_windows, read_patch
from training.data import Tile, read_image
from training.metrics import count

logger = logging.getLogger(__name__)

PATCHES = 128
"""How many patches ranges are measured on, and as many, of other tiles, what becomes of masks."""
LEAST_IOU = 0.97
"""Of a member's own masks in int8 with those in fp32; what becomes of the ensemble's, and whether
they are served so, is measured apart (`training.precision`)."""
LEAST_GAIN = 1.15
"""How many times as fast as in bf16, or in fp32 where the CPU has no bf16."""
_TIMED = 8
"""Patches in a timing, of which the best of five counts."""


def calibrate(
    bundle: Path,
    manifest: Manifest,
    trained_on: Sequence[Tile],
    validation: Sequence[Tile],
    *,
    described: str,
) -> Manifest:
    """Return the manifest with ranges for the members that int8 makes faster and does no harm.

    `described` says what `trained_on` are. Where this machine has no int8, no member gets any.

    Raises:
        BundleError: a file, or the graph in it, is not what the manifest describes.
    """
    manifest = _with_ranges(manifest, {})
    if problem := openvino_problem():
        logger.warning("not calibrated for int8: %s", problem)
        return manifest
    from app.runtime import capabilities
    from training.ranges import measure_ranges

    if "int8" not in capabilities.native_precisions():
        logger.warning("not calibrated for int8: this CPU has none")
        return manifest
    patches = cut_patches(trained_on, PATCHES, manifest.patch_size)
    calibrated_on = f"{len(patches)} patches of {described} ({len(trained_on)} images)"
    ranges = {
        member.name: Calibration(ranges=found, calibrated_on=calibrated_on)
        for member in manifest.members
        if (found := measure_ranges(member.name, read_model(bundle, member), patches))
    }
    if not ranges:
        return manifest
    chosen = _worth_it(bundle, _with_ranges(manifest, ranges), validation)
    return _with_ranges(manifest, {name: ranges[name] for name in chosen})


def cut_patches(tiles: Sequence[Tile], count: int, size: int) -> NDArray[np.uint8]:
    """Cut uint8 (N, S, S, 3) patches out of as many tiles as there are, always the same."""
    rng = np.random.default_rng(0)
    order = [*rng.permutation(len(tiles))] * -(-count // len(tiles))
    patches = []
    for tile in (tiles[i] for i in order[:count]):
        image = read_image(tile.image)
        windows = list(plan_windows(image.height, image.width, size, overlap=0))
        patches.append(read_patch(image.pixels, windows[rng.integers(len(windows))], size))
    return np.stack(patches)


def _worth_it(bundle: Path, manifest: Manifest, validation: Sequence[Tile]) -> list[str]:
    """Try the members that have ranges, and name those that are to keep them."""
    from app.runtime.capabilities import float_precision
    from app.runtime.openvino import OpenvinoPredictor

    patches = cut_patches(validation, PATCHES, manifest.patch_size)
    chosen = []
    with ExitStack() as stack:
        exact, before, after = (
            stack.enter_context(closing(OpenvinoPredictor(bundle, manifest, precision=precision)))
            for precision in ("fp32", float_precision(), "int8")
        )
        for name in (member.name for member in manifest.members if member.int8):
            threshold = manifest.threshold.value
            one, two = (p.predict(patches, (name,))[0] >= threshold for p in (exact, after))
            iou = count(two, one).iou
            gain = _gain(before, after, name, patches[:_TIMED])
            keeps = iou >= LEAST_IOU and gain >= LEAST_GAIN
            if keeps:
                chosen.append(name)
            logger.info(
                "%s %s int8: %.2f times as fast, IoU %.4f with its masks in fp32",
                name, "gets" if keeps else "does not get", gain, iou,
            )  # fmt: skip
    return chosen


def _gain(before: Predictor, after: Predictor, member: str, patches: NDArray[np.uint8]) -> float:
    """Say how many times as fast a member is; they take turns, so that noise hits both alike."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(5):
        for predictor, of in zip((before, after), times, strict=True):
            started = perf_counter()
            predictor.predict(patches, (member,))
            of.append(perf_counter() - started)
    return min(times[0]) / min(times[1])


def _with_ranges(manifest: Manifest, ranges: dict[str, Calibration]) -> Manifest:
    members: tuple[Member, ...] = tuple(
        member.model_copy(update={"int8": ranges.get(member.name)}) for member in manifest.members
    )
    return manifest.model_copy(update={"members": members, "precisions": {}})
