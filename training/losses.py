"""The losses by name, all on logits; but for `boundary`, from segmentation_models_pytorch.

`ce+lovasz` is cross-entropy and the Lovász hinge in equal parts. The hinge takes logits as they
are: a sigmoid before it, as in the code this project descends from, is another, weaker function.
Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, section 3.1 (binary case).
"""

from collections.abc import Callable
from functools import partial

import torch
from segmentation_models_pytorch import losses
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits float (N, S, S), label float (N, S, S) in [0, 1] → scalar."""


def build_loss(name: str) -> Loss:
    """Return the loss called `name`, terms joined by `+` summed with equal weight.

    Raises:
        KeyError: a term that is not in the table below.
    """
    terms = [_TERMS[term]() for term in name.split("+")]
    return partial(_total, terms)


def _total(terms: list[Loss], logits: Tensor, label: Tensor) -> Tensor:
    # The library wants a channel axis; the binary case has one channel.
    logits, label = logits.unsqueeze(1), label.unsqueeze(1)
    total = terms[0](logits, label)
    for term in terms[1:]:
        total = total + term(logits, label)
    return total


_TINY = 1e-7
"""What sums are divided by at least: a batch without an edge costs 1, and has a gradient of 0."""
_EDGE = 3
"""Side of the square, in pixels, in which an edge shows: edges are the roof's outermost pixels."""
_NEAR = 5
"""Side of the square, in pixels, in which two edges count as the same: up to two pixels apart."""


def _boundary_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return 1 - F1 of edges, over the whole batch, for logits and label (N, 1, S, S).

    Source: Bokhovkin & Burnaev, "Boundary loss for remote sensing imagery semantic segmentation",
    ISNN 2019, section 3.2, with its values of the two sizes.
    """
    edge, labelled = _edges(torch.sigmoid(logits)), _edges(label)
    precision = (edge * _widened(labelled, _NEAR)).sum() / edge.sum().clamp_min(_TINY)
    recall = (labelled * _widened(edge, _NEAR)).sum() / labelled.sum().clamp_min(_TINY)
    return 1 - 2 * precision * recall / (precision + recall).clamp_min(_TINY)


def _edges(building: Tensor) -> Tensor:
    """Return what of a building lies beside something else."""
    around = 1 - building
    return _widened(around, _EDGE) - around


def _widened(field: Tensor, side: int) -> Tensor:
    return functional.max_pool2d(field, side, stride=1, padding=side // 2)


_TERMS: dict[str, Callable[[], Loss]] = {
    "bce": losses.SoftBCEWithLogitsLoss,
    "ce": losses.SoftBCEWithLogitsLoss,  # with one foreground class, the same function
    "focal": partial(losses.FocalLoss, mode="binary"),
    "dice": partial(losses.DiceLoss, mode="binary", from_logits=True),
    "lovasz": partial(losses.LovaszLoss, mode="binary", per_image=True),
    "boundary": lambda: _boundary_loss,
}
