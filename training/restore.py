"""Turn a bundle's members back into checkpoints, as a start for fine-tuning.

The exporter folds batch normalisation into the convolution before it, which loses the statistics
but not the function: a convolution that was folded is y = W x + b. Here W x is normalised by
statistics measured on sample patches, and gain and offset are chosen so that the result is y again.
A network in evaluation then computes exactly what the bundle does, and trains on as usual.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from torch import Tensor, nn

from app.bundle.manifest import load_manifest
from app.bundle.verification import verify_files
from app.runtime.onnxruntime import OnnxPredictor
from training.config import DataConfig, RunConfig
from training.network import SegmentationNetwork
from training.parity import check_parity
from training.samples import TrainingSamples

_PATCHES = 48


def restore(bundle: Path, data: Path, out: Path) -> list[Path]:
    """Write a checkpoint per member of `bundle` into the folder `out`, and return their paths.

    `data`, a folder or CSV of tiles like those that training will go on with, gives the patches on
    which the statistics are measured.

    Raises:
        ValueError: a graph that this package did not export, or a checkpoint that would not
            compute what the bundle does.
        BundleError: the bundle is broken.
        OSError: a file can't be read or written.
    """
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with closing(OnnxPredictor(bundle, manifest)) as predictor:
        for member in manifest.members:
            try:
                config = RunConfig.model_validate(manifest.training.get(member.name))
            except ValidationError as error:
                raise ValueError(
                    f"{bundle} does not say how {member.name} was trained: only a bundle that "
                    "`python -m training export` wrote can be restored"
                ) from error
            patches = _sample(data, config)
            network = _restored(bundle / member.file, config, patches)
            check_parity(predictor, member.name, network, patches[:8].numpy())
            path = out / f"{member.name}.ckpt"
            state = {f"network.{name}": value for name, value in network.state_dict().items()}
            torch.save({"config": config.model_dump(mode="json"), "state_dict": state}, path)
            written.append(path)
    return written


def _sample(data: Path, config: RunConfig) -> Tensor:
    """Draw uint8 (N, S, S, 3) training patches."""
    where = {"folders": [data]} if data.is_dir() else {"csv": [data]}
    of_data = DataConfig(root=Path(), gsd=config.data.gsd, **where)
    samples = TrainingSamples(of_data, config.augment, seed=0)
    return torch.stack([samples[number][0] for number in range(_PATCHES)])


@torch.no_grad()
def _restored(file: Path, config: RunConfig, patches: Tensor) -> SegmentationNetwork:
    unstarted = {"weights": "none", "encoder_weights": "none"}
    network = SegmentationNetwork(config.network.model_copy(update=unstarted)).eval()
    stored = _stored_weights(file)
    kept = {
        name: stored[name]
        for name, value in network.state_dict().items()
        if name in stored and stored[name].shape == value.shape
    }
    network.load_state_dict(kept, strict=False)  # what is missing was folded, or is never run

    def unfold(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.copy_(mean + biases[norm])

    biases = {}
    with ExitStack() as hooks:
        for norm, (norm_name, convolution) in _normalisations(network, patches[:1]).items():
            if f"{norm_name}.running_mean" in kept:
                continue
            try:
                biases[norm] = stored[f"{convolution}.weight_bias"]
            except KeyError:
                raise ValueError(
                    f"{file} has no bias for {convolution}: not exported here"
                ) from None
            hooks.callback(norm.register_forward_pre_hook(unfold).remove)
        network(patches)
    return network


def _stored_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of an exported graph, float32, by their names in the network."""
    graph = onnx.load(file).graph
    return {
        weight.name.removesuffix("_half").removeprefix("network."): torch.from_numpy(
            numpy_helper.to_array(weight).copy()
        ).float()
        for weight in graph.initializer
    }


def _normalisations(
    network: SegmentationNetwork, patch: Tensor
) -> Mapping[nn.BatchNorm2d, tuple[str, str]]:
    """Find each batch normalisation that runs: its name, and that of the convolution before it."""
    made_by: dict[int, str] = {}
    found: dict[nn.BatchNorm2d, tuple[str, str]] = {}
    outputs = []  # kept alive, so that no two tensors share an id

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            if isinstance(module, nn.BatchNorm2d):
                found[module] = (name, made_by.get(id(inputs[0]), ""))
            else:
                made_by[id(output)] = name
                outputs.append(output)

        return hook

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(note(name)).remove)
        network(patch)
    return found
