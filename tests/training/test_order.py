"""The order of the members is the one that spares most time."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from training.order import choose_order, count_asked

from app.segmentation.segmenter import Segmenter, load_segmenter
from tests.factories import write_toy_bundle
from training.data import list_tiles

WEIGHTS = {"red": 0.2, "green": 0.2, "blue": 0.6}


@pytest.fixture
def segmenter(tmp_path: Path) -> Iterator[Segmenter]:
    bundle = write_toy_bundle(tmp_path / "toy", WEIGHTS, threshold=0.5, patch_size=32)
    with closing(load_segmenter(bundle, device="cpu")) as loaded:
        yield loaded


def test_the_member_that_settles_most_goes_first(segmenter: Segmenter, tmp_path: Path) -> None:
    """Blue alone settles what is dark: 0.4 are left, and the threshold is 0.5."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[40, 40, 2] = 60  # 0.14: red and green might lift it to 0.54, one of them only to 0.34
    for part, picture in (("images", pixels), ("masks", pixels[..., 2])):
        (tmp_path / "tiles" / part).mkdir(parents=True)
        PIL.Image.fromarray(picture).save(tmp_path / "tiles" / part / "a_1.png")

    chosen = choose_order(segmenter, list_tiles(tmp_path / "tiles"), "tiles")

    assert chosen.order[0] == "blue"
    second, third = chosen.order[1:]
    assert chosen.asked == {"blue": 1.0, second: round(1 / 6, 4), third: 0.0}
    assert chosen.chosen_by == "least time on the 6 patches of tiles, without overlap"


def test_an_order_that_can_settle_nothing_asks_everybody() -> None:
    predicted = np.zeros((3, 4, 8, 8), np.float32)
    weights = np.array([0.2, 0.2, 0.6], np.float32)
    assert count_asked(predicted, weights, (0, 1, 2), 0.5).tolist() == [4, 4, 4]
    assert count_asked(predicted, weights, (2, 0, 1), 0.5).tolist() == [0, 0, 4]


def test_what_is_surely_building_is_settled_too() -> None:
    predicted = np.ones((2, 3, 8, 8), np.float32)
    weights = np.array([0.5, 0.5], np.float32)
    assert count_asked(predicted, weights, (0, 1), 0.5).tolist() == [3, 0]
