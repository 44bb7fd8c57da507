"""The fitted cascade spares most time within the limits, and its figures are those of serving."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.bundle.cascade import Cascade
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import collect
from tests.factories import EXACTLY, scene, slow_graph, write_toy_bundle
from training.cascade import NEGATIVE_LIMIT, OBJECT_LIMIT, SPLIT_LIMIT, fit_cascade
from training.data import Tile, list_tiles
from training.metrics import Counts, count, match_objects
from training.patches import milliseconds, predict_tile

PATCH = 32
WEIGHTS = {"red": 0.4, "green": 0.4, "blue": 0.2}
Picture = tuple[NDArray[np.uint8], NDArray[np.bool_]]


TIMES = {"red": 9.0, "green": 9.0, "blue": 1.0}
"""Blue is fast: a patch that it decides alone is spared nearly everything."""


@pytest.fixture
def segmenter(tmp_path: Path) -> Iterator[Segmenter]:
    bundle = write_toy_bundle(tmp_path / "toy", WEIGHTS, threshold=0.5, patch_size=PATCH)
    with closing(load_segmenter(bundle, **EXACTLY)) as loaded:
        yield loaded


@pytest.fixture
def one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member decides alone, or all do: a limit then shows in the first stage's share."""
    monkeypatch.setattr("training.cascade.STAGES", 1)


def write_tiles(folder: Path, **pictures: Picture) -> list[Tile]:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, (pixels, label) in pictures.items():
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        PIL.Image.fromarray(label).save(folder / "masks" / f"{name}.png")
    return list_tiles(folder)


def patch(red: int, green: int, blue: int, rows: int = PATCH, *, building: bool) -> Picture:
    """Paint a tile of one patch: these colours in its first `rows`, which are building or not."""
    pixels = np.zeros((PATCH, PATCH, 3), np.uint8)
    pixels[:rows] = red, green, blue
    label = np.zeros((PATCH, PATCH), np.bool_)
    label[:rows] = building
    return pixels, label


SURE = patch(255, 255, 255, building=True)
EMPTY = patch(0, 0, 0, building=False)
MAYBE = 140
"""A level of 0.55: in doubt, and building by itself."""


def sure(source: str, number: int = 20) -> dict[str, Picture]:
    """Return so many tiles that are building all over."""
    return {f"{source}_{i}": SURE for i in range(number)}


