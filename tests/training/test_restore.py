"""A bundle becomes checkpoints again that compute the same, and train on."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from app.bundle.manifest import load_manifest
from app.runtime.onnxruntime import OnnxPredictor
from tests.factories import write_toy_bundle
from training.__main__ import main
from training.checkpoints import load_checkpoint
from training.config import load_config
from training.export import export, load_trained
from training.network import ProbabilityNetwork
from training.scenes import generate_scene
from training.train import train


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("restore") / "bundle"
    export([load_trained(checkpoint)], out)
    return out


@pytest.fixture(scope="module")
def restored(bundle: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny member's checkpoint, restored on the command line."""
    out = tmp_path_factory.mktemp("restored")
    assert main(["restore", str(bundle), str(tiny.parent / "train"), "--out", str(out)]) == 0
    return out / "tiny.ckpt"


def test_the_checkpoint_computes_what_the_bundle_does(bundle: Path, restored: Path) -> None:
    pixels = generate_scene(224, 224, seed=77).pixels[np.newaxis]
    with closing(OnnxPredictor(bundle, load_manifest(bundle))) as predictor:
        expected = predictor.predict(pixels, ["tiny"])[0]

    network = ProbabilityNetwork(load_trained(restored).network).eval()
    with torch.inference_mode():
        found = network(torch.from_numpy(pixels)).numpy()

    # Relative to the map's own range: a nearly flat map would agree with anything.
    assert np.abs(found - expected).max() < 1e-3 * np.ptp(expected)


def test_batch_normalisation_is_back(checkpoint: Path, restored: Path) -> None:
    """It normalises: in training, too, the network computes about the same."""
    original, again = load_trained(checkpoint).network, load_trained(restored).network
    assert original.state_dict().keys() == again.state_dict().keys()
    norms = [module for module in again.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 30
    for norm in norms:
        assert norm.running_var is not None
        torch.testing.assert_close(norm.weight**2, norm.running_var + norm.eps)


def test_training_goes_on_from_it(tiny: Path, restored: Path, tmp_path: Path) -> None:
    set_up = [f"network.weights={restored}", "trainer.epochs=1", "optimizer.lr=1e-9"]
    last = train(load_config(tiny, set_up), tmp_path / "run", progress=False)
    start, end = (load_checkpoint(path)["state_dict"] for path in (restored, last))
    name = next(name for name in start if name.endswith("conv_stem.weight"))
    torch.testing.assert_close(start[name], end[name])

    restored_copy = restored.rename(restored.with_suffix(".moved"))
    try:  # what it started from is inside the run's own checkpoint
        assert load_trained(last).config.network.weights == str(restored)
        longer = load_config(tiny, [*set_up[:1], "trainer.epochs=2", "optimizer.lr=1e-9"])
        train(longer, tmp_path / "run", resume=True, progress=False)
    finally:
        restored_copy.rename(restored)


def test_weights_of_another_network_are_refused(
    tiny: Path, restored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(tiny), "--run", str(tmp_path / "run"), "--quiet"]
    options = ["--set", f"network.weights={restored}", "--set", "network.architecture=Unet"]
    assert main([*arguments, *options]) == 2
    assert f"error: {restored}" in capsys.readouterr().err


def test_a_bundle_of_another_maker_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy")
    out = tmp_path / "out"
    assert main(["restore", str(bundle), str(tiny.parent / "train"), "--out", str(out)]) == 2
    assert f"error: {bundle} does not say how red was trained" in capsys.readouterr().err
    assert list(out.glob("*")) == []
