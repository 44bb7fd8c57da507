"""COCO's compressed run-length encoding of one building in its image.

Source: `rleEncode` and `rleToString` in cocoapi's common/maskApi.c. pycocotools builds a mask as
large as the image for each building; this module uses the building's own runs alone. A test
compares the two.
"""

import numpy as np

from ..segmentation.stream import Building


def encode_coco_rle(building: Building, height: int, width: int) -> str:
    """Encode a building of an image: lengths of background and building in turn, down columns."""
    rows, cols = building.window
    down = np.pad(building.crop().T, ((0, 0), (1, 1)))
    col, row = np.nonzero(down[:, 1:] != down[:, :-1])  # in turn, where a run begins and has ended
    bounds = (col + cols.start) * height + row + rows.start
    # A run to the foot of one column and one from the top of the next are one.
    joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2])
    bounds = np.delete(bounds, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    lengths = np.diff(bounds, prepend=0, append=height * width)
    if lengths[-1] == 0:
        lengths = lengths[:-1]
    return _text_of(lengths.tolist())


def _text_of(lengths: list[int]) -> str:
    """Write numbers as groups of 5 bits, the lowest first, with a sixth that says more follow.

    From the fourth number on, each is written as its difference from the one before the last.
    """
    text = []
    for index, length in enumerate(lengths):
        number = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            group = number & 0x1F
            number >>= 5
            more = number != (-1 if group & 0x10 else 0)
            text.append(chr((group | 0x20 if more else group) + 48))
    return "".join(text)
