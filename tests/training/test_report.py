"""The page says what the report says, and shows the images that most need a look."""

import base64
import io
import json
import re
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from app.segmentation.options import Options
from tests.factories import write_toy_bundle
from training.__main__ import main
from training.data import list_tiles
from training.evaluate import examine
from training.export import served
from training.metrics import Comparison, compare, summarise
from training.mistakes import KINDS, draw_mistakes
from training.pictures import MARKED
from training.report import EXPLAINED, WORST, WORST_EMPTY, reliability, worst

SIZE = 60


def compared(found: int, labelled: int, common: int = 0) -> Comparison:
    """Compare a mask of `found` pixels with a label of `labelled`, sharing `common` of them."""
    mask, label = np.zeros((2, 10, 20), bool)
    label.flat[:labelled] = True
    mask.flat[labelled - common : labelled - common + found] = True
    return compare(mask, mask.astype(np.float32), label)


def test_every_score_is_explained() -> None:
    assert list(EXPLAINED) == list(summarise([compared(1, 1)]))


def test_reliability_pools_the_bins_of_all_images() -> None:
    images = []
    for values, buildings in (((0.02, 0.04, 0.52), (0, 1, 1)), ((0.54, 0.51, 1.0), (1, 0, 1))):
        probability = np.array([values], np.float32)
        images.append(compare(probability >= 0.5, probability, np.array([buildings], bool)))

    mean, share, number = reliability(images)

    np.testing.assert_allclose(mean, [0.03, (0.52 + 0.54 + 0.51) / 3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(share, [1 / 2, 2 / 3, 1.0])
    np.testing.assert_array_equal(number, [2, 3, 1])
    error = np.sum(number * np.abs(mean - share)) / number.sum()
    assert summarise(images)["calibration_error"] == pytest.approx(error)


def test_the_worst_are_those_of_low_dice_and_those_found_where_nothing_is() -> None:
    images = {f"built_{i:02}": compared(30, 30, common=i) for i in range(31)}
    images |= {f"empty_{i}": compared(i, 0) for i in range(9)}

    built, empty = worst(images)

    assert built == [f"built_{i:02}" for i in range(WORST)]
    assert empty == [f"empty_{i}" for i in range(8, 8 - WORST_EMPTY, -1)]
    perfect = {"whole": images["built_30"], "clean": images["empty_0"]}
    assert worst(perfect) == ([], [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles on which red finds so much: of buildings all, three quarters or half, and of none."""
    folder = tmp_path_factory.mktemp("report") / "tiles"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for name, labelled, found in (
        ("mass_all", 40, 40),
        ("mass_half", 40, 20),
        ("accra_<b>&more", 40, 30),
        ("sand_found", 0, 10),
        ("sand_clean", 0, 0),
    ):
        image, label = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
        image[:found, :, 2] = 255  # cv2 writes BGR
        label[:labelled] = 255
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label)
    (folder.parent / "SOURCES.csv").write_text("name,gsd_m\nmass_all,0.4\nmass_half,0.4\n")
    return folder


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`page.html` and `report.json` as the command writes them."""
    out = tmp_path_factory.mktemp("written")
    bundle = write_toy_bundle(out / "toy", {"red": 1.0}, patch_size=32)
    more = ["--at-gsd", "0.4", "0.8", "--under", "dark"]
    arguments = ["--html", str(out / "page.html"), "--json", str(out / "report.json"), "--quiet"]
    assert main(["evaluate", str(bundle), str(folder), *arguments, *more]) == 0
    return out


def test_page_is_self_contained_and_escapes_names(written: Path) -> None:
    page = (written / "page.html").read_text()

    assert "http" not in page
    assert not re.search(r"<script|<link|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "accra_&lt;b&gt;&amp;more" in page
    assert "<b>" not in page


def test_page_has_a_row_for_each_condition_below_the_tiles_as_they_are(written: Path) -> None:
    page = (written / "page.html").read_text()
    report = json.loads((written / "report.json").read_text())

    under = page[page.index("In other light") :]
    rows = re.findall(r"<tr><td>([^<]*)</td><td[^>]*>([^<]*)", under)

    [dark] = report["by_condition"]
    assert rows[:2] == [
        ("as they are", f"{report['ensemble']['dice_micro']:.4f}"),
        ("dark", f"{dark['scores']['dice_micro']:.4f}"),
    ]


def test_page_shows_the_worst_images_with_their_scores(written: Path) -> None:
    page = (written / "page.html").read_text()

    shown = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]*)"[^>]*><figcaption>([^<]*)</figcaption>', page
    )

    assert [unescape(caption) for _, caption in shown] == [
        "mass_half: Dice 0.667, precision 1.000, recall 0.500",
        "accra_<b>&more: Dice 0.857, precision 1.000, recall 0.750",
        f"sand_found: {10 * SIZE} pixels found, none of them building",
    ]
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(shown[0][0])))
    assert picture.size == (768, 768)
    red, _, blue = np.asarray(picture)[384, 300]  # half way down, inside of what was missed
    assert max(red, blue) < 40
    assert np.asarray(picture)[100, 300, 0] > 200  # further up is what was found


