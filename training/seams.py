"""How much a mask depends on where the patches fall."""

import numpy as np
from numpy.typing import NDArray

from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter

HEIGHT, WIDTH = 1500, 2000
"""The most pixels of a scene that are cut; a larger one would take longer and show no more."""


def cut_twice(
    segmenter: Segmenter, image: Image, options: Options, shift: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Segment two cuts of a scene, one of them `shift` pixels further right and down.

    Returns the two masks of the area that both cuts share, bool. A perfect stitcher, with networks
    that need no context, would make them equal.

    Raises:
        ValueError: the scene is too small for two cuts that share anything.
        InvalidOption, InferenceError: as `Segmenter.segment_image`.
    """
    height, width = min(HEIGHT, image.height - shift), min(WIDTH, image.width - shift)
    if min(height, width) <= shift:
        raise ValueError(
            f"two cuts that lie {shift} pixels apart need more than {2 * shift} pixels a side, "
            f"the scene has {image.height} x {image.width}"
        )
    first, second = (
        segmenter.segment_image(_cut(image, at, height, width), options).mask for at in (0, shift)
    )
    return first[shift:, shift:], second[:-shift, :-shift]


def _cut(image: Image, at: int, height: int, width: int) -> Image:
    area = slice(at, at + height), slice(at, at + width)
    return Image(image.pixels[area], None if image.valid is None else image.valid[area])
