"""Networks that are trained already, and what they say beside the labels."""

import torch
from torch import Tensor

from training.checkpoints import load_network
from training.config import TeacherConfig


class Teacher:
    """The mean of some networks; none of it learns, or is part of a checkpoint."""

    def __init__(self, config: TeacherConfig) -> None:
        """Load the networks.

        Raises:
            As `training.checkpoints.load_network`; OSError: a checkpoint can't be read.
        """
        self._share = config.share
        self._networks = [
            load_network(path)[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for path in config.checkpoints
        ]

    @torch.no_grad()
    def target(self, pixels: Tensor, label: Tensor) -> Tensor:
        """Return what is to be learnt, float32 (N, S, S) in [0, 1], for pixels uint8 (N, S, S, 3).

        Patches whose label is NaN get the answer alone.
        """
        answers = [torch.sigmoid(n.to(pixels.device)(pixels).float()) for n in self._networks]
        answer = torch.stack(answers).mean(dim=0)
        return torch.where(label.isnan(), answer, label.lerp(answer, self._share))
