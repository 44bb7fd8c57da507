"""The mean of two checkpoints' weights."""

from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.checkpoints import average, load_checkpoint, load_network


@pytest.fixture
def start(checkpoint: Path, tmp_path: Path) -> Path:
    """The same network with every weight 1 lower, and another name."""
    stored = load_checkpoint(checkpoint)
    stored["config"]["member"] = "start"
    for value in stored["state_dict"].values():
        if value.is_floating_point():
            value -= 1
    torch.save(stored, tmp_path / "start.ckpt")
    return tmp_path / "start.ckpt"


def test_weights_lie_between_those_of_start_and_end(
    start: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mean.ckpt"
    assert main(["average", str(start), str(checkpoint), "--share", "0.75", "--out", str(out)]) == 0
    mean, end = load_checkpoint(out), load_checkpoint(checkpoint)
    assert mean["config"] == end["config"]
    for name, value in end["state_dict"].items():
        moved = 0.25 if value.is_floating_point() else 0
        torch.testing.assert_close(mean["state_dict"][name], value - moved)
    load_network(out)


def test_other_networks_and_shares_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = load_checkpoint(checkpoint)
    other["state_dict"].popitem()
    torch.save(other, tmp_path / "other.ckpt")
    out = tmp_path / "mean.ckpt"
    with pytest.raises(ValueError, match="different networks"):
        average(tmp_path / "other.ckpt", checkpoint, 0.5, out)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        average(checkpoint, checkpoint, 1.5, out)
    assert not out.exists()
