"""The fitted gate spares most time at the most that may be lost, and its figures are the served."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from training.gate import LOSS_LIMIT, fit_gate

from app.bundle.manifest import Gate
from app.segmentation.options import SegmentOptions
from app.segmentation.segmenter import Segmenter, load_segmenter
from tests.factories import scene, slow_graph, write_toy_bundle
from training.data import Tile, list_tiles
from training.metrics import Counts, count

PATCH = 32
WEIGHTS = {"red": 0.4, "green": 0.4, "blue": 0.2}


@pytest.fixture
def segmenter(tmp_path: Path) -> Iterator[Segmenter]:
    """Blue is fast: whoever it clears a patch for is spared nearly everything."""
    slow = {name: slow_graph(name, PATCH) for name in ("red", "green")}
    bundle = write_toy_bundle(
        tmp_path / "toy", WEIGHTS, threshold=0.5, patch_size=PATCH, graphs=slow
    )
    with closing(load_segmenter(bundle, device="cpu", precision="fp32")) as loaded:
        yield loaded


def tiles_of(folder: Path, *pictures: tuple[NDArray[np.uint8], NDArray[np.bool_]]) -> list[Tile]:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i, (pixels, label) in enumerate(pictures):
        PIL.Image.fromarray(pixels).save(folder / "images" / f"a_{i}.png")
        PIL.Image.fromarray(label).save(folder / "masks" / f"a_{i}.png")
    return list_tiles(folder)


def patches(*squares: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Make a picture and its label of one patch each: `(level, of blue, building rows, blue in)`.

    A patch has `level` in red and green on its building rows and 0 elsewhere, and blue everywhere.
    """
    pixels = np.zeros((PATCH, PATCH * len(squares), 3), np.uint8)
    label = np.zeros(pixels.shape[:2], np.bool_)
    for i, (level, blue, rows, labelled) in enumerate(squares):
        cols = slice(i * PATCH, (i + 1) * PATCH)
        pixels[:rows, cols, :2] = level
        pixels[:, cols, 2] = blue
        label[:labelled, cols] = True
    return pixels, label


def test_the_highest_threshold_that_keeps_the_buildings(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    """Tiles of one patch, so that what a gate clears is lost whole.

    1,023 rows of building in 32 patches where blue sees 0.6 or more, one where it sees 0.25, which
    is less than the thousandth that may go, and 32 where it sees 0.39. Empty ones at 0.1 and 0.2.
    """
    building = [patches((255, 200, 32, 32)) for _ in range(32)]
    one_row = patches((255, 64, 1, 1))
    others = [patches((255, 99, 32, 32))]
    empty = [patches((0, 25, 0, 0)), patches((0, 51, 0, 0))]
    tiles = tiles_of(tmp_path / "tiles", *building, one_row, *others, *empty)

    gate = fit_gate(segmenter, tiles, "val")

    total = 32 * 32 + 1 + 32
    assert 1 / total <= LOSS_LIMIT < 33 / total
    before = 2 * total / (2 * total)
    after = 2 * (total - 1) / (2 * total - 1)
    assert gate == Gate(
        member="blue",
        threshold=0.26,  # of 0.26 to 0.38, which clear the same
        lost=round(1 / total, 6),
        dice_micro_change=round(after - before, 6),
        cleared=round(3 / 36, 4),
        cleared_empty=1.0,
        fitted_on="val (36 images, 36 patches, 2 of them empty)",
    )


def test_what_only_the_masks_lose_counts_as_well(segmenter: Segmenter, tmp_path: Path) -> None:
    """A patch that is wrongly found: no labelled pixel is lost with it, and yet the limit holds."""
    right, wrong = patches((255, 200, 32, 32)), patches((255, 64, 2, 0))
    tiles = tiles_of(tmp_path / "tiles", right, wrong, patches((0, 25, 0, 0)))

    gate = fit_gate(segmenter, tiles, "val")

    assert gate is not None
    assert (gate.threshold, gate.cleared_empty, gate.lost) == (0.1, 0.5, 0)


def test_a_slow_member_is_the_gate_where_it_spares_more(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    """Blue sees something everywhere, red and green nothing where there is nothing."""
    bright = [patches((255, 200, 32, 32)), *(patches((0, 200, 0, 0)) for _ in range(5))]

    gate = fit_gate(segmenter, tiles_of(tmp_path / "tiles", *bright), "val")

    assert gate is not None
    assert gate.member in ("red", "green")
    assert (gate.threshold, gate.cleared_empty, gate.lost) == (0.01, 1, 0)


@pytest.mark.parametrize(
    "squares",
    [
        [(255, 0, 32, 32), (255, 200, 32, 32)],  # blue loses half, red and green clear nothing
        [(0, 0, 0, 0), (0, 0, 0, 32)],  # nothing is found
    ],
)
def test_there_need_not_be_one(
    segmenter: Segmenter, tmp_path: Path, squares: list[tuple[int, int, int, int]]
) -> None:
    tiles = tiles_of(tmp_path / "tiles", *(patches(square) for square in squares))
    assert fit_gate(segmenter, tiles, "val") is None


def test_a_member_alone_needs_none(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "one", {"red": 1.0}, patch_size=PATCH)
    tiles = tiles_of(tmp_path / "tiles", patches((255, 0, 5, 5), (0, 0, 0, 0)))
    with closing(load_segmenter(bundle, device="cpu", precision="fp32")) as one:
        assert fit_gate(one, tiles, "val") is None


def test_its_figures_are_those_of_the_served_masks(segmenter: Segmenter, tmp_path: Path) -> None:
    """Overlapping windows, and all of it again through `segment`, with the gate and without."""
    pictures = []
    for seed in range(3):
        pixels = scene(300, 260, seed)
        pixels[:200, :180] //= 12
        pixels[40:43, 60:64] = 255
        pixels[..., 2] //= 2
        label = pixels[..., 0] > 120
        label[:200, :180] = False
        pictures.append((pixels, label))
    tiles = tiles_of(tmp_path / "tiles", *pictures)

    gate = fit_gate(segmenter, tiles, "val")

    assert gate is not None
    served = Segmenter(segmenter.manifest.model_copy(update={"gate": gate}), segmenter.predictor)
    with_gate, without, cleared, asked = Counts(), Counts(), 0, 0
    for tile in tiles:
        image, label = tile.read()
        found = served.segment(image, mask_only=True)
        assert found.gating is not None
        cleared, asked = cleared + found.gating.cleared, asked + found.gating.asked
        with_gate += count(found.mask, label)
        whole = served.segment(image, SegmentOptions(gate="off"), mask_only=True)
        without += count(whole.mask, label)
    assert cleared > 0
    assert gate.cleared == round(cleared / asked, 4)
    assert gate.dice_micro_change == round(with_gate.dice - without.dice, 6)
    found_share = (with_gate.true_positives + with_gate.false_positives) / (
        without.true_positives + without.false_positives
    )
    correct_share = with_gate.true_positives / without.true_positives
    assert gate.lost == round(1 - min(found_share, correct_share), 6) <= LOSS_LIMIT
