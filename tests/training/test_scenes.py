"""The scene generator: a pure function of its seed, with labels that match what it draws."""

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.scenes import GSD_RANGE, LandUse, generate_scene, write_scenes

USES: tuple[LandUse, ...] = get_args(LandUse)
BUILT = tuple(use for use in USES if use != "empty")


def component_areas(label: NDArray[np.bool_], gsd: float) -> NDArray[np.float64]:
    """Return the area in square metres of every building that the border does not cut."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(label.astype(np.uint8), connectivity=8)
    height, width = label.shape
    left, top, wide, high, pixels = stats[1:].T
    whole = (left > 0) & (top > 0) & (left + wide < width) & (top + high < height)
    areas: NDArray[np.float64] = pixels[whole] * gsd**2
    return areas


@pytest.mark.parametrize("use", USES)
def test_same_arguments_give_same_bytes(use: LandUse) -> None:
    one, two = (generate_scene(256, 256, seed=11, land_use=use) for _ in range(2))
    assert one.pixels.tobytes() == two.pixels.tobytes()
    assert one.label.tobytes() == two.label.tobytes()
    assert one.gsd == two.gsd


def test_number_of_opencv_threads_does_not_matter() -> None:
    before = cv2.getNumThreads()
    many = generate_scene(300, 280, seed=4)
    try:
        cv2.setNumThreads(1)
        one = generate_scene(300, 280, seed=4)
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(one.pixels, many.pixels)


def test_different_seeds_differ() -> None:
    pictures = {generate_scene(224, 224, seed=seed).pixels.tobytes() for seed in range(12)}
    assert len(pictures) == 12


@pytest.mark.parametrize(
    ("height", "width"), [(224, 224), (224, 640), (501, 333), (768, 1024), (1500, 1500)]
)
def test_any_size_works(height: int, width: int) -> None:
    scene = generate_scene(height, width, seed=3, gsd=0.6)
    assert scene.pixels.shape == (height, width, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.label.shape == (height, width)
    assert scene.label.dtype == np.bool_


def test_gsd_is_the_callers_or_within_range() -> None:
    assert generate_scene(224, 224, seed=1, gsd=0.33).gsd == 0.33
    drawn = [generate_scene(224, 224, seed=seed).gsd for seed in range(12)]
    assert GSD_RANGE[0] <= min(drawn) < 0.5 < 0.8 < max(drawn) <= GSD_RANGE[1]


def test_suburban_buildings_have_the_size_of_sheds_and_houses() -> None:
    scene = generate_scene(1024, 1024, seed=2, gsd=0.3, land_use="suburb")
    areas = component_areas(scene.label, scene.gsd)
    assert len(areas) > 50
    assert 60 < np.median(areas) < 260
    assert areas.min() > 8  # the smallest shed is 3 x 3 m


def test_industrial_halls_are_huge() -> None:
    scene = generate_scene(1024, 1024, seed=2, gsd=0.6, land_use="industry")
    assert np.median(component_areas(scene.label, scene.gsd)) > 1000


def test_footprints_scale_with_gsd() -> None:
    """Twice the GSD shows each house with about half its side."""
    fine, coarse = (
        np.median(component_areas(scene.label, 1.0))
        for scene in (
            generate_scene(1024, 1024, seed=2, gsd=gsd, land_use="suburb") for gsd in (0.3, 0.6)
        )
    )
    assert 3 < fine / coarse < 5


def test_label_lies_on_the_roofs() -> None:
    """Colour changes along the label's outline far more than on average, so they coincide."""
    for use in BUILT:
        scene = generate_scene(512, 512, seed=8, gsd=0.5, land_use=use)
        grey = cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        label = scene.label.astype(np.uint8)
        outline = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        moved = np.roll(outline, (6, 6), axis=(0, 1))
        assert edges[outline].mean() > 1.25 * edges[moved].mean(), use


@pytest.mark.parametrize("seed", range(6))
def test_empty_scenes_have_no_label_but_are_not_blank(seed: int) -> None:
    scene = generate_scene(512, 512, seed=seed, land_use="empty")
    assert not scene.label.any()
    smooth = cv2.GaussianBlur(scene.pixels, (0, 0), 6)  # what remains is clutter, not grain
    assert smooth.reshape(-1, 3).std(axis=0).max() > 5


def test_building_fractions_are_sane() -> None:
    fractions = np.array([generate_scene(256, 256, seed=seed).label.mean() for seed in range(50)])
    assert 0.12 < fractions.mean() < 0.35
    assert fractions.max() < 0.8
    assert 3 <= (fractions == 0).sum() <= 20
    assert (fractions > 0.1).sum() >= 20


def test_written_scenes_read_back(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=3, size=224, seed=40)
    names = [f"scene_{i:05d}" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"{n}.jpg" for n in names]
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [f"{n}.png" for n in names]
    for i, name in enumerate(names):
        scene = generate_scene(224, 224, seed=40 + i)
        png = tmp_path / "masks" / f"{name}.png"
        mask = cv2.imread(str(png), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        assert np.array_equal(mask, np.where(scene.label, 255, 0))
        assert png.read_bytes()[24] == 1  # IHDR's bit depth
        image = cv2.imread(str(tmp_path / "images" / f"{name}.jpg"), cv2.IMREAD_COLOR_RGB)
        assert image is not None
        assert np.abs(image.astype(int) - scene.pixels).mean() < 6
