"""Every loss against its formula, written out by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from training.losses import build_loss


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 2, (2, 3, 4))).float()


@pytest.fixture
def label() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).random((2, 3, 4)) < 0.4).float()


def by_pixel(logits: torch.Tensor, label: torch.Tensor) -> list[tuple[float, float, float]]:
    """List (logit, probability, label) of every pixel."""
    pairs = zip(logits.flatten().tolist(), label.flatten().tolist(), strict=True)
    return [(z, 1 / (1 + math.exp(-z)), y) for z, y in pairs]


def bce(logits: torch.Tensor, label: torch.Tensor) -> float:
    terms = [-math.log(p if y else 1 - p) for _, p, y in by_pixel(logits, label)]
    return sum(terms) / len(terms)


def dice(logits: torch.Tensor, label: torch.Tensor) -> float:
    """One score over the whole batch, not one per image."""
    pixels = by_pixel(logits, label)
    return 1 - 2 * sum(p * y for _, p, y in pixels) / sum(p + y for _, p, y in pixels)


def focal(logits: torch.Tensor, label: torch.Tensor) -> float:
    """Lin et al., "Focal loss for dense object detection", ICCV 2017, with gamma 2, no alpha."""
    right = [p if y else 1 - p for _, p, y in by_pixel(logits, label)]
    return sum((1 - p) ** 2 * -math.log(p) for p in right) / len(right)


def lovasz_hinge(logits: torch.Tensor, label: torch.Tensor) -> float:
    """Berman et al., algorithm 1: hinge errors from large to small, times the Jaccard's steps."""
    losses = []
    for z, y in zip(logits, label, strict=True):
        signs = 2 * y.flatten() - 1
        errors = (1 - z.flatten() * signs).tolist()
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        loss, before, wrong = 0.0, 0.0, torch.zeros(len(errors), dtype=torch.bool)
        for i in order:
            wrong[i] = True
            now = jaccard_loss(wrong.numpy(), y.flatten().numpy() > 0)
            loss += max(0.0, errors[i]) * (now - before)
            before = now
        losses.append(loss)
    return sum(losses) / len(losses)


def jaccard_loss(wrong: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """1 - IoU of the mask that is wrong on `wrong` and right elsewhere."""
    mask = label ^ wrong
    union = np.count_nonzero(mask | label)
    return 1 - np.count_nonzero(mask & label) / union if union else 0.0


def boundary(logits: torch.Tensor, label: torch.Tensor) -> float:
    """Bokhovkin & Burnaev, equations 1 to 5, with sizes 3 and 5, pixel by pixel."""
    edge, labelled = (edges(field) for field in (torch.sigmoid(logits), label))
    near, labelled_near = (highest_around(field, 2) for field in (edge, labelled))
    precision = (edge * labelled_near).sum() / edge.sum()
    recall = (labelled * near).sum() / labelled.sum()
    return float(1 - 2 * precision * recall / (precision + recall))


def edges(building: torch.Tensor) -> torch.Tensor:
    return highest_around(1 - building, 1) - (1 - building)


def highest_around(field: torch.Tensor, reach: int) -> torch.Tensor:
    """Return the highest value within `reach` rows and columns of each pixel."""
    out = torch.empty_like(field)
    for n, row, col in product(*map(range, field.shape)):
        rows = slice(max(0, row - reach), row + reach + 1)
        cols = slice(max(0, col - reach), col + reach + 1)
        out[n, row, col] = field[n, rows, cols].max()
    return out


FORMULAS = {
    "bce": [bce],
    "dice": [dice],
    "bce+dice": [bce, dice],
    "focal+dice": [focal, dice],
    "ce+lovasz": [bce, lovasz_hinge],
    "bce+dice+boundary": [bce, dice, boundary],
}


@pytest.mark.parametrize("name", FORMULAS)
def test_loss_is_the_sum_of_its_formulas(
    name: str, logits: torch.Tensor, label: torch.Tensor
) -> None:
    expected = sum(formula(logits, label) for formula in FORMULAS[name])

    assert build_loss(name)(logits, label).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["bce", "dice", "bce+dice", "focal+dice"])
