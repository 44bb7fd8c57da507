"""False buildings are counted on tiles without a building that no network learnt from."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.bundle.manifest import Negatives
from app.segmentation.segmenter import Segmenter, load_segmenter
from tests.factories import EXACTLY, write_toy_bundle
from training.config import RunConfig
from training.data import list_tiles
from training.metrics import has_building
from training.negatives import count_false, unseen_negatives

SIDE = 32


def write_tiles(folder: Path, labels: dict[str, str], bright: Sequence[str] = ()) -> Path:
    """Write black tiles with `SOURCES.csv` beside their folder; `bright` ones look like a roof."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name in labels:
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        pixels[4:10, 4:10] = 255 * (name in bright)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        PIL.Image.fromarray(np.zeros((SIDE, SIDE), bool)).save(folder / "masks" / f"{name}.png")
    rows = "".join(f"{name},{word}\n" for name, word in labels.items())
    (folder.parent / "SOURCES.csv").write_text("name,labels\n" + rows)
    return folder


def run(root: Path, **data: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "member": "one",
            "network": {"architecture": "Unet", "encoder": "resnet18"},
            "data": {"root": str(root), **data},
        }
    )


@pytest.fixture
def segmenter(tmp_path: Path) -> Iterator[Segmenter]:
    bundle = write_toy_bundle(tmp_path / "toy", {"red": 1.0}, threshold=0.5, patch_size=SIDE)
    with closing(load_segmenter(bundle, **EXACTLY)) as loaded:
        yield loaded


def test_tiles_that_a_run_trained_on_do_not_count(tmp_path: Path) -> None:
    words = {"a_1": "empty", "a_7": "empty", "b_7": "empty", "c_7": "complete"}
    folder = write_tiles(tmp_path / "negatives", words)

    def named(*runs: RunConfig) -> list[str]:
        return [tile.name for tile in unseen_negatives([folder], runs)]

    everything = ["a_1", "a_7", "b_7"]
    trained = run(tmp_path, folders=["negatives"], without=["*_7"])
    assert named() == everything
    assert named(run(tmp_path, folders=["train"])) == everything
    assert named(trained) == ["a_7", "b_7"]
    assert named(trained, run(tmp_path / "x", folders=["../negatives"], without=["a_*"])) == ["a_7"]


def test_none_that_counts_is_refused(tmp_path: Path) -> None:
    folder = write_tiles(tmp_path / "negatives", {"a_1": "empty", "a_2": "complete"})
    with pytest.raises(ValueError, match=r"holds 1 tiles whose labels are `empty` .* data.without"):
        unseen_negatives([folder], [run(tmp_path, folders=["negatives"])])


def test_tiles_with_a_building_are_counted(segmenter: Segmenter, tmp_path: Path) -> None:
    words = dict.fromkeys(("a_1", "a_2", "a_3"), "empty")
    tiles = list_tiles(write_tiles(tmp_path / "negatives", words, bright=["a_2"]))

    assert count_false(segmenter, tiles) == Negatives(tiles=3, found=1)
    assert count_false(segmenter, []) is None


@pytest.mark.parametrize(("rows", "cols", "built"), [(4, 5, True), (19, 1, False), (0, 0, False)])
def test_a_building_has_20_connected_pixels(rows: int, cols: int, built: bool) -> None:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[:rows, :cols] = True
    mask[rows, cols] = True  # it touches a corner only
    assert has_building(mask) is built
