"""Connected components of a mask."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_CONNECTED = np.ones((3, 3), np.bool_)


def drop_small_components(mask: NDArray[np.bool_], min_pixels: float) -> NDArray[np.bool_]:
    """Return the mask, bool (height, width), without its components of fewer than `min_pixels`.

    Pixels that touch at a side or a corner belong together. `min_pixels` may be a fraction, as an
    area in square metres becomes one. Up to 1, no component can be too small, and the mask itself
    is returned.
    """
    if min_pixels <= 1:
        return mask
    labels, _ = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    foreground = labels[mask]  # buildings are few: what follows stays far below the image's size
    large = np.bincount(foreground) >= min_pixels
    kept = np.zeros_like(mask)
    kept[mask] = large[foreground]
    return kept
