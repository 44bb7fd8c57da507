"""COCO annotations, as pycocotools reads them."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from app.segmentation.segmenter import Segmenter
from tests.maps import BUILDINGS, encode, picture, plan
from tests.serving import encoded

MASK = plan()


def test_each_building_is_an_annotation(small_toy: Segmenter) -> None:
    pixels = picture(MASK)
    pixels[5:25, 6:36] = (255, 204, 0)  # 0.5 × 1 + 0.3 × 0.8 is 0.74
    found = json.loads(encode(small_toy, encoded(pixels), "coco"))
    assert set(found) == {
        "info",
        "images",
        "categories",
        "notices",
        "annotations",
        "building_count",
        "building_area_m2",
    }
    assert found["images"] == [{"id": 1, "file_name": "map.tif", "width": 120, "height": 90}]
    assert found["building_count"] == len(found["annotations"]) == BUILDINGS
    assert found["building_area_m2"] is None
    assert found["info"]["model"] == small_toy.manifest.version
    drawn = np.zeros_like(MASK)
    for number, annotation in enumerate(found["annotations"], 1):
        assert (annotation["id"], annotation["image_id"], annotation["category_id"]) == (
            number,
            1,
            1,
        )
        segmentation = annotation["segmentation"]
        mask = coco.decode(segmentation).astype(bool)
        assert mask.shape == MASK.shape
        assert not (drawn & mask).any()
        drawn |= mask
        assert annotation["area"] == coco.area(segmentation) == mask.sum()
        assert annotation["bbox"] == coco.toBbox(segmentation).tolist()
        sure = 0.74 if mask[10, 10] else 1
        assert annotation["score"] == pytest.approx(sure, abs=1e-3)
    np.testing.assert_array_equal(drawn, MASK)
