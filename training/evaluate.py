"""Score a bundle on labelled tiles, along the very path that serves it.

Also how the scores change with GSD and with light, air and camera, and masks with where the patches
fall; each costs inference of its own and is measured only where somebody asks for it.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from app.imaging.image import Image
from app.imaging.resample import resample
from app.imaging.scaling import correct_light
from app.imaging.sharpness import sharpen_soft
from app.segmentation.blending import MemberBand
from app.segmentation.options import SCORED, Options
from app.segmentation.plan import Plan
from app.segmentation.resampling import Size, seen_size
from app.segmentation.segmenter import Segmenter, combine, stream
from app.segmentation.stream import Segmentation, collect
from app.terminal import progress_bar
from training.conditions import CONDITIONS
from training.data import Label, Tile, read_image
from training.metrics import Comparison, Share, compare, summarise
from training.seams import cut_twice

Scores = Mapping[str, float]
"""What `training.metrics.summarise` gives."""

FINEST = 0.8
"""Share of a tile's own GSD below which it is not brought: enlarging it shows nothing that a finer
sensor would have seen. Not 1, because many GSDs are estimates, or the middle of a range."""
SEAM_TILES = 3
"""How many tiles are enough to measure seams on."""
_SHIFT = 1 / 3  # of a patch; only an overlap of 2/3 would let the patches of both cuts coincide


@dataclass(frozen=True)
class AtGsd:
    """How the ensemble scored on so many tiles, resampled to `gsd` metres per pixel.

    That GSD was told, whatever the report says of the others. Fine GSDs are those of fewer tiles,
    and of other places: `native` has what these very tiles score in the report, to compare with.
    """

    gsd: float
    tiles: int
    scores: Scores
    native: Scores


@dataclass(frozen=True)
class Under:
    """How the ensemble scored on all tiles, changed as `training.conditions` describes."""

    condition: str
    scores: Scores


@dataclass(frozen=True)
class Report:
    """How a bundle scored, and with which options; as JSON, it is these very fields.

    A member alone is scored at the ensemble's threshold, as `models=NAME` is served. `dice` has
    the ensemble's Dice of each image by name, so that any one of them can be checked by hand.

    `by_gsd` and `by_condition` are empty and `seam_difference` None where they were not measured.
    The last is the share of building pixels, 0 to 1, that are building in one cut of a scene only:
    `examine`.
    """

    bundle: str
    threshold: float
    options: Mapping[str, object]
    """As the service takes them; those that are left out and have no default are not here."""
    gsd_told: bool
    images: int
    ensemble: Scores
    members: Mapping[str, Scores]
    sources: Mapping[str, Scores]
    dice: Mapping[str, float]
    by_gsd: Sequence[AtGsd] = ()
    by_condition: Sequence[Under] = ()
    seam_difference: float | None = None

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def table(self) -> str:
        """Lay the scores out for a person: the ensemble, each member, the ensemble by source.

        Below them the ensemble by GSD, by condition and at seams, as far as they were measured.
        """
        rows = {"ensemble": self.ensemble}
        rows |= {f"member {name}": scores for name, scores in self.members.items()}
        rows |= {f"source {name}": scores for name, scores in self.sources.items()}
        rows |= {f"at {at.gsd:g} m ({at.tiles} tiles)": at.scores for at in self.by_gsd}
        rows |= {f"under {under.condition}": under.scores for under in self.by_condition}
        first = max(map(len, rows))
        lines = [" " * first + "".join(f"  {column}" for column in self.ensemble)]
        for row, scores in rows.items():
            cells = (f"  {score:{len(column)}.4f}" for column, score in scores.items())
            lines.append(row.ljust(first) + "".join(cells))
        if self.seam_difference is not None:
            lines.append(f"seam difference: {self.seam_difference:.4f}")
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


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A report, and what it was made of: the ensemble compared with each image's label, by name."""

    report: Report
    images: Mapping[str, Comparison]


def evaluate(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options = Options(),
    *,
    tell_gsd: bool = False,
    progress: bool = False,
) -> Report:
    """Segment every tile as the service would, and score the ensemble and each member alone.

    With `tell_gsd`, the GSD of a tile is told where it is known, as a client may tell it; without,
    the scores are those of uploads that say nothing of it.

    A member alone is its own part of the bands of all members, combined as the service does, so
    every score belongs to a mask that the service would return.

    Raises:
        ValueError: no tiles, or two of one name.
        InvalidOption: an option that this bundle can't honour.
    """
    return examine(segmenter, tiles, options, tell_gsd=tell_gsd, progress=progress).report