def test_pixels_of_unknown_label_count_in_no_sum(
    name: str, logits: torch.Tensor, label: torch.Tensor
) -> None:
    known = torch.from_numpy(np.random.default_rng(2).random(label.shape) < 0.7)

    found = build_loss(name)(logits, label.where(known, torch.nan))

    expected = sum(formula(logits[known], label[known]) for formula in FORMULAS[name])
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_lovasz_is_the_mean_over_the_images_of_which_something_is_known(
    logits: torch.Tensor, label: torch.Tensor
) -> None:
    partly, not_at_all = label.clone(), label.clone()
    partly[0, :, 2:] = not_at_all[0] = torch.nan
    hinge = build_loss("lovasz")

    first = lovasz_hinge(logits[:1, :, :2], label[:1, :, :2])
    second = lovasz_hinge(logits[1:], label[1:])

    assert hinge(logits, partly).item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert hinge(logits, not_at_all).item() == pytest.approx(second, rel=1e-5)


def test_edges_at_unknown_pixels_are_neither_missed_nor_wrong() -> None:
    """A building that is half unknown is drawn as labelled where it is known."""
    label = torch.zeros(1, 20, 20)
    label[0, 5:15, 5:15] = 1
    logits = 20 * (2 * label - 1)
    logits[0, 3:17, 10:18] = 20  # a wing that the label does not have
    half_known = label.clone()
    half_known[0, :, 10:] = torch.nan
    loss = build_loss("boundary")

    assert loss(logits, label).item() > 0.2
    assert loss(logits, half_known).item() < 0.03


@pytest.mark.parametrize("name", [*FORMULAS, "lovasz", "boundary"])
def test_nothing_known_costs_nothing(name: str, logits: torch.Tensor) -> None:
    logits.requires_grad_()

    loss = build_loss(name)(logits, torch.full_like(logits, torch.nan))
    torch.autograd.backward(loss)

    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(KeyError, match="hinge"):
        build_loss("bce+hinge")


@pytest.mark.parametrize("label_bits", [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 1), (1, 1, 1, 1)])
def test_lovasz_is_the_jaccard_loss_at_every_vertex(label_bits: tuple[int, ...]) -> None:
    """Hinge errors of 0 or 1 are the corners of the cube that the extension interpolates."""
    label = torch.tensor(label_bits).view(1, 2, 2).float()
    hinge = build_loss("lovasz")
    for corner in product((0, 1), repeat=4):
        wrong = torch.tensor(corner).view(1, 2, 2).float()
        logits = (1 - wrong) * (2 * label - 1)  # error 1 - logit x sign

        expected = jaccard_loss(wrong.numpy() > 0, label.numpy() > 0)

        assert hinge(logits, label).item() == pytest.approx(expected, abs=1e-6)


def test_lovasz_is_convex_in_the_logits(label: torch.Tensor) -> None:
    hinge = build_loss("lovasz")
    random = np.random.default_rng(2)
    for share in random.random(50):
        a, b = (torch.from_numpy(random.normal(0, 2, (2, 3, 4))).float() for _ in range(2))

        between = hinge(share * a + (1 - share) * b, label).item()

        chord = share * hinge(a, label).item() + (1 - share) * hinge(b, label).item()
        assert between <= chord + 1e-5


def test_lovasz_takes_logits_not_probabilities(label: torch.Tensor) -> None:
    """Beyond the margin nothing is left to gain; after a sigmoid, there always would be."""
    sure = 3 * (2 * label - 1)

    assert build_loss("lovasz")(sure, label).item() == 0


def test_edges_count_as_found_up_to_two_pixels_off() -> None:
    label = torch.zeros(1, 20, 20)
    label[:, 6:12, 6:12] = 1
    loss = build_loss("boundary")

    off = [loss(40 * label.roll(by, dims=2) - 20, label).item() for by in range(5)]

    assert off[0] == off[2] == pytest.approx(0, abs=1e-6)
    assert 0.1 < off[3] < off[4]


@pytest.mark.parametrize("name", ["bce", "dice", "focal", "lovasz"])
def test_better_logits_cost_less(name: str, label: torch.Tensor) -> None:
    loss = build_loss(name)
    direction = 2 * label - 1

    right, unsure, wrong = (loss(scale * direction, label).item() for scale in (2, 0, -2))

    assert right < unsure < wrong


@pytest.mark.parametrize("name", FORMULAS)
def test_empty_label_gives_a_finite_loss_and_gradient(name: str, logits: torch.Tensor) -> None:
    logits.requires_grad_()

    loss = build_loss(name)(logits, torch.zeros_like(logits))
    torch.autograd.backward(loss)

    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
