"""Buildings as COCO annotations. Source: the data format of cocodataset.org, object detection."""

from typing import IO

from ..segmentation.stream import Building, SegmentedStream
from .coco_rle import encode_coco_rle
from .jsontext import write_json
from .provenance import provenance


def write_coco(stream: SegmentedStream, file: IO[bytes]) -> None:
    """Write a data set of one image, annotation by annotation as buildings are found."""
    image = stream.image
    head: dict[str, object] = {
        "info": provenance(stream.plan),
        "images": [
            {
                "id": 1,
                "file_name": stream.name,
                "width": image.width,
                "height": image.height,
            }
        ],
        "categories": [{"id": 1, "name": "building", "supercategory": "building"}],
        "notices": stream.plan.notices,
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
