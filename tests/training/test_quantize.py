"""Members compute in int8 where that is worth it, and where their masks stay what they are."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.bundle.manifest import Manifest, load_manifest
from app.runtime import select
from tests import factories
from tests.cpus import pretend
from tests.factories import write_toy_bundle
from training import quantize
from training.__main__ import main
from training.data import Tile, list_tiles
from training.quantize import calibrate, cut_patches

PATCH = 32


@pytest.fixture
def _int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with bf16 and int8, on which a network of noise counts as fast and faithful enough."""
    pretend(monkeypatch, "bf16", "int8")
    monkeypatch.setattr(quantize, "LEAST_GAIN", 0)
    monkeypatch.setattr(quantize, "LEAST_IOU", 0.9)


@pytest.fixture
def tiles(tmp_path: Path) -> list[Tile]:
    for part in ("images", "masks"):
        (tmp_path / "tiles" / part).mkdir(parents=True)
    for seed, (height, width) in enumerate([(100, 70), (20, 90), (64, 64)]):
        scene = factories.scene(height, width, seed)
        PIL.Image.fromarray(scene).save(tmp_path / "tiles" / "images" / f"a_{seed}.png")
        label = scene[..., 0] // 128 * 255
        PIL.Image.fromarray(label).save(tmp_path / "tiles" / "masks" / f"a_{seed}.png")
    return list_tiles(tmp_path / "tiles")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two members that convolve, and one that does not."""
    return write_toy_bundle(
        tmp_path / "toy",
        {"network": 0.4, "convolved": 0.4, "red": 0.2},
        patch_size=PATCH,
        graphs={
            "network": factories.network_graph(PATCH),
            "convolved": factories.convolution_graph(PATCH),
        },
    )


def calibrated(bundle: Path, tiles: list[Tile]) -> Manifest:
    return calibrate(bundle, load_manifest(bundle), tiles, tiles, described="tiles")


def chosen(manifest: Manifest) -> set[str]:
    return {member.name for member in manifest.members if member.int8}


def test_patches_come_from_every_tile_and_are_always_the_same(tiles: list[Tile]) -> None:
    patches = cut_patches(tiles, 7, PATCH)
    assert patches.shape == (7, PATCH, PATCH, 3)
    assert np.array_equal(patches, cut_patches(tiles, 7, PATCH))
    unlabelled = [replace(tile, label=None, labels="none") for tile in tiles]
    assert np.array_equal(patches, cut_patches(unlabelled, 7, PATCH))
    reflected = [np.array_equal(patch[20:32], patch[7:19][::-1]) for patch in patches]
    assert 2 <= sum(reflected) <= 3  # those of the tile that is 20 pixels high


@pytest.mark.usefixtures("_int8")
class TestCalibrate:
    def test_members_that_convolve_are_calibrated(self, bundle: Path, tiles: list[Tile]) -> None:
        manifest = calibrated(bundle, tiles)
        assert chosen(manifest) == {"network", "convolved"}
        int8 = manifest.members[1].int8
        assert int8 is not None
        assert int8.ranges == {"taken": pytest.approx((0, 255), abs=1)}
        assert int8.calibrated_on == "128 patches of tiles (3 images)"
        again = Manifest.model_validate_json(manifest.model_dump_json())
        assert again == manifest
        assert again.version != load_manifest(bundle).version

    def test_not_where_masks_suffer(
        self, bundle: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the two, one loses nothing: a level for each value."""
        monkeypatch.setattr(quantize, "LEAST_IOU", 0.9999)
        assert chosen(calibrated(bundle, tiles)) == {"convolved"}

    def test_the_input_that_harms_most_is_left_out(
        self, bundle: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of the last convolution of four, whose weights are the largest."""
        ranges = {}
        for least in (0.9, 0.97):
            monkeypatch.setattr(quantize, "LEAST_IOU", least)
            int8 = calibrated(bundle, tiles).members[0].int8
            assert int8 is not None
            ranges[least] = int8.ranges
        assert ranges[0.9].keys() == {"pixels", "r1", "sum", "both"}
        assert ranges[0.97] == {of: ends for of, ends in ranges[0.9].items() if of != "both"}

    def test_no_more_are_left_out_than_pay(
        self, bundle: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "LEAST_IOU", 0.97)
        monkeypatch.setattr(quantize, "MOST_LEFT_OUT", 0)
        assert chosen(calibrated(bundle, tiles)) == {"convolved"}

    def test_not_where_nothing_is_gained(
        self, bundle: Path, tiles: list[Tile], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantize, "LEAST_GAIN", 1e9)
        manifest = calibrated(bundle, tiles)
        assert manifest == load_manifest(bundle)

    @pytest.mark.parametrize("native", [["int8"], ["bf16", "int8"]], ids="+".join)
    def test_fit_adds_int8_to_a_bundle(
        self,
        tiny: Path,
        checkpoint: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        native: list[str],
    ) -> None:
        """What `calibrate` chose is measured along the served path, and described."""
        pretend(monkeypatch, *native)
        monkeypatch.setattr(quantize, "LEAST_IOU", 0)
        monkeypatch.setattr(quantize, "PATCHES", 8)
        plain, out = tmp_path / "plain", tmp_path / "in_int8"
        assert main(["export", str(checkpoint), "--out", str(plain), "--quiet"]) == 0
        assert chosen(load_manifest(plain)) == set()
        val, train = (str(tiny.parent / name) for name in ("val", "train"))
        options = ["--calibration", train, "--out", str(out), "--quiet"]
        assert main(["fit", str(plain), val, *options]) == 0
        manifest = load_manifest(out)
        assert chosen(manifest) == {"tiny"}
        assert list(manifest.precisions) == native
        cost = manifest.precisions["int8"]
        card = (out / "MODEL_CARD.md").read_text()
        said = f"In int8 (tiny; the rest in bf16 where the CPU has it), {cost.agreement:.3%}"
        assert said in card
        assert "The ranges for int8 were measured on 8 patches of train (4 images)." in card


def test_a_cpu_without_int8_calibrates_nothing_and_says_so(
    bundle: Path,
    tiles: list[Tile],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend(monkeypatch, "bf16")
    assert calibrated(bundle, tiles) == load_manifest(bundle)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "not calibrated for int8: this CPU has none" in caplog.text


def test_what_can_not_be_calibrated_is_said(
    bundle: Path,
    tiles: list[Tile],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    assert calibrated(bundle, tiles) == load_manifest(bundle)
    assert caplog.records[-1].levelno == logging.WARNING
    assert "not calibrated for int8: OpenVINO is not installed" in caplog.text
