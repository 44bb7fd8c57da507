"""Patches are cut and disturbed as a pure function of the seed, image and label together."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.augment import Augmentation
from training.config import PATCH_SIZE, AugmentConfig

RECIPES = ("crop_nonempty", "resized_crop", "aerial", "any_light")


def augmentation(recipe: str, **more: float) -> Augmentation:
    return Augmentation(AugmentConfig.model_validate({"recipe": recipe, **more}))


def marked_tile(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Make a tile that is bright just where its label is building."""
    label = np.zeros((height, width), np.bool_)
    label[height // 4 : height // 2, width // 4 : width // 2] = True
    label[-height // 5 :, -width // 3 :] = True
    return np.where(label[..., np.newaxis], 220, 40).repeat(3, axis=2).astype(np.uint8), label


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(512, 512), (100, 700), (60, 60), (1024, 300)])
def test_patch_has_its_size_whatever_the_tile(recipe: str, shape: tuple[int, int]) -> None:
    pixels, label = augmentation(recipe)(*marked_tile(*shape), seed=1)

    assert pixels.shape == (PATCH_SIZE, PATCH_SIZE, 3)
    assert label.shape == (PATCH_SIZE, PATCH_SIZE)
    assert pixels.dtype == np.dtype(np.uint8)
    assert label.dtype == np.dtype(np.float32)
    assert set(np.unique(label)) <= {0, 1}


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_seed_gives_the_same_patch_whatever_came_before(recipe: str) -> None:
    tile = marked_tile(400, 400)
    used, fresh = augmentation(recipe), augmentation(recipe)
    for seed in range(5):
        used(*tile, seed=seed)

    for seed in (3, 99):
        again, once = used(*tile, seed=seed), fresh(*tile, seed=seed)
        np.testing.assert_array_equal(again[0], once[0])
        np.testing.assert_array_equal(again[1], once[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_different_seeds_give_different_patches(recipe: str) -> None:
    augment, tile = augmentation(recipe), marked_tile(400, 400)

    patches = {augment(*tile, seed=seed)[0].tobytes() for seed in range(10)}

    assert len(patches) == 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_label_moves_with_the_image(recipe: str) -> None:
    """Colours change, places must agree: the bright pixels stay the building."""
    augment, tile = augmentation(recipe), marked_tile(400, 400)
    for seed in range(30):
        pixels, label = augment(*tile, seed=seed)
        grey = pixels.mean(axis=2)
        if not 0.02 < label.mean() < 0.98:
            continue  # no edge in the patch, so nothing to compare
        bright = grey > (grey[label == 1].mean() + grey[label == 0].mean()) / 2
        assert np.mean(bright == label) > 0.97, f"seed {seed}"


@pytest.mark.parametrize("recipe", ["crop_nonempty", "aerial"])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_tiles_are_brought_to_the_reference_gsd(recipe: str, scale: float) -> None:
    """Stripes of 40 pixels are about 40 x scale wide in the patches (jitter aside).

    Of `aerial`, it is some of the patches: the others keep the tile's own GSD. `resized_crop` zooms
    to any share of the tile, so nothing of the sort can be said of it.
    """
    stripes = np.arange(600) // 40 % 2 == 1
    label = np.broadcast_to(stripes, (600, 600)).copy()
    pixels = np.where(label[..., np.newaxis], 220, 40).repeat(3, axis=2).astype(np.uint8)
    augment = augmentation(recipe)

    widths = []
    for seed in range(25):
        patch = augment(pixels, label, seed=seed, scale=scale)[1]
        lines = np.concatenate([patch, patch.T])
        edges = np.count_nonzero(np.diff(lines, axis=1), axis=1).max()
        widths.append(PATCH_SIZE / max(1, edges))

    def share_near(width: float) -> float:
        return float(np.mean([0.6 < found / width < 1.7 for found in widths]))

    if recipe == "crop_nonempty":
        assert share_near(40 * scale) > 0.5
    else:
        assert share_near(40 * scale) > 0.25
        assert share_near(40) > 0.35


def test_ancestor_recipe_cuts_where_there_is_building() -> None:
    label = np.zeros((1000, 1000), np.bool_)
    label[930:960, 930:960] = True
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    augment = augmentation("crop_nonempty")

    found = [augment(pixels, label, seed=seed)[1].any() for seed in range(20)]

    # Turning by up to 30 degrees may push a corner out again, but never as a rule.
    assert sum(found) >= 15


def test_patches_in_any_light_may_be_flat_without_being_dark() -> None:
    """Haze takes contrast and leaves light: no scaling about black does that."""
    label = np.zeros((400, 400), np.bool_)
    label[100:300, 100:300] = True
    pixels = np.where(label[..., np.newaxis], 180, 70).repeat(3, axis=2).astype(np.uint8)
    augment = augmentation("any_light")
    flat = 0
    for seed in range(100):
        patch, labelled = augment(pixels, label, seed=seed)
        if not 0.1 < labelled.mean() < 0.9:
            continue  # little to compare
        building, ground = patch[labelled == 1].mean(), patch[labelled == 0].mean()
        flat += building - ground < 66 and building + ground > 200  # 110 and 250 in the tile

    assert flat >= 5


def test_tile_is_left_as_it_was() -> None:
    pixels, label = marked_tile(300, 300)
    before = pixels.copy(), label.copy()

    augmentation("aerial")(pixels, label, seed=0)

    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(label, before[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_soft_edges_blur_the_label_and_nothing_else(recipe: str) -> None:
    tile = marked_tile(400, 400)
    sharp, soft = augmentation(recipe), augmentation(recipe, soft_edge=2.0)
    blurred = 0
    for seed in range(10):
        (pixels, label), (same, softened) = sharp(*tile, seed=seed), soft(*tile, seed=seed)
        np.testing.assert_array_equal(pixels, same)
        blurred += int(np.count_nonzero((softened > 0.01) & (softened < 0.99)))
        # Farther from an edge than 3 standard deviations, nothing is left of it.
        far = cv2.dilate(label, np.ones((13, 13))) == cv2.erode(label, np.ones((13, 13)))
        np.testing.assert_allclose(softened[far], label[far], atol=0.01)
    assert blurred > 1000
