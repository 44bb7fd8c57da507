"""The exported files, run by the rules of QGIS's plugin Deepness.

Source: github.com/PUTvision/qgis-plugin-deepness at 0.7.0, `processing/models/model_base.py`,
`segmentor.py`, `preprocessing_utils.py` and `map_processor_segmentation.py`.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import FILE_NAME, load_manifest
from app.commandline.cli import main
from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from tests.factories import EXACTLY, scene, write_toy_bundle
from tests.serving import toy_probability

BUNDLE = Settings(_env_file=None).bundle
ROOT = Path(__file__).parents[2]


class Deepness:
    """A segmentation model as the plugin loads it."""

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        [taken] = self.session.get_inputs()  # more than one is refused
        [self.output] = self.session.get_outputs()
        self.name, self.shape = taken.name, taken.shape
        self.metadata = {
            name: json.loads(text)
            for name, text in self.session.get_modelmeta().custom_metadata_map.items()
        }

    @property
    def batch_size(self) -> int | None:
        """None: any."""
        return None if isinstance(self.shape[0], str) else self.shape[0]

    @property
    def is_sigmoid(self) -> bool:
        return len(self.output.shape) == 3 or self.output.shape[-3] == 1

    def probability(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (N, S, S) of uint8 (N, S, S, bands); a fourth band is cut off."""
        values = (tiles[..., : self.shape[-3]] * 1.0 / 255.0).astype(np.float32)
        mean = np.array(self.metadata["standardization_mean"], np.float32)
        std = np.array(self.metadata["standardization_std"], np.float32)
        values = np.transpose((values - mean) / std, (0, 3, 1, 2))
        [result] = self.session.run(None, {self.name: values})
        assert result.shape[1] == 1
        return result[:, 0]

    def mask(self, tiles: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return bool (N, S, S): the plugin's class 1, behind its median filter of size 1."""
        assert self.metadata["seg_small_segment"] // 2 * 2 + 1 == 1
        result = self.probability(tiles)
        result[result < self.metadata["seg_thresh"]] = 0.0  # in place, as the plugin does
        return result != 0


def exported(bundle: Path, folder: Path) -> dict[str, Path]:
    """Export a bundle by the command line, and return the files by what they hold."""
    assert (
        main(["models", "export", "--for", "deepness", "-o", str(folder), "--bundle", str(bundle)])
        == 0
    )
    version = load_manifest(bundle).version
    return {
        path.stem.removeprefix(f"{version}-").removesuffix("-deepness"): path
        for path in folder.glob("*.onnx")
    }


def ours(segmenter: Segmenter, tile: NDArray[np.uint8], **options: Any) -> tuple[Any, Any]:
    """Return the probability and the mask that Rooftrace gives for one patch."""
    image = Image(tile, None, None, (), None)
    chosen = Options.parse(
        {"overlap": 0, "resample": "off", "cascade": "off", "min_confidence": 0, **options}
    )
    stream = segmenter.segment(segmenter.plan(image, chosen), image)
    [band] = stream
    return band.probability, band.mask


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("deepness")
    return exported(write_toy_bundle(folder / "bundle", patch_size=32), folder / "out")


def test_the_plugin_reads_what_it_fills_its_form_with(toy_files: dict[str, Path]) -> None:
    assert set(toy_files) == {"all", "red", "green", "blue"}
    for path in toy_files.values():
        model = Deepness(path)
        assert model.shape[1:] == [3, 32, 32]
        assert model.batch_size is None
        assert model.is_sigmoid
        assert model.metadata["model_type"].capitalize() == "Segmentor"
        assert model.metadata["class_names"] == {"0": "building"}
        assert model.metadata["tile_size"] == 32
        assert model.metadata["seg_thresh"] == 0.5
        assert 10 <= model.metadata["resolution"] <= 200, "centimetres per pixel"


def test_members_and_ensemble_see_the_very_bytes(toy_files: dict[str, Path]) -> None:
    tiles = scene(64, 64).reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3)
    tiles[0] = np.arange(256, dtype=np.uint8).repeat(12).reshape(32, 32, 3)  # each value there is
    with_alpha = np.concatenate([tiles, np.zeros_like(tiles[..., :1])], axis=3)
    for index, name in enumerate(("red", "green", "blue")):
        found = Deepness(toy_files[name]).probability(with_alpha)
        np.testing.assert_array_equal(found, tiles[..., index] / np.float32(255))
    found = Deepness(toy_files["all"]).probability(with_alpha)
    np.testing.assert_allclose(found, [toy_probability(tile) for tile in tiles], atol=1e-6)


def test_the_ensemble_is_ours_to_the_bit(small_toy: Segmenter, toy_files: dict[str, Path]) -> None:
    tile = scene(32, 32)
    model = Deepness(toy_files["all"])
    probability, mask = ours(small_toy, tile)
    np.testing.assert_array_equal(model.probability(tile[np.newaxis])[0], probability)
    np.testing.assert_array_equal(model.mask(tile[np.newaxis])[0], mask)


@pytest.mark.skipif(not (BUNDLE / FILE_NAME).exists(), reason=f"no bundle is shipped in {BUNDLE}")
def test_the_shipped_ensemble_and_its_members_are_ours(tmp_path: Path) -> None:
    files = exported(BUNDLE, tmp_path)
    with closing(load_segmenter(BUNDLE, **EXACTLY)) as segmenter:
        size = segmenter.manifest.patch_size
        with PIL.Image.open(ROOT / "docs" / "sample.jpg") as picture:
            tile = np.asarray(picture.crop((500, 300, 500 + size, 300 + size)))
        assert set(files) == {"all", *(member.name for member in segmenter.manifest.members)}
        for name, path in files.items():
            options = {} if name == "all" else {"models": name}
            probability, mask = ours(segmenter, tile, **options)
            model = Deepness(path)
            found = model.probability(tile[np.newaxis])[0]
            print(name, np.abs(found - probability).max())
            np.testing.assert_allclose(found, probability, atol=2e-6)
            np.testing.assert_array_equal(found >= model.metadata["seg_thresh"], mask)