def told(options: Options, tile: Tile, *, tell_gsd: bool) -> Options:
    """Return the options with which a tile is scored."""
    return options.model_copy(update={"gsd": tile.gsd}) if tell_gsd else options


def examine(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options = Options(),
    *,
    tell_gsd: bool = False,
    at_gsd: Sequence[float] = (),
    conditions: Sequence[str] = (),
    seam_tiles: int = 0,
    progress: bool = False,
) -> Evaluated:
    """Evaluate, and keep what each image's scores are made of.

    With `at_gsd`, in metres per pixel, the ensemble is scored again at each of these: on every tile
    of known GSD g that can be brought there, which is to `FINEST` x g and anything coarser.

    With `conditions`, names of `training.conditions.CONDITIONS`, it is scored again on every tile
    changed so, at the same options.

    With `seam_tiles`, so many of the largest tiles are cut and segmented twice, the second time a
    third of a patch further right and down, at the same options but as uploads of unknown GSD: a
    third of a patch is one for the members too then, and resampling adds nothing of its own. The
    share of pixels that are building in only one cut, of those that are in either, is the seam
    difference; None if no tile is large enough to have seams.

    Raises:
        ValueError: no tiles, two of one name, a GSD that no tile can be brought to, or an unknown
            condition.
        InvalidOption: an option that this bundle can't honour.
    """
    if not tiles:
        raise ValueError("nothing to score: no tiles")
    if unknown := set(conditions) - CONDITIONS.keys():
        raise ValueError(
            f"there is no condition {min(unknown)!r}; there are {', '.join(CONDITIONS)}"
        )
    if seam_tiles < 0:
        raise ValueError(f"seams can be measured on 0 or more tiles, not on {seam_tiles}")
    at = {gsd: _that_can_be_brought_to(gsd, tiles) for gsd in sorted(set(at_gsd))}
    ensemble, members = _compare_all(
        segmenter, tiles, options, tell_gsd=tell_gsd, progress=progress
    )

    sources: dict[str, list[Comparison]] = defaultdict(list)
    for tile in tiles:
        sources[tile.source].append(ensemble[tile.name])
    report = Report(
        bundle=segmenter.manifest.version,
        threshold=options.threshold or segmenter.manifest.threshold.value,
        options=options.model_dump(include={*SCORED}, exclude_none=True),
        gsd_told=tell_gsd,
        images=len(tiles),
        ensemble=summarise(ensemble.values()),
        members={name: summarise(images.values()) for name, images in members.items()},
        sources={name: summarise(sources[name]) for name in sorted(sources)},
        dice={name: compared.pixels.dice for name, compared in ensemble.items()},
        by_gsd=[
            AtGsd(
                gsd,
                len(some),
                scores=_scores_at(gsd, segmenter, some, options, progress=progress),
                native=summarise(ensemble[tile.name] for tile in some),
            )
            for gsd, some in at.items()
        ],
        by_condition=[
            Under(
                name,
                _scores_under(
                    name, segmenter, tiles, options, tell_gsd=tell_gsd, progress=progress
                ),
            )
            for name in dict.fromkeys(conditions)
        ],
        seam_difference=_seam_difference(
            segmenter,
            sorted(tiles, key=lambda tile: ensemble[tile.name].binned[0].sum(), reverse=True),
            options,
            seam_tiles,
            progress=progress,
        ),
    )
    return Evaluated(report, ensemble)


def _bring_to(gsd: float, tile: Tile, options: Options) -> tuple[Image, Label]:
    """Read a tile of known GSD, resampled to `gsd` metres per pixel: image and label, bool (h, w).

    A pixel is labelled, and valid, when more than half of what it is made of is.
    """
    assert tile.gsd is not None
    image, label = tile.read(**options.decoding)
    size = seen_size(image.height, image.width, (tile.gsd / gsd, tile.gsd / gsd))
    valid = None if image.valid is None else _resampled(image.valid, size)
    return Image(resample(image.pixels, *size), valid), _resampled(label, size)


def _resampled(mask: Label, size: Size) -> Label:
    return resample(np.multiply(mask, 255, dtype=np.uint8), *size) > 127