def test_page_has_the_scores_of_the_json(written: Path) -> None:
    page = unescape((written / "page.html").read_text())
    document = json.loads((written / "report.json").read_text())

    for row in ("ensemble", "member red", "source accra", "source mass", "source sand"):
        assert f"<td>{row}</td>" in page
    for score, value in document["ensemble"].items():
        assert EXPLAINED[score] in page
        assert f"<td>{value:.4f}</td>" in page
    assert f"(ECE): {document['ensemble']['calibration_error']:.4f}." in page
    assert f"Evaluation of {document['bundle']}" in page
    assert (
        "overlap 0.25, tta none, combine average, cascade on, resample auto, threshold 0.5" in page
    )
    assert page.count("data:image/png") == 4  # calibration, Dice, sources, GSD
    first, second = document["by_gsd"]
    assert f"<td>0.4 m</td><td>2</td><td>{first['scores']['dice_micro']:.4f}</td>" in page
    assert f"<td>0.8 m</td><td>2</td><td>{second['scores']['dice_micro']:.4f}</td>" in page
    # 40 and 20 of 80 rows are found: 2 x 60 / (60 + 80).
    assert first["scores"]["dice_micro"] == first["native"]["dice_micro"] == pytest.approx(6 / 7)


def test_seams_are_measured_for_a_page_unless_they_are_declined(
    written: Path, folder: Path, tmp_path: Path
) -> None:
    page, plain = (written / "page.html").read_text(), tmp_path / "plain.html"
    assert json.loads((written / "report.json").read_text())["seam_difference"] == 0
    assert "Seam difference: 0.00%." in page

    bundle = str(written / "toy")
    assert main(["evaluate", bundle, str(folder), "--html", str(plain), "--seams", "0"]) == 0

    assert "Seam difference" not in plain.read_text()
    assert "By GSD" not in plain.read_text()


def test_mistakes_are_drawn_from_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    """Red finds the upper rows: what it misses of mass lies in rows 20 to 40 of one tile."""
    tiles = list_tiles(folder)
    with served(write_toy_bundle(tmp_path / "toy", {"red": 1.0}, patch_size=32)) as segmenter:
        images = examine(segmenter, tiles).images
        drawn = draw_mistakes(segmenter, tiles, images, Options(), 500)
        again = draw_mistakes(segmenter, tiles, images, Options(), 500)

    assert [(each.source, each.kind, each.total, len(each.pictures)) for each in drawn] == [
        ("accra", "labelled, not found", 10 * SIZE, 500),
        ("mass", "labelled, not found", 20 * SIZE, 500),
        ("sand", "found, not labelled", 10 * SIZE, 500),
    ]
    for each, same in zip(drawn, again, strict=True):
        # Another pixel each time, and each time with another view.
        assert len({picture.tobytes() for _, picture in each.pictures}) == 500
        assert {name for name, _ in each.pictures} <= {tile.name for tile in tiles}
        half = MARKED // 2
        red = np.array([picture[half, half, 0] for _, picture in each.pictures])
        assert ((red > 127) == (each.kind == KINDS[0])).all()
        for (_, picture), (_, repeated) in zip(each.pictures, same.pictures, strict=True):
            np.testing.assert_array_equal(picture, repeated)


def test_mistakes_are_shown_where_they_are_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", {"red": 1.0}, patch_size=32)
    command = ["evaluate", str(bundle), str(folder), "--quiet", "--mistakes", "12"]
    assert main(command) == 2
    assert "--mistakes 12: expected 0 or more, and --html" in capsys.readouterr().err
    path = tmp_path / "page.html"
    assert main([*command, "--html", str(path), "--seams", "0"]) == 0
    page = path.read_text()
    assert f"sand, found, not labelled: 12 of {10 * SIZE} pixels" in page
    assert "mass, labelled, not found: 12 of" in page
