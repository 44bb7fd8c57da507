"""Buildings as COCO annotations. Source: the data format of cocodataset.org, object detection."""

from typing import IO

from app.outputs.coco_rle import encode_coco_rle
from app.outputs.findings import Findings
from app.outputs.jsontext import write_json
from app.segmentation.buildings import Building


def write_coco(findings: Findings, file: IO[bytes]) -> None:
    """Write a data set of one image, annotation by annotation as buildings are found.

    Raises:
        Exception: whatever `findings` raises on the way.
    """
    image = findings.image
    head: dict[str, object] = {
        "info": findings.provenance.fields(),
        "images": [
            {
                "id": 1,
                "file_name": findings.filename,
                "width": image.width,
                "height": image.height,
            }
        ],
        "categories": [{"id": 1, "name": "building", "supercategory": "building"}],
        "notices": findings.notices,
    }
    annotations = (
        _annotation(number, building, findings)
        for number, building in enumerate(findings.buildings(), 1)
    )
    write_json(file, head, "annotations", annotations, findings.totals)


def _annotation(number: int, building: Building, findings: Findings) -> dict[str, object]:
    height, width = findings.image.height, findings.image.width
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
