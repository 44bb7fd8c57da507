"""What bf16 and int8 do to the masks is measured on tiles, or said not to be."""

import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.runtime import select as backends
from app.segmentation.segmenter import load_segmenter
from tests.cpus import pretend
from tests.factories import convolution_graph, write_toy_bundle
from training.data import Tile, list_tiles
from training.precision import compare_masks, costs

HEIGHT, WIDTH = 40, 50


@pytest.fixture
def tiles(tmp_path: Path) -> list[Tile]:
    """A tile of 2000 pixels whose red is 100, 140 on ten rows and 180 on ten others, labelled."""
    pixels = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    pixels[10:20], pixels[20:30] = 140, 180
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[20:30] = 255
    for part, picture in (("images", pixels), ("masks", label)):
        (tmp_path / "tiles" / part).mkdir(parents=True)
        PIL.Image.fromarray(picture).save(tmp_path / "tiles" / part / "a_1.png")
    return list_tiles(tmp_path / "tiles")


def test_the_cost_is_counted_in_pixels(tiles: list[Tile], tmp_path: Path) -> None:
    strict, lax = (
        write_toy_bundle(tmp_path / name, {"red": 1.0}, threshold=threshold, patch_size=32)
        for name, threshold in (("strict", 0.6), ("lax", 0.5))
    )
    with (
        closing(load_segmenter(strict, device="cpu")) as exact,
        closing(load_segmenter(lax, device="cpu")) as other,
    ):
        cost = compare_masks(exact, other, tiles, "val")
        none = compare_masks(exact, exact, tiles, "val")
    assert cost.agreement == 0.75
    assert cost.iou == 0.5
    assert cost.dice_micro_change == pytest.approx(2 / 3 - 1)
    assert cost.measured_on == "val (1 images)"
    assert (none.agreement, none.iou, none.dice_micro_change) == (1, 1, 0)


CPUS = pytest.mark.parametrize(
    "native",
    [[], ["bf16"], ["int8"], ["bf16", "int8"]],
    ids=lambda native: "+".join(["fp32", *native]),
)


@CPUS
def test_bf16_is_measured_where_the_cpu_has_it(
    tiles: list[Tile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    native: list[str],
) -> None:
    pretend(monkeypatch, *native)
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    with closing(load_segmenter(bundle, device="cpu")) as exact:
        found = costs(bundle, exact, tiles, "val")
    assert found.keys() == {"bf16"} & set(native)
    assert ("this CPU can't compute in bf16" in caplog.text) == ("bf16" not in native)
    for cost in found.values():
        assert cost.agreement == 1  # no probability lies near the threshold


@CPUS
def test_int8_is_measured_where_members_have_ranges(
    tiles: list[Tile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: list[str]
) -> None:
    """Ranges that end below the threshold hide what is labelled."""
    pretend(monkeypatch, *native)
    bundle = write_toy_bundle(
        tmp_path / "toy",
        {"convolved": 1.0},
        threshold=0.6,
        patch_size=32,
        graphs={"convolved": convolution_graph(32)},
        ranges={"convolved": {"taken": (0, 100)}},
    )
    with closing(load_segmenter(bundle, device="cpu", precision="fp32")) as exact:
        found = costs(bundle, exact, tiles, "val")
    assert found.keys() == set(native)
    if "int8" in native:
        assert found["int8"].dice_micro_change == -1
        assert found["int8"].agreement == 0.75


def test_what_can_not_be_measured_is_not_claimed(
    tiles: list[Tile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    with closing(load_segmenter(bundle, device="cpu")) as exact:
        assert costs(bundle, exact, tiles, "val") == {}
    assert caplog.records[-1].levelno == logging.WARNING
    assert "OpenVINO is not installed" in caplog.text
