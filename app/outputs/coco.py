"""Buildings as COCO annotations, each with its compressed run-length encoding.

Sources: the data format of cocodataset.org, object detection; `rleEncode` and `rleToString` in
cocoapi's common/maskApi.c. pycocotools builds a mask as large as the image for each building; here
its own runs are enough. A test compares the two.
"""

from typing import IO

import numpy as np

from ..segmentation.stream import Building, SegmentedStream
from .jsontext import write_json
from .provenance import provenance


def write_coco(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write a data set of one image, annotation by annotation as buildings are found."""
    image = stream.image
    head: dict[str, object] = {
        "info": provenance(stream.plan),
        "images": [
            {"id": 1, "file_name": stream.name, "width": image.width, "height": image.height}
        ],
        "categories": [{"id": 1, "name": "building", "supercategory": "building"}],
    }
    annotations = (
        _annotation(number, building, stream)
        for number, building in enumerate(stream.buildings(), 1)
    )
    write_json(file, stream, head, "annotations", annotations)


def _annotation(number: int, building: Building, stream: SegmentedStream) -> dict[str, object]:
    height, width = stream.image.height, stream.image.width
    rows, cols = building.window
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "segmentation": {
            "size": [height, width],
            "counts": encode_coco_rle(building, height, width),
        },
        "bbox": [cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start],
        "area": building.pixels,
        "iscrowd": 0,
        "score": round(building.confidence, 4),
        "agreement": round(building.agreement, 4),
    }


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
