"""Test-time augmentation: patches seen mirrored and turned, and their predictions brought back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .options import Tta

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Orientation:
    """A symmetry of the square: quarter turns anticlockwise, then perhaps a left-right mirror."""

    turns: int
    mirrored: bool

    def apply(self, patch: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Orient an (S, S, C) patch."""
        turned = np.rot90(patch, self.turns, axes=(0, 1))
        return np.flip(turned, axis=1) if self.mirrored else turned

    def undo(self, maps: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Bring (M, S, S) maps of an oriented patch back upright."""
        unmirrored = np.flip(maps, axis=2) if self.mirrored else maps
        return np.rot90(unmirrored, -self.turns, axes=(1, 2))


# Means over mirrored patches, or over all eight symmetries of the square (the dihedral group D4).
# Source: the "geometric self-ensemble" of Lim et al., "Enhanced Deep Residual Networks for Single
# Image Super-Resolution", CVPR Workshops 2017.
ORIENTATIONS: dict[Tta, tuple[Orientation, ...]] = {
    "none": (Orientation(0, False),),
    "flips": tuple(Orientation(turns, mirrored) for turns in (0, 2) for mirrored in (False, True)),
    "d4": tuple(Orientation(turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}


def upright(
    views: Sequence[NDArray[np.float32]], orientations: Sequence[Orientation]
) -> NDArray[np.float32]:
    """Average the (M, S, S) predictions of one patch's orientations, each brought back upright."""
    if len(views) == 1:
        return views[0]  # as it stands; the mean of one would be a copy
    turned_back = [o.undo(view) for o, view in zip(orientations, views, strict=True)]
    mean: NDArray[np.float32] = np.mean(turned_back, axis=0)
    return mean
