"""The losses by name, all on logits; but for `boundary`, from segmentation_models_pytorch.

Pixels whose label is NaN count in none of them.

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
"""Logits float (N, S, S), label float (N, S, S) in [0, 1] or NaN → scalar."""


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
    if label.isnan().all():
        return 0 * logits.sum()
    total = terms[0](logits, label)
    for term in terms[1:]:
        total = total + term(logits, label)
    return total


def _of_pixels(loss: Loss) -> Loss:
    """Make a loss that looks at each pixel by itself leave out those of unknown label."""

    def of_known(logits: Tensor, label: Tensor) -> Tensor:
        known = ~label.isnan()
        if known.all():  # choosing pixels costs a twentieth of a training step on a CPU
            return loss(logits, label)
        return loss(logits[known].view(1, 1, -1), label[known].view(1, 1, -1))

    return of_known


def _of_images(loss: Loss) -> Loss:
    """Return the mean of such a loss over the images of which something is known."""
    of_known = _of_pixels(loss)

    def mean(logits: Tensor, label: Tensor) -> Tensor:
        pairs = zip(logits.split(1), label.split(1), strict=True)
        return torch.stack([of_known(*pair) for pair in pairs if not pair[1].isnan().all()]).mean()

    return mean


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
    probability = torch.sigmoid(logits)
    known = ~label.isnan()
    # An unknown pixel is as the network has it, and its own edge does not count.
    edge, labelled = _edges(probability), _edges(torch.where(known, label, probability.detach()))
    drawn, wanted = edge * known, labelled * known
    precision = (drawn * _widened(labelled, _NEAR)).sum() / drawn.sum().clamp_min(_TINY)
    recall = (wanted * _widened(edge, _NEAR)).sum() / wanted.sum().clamp_min(_TINY)
    return 1 - 2 * precision * recall / (precision + recall).clamp_min(_TINY)


def _edges(building: Tensor) -> Tensor:
    """Return what of a building lies beside something else."""
    around = 1 - building
    return _widened(around, _EDGE) - around


def _widened(field: Tensor, side: int) -> Tensor:
    return functional.max_pool2d(field, side, stride=1, padding=side // 2)


_TERMS: dict[str, Callable[[], Loss]] = {
    "bce": lambda: _of_pixels(losses.SoftBCEWithLogitsLoss()),
    "ce": lambda: _of_pixels(losses.SoftBCEWithLogitsLoss()),  # of one class, the same function
    "focal": lambda: _of_pixels(losses.FocalLoss("binary")),
    "dice": lambda: _of_pixels(losses.DiceLoss("binary", from_logits=True)),
    "lovasz": lambda: _of_images(losses.LovaszLoss("binary", per_image=True)),
    "boundary": lambda: _boundary_loss,
}
