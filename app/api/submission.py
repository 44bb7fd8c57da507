"""The competition's CSV form of a batch: an id and a run-length encoding for each image."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import PurePath

from ..errors import ImpossibleOutput
from ..imaging.sniff import ENDINGS
from ..outputs.rle import EMPTY_CSV, RleResult
from .schemas import FileProblem

_ENDING = re.compile(rf"(?<=.)({'|'.join(map(re.escape, ENDINGS))})\Z", re.IGNORECASE | re.DOTALL)


def image_ids(filenames: Sequence[str]) -> list[str]:
    """Return an id for each file: its name without folders and without the ending of an image.

    Files that would have the same id keep their whole names.

    Raises:
        ImpossibleOutput: a file without a name, or two that not even their whole names tell apart.
    """
    short = [_ENDING.sub("", PurePath(filename).name) for filename in filenames]
    ids = [
        filename if short.count(id) > 1 else id
        for filename, id in zip(filenames, short, strict=True)
    ]
    if "" in ids:
        raise ImpossibleOutput(
            f"File {ids.index('') + 1} has no name, and a CSV has a row for each name. "
            "Name it, or ask for format=json."
        )
    if repeated := sorted({id for id in ids if ids.count(id) > 1}):
        raise ImpossibleOutput(
            f"Several files would be {repeated[0]!r} in the CSV, which has one row for each id. "
            "Rename them, or ask for format=json, which has the files in their order."
        )
    return ids


def submission(ids: Sequence[str], results: Sequence[RleResult | FileProblem]) -> str:
    """Write the rows `img_id,mask_rle`; files with a problem are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["img_id", "mask_rle"])
    for id, result in zip(ids, results, strict=True):
        if isinstance(result, RleResult):
            writer.writerow([id, result.rle or EMPTY_CSV])
    return text.getvalue()