def eaves(rows: int) -> Picture:
    """Paint a roof over half a patch, and so many rows beside it of which blue alone is in doubt.

    Blue alone adds them to the roof, so that micro Dice falls and object F1 does not.
    """
    pixels, label = patch(255, 255, 255, PATCH // 2, building=True)
    pixels[PATCH // 2 : PATCH // 2 + rows] = 0, 0, MAYBE
    return pixels, label


def street() -> Picture:
    """Paint a tile of 36 houses."""
    label = np.zeros((PATCH, PATCH), np.bool_)
    for row in range(3):
        for col in range(3):
            label[row::6, col::6] = True
    return np.dstack([label * np.uint8(255)] * 3), label


def cascade(decided: float, *, share: float = 0.0, **values: Any) -> Cascade:
    """Describe the first rule that the fit tries with blue alone. `values` replace fields of it."""
    stage = {"member": "blue", "share": share, "decided": decided}
    first = {"doubt": (0.1, 0.6), "stages": (stage,), "dice_micro_change": 0.0}
    return Cascade(**{**first, "object_f1_change": 0.0, **values})


@pytest.mark.usefixtures("one_stage")
def test_it_decides_alone_as_often_as_the_mask_allows(segmenter: Segmenter, tmp_path: Path) -> None:
    """The rule of blue that decides most: 3 of 4 patches, where it is not wrong about the last."""
    last = patch(0, 0, MAYBE, 3, building=False)  # 9.4 % of the patch
    tiles = write_tiles(tmp_path / "val", a_0=SURE, a_1=SURE, a_2=EMPTY, a_3=last)
    first = [tile for tile in tiles if tile.name != "a_3"]

    assert fit_cascade(segmenter, {"val": tiles}, TIMES) == cascade(
        0.75, fitted_on="val (4 images), 4 patches"
    )
    assert fit_cascade(segmenter, {"val": first}, TIMES) == cascade(
        1, fitted_on="val (3 images), 3 patches"
    )


@pytest.mark.usefixtures("one_stage")
def test_micro_dice_may_fall_by_so_much(segmenter: Segmenter, tmp_path: Path) -> None:
    """Blue alone finds a wrong row of one patch, which is allowed, or two of another, which is not.

    A row is 3.1 % of its patch, two are 6.3 %.
    """
    tiles = write_tiles(tmp_path / "val", **sure("a"), a_one=eaves(1), a_two=eaves(2))
    right = 21 * PATCH**2
    change = 2 * right / (2 * right + PATCH) - 1
    assert change >= -SPLIT_LIMIT > 2 * change

    assert fit_cascade(segmenter, {"val": tiles}, TIMES) == cascade(
        round(21 / 22, 4),
        share=0.04,
        dice_micro_change=round(change, 6),
        fitted_on="val (22 images), 22 patches",
    )


@pytest.mark.usefixtures("one_stage")
@pytest.mark.parametrize(
    ("split", "source", "others", "allowed"),
    [
        ("val", "a", 20, True),
        ("val", "b", 1, True),  # a source that falls by 0.01, but of two buildings
        ("val", "street", 1, False),  # a source that falls by 0.02, of 37 buildings
        ("abroad", "a", 6, False),  # a split, and its source, that fall by 0.0024
        ("abroad", "a", 20, True),
    ],
)
def test_the_limits_hold_for_each_split_and_source(
    segmenter: Segmenter, tmp_path: Path, split: str, source: str, others: int, allowed: bool
) -> None:
    row = eaves(1)
    tiles = {"val": sure("a"), "abroad": sure("a")}
    kept = {} if source == "a" else tiles[split]
    houses = {"street_0": street()} if source == "street" else sure(source, others)
    tiles[split] = {**kept, **houses, f"{source}_row": row}
    splits = {name: write_tiles(tmp_path / name, **of) for name, of in tiles.items()}
    patches = sum(map(len, splits.values()))

    fitted = fit_cascade(segmenter, splits, TIMES)

    assert fitted is not None
    assert fitted.stages[0].share == (0.04 if allowed else 0.0)
    assert fitted.stages[0].decided == round((patches if allowed else patches - 1) / patches, 4)
    assert fitted.fitted_on == (
        f"val ({len(splits['val'])} images) and abroad ({len(splits['abroad'])} images), "
        f"{patches} patches"
    )


@pytest.mark.usefixtures("one_stage")
@pytest.mark.parametrize(("houses", "allowed"), [(95, False), (105, True)])
def test_object_f1_may_fall_by_so_much(
    segmenter: Segmenter, tmp_path: Path, houses: int, allowed: bool
) -> None:
    """A row that blue alone takes for a building hardly counts in micro Dice beside large roofs."""
    row = patch(0, 0, MAYBE, 1, building=False)
    tiles = write_tiles(tmp_path / "val", **sure("a", houses), a_row=row)
    change = 2 * houses / (2 * houses + 1) - 1
    assert (change >= -OBJECT_LIMIT) is allowed

    fitted = fit_cascade(segmenter, {"val": tiles}, TIMES)

    assert fitted is not None
    assert fitted.stages[0].share == (0.04 if allowed else 0.0)
    assert fitted.object_f1_change == (round(change, 6) if allowed else 0)


@pytest.mark.usefixtures("one_stage")
@pytest.mark.parametrize(("empty", "allowed"), [(40, False), (60, True)])
def test_buildings_on_negatives_may_rise_by_so_much(
    segmenter: Segmenter, tmp_path: Path, empty: int, allowed: bool
) -> None:
    """Blue alone takes a row of one negative for a building."""
    row = patch(0, 0, MAYBE, 1, building=False)
    tiles = write_tiles(tmp_path / "val", **sure("a"), a_one=eaves(1))
    pictures = {f"n_{i}": EMPTY for i in range(empty - 1)}
    negatives = write_tiles(tmp_path / "negatives", **pictures, n_row=row)
    assert (1 / empty <= NEGATIVE_LIMIT) is allowed

    fitted = fit_cascade(segmenter, {"val": tiles}, TIMES, negatives=negatives)

    assert fitted is not None
    assert fitted.stages[0].share == (0.04 if allowed else 0.0)
    assert fitted.stages[0].decided == round(
        (21 if allowed else 20) / 21, 4
    )  # negatives are not among them
    assert fitted.fitted_on == f"val (21 images), 21 patches; {empty} images without a building"


def test_a_slow_member_goes_first_where_it_spares_more(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    """Blue doubts everything that red and green are sure of."""
    doubted = [patch(level, level, MAYBE, building=level > 0) for level in (0, 0, 0, 255)]
    tiles = write_tiles(tmp_path / "val", **{f"a_{i}": tile for i, tile in enumerate(doubted)})

    fitted = fit_cascade(segmenter, {"val": tiles}, TIMES)

    assert fitted is not None
    assert fitted.members[0] in ("red", "green")
    assert (fitted.stages[0].decided, fitted.dice_micro_change) == (1, 0)


def test_the_member_that_is_slowest_in_times_is_not_first(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    """All are sure of all."""
    tiles = write_tiles(tmp_path / "val", a_0=SURE, a_1=EMPTY)
    for fast in WEIGHTS:
        fitted = fit_cascade(segmenter, {"val": tiles}, {**dict.fromkeys(WEIGHTS, 2.0), fast: 1.0})
        assert fitted is not None
        assert fitted.members[0] == fast


def test_a_second_stage_decides_what_the_first_doubts(segmenter: Segmenter, tmp_path: Path) -> None:
    """Blue is in doubt about two patches, and red about the other two."""
    tiles = write_tiles(
        tmp_path / "val",
        a_0=patch(MAYBE, 255, 255, building=True),
        a_1=patch(MAYBE, 0, 0, building=False),
        a_2=patch(255, 255, MAYBE, building=True),
        a_3=patch(0, 0, MAYBE, building=False),
    )

    fitted = fit_cascade(segmenter, {"val": tiles}, {"red": 2.0, "green": 9.0, "blue": 1.0})

    assert fitted is not None
    assert fitted.members == ("blue", "red")
    assert [stage.decided for stage in fitted.stages] == [0.5, 0.5]
    assert (fitted.dice_micro_change, fitted.object_f1_change) == (0, 0)


def test_a_second_stage_keeps_the_limits_too(segmenter: Segmenter, tmp_path: Path) -> None:
    """Red is faster than green, but blue and red would be sure, and wrong, of what blue doubts."""
    missed = patch(0, 255, MAYBE, building=True)  # 0.18 by blue and red, 0.85 by blue and green
    tiles = write_tiles(tmp_path / "val", a_0=SURE, a_1=EMPTY, a_2=missed)

    fitted = fit_cascade(segmenter, {"val": tiles}, {"red": 2.0, "green": 9.0, "blue": 1.0})

    assert fitted is not None
    assert fitted.members == ("blue", "green")
    assert [stage.decided for stage in fitted.stages] == [0.6667, 0.3333]
    assert fitted.dice_micro_change == 0


def test_a_slow_member_takes_more_milliseconds(tmp_path: Path) -> None:
    graphs = {"red": slow_graph("red", PATCH)}
    bundle = write_toy_bundle(tmp_path / "toy", WEIGHTS, patch_size=PATCH, graphs=graphs)
    with closing(load_segmenter(bundle, **EXACTLY)) as loaded:
        red, blue = (milliseconds(loaded.predictor, name, PATCH) for name in ("red", "blue"))
    assert red > blue > 0


@pytest.mark.parametrize(
    "pictures",
    [
        [patch(MAYBE, MAYBE, MAYBE, building=True)],
        [patch(255, 255, 0, building=True), patch(255, 0, 255, building=True),
         patch(0, 255, 255, building=True)],
    ],
    ids=["every member is in doubt", "every member is sure and wrong"],
)  # fmt: skip
def test_there_need_not_be_one(
    segmenter: Segmenter, tmp_path: Path, pictures: list[Picture]
) -> None:
    tiles = write_tiles(tmp_path / "val", **{f"a_{i}": one for i, one in enumerate(pictures)})
    assert fit_cascade(segmenter, {"val": tiles}, TIMES) is None


def test_a_member_alone_needs_none(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "one", {"red": 1.0}, patch_size=PATCH)
    tiles = write_tiles(tmp_path / "val", a_0=SURE, a_1=EMPTY)
    with closing(load_segmenter(bundle, **EXACTLY)) as one:
        assert fit_cascade(one, {"val": tiles}, TIMES) is None


def village(seed: int) -> Picture:
    """Draw dark ground with two roofs, noise beside it, and a black margin without valid pixels."""
    pixels = scene(230, 260, seed)
    pixels[:, :150] //= 12
    pixels[100:110, 60:70] = pixels[170:200, 100:120] = 255
    label = pixels[..., 0] > 120
    valid = np.full((230, 260), 255, np.uint8)
    valid[:80] = 0
    return np.dstack([pixels, valid]), label


def test_its_figures_are_those_of_the_served_masks(segmenter: Segmenter, tmp_path: Path) -> None:
    """With overlapping windows, of which some have no valid pixel, and so are not asked about."""
    tiles = write_tiles(tmp_path / "val", **{f"a_{seed}": village(seed) for seed in range(2)})

    fitted = fit_cascade(segmenter, {"val": tiles}, TIMES)

    assert fitted is not None
    manifest = segmenter.manifest.model_copy(update={"cascade": fitted})
    served = Segmenter(manifest, segmenter.predictor)
    on, off, decided, asked = Counts(), Counts(), [0] * len(fitted.stages), 0
    objects_on, objects_off = Counts(), Counts()
    for tile in tiles:
        image, label = tile.read()
        stream = served.segment(served.plan(image), image)
        with_it, without = (
            collect(stream).mask,
            served.segment_image(image, Options(cascade="off")).mask,
        )
        on, off = on + count(with_it, label), off + count(without, label)
        objects_on += match_objects(with_it, label)
        objects_off += match_objects(without, label)
        assert stream.cascade_count is not None
        asked += stream.cascade_count.asked
        decided = [a + b for a, b in zip(decided, stream.cascade_count.decided, strict=True)]
    assert 0 < decided[0] < asked
    assert [stage.decided for stage in fitted.stages] == [round(n / asked, 4) for n in decided]
    assert fitted.fitted_on == f"val (2 images), {asked} patches"
    assert fitted.dice_micro_change == round(on.dice - off.dice, 6)
    assert fitted.object_f1_change == round(objects_on.dice - objects_off.dice, 6)


def test_patches_without_a_valid_pixel_are_not_predicted(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    [tile] = write_tiles(tmp_path / "val", a_0=village(0))
    image, _ = tile.read()
    plan = segmenter.plan(image)

    probability, is_predicted = predict_tile(segmenter, plan, image)

    beyond = [window.row + window.height > 80 for window in plan.grid]
    assert is_predicted.tolist() == beyond
    assert not probability[:, ~is_predicted].any()
    assert probability[:, is_predicted].any(axis=(0, 2, 3)).all()
