"""A tiny run, trained once, that the tests of training share, and exports that are not repeated."""

import io
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from training.config import load_config
from training.graph import to_onnx
from training.network import SegmentationNetwork
from training.scenes import write_scenes
from training.train import train

TINY = """
member = "tiny"

[network]
architecture = "DeepLabV3Plus"
encoder = "timm-mobilenetv3_small_minimal_100"

[data]
root = "{root}"
folders = ["train"]
gsd = 0.5
scenes = 0.25

[optimizer]
lr = 3e-3

[trainer]
epochs = 3
steps_per_epoch = 8
batch_size = 2
precision = "32-true"
workers = 0
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a run of seconds; beside it `train` and `val`, tiles of scenes."""
    root = tmp_path_factory.mktemp("tiny")
    write_scenes(root / "train", 4, 300, seed=0)
    write_scenes(root / "val", 2, 300, seed=100)
    (root / "SOURCES.csv").write_text(
        "name,split,licence,gsd_m\n"
        + "".join(f"scene_{i:05d},train,CC0-1.0,{0.3 + i % 100 / 10:.1f}\n" for i in (0, 1, 2, 100))
    )
    path = root / "tiny.toml"
    path.write_text(TINY.format(root=root))
    return path


@pytest.fixture(scope="session")
def checkpoint(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tiny run ends with."""
    config = load_config(tiny, ['data.validation=["val"]'])
    return train(config, tmp_path_factory.mktemp("runs") / "tiny", progress=False)


@pytest.fixture(scope="session", autouse=True)
def _exported_once() -> Iterator[None]:
    """Each network becomes ONNX once: that takes ten seconds, and the file is the same again."""
    files: dict[bytes, bytes] = {}

    def to_onnx_once(network: SegmentationNetwork) -> bytes:
        whole = io.BytesIO()
        torch.save(network, whole)  # its class, its set-up and its weights
        if (key := sha256(whole.getbuffer()).digest()) not in files:
            files[key] = to_onnx(network)
        return files[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.to_onnx", to_onnx_once)
        yield
