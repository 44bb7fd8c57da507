"""Score a bundle on labelled tiles, along the very path that serves it."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from tqdm import tqdm

from app.inference.blending import Band
from app.inference.segmenter import Combine, Resample, Segmenter, SegmentOptions, Tta
from training.data import Tile
from training.metrics import Comparison, compare, summarise

Scores = Mapping[str, float]
"""What `training.metrics.summarise` gives."""


@dataclass(frozen=True)
class Report:
    """How a bundle scored, and with which options; as JSON, it is these very fields.

    A member alone is scored at the ensemble's threshold, as `models=NAME` is served. `dice` has
    the ensemble's Dice of each image by name, so that any one of them can be checked by hand.
    """

    bundle: str
    threshold: float
    overlap: float
    tta: Tta
    combine: Combine
    resample: Resample
    images: int
    ensemble: Scores
    members: Mapping[str, Scores]
    sources: Mapping[str, Scores]
    dice: Mapping[str, float]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def table(self) -> str:
        """Lay the scores out for a person: the ensemble, each member, the ensemble by source."""
        rows = {"ensemble": self.ensemble}
        rows |= {f"member {name}": scores for name, scores in self.members.items()}
        rows |= {f"source {name}": scores for name, scores in self.sources.items()}
        first = max(map(len, rows))
        lines = [" " * first + "".join(f"  {column}" for column in self.ensemble)]
        for row, scores in rows.items():
            cells = (f"  {score:{len(column)}.4f}" for column, score in scores.items())
            lines.append(row.ljust(first) + "".join(cells))
        return "\n".join(lines)


@dataclass(frozen=True)
class Gate:
    """A bound that a score of the ensemble has to keep, such as `dice_micro>=0.7`."""

    score: str
    least: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `NAME>=BOUND` or `NAME<=BOUND`.

        Raises:
            ValueError: neither of them.
        """
        parts = re.fullmatch(r"(\w+)(>=|<=)([0-9.]+)", text.replace(" ", ""))
        if parts is None:
            raise ValueError(f"gate {text!r} is neither NAME>=BOUND nor NAME<=BOUND")
        return cls(parts[1], parts[2] == ">=", float(parts[3]))

    def complaint(self, report: Report) -> str | None:
        """Say how a report breaks the bound; None if it keeps it.

        Raises:
            ValueError: an unknown score.
        """
        if self.score not in report.ensemble:
            known = ", ".join(report.ensemble)
            raise ValueError(f"there is no score {self.score!r} to gate; there are {known}")
        value = report.ensemble[self.score]
        if value >= self.bound if self.least else value <= self.bound:
            return None
        limit = "at least" if self.least else "at most"
        return f"{self.score} is {value:.4f}, must be {limit} {self.bound:g}"


def evaluate(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: SegmentOptions = SegmentOptions(),
    *,
    tell_gsd: bool = False,
    progress: bool = False,
) -> Report:
    """Segment every tile as the service would, and score the ensemble and each member alone.

    With `tell_gsd`, the GSD of a tile is told where it is known, as a client may tell it; without,
    the scores are those of uploads that say nothing of it.

    The networks run once: a member alone is its own part of the bands of the ensemble, combined
    by the segmenter itself, so that every score belongs to a mask that the service would return.

    Raises:
        ValueError: no tiles, or two of one name.
        InvalidOption: an option that this bundle can't honour.
    """
    if not tiles:
        raise ValueError("nothing to score: no tiles")
    ensemble: dict[str, Comparison] = {}
    members: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for tile in tqdm(tiles, desc="scoring", unit="tile", disable=not progress):
        if tile.name in ensemble:
            raise ValueError(f"two tiles are called {tile.name}: scores are reported by name")
        image, label = tile.read()
        told = replace(options, gsd=tile.gsd) if tell_gsd else options
        bands = list(segmenter.bands(image, told))
        together = segmenter.combine(image, bands, told)
        ensemble[tile.name] = compare(together.mask, together.probability, label)
        for i, member in enumerate(together.members):
            alone = segmenter.combine(
                image,
                [Band(band.row, band.members[i : i + 1]) for band in bands],
                replace(told, members=(member,)),
            )
            members[member][tile.name] = compare(alone.mask, alone.probability, label)

    sources: dict[str, list[Comparison]] = defaultdict(list)
    for tile in tiles:
        sources[tile.source].append(ensemble[tile.name])
    return Report(
        bundle=segmenter.manifest.version,
        threshold=together.threshold,
        overlap=options.overlap,
        tta=options.tta,
        combine=options.combine,
        resample=options.resample,
        images=len(tiles),
        ensemble=summarise(ensemble.values()),
        members={name: summarise(images.values()) for name, images in members.items()},
        sources={name: summarise(sources[name]) for name in sorted(sources)},
        dice={name: compared.pixels.dice for name, compared in ensemble.items()},
    )
