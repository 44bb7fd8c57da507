"""The fitted minimum confidence is the one that a search over served masks finds."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.segmentation.components import TALL
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from tests.factories import EXACTLY, write_toy_bundle
from training.data import Tile, list_tiles
from training.metrics import count
from training.min_confidence import COST, HIGHEST, fit_min_confidence

THRESHOLD = 0.5
BOUNDS = [round(THRESHOLD + step / 100, 2) for step in range(1, 41)]


@pytest.fixture
def segmenter(tmp_path: Path) -> Iterator[Segmenter]:
    """One member, whose probability is red / 255."""
    bundle = write_toy_bundle(tmp_path / "toy", {"red": 1.0}, threshold=THRESHOLD, patch_size=32)
    with closing(load_segmenter(bundle, **EXACTLY)) as loaded:
        yield loaded


def write_tiles(folder: Path, **tiles: tuple[NDArray[np.float64], NDArray[np.bool_]]) -> list[Tile]:
    """Write tiles by their names: probabilities, which become red, and labels."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, (probability, label) in tiles.items():
        red = np.rint(255 * probability).astype(np.uint8)
        PIL.Image.fromarray(np.dstack([red] * 3)).save(folder / "images" / f"{name}.png")
        PIL.Image.fromarray(label).save(folder / "masks" / f"{name}.png")
    return list_tiles(folder)


def blobs(height: int, width: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw squares of 3 pixels of any level; the brighter, the more of them are labelled."""
    random = np.random.default_rng(seed)
    level = random.uniform(0.3, 0.9, (height // 4, width // 4))
    level[random.random(level.shape) < 0.5] = 0
    square = np.pad(np.ones((3, 3)), ((0, 1), (0, 1)))
    label = np.kron(random.random(level.shape) < 2 * (level - 0.45), square) > 0
    return np.kron(level, square).astype(np.float64), label


def dice_with(segmenter: Segmenter, tiles: list[Tile], bound: float) -> float:
    """Return micro Dice of the served masks, each source counted alike."""
    options = Options(min_confidence=bound)
    right: dict[str, float] = {}
    total: dict[str, float] = {}
    pixels: dict[str, float] = {}
    for tile in tiles:
        image, label = tile.read()
        counts = count(segmenter.segment_image(image, options).mask, label)
        for sums, of in (
            (right, 2 * counts.true_positives),
            (
                total,
                2 * counts.true_positives + counts.false_positives + counts.false_negatives,
            ),
            (pixels, label.size),
        ):
            sums[tile.source] = sums.get(tile.source, 0) + of
    return sum(right[s] / pixels[s] for s in right) / sum(total[s] / pixels[s] for s in total)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_that_of_a_plain_search_over_served_masks(
    segmenter: Segmenter, tmp_path: Path, seed: int
) -> None:
    """Tiles of two sources and of unlike sizes, with windows that overlap."""
    tiles = write_tiles(
        tmp_path / "tiles",
        a_1=blobs(60, 70, seed),
        a_2=blobs(40, 44, seed + 10),
        b_1=blobs(100, 92, seed + 20),
    )
    without = dice_with(segmenter, tiles, 0)
    good = [b for b in BOUNDS if dice_with(segmenter, tiles, b) >= without - COST]

    found = fit_min_confidence(segmenter, tiles)

    assert found == max(good)
    assert THRESHOLD < found < HIGHEST


def test_each_source_counts_alike(segmenter: Segmenter, tmp_path: Path) -> None:
    """A false roof in a small source outweighs true ones, as doubtful, in a large source."""
    true = np.zeros((40, 40)), np.zeros((40, 40), np.bool_)
    true[0][:20, :20], true[1][:20, :20] = 0.9, True
    doubtful = np.zeros((40, 40)), np.zeros((40, 40), np.bool_)
    doubtful[0][:20, :20], doubtful[1][:20, :18] = 0.6, True
    false = np.zeros((40, 40)), np.zeros((40, 40), np.bool_)
    false[0][:20, :30] = 0.6
    large = [true, doubtful] * 8
    apart, together = (
        write_tiles(
            tmp_path / small,
            **{f"a_{i}": tile for i, tile in enumerate(large)},
            **{f"{small}_{100 + i}": tile for i, tile in enumerate((true, false))},
        )
        for small in ("b", "a")
    )

    assert fit_min_confidence(segmenter, apart) == HIGHEST
    assert fit_min_confidence(segmenter, together) == 0


def test_a_source_of_few_buildings_does_not_judge(segmenter: Segmenter, tmp_path: Path) -> None:
    """A roof of two that is in doubt counts where no source has more, and not beside a village."""
    two = np.zeros((40, 40)), np.zeros((40, 40), np.bool_)
    two[0][:10, :10], two[0][20:30, :10] = 0.9, 0.6
    two[1][:] = two[0] > 0
    village = np.kron(np.full((5, 5), 0.9), np.pad(np.ones((6, 6)), (0, 2)))
    village = np.concatenate([village, np.pad(np.full((6, 6), 0.6), ((0, 2), (0, 34)))])
    label = village > 0.8
    alone = write_tiles(tmp_path / "alone", a_1=two)
    beside = write_tiles(tmp_path / "beside", a_1=two, b_1=(village, label))

    assert fit_min_confidence(segmenter, alone) == 0
    assert fit_min_confidence(segmenter, beside) == HIGHEST


def test_tall_components_are_always_buildings(segmenter: Segmenter, tmp_path: Path) -> None:
    """One of more than `TALL` rows is served whatever its mean: dropping it costs nothing."""
    tall = np.zeros((TALL + 40, 40)), np.zeros((TALL + 40, 40), np.bool_)
    tall[0][: TALL + 10, :20] = 0.6
    tall[1][: TALL + 10, :20] = True
    tall[0][20:30, 30:38] = 0.7  # none
    tiles = write_tiles(tmp_path / "tiles", a_1=tall)

    assert fit_min_confidence(segmenter, tiles) == HIGHEST


@pytest.mark.parametrize(
    ("level", "labelled"),
    [(0.55, True), (1.0, True), (0.0, True), (0.0, False)],
    ids=["every bound costs some", "nothing is dropped", "nothing is found", "nothing is there"],
)
def test_there_need_not_be_one(
    segmenter: Segmenter, tmp_path: Path, level: float, labelled: bool
) -> None:
    probability = np.zeros((50, 60))
    probability[10:30, 10:30] = level
    label = np.zeros((50, 60), np.bool_)
    label[10:30, 10:30] = labelled
    tiles = write_tiles(tmp_path / "tiles", a_1=(probability, label))

    assert fit_min_confidence(segmenter, tiles) == 0
