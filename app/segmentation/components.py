"""Connected components of a whole mask: pixels that touch at a side belong together.

A corner does not connect. So the outline of a component is one valid polygon, which at most touches
itself at a corner of a hole; joined at corners, it would fall apart or cross itself. Masks, counts
and `app.segmentation.buildings` all mean the same components.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def drop_small_components(mask: NDArray[np.bool_], min_pixels: float) -> NDArray[np.bool_]:
    """Return the mask, bool (height, width), without its components of fewer than `min_pixels`.

    `min_pixels` may be a fraction, as an area in square metres becomes one. Up to 1, no component
    can be too small, and the mask itself is returned.
    """
    if min_pixels <= 1:
        return mask
    labels, _ = ndimage.label(mask)
    foreground = labels[mask]  # buildings are few: what follows stays far below the image's size
    large = np.bincount(foreground) >= min_pixels
    kept = np.zeros_like(mask)
    kept[mask] = large[foreground]
    return kept


def count_components(mask: NDArray[np.bool_]) -> int:
    """Count the components of a mask, bool (height, width)."""
    return int(ndimage.label(mask)[1])
