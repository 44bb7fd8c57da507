"""A building's COCO encoding is pycocotools' own of the whole mask."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from app.outputs.coco import encode_coco_rle
from app.segmentation.components import Rule, find_buildings
from app.segmentation.stream import Band


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.sampled_from([0.3, 0.6, 0.9, 1]),
    seed=st.integers(0, 2**32),
)
def test_each_building_is_encoded_as_the_reference_does(
    height: int, width: int, share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    nothing = np.zeros((height, width), np.float32)
    [band] = find_buildings([Band(0, nothing, mask)], Rule(0, 0, 0), each=True)
    for building in band.buildings:
        rows, cols = building.window
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[rows, cols][building.crop()] = 1
        expected = coco.encode(whole)
        assert encode_coco_rle(building, height, width) == expected["counts"].decode()
