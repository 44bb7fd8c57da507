"""The losses by name, all on logits, all from segmentation_models_pytorch.

`ce+lovasz` is cross-entropy and the Lovász hinge in equal parts. The hinge takes logits as they
are: a sigmoid before it, as in the code this project descends from, is another, weaker function.
Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, section 3.1 (binary case).
"""

from collections.abc import Callable
from functools import partial

from segmentation_models_pytorch import losses
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits float (N, S, S), label float (N, S, S) in {0, 1} → scalar."""


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


_TERMS: dict[str, Callable[[], Loss]] = {
    "bce": losses.SoftBCEWithLogitsLoss,
    "ce": losses.SoftBCEWithLogitsLoss,  # with one foreground class, the same function
    "focal": partial(losses.FocalLoss, mode="binary"),
    "dice": partial(losses.DiceLoss, mode="binary", from_logits=True),
    "lovasz": partial(losses.LovaszLoss, mode="binary", per_image=True),
}
