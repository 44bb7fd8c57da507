"""A submission is complete, in order, resumable, and scored as the competition scored it."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.imaging.image import Image
from app.outputs.rle import encode_rle
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from tests.factories import scene, write_toy_bundle
from training.__main__ import main
from training.competition import Score, score, submit

TILES = 150


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test.csv of small tiles of noise, the last one black."""
    folder = tmp_path_factory.mktemp("test")
    rows = ["img_id,img_path"]
    for i in range(TILES):
        pixels = scene(20, 20, seed=i) * (i < TILES - 1)
        cv2.imwrite(str(folder / f"TEST_{i:05d}.png"), pixels[..., ::-1])
        rows.append(f"TEST_{i:05d},./TEST_{i:05d}.png")
    (folder / "test.csv").write_text("\n".join(rows))
    return folder / "test.csv"


@pytest.fixture(scope="module")
def submission(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of them."""
    folder = tmp_path_factory.mktemp("submission")
    bundle = write_toy_bundle(folder / "toy", patch_size=32)
    out = folder / "submission.csv"
    assert main(["submit", str(bundle), str(tiles), "--out", str(out), "--quiet"]) == 0
    return out


def test_every_tile_has_its_row_in_order(submission: Path, small_toy: Segmenter) -> None:
    header, *rows = csv.reader(submission.read_text().splitlines())
    assert header == ["img_id", "mask_rle"]
    assert [img_id for img_id, _ in rows] == [f"TEST_{i:05d}" for i in range(TILES)]
    for i in (0, 77, TILES - 2):
        mask = small_toy.segment_image(Image(scene(20, 20, seed=i))).mask
        assert rows[i][1] == encode_rle(mask, "row")
    assert rows[-1][1] == "-1"


@pytest.mark.parametrize("kept", [0, 5, 9, 500, 4321, -1])
def test_an_interrupted_submission_goes_on(
    tiles: Path, submission: Path, small_toy: Segmenter, tmp_path: Path, kept: int
) -> None:
    whole = submission.read_bytes()
    out = tmp_path / "submission.csv"
    out.write_bytes(whole[:kept])

    new = submit(small_toy, tiles, out, resume=True)

    assert out.read_bytes() == whole
    # A torn row counts as not done.
    assert new == TILES - max(0, whole[:kept].count(b"\n") - 1)


def test_a_finished_one_is_not_overwritten(
    tiles: Path, submission: Path, small_toy: Segmenter
) -> None:
    with pytest.raises(FileExistsError, match="resume it"):
        submit(small_toy, tiles, submission)
    assert submit(small_toy, tiles, submission, resume=True) == 0


def test_another_submission_is_not_continued(
    tiles: Path, small_toy: Segmenter, tmp_path: Path
) -> None:
    out = tmp_path / "other.csv"
    out.write_text("img_id,mask_rle\nTEST_00001,-1\n")
    with pytest.raises(ValueError, match="not the beginning of a submission"):
        submit(small_toy, tiles, out, resume=True)
    assert out.read_text() == "img_id,mask_rle\nTEST_00001,-1\n"


def test_a_tile_that_is_no_image_is_named_and_what_came_before_stays(
    tiles: Path, small_toy: Segmenter, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("nothing")
    bad = tmp_path / "test.csv"
    good = tiles.parent / "TEST_00000.png"
    bad.write_text(f"img_id,img_path\na,{good}\nb,bad.png\nc,{good}\n")
    with pytest.raises(ValueError, match=r"bad\.png: "):
        submit(small_toy, bad, tmp_path / "out.csv", Options())
    assert [row.split(",")[0] for row in (tmp_path / "out.csv").read_text().splitlines()] == [
        "img_id",
        "a",
    ]


def test_score_leaves_out_what_is_empty_in_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said, true = tmp_path / "said.csv", tmp_path / "true.csv"
    said.write_text("img_id,mask_rle\nd,-1\nc,-1\nb,1 4\na,1 4\nextra,-1\n")
    true.write_text("img_id,mask_rle\na,3 4\nb,-1\nc,-1\nd,9 1\n")

    # a: 2 of 4 and 4; b: found where nothing is; c: left out; d: missed.
    assert score(said, true, side=8) == Score(dice=0.5 / 3, images=3, both_empty=1)
    assert main(["score", str(said), str(true), "--size", "8"]) == 0
    assert "mean Dice 0.1667 over 3 images; 1 that are empty" in capsys.readouterr().out


def test_the_score_is_the_published_formula(submission: Path, tmp_path: Path) -> None:
    """Against the organisers' definition, written out: smooth 1e-7, None for two empty masks."""
    random = np.random.default_rng(0)
    rows = list(csv.DictReader(submission.read_text().splitlines()))
    labels, expected = {}, []
    for row in rows:
        label = random.random((20, 20)) < random.choice([0.0, 0.5])
        labels[row["img_id"]] = encode_rle(label, "row") or "-1"
        said = np.zeros(400)
        numbers = [] if row["mask_rle"] == "-1" else list(map(int, row["mask_rle"].split()))
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            said[start - 1 : start - 1 + length] = 1
        if said.sum() or label.sum():
            shared = 2 * (said * label.ravel()).sum()
            expected.append((shared + 1e-7) / (said.sum() + label.sum() + 1e-7))
    path = tmp_path / "labels.csv"
    path.write_text("img_id,mask_rle\n" + "".join(f"{k},{v}\n" for k, v in labels.items()))

    assert score(submission, path, side=20).dice == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("img_id,mask_rle\n", "lacks 1 images, such as a"),
        ("img_id,mask_rle\na,-1\na,-1\n", "has two rows of a"),
        ("img_id,mask\na,-1\n", "expected ['img_id', 'mask_rle']"),
        ("img_id,mask_rle\na\n", "line 2: expected ['img_id', 'mask_rle']"),
        ("img_id,mask_rle\na,60 9\n", "a: RLE runs outside of an image of 8 x 8"),
    ],
)
def test_a_broken_submission_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path, labels = tmp_path / "said.csv", tmp_path / "true.csv"
    path.write_text(text)
    labels.write_text("img_id,mask_rle\na,3 4\n")
    assert main(["score", str(path), str(labels), "--size", "8"]) == 2
    assert said in capsys.readouterr().err
