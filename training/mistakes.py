"""Wrong pixels drawn at random, to be judged by eye: is it the mask that is wrong, or the label?

No score can tell, and where labels miss buildings or lie beside them, better masks score no
higher. If a share p of a source's wrong pixels is the label's, n of them show it with a standard
error of sqrt(p (1 - p) / n): 0.06 at most with 60.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.data import Tile
from training.evaluate import told
from training.metrics import Comparison
from training.pictures import Pixels, marked

Kind = Literal["found, not labelled", "labelled, not found"]
KINDS: tuple[Kind, ...] = ("found, not labelled", "labelled, not found")


@dataclass(frozen=True, eq=False)
class Drawn:
    """Pixels of one source that are wrong in one way."""

    source: str
    kind: Kind
    total: int
    """How many there are."""
    pictures: Sequence[tuple[str, Pixels]]
    """The tile of each that was drawn, and what lies around it, uint8 (S, S, 3)."""


def draw_mistakes(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    images: Mapping[str, Comparison],
    options: Options,
    number: int,
    *,
    tell_gsd: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> list[Drawn]:
    """Draw `number` wrong pixels of each source and kind, each pixel as likely as any other.

    `images` are the comparisons of the very same `tiles` at the very same options. Only tiles of
    which a pixel is drawn are segmented again.
    """
    random = np.random.default_rng(seed)
    sources: dict[str, list[Tile]] = defaultdict(list)
    for tile in tiles:
        sources[tile.source].append(tile)
    totals: dict[tuple[str, Kind], int] = {}
    wanted: dict[Tile, list[tuple[Kind, int]]] = defaultdict(list)
    for source in sorted(sources):
        for kind in KINDS:
            ends = np.cumsum([_wrong(images[tile.name], kind) for tile in sources[source]])
            totals[source, kind] = total = int(ends[-1])
            for nth in random.choice(total, min(number, total), replace=False).tolist():
                at = int(np.searchsorted(ends, nth, side="right"))
                from_its_last = int(ends[at]) - 1 - nth
                wanted[sources[source][at]].append((kind, from_its_last))
    pictures: dict[tuple[str, Kind], list[tuple[str, Pixels]]] = defaultdict(list)
    for tile, some in progress_bar(
        wanted.items(), desc="mistakes", unit="tile", disable=not progress
    ):
        image, label = tile.read(**options.decoding)
        scored = told(options, tile, tell_gsd=tell_gsd)
        mask = segmenter.segment_image(image, scored).mask
        wrong = {KINDS[0]: np.argwhere(mask & ~label), KINDS[1]: np.argwhere(label & ~mask)}
        for kind, nth in some:
            row, col = wrong[kind][nth]
            pictures[tile.source, kind].append((tile.name, marked(image.pixels, row, col)))
    return [Drawn(*of, total, pictures[of]) for of, total in totals.items() if total]


def _wrong(compared: Comparison, kind: Kind) -> int:
    pixels = compared.pixels
    return pixels.false_positives if kind == KINDS[0] else pixels.false_negatives


def in_rows(drawn: Drawn, columns: int) -> Iterator[list[tuple[str, Pixels]]]:
    """Lay the pictures of one sheet out in rows, numbered from 1, with the names of their tiles."""
    cells = [(f"{i} {name}", picture) for i, (name, picture) in enumerate(drawn.pictures, 1)]
    for first in range(0, len(cells), columns):
        yield cells[first : first + columns]
