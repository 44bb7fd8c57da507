"""Fill what lies beyond the edge of imagery, for the members to see."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..imaging.image import Image


def mirror_beyond(image: Image) -> Image:
    """Fill invalid pixels with the imagery's mirror image; they stay invalid.

    Flat colour beyond an edge looks like a roof. A pixel whose mirrored place has no imagery gets
    the nearest valid pixel.
    """
    valid = image.valid
    if valid is None or not valid.any():
        return image
    nearest: NDArray[np.int32] = np.asarray(
        ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    )
    rows, cols = nearest[0], nearest[1]
    row, col = np.ogrid[: image.height, : image.width]
    mirrored_row = np.clip(2 * rows - row, 0, image.height - 1)
    mirrored_col = np.clip(2 * cols - col, 0, image.width - 1)
    there = valid[mirrored_row, mirrored_col]
    rows, cols = np.where(there, mirrored_row, rows), np.where(there, mirrored_col, cols)
    return Image(image.pixels[rows, cols], valid, image.georeference)
