"""Depthwise convolutions in fp32 where the rest is in bf16, for training on a CPU.

oneDNN's backward pass of a depthwise convolution takes 2 to 7 times as long in bf16 as in fp32
(kernels of 3 and 5, 96 to 1248 channels, channels_last, one core with AVX-512 bf16).
"""

import torch
from torch import Tensor, nn


class _Depthwise(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def keep_depthwise_in_fp32(network: nn.Module) -> None:
    """Take the depthwise convolutions of a network out of autocast; weights and names stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and 1 < module.groups == module.in_channels:
            module.__class__ = _Depthwise
