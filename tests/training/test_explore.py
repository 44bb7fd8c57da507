"""What was done to a label on purpose is found; figures and pictures repeat."""

import base64
import re
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from app.imaging.image import Image
from training.__main__ import main
from training.data import Tile, list_tiles
from training.explore.facts import Survey, study, survey
from training.explore.page import MOST_SOURCES, write_page
from training.explore.suspicion import SHIFT_REACH, Shift, best_shift, find_boxes

Pixels = NDArray[np.uint8]
Label = NDArray[np.bool_]

SIZE = 160


def village(seed: int, *, turned: bool = True) -> tuple[Pixels, Label]:
    """Draw bright roofs on dark, uneven ground, sixteen of them, and their label.

    Each roof has an angle of its own, or none is `turned`.
    """
    random = np.random.default_rng(seed)
    label = np.zeros((SIZE, SIZE), np.uint8)
    for row in range(20, SIZE, 40):
        for col in range(20, SIZE, 40):
            sides = (float(random.integers(16, 22)), float(random.integers(10, 16)))
            box = cv2.boxPoints(((col, row), sides, float(random.uniform(20, 70)) * turned))
            cv2.fillPoly(label, [np.rint(box).astype(np.int32)], 1)
    ground = np.where(label[..., np.newaxis] > 0, (200, 180, 170), (60, 80, 50))
    noise = random.normal(0, 6, (SIZE, SIZE, 1))
    return np.clip(ground + noise, 0, 255).astype(np.uint8), label > 0


def moved(label: Label, right: int, down: int) -> Label:
    return np.roll(label, (down, right), (0, 1))


