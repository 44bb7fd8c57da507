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

        Where the label is NaN, that is the answer alone. A patch that is known to have no building
        keeps its label: what a teacher finds there is the very mistake to unlearn.
        """
        counts = label.isnan() if self._share == 0 else label != 0
        asked = counts.any(dim=(1, 2))
        if not asked.any():
            return label
        target, known = label.clone(), label[asked]
        answer = self._answer(pixels[asked])
        target[asked] = torch.where(known.isnan(), answer, known.lerp(answer, self._share))
        return target

    def _answer(self, pixels: Tensor) -> Tensor:
        answers = [torch.sigmoid(n.to(pixels.device)(pixels).float()) for n in self._networks]
        return torch.stack(answers).mean(dim=0)
