"""Whether ONNX Runtime, as it serves, computes what torch trained."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle.manifest import Parity
from app.runtime.predictor import Predictor
from app.segmentation.windows import plan_windows, read_patch
from training.config import PATCH_SIZE
from training.data import Tile, read_image
from training.network import ProbabilityNetwork, SegmentationNetwork
from training.scenes import generate_scene

TOLERANCE = 0.02
"""Largest difference in probability that any pixel may show. Storing weights as fp16 costs up to
0.001 on imagery and 0.005 on noise; the graph itself, with fp32 weights, is within 0.00001."""
AGREEMENT = 0.999
"""Share of pixels that must fall on the same side of probability 0.5, of those that rounding alone
could not move there: a network that has hardly begun to learn says 0.5 nearly everywhere."""
_ROUNDING = 0.005

_REAL_PATCHES = 16


def parity_patches(tiles: Sequence[Tile]) -> NDArray[np.uint8]:
    """Make uint8 (N, S, S, 3): noise, black, white, a procedural scene, and up to 16 real patches.

    The real ones are the middle windows of tiles spread evenly over `tiles`.
    """
    shape = (PATCH_SIZE, PATCH_SIZE, 3)
    patches = [
        np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        np.zeros(shape, np.uint8),
        np.full(shape, 255, np.uint8),
        generate_scene(PATCH_SIZE, PATCH_SIZE, seed=0).pixels,
    ]
    step = max(1, -(-len(tiles) // _REAL_PATCHES))
    for tile in tiles[::step]:
        image = read_image(tile.image)
        windows = list(plan_windows(image.height, image.width, PATCH_SIZE, overlap=0))
        patches.append(read_patch(image.pixels, windows[len(windows) // 2], PATCH_SIZE))
    return np.stack(patches)


def check_parity(
    predictor: Predictor, member: str, network: SegmentationNetwork, patches: NDArray[np.uint8]
) -> Parity:
    """Compare a member of the predictor with the network that it was exported from.

    Raises:
        ValueError: they differ by more than `TOLERANCE`, or agree on less than `AGREEMENT`.
    """
    (found,) = predictor.predict(patches, [member])
    expected = _probability(network, patches)
    difference = float(np.abs(found - expected).max())
    settled = np.abs(expected - 0.5) > _ROUNDING
    agreement = 1 - float(np.mean(settled & ((found >= 0.5) != (expected >= 0.5))))
    if not (difference <= TOLERANCE and agreement >= AGREEMENT):
        raise ValueError(
            f"ONNX Runtime does not reproduce member {member!r}: its probabilities differ from "
            f"torch's by up to {difference:.2g} and agree on {agreement:.3%} of the mask, where "
            f"{TOLERANCE} and {AGREEMENT:.1%} are the limits; nothing was written"
        )
    return Parity(max_abs_difference=difference, patches=len(patches), tolerance=TOLERANCE)


@torch.inference_mode()
def _probability(network: SegmentationNetwork, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return torch's probabilities, float32 (N, S, S), one patch at a time."""
    module = ProbabilityNetwork(network).eval()
    one_by_one = (module(torch.from_numpy(patch[np.newaxis])) for patch in patches)
    return np.concatenate([probability.numpy() for probability in one_by_one])