def write_tile(folder: Path, name: str, pixels: Pixels, label: Label) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels[..., ::-1])
    cv2.imwrite(str(folder / "masks" / f"{name}.png"), label.astype(np.uint8) * 255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight tiles of three sources: whole, moved, of boxes, and empty; `mass` has a GSD."""
    folder = tmp_path_factory.mktemp("explore") / "tiles"
    for seed in range(3):
        write_tile(folder, f"mass_{seed}", *village(seed))
    pixels, label = village(3)
    write_tile(folder, "mass_moved", pixels, moved(label, 5, -4))
    pixels, label = village(4)
    write_tile(folder, "accra_moved", pixels, moved(label, -8, 0))
    write_tile(folder, "accra_<boxes>", *village(5, turned=False))
    for name in ("sand_b", "sand_a"):
        write_tile(folder, name, np.full((90, 120, 3), 150, np.uint8), np.zeros((90, 120), bool))
    rows = "".join(f"mass_{name},0.5\n" for name in (0, 1, 2, "moved"))
    (folder.parent / "SOURCES.csv").write_text("name,gsd_m\n" + rows)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Survey:
    return survey(list_tiles(folder))


def test_label_moved_on_purpose_is_found_with_its_move(found: Survey) -> None:
    moves = {of.tile.name: (shift.right, shift.down) for of, shift in found.misaligned}

    assert moves.keys() == {"mass_moved", "accra_moved"}
    for name, truth in (("mass_moved", (-5, 4)), ("accra_moved", (8, 0))):
        assert np.abs(np.subtract(moves[name], truth)).max() <= 1
    gains = [shift.gain for _, shift in found.misaligned]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 2


@pytest.mark.parametrize("move", [(0, 0), (1, -1), (-2, 0)])
def test_small_moves_are_no_reason_to_look(move: tuple[int, int]) -> None:
    pixels, label = village(9)

    shift = best_shift(pixels, moved(label, *move))

    assert shift is not None
    assert np.abs(np.add((shift.right, shift.down), move)).max() <= 1
    assert not shift.suspicious


def test_nothing_to_align_is_not_judged() -> None:
    pixels, label = village(0)
    few = np.zeros_like(label)
    few[60:80, 60:80] = True
    assert best_shift(pixels, few) is None
    assert best_shift(np.full_like(pixels, 90), label) is None
    narrow = 2 * SHIFT_REACH
    assert best_shift(pixels[:narrow].copy(), label[:narrow].copy()) is None
    assert not Shift(4, 0, 1.1).suspicious  # far, but hardly better there


def test_boxes_are_found_and_turned_houses_are_not(found: Survey) -> None:
    assert [of.tile.name for of in found.boxed] == ["accra_<boxes>"]
    assert found.boxed[0].boxes.share == 1
    assert found.boxed[0].boxes.components == 16
    turned = {of.tile.name: of.boxes for of in found.tiles}["mass_0"]
    assert turned.components == 16
    assert turned.share == 0


def test_only_whole_components_of_some_size_are_judged_as_boxes() -> None:
    label = np.zeros((60, 60), np.uint8)
    label[:20, 10:30] = 1  # cut by the tile's edge
    label[30:37, 30:37] = 1  # 49 pixels
    label[30:50, 5:20] = 1
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(label)

    boxes = find_boxes(np.asarray(numbered, np.int32), np.asarray(stats[1:], np.int32))

    assert (boxes.components, boxes.area, boxes.boxed) == (1, 300, 300)
    assert not boxes.suspicious  # one box may well be a house


def test_empty_labels_are_listed_by_name(found: Survey) -> None:
    assert [of.tile.name for of in found.empty] == ["sand_a", "sand_b"]


def test_figures_are_those_of_a_plain_count() -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[:10] = (10, 20, 30)
    valid = np.ones((40, 50), bool)
    valid[30:] = False
    label = np.zeros((40, 50), bool)
    label[2:6, 2:7] = label[6:8, 7:9] = True  # they touch at a corner, and are two
    label[20:30, 20:30] = True

    facts = study(Tile("one", Path("one.png"), ""), Image(pixels, valid), label)

    assert sorted(facts.areas.tolist()) == [4, 20, 100]
    assert facts.fraction == 124 / 2000
    assert facts.valid == 1500
    np.testing.assert_allclose(facts.colour[0], [5000, 10000, 15000])
    np.testing.assert_allclose(facts.colour[1], [500 * 100, 500 * 400, 500 * 900])


def table(page: str, first: str) -> dict[str, list[str]]:
    """Read the rows of the table whose first column is called so."""
    body = page.split(f"<tr><th>{first}</th>")[1].split("</table>")[0]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in body.split("<tr>")[1:]]
    return {unescape(row[0]): [unescape(cell) for cell in row[1:]] for row in rows}


def test_table_adds_up(found: Survey, tmp_path: Path) -> None:
    page = write_page(tmp_path, found).read_text()

    rows = table(page, "source")
    assert list(rows) == ["accra", "mass", "sand", "all"]
    assert [row[0] for row in rows.values()] == ["2", "4", "2", "8"]
    # Tiles, megapixels, three sizes, GSD, building, under 1 % and 5 %, over 15 %, components.
    assert rows["sand"][2:9] == [*["90\xa0×\xa0120"] * 3, "unknown", "0.00%", "100%", "100%"]
    assert rows["all"][7:10] == ["25%", "25%", "75%"]
    assert rows["mass"][5] == "0.5"
    assert rows["all"][5] == "0.5 (4 of 8)"
    assert rows["all"][10] == str(sum(of.areas.size for of in found.tiles))
    everything = float(np.mean([of.fraction for of in found.tiles]))
    assert rows["all"][6] == f"{everything:.2%}"
    areas = np.concatenate([of.areas for of in found.tiles if of.tile.source == "mass"])
    assert rows["mass"][11] == f"{np.median(areas) / 4:.3g} m²"  # 0.5 m per pixel
    assert rows["accra"][11].endswith(" px")
    assert "2 images have no building." in page


def test_command_writes_a_self_contained_page_and_its_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", str(folder), "--out", str(tmp_path), "--quiet"]) == 0

    said = capsys.readouterr().out
    assert "8 tiles; labels: 2 empty, 1 of plain boxes, 2 misaligned" in said
    page = (tmp_path / "explore.html").read_text()
    assert "http" not in page
    assert not re.search(r"<script|<link|url\(", page)
    pngs = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    plots = ("building_fraction", "building_areas_m2", "building_areas_pixels", "image_sizes")
    sheets = ("samples", "empty", "boxes", "misaligned")
    assert pngs.keys() == {f"{name}.png" for name in (*plots, "colours", *sheets)}
    embedded = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert {base64.b64decode(data) for data in embedded} == {
        pngs[f"{name}.png"] for name in (*plots, "colours")
    }
    assert page.count("data:image/jpeg") == len(sheets)
    assert "accra_&lt;boxes&gt;" in page
    assert "<boxes>" not in page


def test_seed_decides_the_samples_and_nothing_else(found: Survey, tmp_path: Path) -> None:
    again = Survey(found.tiles[::-1])  # nor does the order in which tiles are named
    for name, seed, of in (("one", 0, found), ("same", 0, again), ("other", 1, found)):
        write_page(tmp_path / name, of, seed=seed)

    one, same, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "same", "other")
    )
    assert one == same
    assert {name for name in one if one[name] != other[name]} == {"samples.png", "explore.html"}


def test_sources_of_few_tiles_are_put_together(tmp_path: Path) -> None:
    pixels, label = village(0)
    for number in range(MOST_SOURCES + 3):
        write_tile(tmp_path / "tiles", f"{number:02}", pixels[:40, :40], label[:40, :40])
    write_tile(tmp_path / "tiles", "zoo_1", pixels, label)
    write_tile(tmp_path / "tiles", "zoo_2", pixels, label)

    page = write_page(tmp_path / "out", survey(list_tiles(tmp_path / "tiles"))).read_text()

    rows = table(page, "source")
    assert len(rows) == MOST_SOURCES + 2
    assert rows["zoo"][0] == "2"
    assert rows["(4 other sources)"][0] == "4"
    assert list(rows)[-2:] == ["(4 other sources)", "all"]


def test_tile_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_tile(tmp_path, "good", *village(0))
    write_tile(tmp_path, "bad", village(1)[0], np.zeros((10, 10), bool))

    with pytest.raises(ValueError, match=r"tile bad: .*its image is"):
        survey(list_tiles(tmp_path))
    with pytest.raises(ValueError, match="no tiles"):
        survey([])
