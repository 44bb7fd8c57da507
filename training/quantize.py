"""Choose the members that are to compute in int8, and calibrate them, for the manifest.

What a member's convolutions take is measured on tiles that it was trained on. A member computes in
int8 only if that makes it faster, and if its own masks on validation tiles stay what they are.
Where they do not, the few inputs whose rounding harms most stay out of int8.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Calibration, Manifest, Member
from app.bundle.verification import read_model
from app.runtime.choices import CpuPrecision
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
MOST_LEFT_OUT = 12
"""How many inputs of a member may stay out of int8 for the sake of its masks."""
_TIMED = 8
"""Patches in a timing, of which the best of five counts, and in a trial of one input alone."""

_Ranges = dict[str, tuple[float, float]]
"""The lowest and the highest value of convolutions' inputs, by the tensor's name in the file."""


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
    seen = cut_patches(trained_on, PATCHES, manifest.patch_size)
    unseen = cut_patches(validation, PATCHES, manifest.patch_size)
    calibrated_on = f"{len(seen)} patches of {described} ({len(trained_on)} images)"
    chosen = {}
    for member in manifest.members:
        measured = measure_ranges(member.name, read_model(bundle, member), seen)
        if measured and (ranges := _worth_it(_Trial(bundle, manifest, member, unseen), measured)):
            chosen[member.name] = Calibration(ranges=ranges, calibrated_on=calibrated_on)
    return _with_ranges(manifest, chosen)


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


@dataclass(frozen=True, eq=False)
class _Trial:
    """A member by itself, and the uint8 (N, S, S, 3) patches that it is tried on."""

    bundle: Path
    manifest: Manifest
    member: Member
    patches: NDArray[np.uint8]

    def load(self, precision: CpuPrecision, ranges: _Ranges | None = None) -> Predictor:
        """Load the member in a precision, with these ranges in int8. The caller closes it."""
        from app.runtime.openvino import OpenvinoPredictor

        int8 = Calibration(ranges=ranges, calibrated_on="a trial") if ranges else None
        alone = (self.member.model_copy(update={"int8": int8}),)
        manifest = self.manifest.model_copy(update={"members": alone})
        return OpenvinoPredictor(self.bundle, manifest, precision=precision)

    def ask(self, predictor: Predictor, patches: int | None = None) -> NDArray[np.float32]:
        """Return the member's probabilities of the first so many patches, float32 (N, S, S)."""
        answer: NDArray[np.float32] = predictor.predict(
            self.patches[:patches], (self.member.name,)
        )[0]
        return answer


def _worth_it(trial: _Trial, measured: _Ranges) -> _Ranges:
    """Return the ranges of the inputs that int8 is to round, {} where int8 is not worth it.

    These are all that were measured, less those that harm most alone, as few as keep the masks.
    """
    from app.runtime.capabilities import float_precision

    name, threshold = trial.member.name, trial.manifest.threshold.value
    harmful: list[str] = []
    left_out, most = 0, min(MOST_LEFT_OUT, len(measured) - 1)
    with closing(trial.load(float_precision())) as before:
        with closing(trial.load("fp32")) as exact:
            mask = trial.ask(exact) >= threshold
        while True:
            ranges = {of: ends for of, ends in measured.items() if of not in harmful[:left_out]}
            with closing(trial.load("int8", ranges)) as after:
                iou = count(trial.ask(after) >= threshold, mask).iou
                gain = _gain(before, after, name, trial.patches[:_TIMED])
            if iou >= LEAST_IOU or gain < LEAST_GAIN or left_out == most:
                break
            harmful = harmful or _by_harm(trial, before, measured)
            left_out += 1
    keeps = iou >= LEAST_IOU and gain >= LEAST_GAIN
    logger.info(
        "%s %s int8, with %d of %d inputs left out: %.2f times as fast, IoU %.4f with its masks "
        "in fp32",
        name, "gets" if keeps else "does not get", left_out, len(measured), gain, iou,
    )  # fmt: skip
    return ranges if keeps else {}


def _by_harm(trial: _Trial, before: Predictor, measured: _Ranges) -> list[str]:
    """Name the inputs, first those whose rounding alone changes probabilities most."""
    without = trial.ask(before, _TIMED)
    harm = {}
    for name, ends in measured.items():
        with closing(trial.load("int8", {name: ends})) as after:
            harm[name] = float(np.square(trial.ask(after, _TIMED) - without).mean())
    return sorted(harm, key=lambda name: harm[name], reverse=True)


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
