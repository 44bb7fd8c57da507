"""The networks, with the normalisation that belongs to them.

`SegmentationNetwork` is the module that trains, that is validated and that is exported: mean and
standard deviation stand here and nowhere else.
"""

from pathlib import Path
from typing import cast

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn
from torch.nn import functional

from training.config import PATCH_SIZE, NetworkConfig
from training.losses import Loss
from training.pretrained import imagenet_weights, is_packaged

MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB in [0, 1] over ImageNet. Source: torchvision's reference training scripts."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB in [0, 1] over ImageNet. Source: as `MEAN`."""


class SegmentationNetwork(nn.Module):
    """Turn patches of 8-bit RGB into logits: normalisation, then one network."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        """Build the network and load the encoder's weights, strictly."""
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.network = _build(config)
        self._learning_size = config.size
        self._served_size = config.served_size or config.size

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits, float (N, S, S), for pixels, uint8 (N, S, S, 3) RGB."""
        return self.decode(self.encode(pixels))

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Return the encoder's features, the deepest last: float (N, C, s / 2**k, s / 2**k).

        s is the side at which the network sees a patch, S if it is not enlarged.
        """
        scaled = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return cast(list[Tensor], self.network.encoder(self._resized(scaled, self._size)))

    @property
    def _size(self) -> int:
        return self._learning_size if self.training else self._served_size

    @property
    def deepest_channels(self) -> int:
        """Return C of the deepest features."""
        return int(self.network.encoder.out_channels[-1])

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return logits, float (N, S, S), for the encoder's features."""
        logits = self.network.segmentation_head(self.network.decoder(features))
        return self._resized(logits, PATCH_SIZE).squeeze(1)

    def _resized(self, maps: Tensor, size: int) -> Tensor:
        if self._size == PATCH_SIZE:
            return maps
        return functional.interpolate(maps, size=(size, size), mode="bilinear")


class DeepSupervision(nn.Module):
    """A second, coarse answer from the deepest features, which is scored too, and then forgotten.

    Source: Zhao et al., "Pyramid scene parsing network", CVPR 2017, section 3.3.
    """

    def __init__(self, channels: int, weight: float) -> None:
        """Build the one convolution."""
        super().__init__()
        self._answer = nn.Conv2d(channels, 1, kernel_size=1)
        self._weight = weight

    def forward(self, loss: Loss, features: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss of features (N, C, s, s) against a target (N, S, S)."""
        coarse = self._answer(features).float()
        logits = functional.interpolate(coarse, size=target.shape[-2:], mode="bilinear")
        return self._weight * loss(logits.squeeze(1), target)


class ProbabilityNetwork(nn.Module):
    """What is exported: uint8 (N, S, S, 3) RGB in, probability float32 (N, S, S) out."""

    def __init__(self, network: SegmentationNetwork) -> None:
        """Wrap a trained network."""
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probability of building per pixel."""
        return torch.sigmoid(self.network(pixels).float())


def _build(config: NetworkConfig) -> SegmentationModel:
    imagenet, packaged = config.encoder_weights == "imagenet", is_packaged(config.encoder)
    downloaded = "imagenet" if imagenet and not packaged else None
    build = getattr(smp, config.architecture)
    network = build(config.encoder, encoder_weights=downloaded)
    # Strictly: smp renames encoders between versions, and a lenient load then matches almost
    # nothing without a word.
    if imagenet and packaged:
        network.encoder.load_state_dict(_packaged_weights(config.encoder, network.encoder))
    elif config.encoder_weights not in {"none", "imagenet"}:
        weights = torch.load(Path(config.encoder_weights), map_location="cpu", weights_only=True)
        network.encoder.load_state_dict(weights)
    if config.dropout:
        network.segmentation_head = nn.Sequential(
            nn.Dropout2d(config.dropout), network.segmentation_head
        )
    return cast(SegmentationModel, network)


def _packaged_weights(name: str, encoder: nn.Module) -> dict[str, Tensor]:
    (epsilon,) = {of.eps for of in encoder.modules() if isinstance(of, nn.BatchNorm2d)}
    return imagenet_weights(
        name,
        encoder.state_dict(),
        mean=torch.tensor(MEAN),
        std=torch.tensor(STD),
        epsilon=epsilon,
    )
