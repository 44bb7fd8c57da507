"""A network that sees its patches enlarged."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from app.bundle.manifest import load_manifest
from app.runtime.onnxruntime import OnnxPredictor
from training.config import PATCH_SIZE, load_config
from training.export import Trained, export, load_trained
from training.network import SegmentationNetwork
from training.parity import check_parity, parity_patches
from training.restore import restore

SIZE = 288


@pytest.fixture
def enlarging(checkpoint: Path) -> Trained:
    """The tiny network, with its patches enlarged to `SIZE`."""
    trained = load_trained(checkpoint)
    network_config = trained.config.network.model_copy(update={"size": SIZE})
    network = SegmentationNetwork(network_config).eval()
    network.load_state_dict(trained.network.state_dict())
    config = trained.config.model_copy(update={"network": network_config})
    return Trained(network, config, checkpoint.name)


def test_an_enlarged_patch_is_seen_as_it_would_be_by_hand(
    checkpoint: Path, enlarging: Trained
) -> None:
    plain = load_trained(checkpoint).network
    pixels = torch.from_numpy(parity_patches([])[-1:])
    enlarged = functional.interpolate(
        pixels.permute(0, 3, 1, 2).float(), size=(SIZE, SIZE), mode="bilinear"
    )

    with torch.inference_mode():
        found = enlarging.network(pixels)
        by_hand = plain(enlarged.permute(0, 2, 3, 1))
        expected = functional.interpolate(
            by_hand[:, None], size=(PATCH_SIZE, PATCH_SIZE), mode="bilinear"
        )

    assert found.shape == (1, PATCH_SIZE, PATCH_SIZE)
    torch.testing.assert_close(found, expected[:, 0], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(found, plain(pixels), atol=0.05)


def test_an_enlarging_network_goes_into_a_bundle_and_back(
    enlarging: Trained, tiny: Path, tmp_path: Path
) -> None:
    export([enlarging], tmp_path / "bundle")  # raises unless ONNX Runtime reproduces torch
    (again,) = restore(tmp_path / "bundle", tiny.parent / "train", tmp_path)

    assert load_trained(again).config.network.size == SIZE
    with closing(OnnxPredictor(tmp_path / "bundle", load_manifest(tmp_path / "bundle"))) as served:
        check_parity(served, "tiny", load_trained(again).network, parity_patches([]))


def test_a_network_may_learn_at_one_size_and_serve_at_another(checkpoint: Path) -> None:
    trained = load_trained(checkpoint)
    sizes = {"size": PATCH_SIZE + 32, "served_size": SIZE}
    network = SegmentationNetwork(trained.config.network.model_copy(update=sizes))
    pixels = torch.from_numpy(parity_patches([])[-2:])

    seen = {
        is_learning: network.train(is_learning).encode(pixels)[0] for is_learning in (True, False)
    }

    assert {is_learning: of.shape[-1] for is_learning, of in seen.items()} == {
        True: PATCH_SIZE + 32,
        False: SIZE,
    }


def test_a_size_that_the_networks_cannot_halve_five_times_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        load_config(tiny, ["network.size=300"])
