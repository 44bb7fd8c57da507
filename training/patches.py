"""Predictions of all patches of a tile, and the processor time that a member takes for one."""

from time import process_time

import numpy as np
from numpy.typing import NDArray

from app.imaging.image import Image
from app.runtime.predictor import Predictor
from app.segmentation.plan import Plan
from app.segmentation.segmenter import Segmenter, read_patches

_TIMED = 8
"""Patches in a timing, of which the best of three counts."""


def predict_tile(
    segmenter: Segmenter, plan: Plan, image: Image
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Ask all members about the patches of an image: float32 (M, N, S, S).

    A patch without a valid pixel is not predicted and gets zeros, as when it is served. The second
    array, bool (N,), tells which patches were predicted.
    """
    patches = list(read_patches(plan, image))
    members, size = segmenter.predictor.members, plan.grid.patch
    probability = np.zeros((len(members), len(patches), size, size), np.float32)
    valid = [patch for patch in patches if patch is not None]
    is_predicted = np.array([patch is not None for patch in patches])
    if valid:
        probability[:, is_predicted] = segmenter.predictor.predict(np.stack(valid), members)
    return probability, is_predicted


def milliseconds(predictor: Predictor, member: str, size: int) -> float:
    """Time a member on noise of `size` x `size` pixels: milliseconds of processor time a patch.

    The predictor computes on the CPU. Processor time leaves out what other programs take, so a fit
    beside other work finds the same order of members.
    """
    random, times = np.random.default_rng(), []
    for _ in range(3):
        # New noise each time: the predictor may remember its answers.
        noise = random.integers(0, 256, (_TIMED, size, size, 3), np.uint8)
        started = process_time()
        predictor.predict(noise, (member,))
        times.append(1000 * (process_time() - started) / _TIMED)
    return min(times)
