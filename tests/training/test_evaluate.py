"""Scores belong to the masks that the service returns, to the last bit."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.errors import InvalidOption
from app.imaging.image import Image
from app.inference.blending import Band
from app.inference.segmenter import Segmenter, SegmentOptions
from tests.factories import scene, write_toy_bundle
from training.__main__ import main
from training.data import Tile, list_tiles
from training.evaluate import evaluate
from training.metrics import compare, summarise

OPTIONS = (
    SegmentOptions(),
    SegmentOptions(threshold=0.4, overlap=0.5, tta="flips"),
    SegmentOptions(threshold=0.6, combine="vote"),
    SegmentOptions(members=("blue", "red"), overlap=0.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two sources: noise, labelled where red shines, one without any building."""
    folder = tmp_path_factory.mktemp("tiles")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for i, name in enumerate(("mass_1", "mass_2", "accra_1")):
        pixels = scene(70 + 20 * i, 110 - 30 * i, seed=i)
        label = (pixels[..., 0] > 128) & (name != "accra_1")
        cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label.astype(np.uint8) * 255)
    return folder


@pytest.fixture(scope="module")
def tiles(folder: Path) -> list[Tile]:
    return list_tiles(folder)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scores_are_those_of_the_served_masks(
    small_toy: Segmenter, tiles: list[Tile], options: SegmentOptions
) -> None:
    counts = {}
    for tile in tiles:
        image, label = tile.read()
        found = small_toy.segment(image, options)
        counts[tile.name] = compare(found.mask, found.probability, label)

    report = evaluate(small_toy, tiles, options)

    assert report.ensemble == summarise(counts.values())
    assert report.dice == {name: found.pixels.dice for name, found in counts.items()}
    assert report.sources == {
        "accra": summarise([counts["accra_1"]]),
        "mass": summarise([counts["mass_1"], counts["mass_2"]]),
    }
    for member in report.members:
        alone = replace(options, members=(member,))
        assert report.members[member] == evaluate(small_toy, tiles, alone).ensemble
    assert set(report.members) == set(options.members or ("red", "green", "blue"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_member_cut_from_the_bands_is_bit_identical_to_being_served_alone(
    small_toy: Segmenter, options: SegmentOptions
) -> None:
    image = Image(scene(75, 90), None, None)
    bands = list(small_toy.bands(image, options))
    together = small_toy.combine(image, bands, options)
    for i, member in enumerate(together.members):
        alone = replace(options, members=(member,))
        cut = [Band(band.row, band.members[i : i + 1]) for band in bands]

        found = small_toy.combine(image, cut, alone)

        served = small_toy.segment(image, alone)
        assert found.probability.tobytes() == served.probability.tobytes()
        assert found.mask.tobytes() == served.mask.tobytes()
        assert (found.threshold, found.members) == (served.threshold, served.members)


def test_report_says_what_was_scored_and_how(small_toy: Segmenter, tiles: list[Tile]) -> None:
    report = evaluate(small_toy, tiles, SegmentOptions(overlap=0.5))

    assert report.bundle == small_toy.manifest.version
    assert (report.threshold, report.overlap) == (small_toy.manifest.threshold.value, 0.5)
    assert report.images == 3
    assert report.dice["accra_1"] == 0  # the toy finds bright noise where there is no building


def test_two_tiles_of_one_name_are_refused(small_toy: Segmenter, tiles: list[Tile]) -> None:
    with pytest.raises(ValueError, match="two tiles are called accra_1"):
        evaluate(small_toy, [*tiles, *tiles])


def test_no_tiles_are_refused(small_toy: Segmenter) -> None:
    with pytest.raises(ValueError, match="no tiles"):
        evaluate(small_toy, [])


def test_unknown_member_is_refused(small_toy: Segmenter, tiles: list[Tile]) -> None:
    with pytest.raises(InvalidOption, match="pink"):
        evaluate(small_toy, tiles, SegmentOptions(members=("pink",)))


def test_command_prints_a_table_and_writes_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    out = tmp_path / "reports" / "toy.json"
    arguments = ["--models", "red,blue", "--threshold", "0.45", "--json", str(out), "--quiet"]

    assert main(["evaluate", str(bundle), str(folder), *arguments]) == 0

    document = json.loads(out.read_text())
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == list(document["ensemble"])
    assert [row.split("  ")[0].strip() for row in rows] == [
        "ensemble",
        "member red",
        "member blue",
        "source accra",
        "source mass",
    ]
    assert f"{document['ensemble']['dice_micro']:.4f}" in rows[0]
    assert set(document["dice"]) == {"mass_1", "mass_2", "accra_1"}
    assert (document["threshold"], document["images"]) == (0.45, 3)


@pytest.mark.parametrize(
    ("gates", "status", "said"),
    [
        (["dice_micro>=0.1", "empty_false_positives <= 1"], 0, ""),
        (["dice_micro>=0.99"], 1, "must be at least 0.99"),
        (["dice_micro>=0.1", "dice_micro<=0.2"], 1, "must be at most 0.2"),
        (["dice>=0.1"], 2, "there is no score 'dice' to gate; there are dice_micro, "),
        (["dice_micro>0.1"], 2, "gate 'dice_micro>0.1' is neither NAME>=BOUND nor NAME<=BOUND"),
    ],
)
def test_a_gate_fails_the_command_when_a_bound_is_broken(
    folder: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    gates: list[str],
    status: int,
    said: str,
) -> None:
    flags = [flag for gate in gates for flag in ("--gate", gate)]

    assert main(["evaluate", str(toy_bundle), str(folder), "--quiet", *flags]) == status

    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "{folder}"], "manifest.json can't be read"),
        (["{bundle}", "nowhere"], "holds no tiles"),
        (["{bundle}", "{folder}", "--threshold", "2"], "threshold must lie between 0 and 1"),
        (["{bundle}", "{folder}", "--tta", "all"], "tta must be one of"),
        (["{folder}/images/mass_1.png", "{folder}"], "can't be loaded as a checkpoint"),
    ],
)
def test_command_says_mistakes_in_one_line(
    folder: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    filled = [argument.format(folder=folder, bundle=toy_bundle) for argument in arguments]

    assert main(["evaluate", *filled]) == 2

    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
