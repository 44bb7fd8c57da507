"""The competition's road: a folder of test tiles to a submission, and a submission to its score."""

import csv
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from app.errors import RooftraceError
from app.outputs.rle import EMPTY_CSV, decode_rle, encode_rle
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.config import PATCH_SIZE
from training.data import read_image, read_rows
from training.metrics import count

_COLUMNS = ("img_id", "mask_rle")
_WAITING = 64
"""Tiles under way at most: workers stay busy, memory stays small."""


def submit(
    segmenter: Segmenter,
    tiles: Path,
    out: Path,
    options: Options = Options(),
    *,
    resume: bool = False,
    progress: bool = False,
) -> int:
    """Segment the tiles of a CSV (`img_id,img_path`) into a submission (`img_id,mask_rle`).

    Rows are written in the tiles' order, each as soon as it and those before it are done; with
    `resume`, an interrupted file goes on after its last whole row. Returns how many rows are new.

    Raises:
        FileExistsError: `out` exists and `resume` was not asked for.
        ValueError: a CSV without the columns, an `out` that is no beginning of this submission, or
            a tile that is no image.
        OSError: a file can't be read or written.
    """
    if out.exists() and not resume:
        raise FileExistsError(f"{out} exists already: resume it, or name another file")
    rows = [(row["img_id"], tiles.parent / row["img_path"]) for row in _rows(tiles, "img_path")]
    done = _whole_rows(out)
    if done != [img_id for img_id, _ in rows[: len(done)]]:
        raise ValueError(f"{out} is not the beginning of a submission for {tiles}")
    todo = rows[len(done) :]

    def one(row: tuple[str, Path]) -> tuple[str, str]:
        img_id, path = row
        try:
            mask = segmenter.segment_image(read_image(path, **options.decoding), options).mask
        except RooftraceError as error:
            raise ValueError(f"{path}: {error}") from error
        return img_id, encode_rle(mask, "row") or EMPTY_CSV

    with out.open("a", buffering=1, newline="") as file, ThreadPoolExecutor(_WAITING) as pool:
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(_COLUMNS)
        waiting: deque[Future[tuple[str, str]]] = deque()
        bar = progress_bar(total=len(rows), initial=len(done), unit="tile", disable=not progress)
        try:
            source = iter(todo)
            waiting.extend(pool.submit(one, row) for row in islice(source, _WAITING))
            while waiting:
                writer.writerow(waiting.popleft().result())
                waiting.extend(pool.submit(one, row) for row in islice(source, 1))
                bar.update()
        finally:
            bar.close()
            pool.shutdown(cancel_futures=True)
    return len(todo)


@dataclass(frozen=True)
class Score:
    """What a submission is worth: the mean Dice of `images`; `both_empty` were left out."""

    dice: float
    images: int
    both_empty: int


def score(submission: Path, labels: Path, *, side: int = PATCH_SIZE) -> Score:
    """Score a submission against labels (`img_id,mask_rle`) of square tiles as the competition did.

    The mean of Dice over the labelled images; an image that is empty in both is left out. Source:
    the scoring code that the organisers published with the competition.

    Raises:
        ValueError: a CSV without the columns, an image twice or missing, or a bad encoding.
        OSError: a file can't be read.
    """
    said = _encodings(submission)
    true = _encodings(labels)
    if missing := [img_id for img_id in true if img_id not in said]:
        raise ValueError(f"{submission} lacks {len(missing)} images, such as {missing[0]}")
    dice = []
    for img_id, encoding in true.items():
        try:
            counts = count(
                *(decode_rle(rle, side, side, "row") for rle in (said[img_id], encoding))
            )
        except ValueError as error:
            raise ValueError(f"{img_id}: {error}") from error
        if counts.true_positives + counts.false_positives + counts.false_negatives:
            dice.append(counts.dice)
    mean = float(np.mean(dice)) if dice else 1.0
    return Score(mean, images=len(dice), both_empty=len(true) - len(dice))


def _encodings(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in _rows(path, "mask_rle"):
        if row["img_id"] in found:
            raise ValueError(f"{path} has two rows of {row['img_id']}")
        found[row["img_id"]] = row["mask_rle"]
    return found


def _rows(path: Path, column: str) -> Iterator[dict[str, str]]:
    return read_rows(path, ("img_id", column))


def _whole_rows(out: Path) -> list[str]:
    """Return the ids of a submission's whole rows, and cut off what follows them."""
    if not out.exists():
        return []
    text = out.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return [row["img_id"] for row in _rows(out, "mask_rle")] if whole else []
