"""Random cuts and disturbances of training tiles: the one file that knows albumentations.

albumentations 2.0.8 is the last release under the MIT licence and is pinned; everything it is asked
for stands here, so that it can be replaced in one place.
"""

import os
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no request to an index at import

import albumentations as A
import cv2

from training.config import PATCH_SIZE

cv2.setNumThreads(0)  # data workers are processes of their own; threads in them only fight


class Augmentation:
    """Cut a patch from a tile and disturb it, as a pure function of tile and seed."""

    def __init__(self, recipe: str) -> None:
        """Build the transforms of `recipe`: `crop_nonempty`, `resized_crop` or `aerial`.

        Raises:
            KeyError: an unknown recipe.
        """
        self._compose = A.Compose(_RECIPES[recipe]())

    def __call__(
        self, pixels: NDArray[np.uint8], label: NDArray[np.bool_], *, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return a patch (S, S, 3) uint8 and its label (S, S) bool from a tile of any size."""
        self._compose.set_random_seed(seed)
        out = self._compose(image=pixels, mask=label.view(np.uint8))
        return cast(NDArray[np.uint8], out["image"]), cast(NDArray[np.uint8], out["mask"]) > 0


def _ancestor(cut: A.BasicTransform) -> list[A.BasicTransform]:
    """The competition entry's disturbances after `cut`."""
    return [
        A.PadIfNeeded(PATCH_SIZE, PATCH_SIZE, border_mode=cv2.BORDER_REFLECT_101),
        cut,
        A.HorizontalFlip(),
        A.VerticalFlip(),
        A.Rotate(limit=30, border_mode=cv2.BORDER_REFLECT_101),
        A.ColorJitter(),
        A.ToGray(p=0.2),
    ]


def _aerial() -> list[A.BasicTransform]:
    """Scale by 0.67 to 1.5, the square's eight symmetries, light, colour, haze and sharpness."""
    largest, smallest = round(PATCH_SIZE * 1.5), round(PATCH_SIZE / 1.5)
    return [
        # Slicing first: resizing a whole 1024 px tile for one patch would cost ten times as much.
        A.RandomCrop(largest, largest, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101),
        A.RandomSizedCrop((smallest, largest), (PATCH_SIZE, PATCH_SIZE)),
        A.SquareSymmetry(p=1.0),
        A.RandomBrightnessContrast(0.25, 0.25, p=0.7),
        A.HueSaturationValue(12, 30, 0, p=0.5),
        A.RandomGamma((70, 140), p=0.3),
        A.ToGray(p=0.05),
        A.OneOf(
            [A.GaussianBlur((3, 5)), A.Sharpen(), A.ImageCompression(quality_range=(50, 95))],
            p=0.25,
        ),
    ]


_RECIPES: dict[str, Callable[[], list[A.BasicTransform]]] = {
    "crop_nonempty": lambda: _ancestor(A.CropNonEmptyMaskIfExists(PATCH_SIZE, PATCH_SIZE)),
    "resized_crop": lambda: _ancestor(A.RandomResizedCrop((PATCH_SIZE, PATCH_SIZE))),
    "aerial": _aerial,
}
