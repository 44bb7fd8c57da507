"""Checkpoints of our runs: weights, and the configuration they were trained with."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from training.config import RunConfig
from training.network import SegmentationNetwork


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU, executing nothing that it holds.

    Raises:
        ValueError: it can't be read; or it holds no configuration, so it is not of `training`.
        OSError: the file can't be read.
    """
    try:
        checkpoint: object = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:  # torch has no class of its own
        # Its messages advise to execute what the file holds.
        raise ValueError(
            f"{path} can't be loaded as a checkpoint: it is damaged, or none"
        ) from error
    if not (isinstance(checkpoint, dict) and "config" in checkpoint):
        raise ValueError(f"{path} carries no configuration: it was not written by this package")
    return checkpoint


def load_network(path: Path) -> tuple[SegmentationNetwork, RunConfig]:
    """Rebuild the network of a checkpoint, strictly: every weight there and here must match.

    Raises:
        ValueError: as `load_checkpoint`.
        RuntimeError: weights that do not fit the network.
    """
    checkpoint = load_checkpoint(path)
    config = RunConfig.model_validate(checkpoint["config"])
    # What the encoder started from is inside the checkpoint: nothing has to be downloaded again.
    network = SegmentationNetwork(config.network.model_copy(update={"encoder_weights": "none"}))
    load_weights(network, checkpoint)
    return network.eval(), config


def load_weights(network: SegmentationNetwork, checkpoint: dict[str, Any]) -> None:
    """Put a checkpoint's weights into a network, strictly.

    Raises:
        RuntimeError: weights that do not fit the network.
    """
    prefix = "network."
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    network.load_state_dict(weights, strict=True)


def average(start: Path, end: Path, share: float, out: Path) -> None:
    """Write a checkpoint with the weighted mean of the weights that a run began and ended with.

    `share` is that of `end`, whose configuration it has. Such a mean often does better on imagery
    unlike that of the training than either. Source: Wortsman et al., "Robust fine-tuning of
    zero-shot models", CVPR 2022.

    Raises:
        ValueError: as `load_checkpoint`; `share` outside 0 to 1; weights of another network.
        OSError: a file can't be read or written.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    first, last = load_checkpoint(start), load_checkpoint(end)
    before, after = first["state_dict"], last["state_dict"]
    shapes = ({name: value.shape for name, value in of.items()} for of in (before, after))
    if next(shapes) != next(shapes):
        raise ValueError(f"{start} and {end} hold weights of different networks")
    mean = {
        name: before[name].lerp(value, share) if value.is_floating_point() else value
        for name, value in after.items()
    }
    torch.save({"config": last["config"], "state_dict": mean}, out)