def _that_can_be_brought_to(gsd: float, tiles: Sequence[Tile]) -> list[Tile]:
    if not (gsd > 0 and math.isfinite(gsd)):
        raise ValueError(f"tiles can be resampled to more than 0 metres per pixel, not to {gsd}")
    known = [tile.gsd for tile in tiles if tile.gsd is not None]
    if not known:
        raise ValueError("there is no tile of known GSD to resample: SOURCES.csv states them")
    some = [tile for tile in tiles if tile.gsd is not None and gsd >= FINEST * tile.gsd]
    if not some:
        raise ValueError(f"no tile can be brought to {gsd:g} m: the finest has {min(known):g} m")
    return some


def _compare_all(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    *,
    tell_gsd: bool,
    progress: bool,
) -> tuple[dict[str, Comparison], dict[str, dict[str, Comparison]]]:
    """Compare the masks of the ensemble, and of each member alone, with the labels, by name."""
    ensemble: dict[str, Comparison] = {}
    members: dict[str, dict[str, Comparison]] = defaultdict(dict)
    for tile in progress_bar(tiles, desc="scoring", unit="tile", disable=not progress):
        if tile.name in ensemble:
            raise ValueError(f"two tiles are called {tile.name}: scores are reported by name")
        image, label = tile.read(**options.decoding)
        scored = told(options, tile, tell_gsd=tell_gsd)
        everyone = scored.model_copy(update={"cascade": "off"})
        plan = segmenter.plan(image, everyone)
        bands = list(segmenter.member_bands(plan, image))
        if segmenter.plan(image, scored).cascade:
            together = segmenter.segment_image(image, scored)
        else:
            together = from_members(plan, image, bands)
        ensemble[tile.name] = compare(together.mask, together.probability, label)
        for i, member in enumerate(plan.members):
            alone = from_members(
                segmenter.plan(image, everyone.model_copy(update={"models": member})),
                image,
                [MemberBand(band.row, band.members[i : i + 1]) for band in bands],
            )
            members[member][tile.name] = compare(alone.mask, alone.probability, label)
    return ensemble, members


def from_members(plan: Plan, image: Image, bands: Sequence[MemberBand]) -> Segmentation:
    """Segment an image whose members have been asked: as served, without asking them again."""
    return collect(stream(plan, image, combine(plan, image, bands)))


def _scores_at(
    gsd: float,
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    *,
    progress: bool,
) -> Scores:
    """Score the ensemble on tiles brought to a GSD, which it is told."""
    at = options.model_copy(update={"gsd": gsd})
    compared = []
    for tile in progress_bar(tiles, desc=f"at {gsd:g} m", unit="tile", disable=not progress):
        image, label = _bring_to(gsd, tile, options)
        found = segmenter.segment_image(image, at)
        compared.append(compare(found.mask, found.probability, label))
    return summarise(compared)


def _scores_under(
    condition: str,
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    *,
    tell_gsd: bool,
    progress: bool,
) -> Scores:
    """Score the ensemble on tiles as they would look under a condition."""
    change = CONDITIONS[condition]
    # Light is corrected and edges are sharpened once the condition has come over them.
    unsharpened = None if options.sharpen is None else 0
    before = options.model_copy(update={"sharpen": unsharpened}).decoding
    compared = []
    for tile in progress_bar(tiles, desc=f"under {condition}", unit="tile", disable=not progress):
        image, label = tile.read(**before)
        changed = replace(image, pixels=change(image.pixels))
        if options.rescale is None:
            changed = correct_light(changed)
        seen = sharpen_soft(changed, options.sharpen)
        found = segmenter.segment_image(seen, told(options, tile, tell_gsd=tell_gsd))
        compared.append(compare(found.mask, found.probability, label))
    return summarise(compared)


def _seam_difference(
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    count: int,
    *,
    progress: bool,
) -> float | None:
    """Cut the first `count` tiles that have seams twice: the share of building that differs."""
    patch = segmenter.manifest.patch_size
    shift = round(_SHIFT * patch)
    unknown = options.model_copy(update={"gsd": None})
    agreed, measured = Share(), 0
    with progress_bar(
        total=count, desc="seams", unit="tile", disable=not (progress and count)
    ) as bar:
        for tile in tiles:
            if measured == count:
                break
            image = read_image(tile.image, **options.decoding)
            if min(image.height, image.width) - shift <= patch:
                continue  # one patch from side to side: there may be no seam
            first, second = cut_twice(segmenter, image, unknown, shift)
            building = int(np.count_nonzero(first | second))
            agreed += Share(int(np.count_nonzero(first & second)), building)
            measured += 1
            bar.update()
    return 1 - agreed.ratio if measured else None
