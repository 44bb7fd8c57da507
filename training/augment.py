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

from app.imaging.resample import resample
from training.config import PATCH_SIZE, AugmentConfig

cv2.setNumThreads(0)  # data workers are processes of their own; threads in them only fight

Pixels = NDArray[np.uint8]
_Cut = tuple[Pixels, ...]  # image and mask, 0 or 255 (between, where resampling mixed them)


_AT_REFERENCE = 0.4
"""Share of `aerial` cuts around the reference GSD; the others lie around the tile's own, since the
service sees an upload of unknown GSD as it is."""
_ZOOM = 1.5
"""How far an `aerial` cut is zoomed in or out at most."""


class Augmentation:
    """Cut a patch from a tile and disturb it, as a pure function of tile and seed."""

    def __init__(self, config: AugmentConfig) -> None:
        """Build the transforms of a recipe."""
        self._soft_edge = config.soft_edge
        self._cut, transforms = _RECIPES[config.recipe]
        self._compose = A.Compose(transforms())

    def __call__(
        self, pixels: Pixels, label: NDArray[np.bool_], *, seed: int, scale: float = 1.0
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """Return a patch uint8 (S, S, 3) and its label float32 (S, S) from a tile of any size.

        The label is 0 or 1, and between along soft edges.

        `scale` brings the tile to the reference GSD: pixels there per pixel of the tile.
        """
        mask = label.view(np.uint8) * np.uint8(255)
        pixels, mask = self._cut(pixels, mask, scale, np.random.default_rng(seed))
        self._compose.set_random_seed(seed)
        out = self._compose(image=pixels, mask=mask)
        labelled = (cast(Pixels, out["mask"]) > 127).astype(np.float32)
        if self._soft_edge:
            labelled = cast(
                NDArray[np.float32], cv2.GaussianBlur(labelled, (0, 0), self._soft_edge)
            )
        return cast(Pixels, out["image"]), labelled


def _whole(pixels: Pixels, mask: Pixels, scale: float, _: np.random.Generator) -> _Cut:
    """Bring the whole tile to the reference GSD; the recipe's transforms cut."""
    height, width = (max(1, round(scale * side)) for side in mask.shape)
    return resample(pixels, height, width), resample(mask, height, width)


def _zoomed(pixels: Pixels, mask: Pixels, scale: float, random: np.random.Generator) -> _Cut:
    """Cut a square around the reference or the tile's own GSD, and bring it to a patch's size.

    Cutting first: resampling a whole tile for one patch would cost ten times as much.
    """
    centre = scale if random.random() < _AT_REFERENCE else 1.0
    side = round(PATCH_SIZE / centre * _ZOOM ** random.uniform(-1, 1))
    side = min(side, 2 * min(mask.shape) - 1)  # as far as reflection reaches
    short = [max(0, side - length) for length in mask.shape]
    if any(short):
        margins = [(n // 2, n - n // 2) for n in short]
        pixels = np.pad(pixels, (*margins, (0, 0)), mode="reflect")
        mask = np.pad(mask, margins, mode="reflect")
    row, col = (int(random.integers(length - side + 1)) for length in mask.shape)
    cut = slice(row, row + side), slice(col, col + side)
    return tuple(
        resample(np.ascontiguousarray(of[cut]), PATCH_SIZE, PATCH_SIZE) for of in (pixels, mask)
    )


def _ancestor(cut: A.BasicTransform) -> list[A.BasicTransform]:
    """Return the augmentations of the competition entry, around `cut`."""
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
    """Return the square's eight symmetries and changes of light, colour, haze and sharpness."""
    return [
        A.SquareSymmetry(p=1.0),
        A.RandomBrightnessContrast(0.3, 0.3, p=0.7),
        A.HueSaturationValue(20, 45, 0, p=0.5),
        A.RGBShift((-20, 20), (-20, 20), (-20, 20), p=0.3),  # other sensors, haze, soils
        A.RandomGamma((65, 150), p=0.3),
        A.ToGray(p=0.05),
        A.OneOf(
            [A.GaussianBlur((3, 5)), A.Sharpen(), A.ImageCompression(quality_range=(50, 95))],
            p=0.25,
        ),
    ]


def _any_light() -> list[A.BasicTransform]:
    """As `_aerial`, and further: flat and veiled imagery, casts of a white balance, noise."""
    return [
        A.SquareSymmetry(p=1.0),
        # Contrast about the mean: RandomBrightnessContrast's is about black, which is brightness.
        A.ColorJitter((0.6, 1.4), (0.4, 1.3), (1, 1), (0, 0), p=0.7),
        A.HueSaturationValue(20, 45, 0, p=0.5),
        A.RGBShift((-20, 20), (-20, 20), (-20, 20), p=0.2),
        A.MultiplicativeNoise((0.75, 1.25), per_channel=True, p=0.3),
        A.RandomGamma((50, 200), p=0.3),
        A.ToGray(p=0.05),
        A.OneOf(
            [
                A.GaussianBlur((3, 7)),
                A.Sharpen(),
                A.ImageCompression(quality_range=(30, 95)),
                A.GaussNoise((0.01, 0.05)),
            ],
            p=0.3,
        ),
    ]


_RECIPES: dict[str, tuple[Callable[..., _Cut], Callable[[], list[A.BasicTransform]]]] = {
    "crop_nonempty": (
        _whole,
        lambda: _ancestor(A.CropNonEmptyMaskIfExists(PATCH_SIZE, PATCH_SIZE)),
    ),
    "resized_crop": (_whole, lambda: _ancestor(A.RandomResizedCrop((PATCH_SIZE, PATCH_SIZE)))),
    "aerial": (_zoomed, _aerial),
    "any_light": (_zoomed, _any_light),
}
