"""The page of an evaluation: what each score means, where the bundle fails, and how that looks."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.terminal import progress_bar
from training.data import Tile
from training.evaluate import FINEST, AtGsd, Evaluated, Report, Scores, Under, told
from training.metrics import (
    BOUNDARY_PIXELS,
    CALIBRATION_BINS,
    FEW_PIXELS,
    OBJECT_IOU,
    Comparison,
)
from training.mistakes import Drawn, draw_mistakes, in_rows
from training.page import Page
from training.pictures import MARKED, outlined, sheet

WORST, WORST_EMPTY = 12, 6
"""Images with and without buildings that are shown."""

EXPLAINED = {
    "dice_micro": "2TP / (2TP + FP + FN), counting the pixels of all images together",
    "iou_micro": "TP / (TP + FP + FN), all pixels together",
    "precision_micro": "share of the pixels found that are building, all together",
    "recall_micro": "share of the building pixels that were found, all together",
    "dice_imagewise": "mean Dice of the images; one that is empty and was left alone scores 1",
    "iou_imagewise": "mean IoU of the images, likewise",
    "dice_built": "mean Dice of the images that have buildings",
    "object_f1": f"F1 of connected components; found is what overlaps with IoU > {OBJECT_IOU:g}",
    "boundary_f1": f"F1 of boundary pixels; right is within {BOUNDARY_PIXELS} pixels",
    "empty_false_positives": (
        f"share of the empty patches on which {FEW_PIXELS} pixels or more were found; 0 is best"
    ),
    "calibration_error": (
        "how far probabilities lie from the share of building among pixels that have them; "
        "0 is best"
    ),
}
"""A line for each score of `training.metrics.summarise`."""

_GSD_SCORES = ("dice_micro", "iou_micro", "precision_micro", "recall_micro", "object_f1")

_SIDE = 768
"""Pixels of a picture's longer side, about."""
_COLUMNS = 10
"""Marked pixels beside one another."""

_BLUE, _ORANGE, _GREY = "#0072b2", "#e69f00", "#999999"


def write_page(
    path: Path,
    evaluated: Evaluated,
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options = Options(),
    *,
    mistakes: int = 0,
    progress: bool = False,
) -> None:
    """Write one HTML file with the scores of `tiles`, plots of them, and the worst images.

    With `mistakes`, so many wrong pixels of each source are shown too, drawn at random. Only the
    images that are shown, or of which a pixel is, are read and segmented again.

    Raises:
        OSError: the file can't be written.
    """
    report, images = evaluated.report, evaluated.images
    by_source = _by_source(tiles, images)
    page = Page(f"Evaluation of {report.bundle}")
    _add_scores(page, report, tuple(report.members))
    page.heading("Calibration")
    page.figure(
        _calibration_plot(images.values()),
        f"Reliability: pixels in {CALIBRATION_BINS} bins by the probability that they were given, "
        "and the share of each bin that is building. On the diagonal, probabilities can be taken "
        "at their word. Expected calibration error (ECE): "
        f"{report.ensemble['calibration_error']:.4f}.",
    )
    page.heading("By source")
    page.figure(
        _dice_plot(by_source),
        "Dice of each image, sorted within its source; a hollow dot is an image without buildings, "
        "a bar the mean of its source.",
    )
    page.figure(
        _source_plot(report),
        "Precision and recall by source, its pixels counted together. Precision is 1 where nothing "
        "was found, recall where there was nothing to find.",
    )
    if report.by_gsd:
        _add_gsd(page, report.by_gsd)
    if report.by_condition:
        _add_conditions(page, report.ensemble, report.by_condition)
    _add_seams(page, report)
    _add_worst(page, evaluated, segmenter, tiles, options, progress=progress)
    if mistakes:
        drawn = draw_mistakes(
            segmenter,
            tiles,
            images,
            options,
            mistakes,
            tell_gsd=report.gsd_told,
            progress=progress,
        )
        _add_mistakes(page, drawn)
    page.write(path)


def reliability(
    images: Iterable[Comparison],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pool the bins of all images: float64 (bins,) each, of the bins that hold any pixel.

    They are the mean probability of the pixels in a bin, the share of them that is building, and
    their number.

    Source: the reliability diagram of Guo et al., "On Calibration of Modern Neural Networks", ICML
    2017.
    """
    binned: NDArray[np.float64] = np.sum([image.binned for image in images], axis=0)
    number, buildings, probability = binned[:, binned[0] > 0]
    return probability / number, buildings / number, number


def worst(images: Mapping[str, Comparison]) -> tuple[list[str], list[str]]:
    """Name the images that most need a look, the worst first.

    These are the images with buildings of the lowest Dice, `WORST` at most and none that is
    perfect; and the images without buildings on which the most pixels were found, `WORST_EMPTY` at
    most.
    """
    built, empty = [], []
    for name, compared in images.items():
        if _has_buildings(compared):
            built.append((compared.pixels.dice, name))
        else:
            empty.append((-compared.pixels.false_positives, name))
    return (
        [name for dice, name in sorted(built) if dice < 1][:WORST],
        [name for found, name in sorted(empty) if found < 0][:WORST_EMPTY],
    )


def _has_buildings(compared: Comparison) -> bool:
    return compared.pixels.true_positives + compared.pixels.false_negatives > 0


def _by_source(
    tiles: Sequence[Tile], images: Mapping[str, Comparison]
) -> dict[str, list[Comparison]]:
    """Group the images by source, in the order of the alphabet, those of low Dice first."""
    sources: dict[str, list[Comparison]] = defaultdict(list)
    for tile in tiles:
        sources[tile.source].append(images[tile.name])
    return {
        name: sorted(sources[name], key=lambda image: image.pixels.dice) for name in sorted(sources)
    }


def _add_scores(page: Page, report: Report, members: Sequence[str]) -> None:
    used = {**report.options, "threshold": f"{report.threshold:g}"}
    page.text(
        f"{report.images} images, segmented as the service would: members {', '.join(members)}, "
        + ", ".join(f"{name} {value}" for name, value in used.items())
        + ". "
        + ("Known GSDs were told." if report.gsd_told else "No GSD was told.")
    )
    page.heading("Scores")
    columns = {"ensemble": report.ensemble}
    columns |= {f"member {name}": scores for name, scores in report.members.items()}
    columns |= {f"source {name}": scores for name, scores in report.sources.items()}
    page.table(
        ["", *report.ensemble],
        [[name, *map(_figure, scores.values())] for name, scores in columns.items()],
    )
    page.text(
        "TP, FP and FN are pixels that were found rightly, found wrongly, and missed. A member "
        "alone is scored at the ensemble's threshold, a source with the ensemble."
    )
    page.table(["score", "what it is"], [[name, EXPLAINED[name]] for name in report.ensemble])


def _add_gsd(page: Page, by_gsd: Sequence[AtGsd]) -> None:
    page.heading("By GSD")
    page.text(
        "Tiles of known GSD, resampled to another one, which the bundle was told. A tile takes "
        f"part at {FINEST:g} of its own GSD and at anything coarser, for enlarging it further "
        "would show nothing new; so there are fewer tiles at fine GSDs. Boundaries, objects and "
        "empty patches are counted in pixels, which cover more ground at a coarse GSD."
    )
    page.table(
        ["GSD", "tiles", *_GSD_SCORES, "dice_micro of these tiles as they are"],
        [
            [
                f"{at.gsd:g} m",
                str(at.tiles),
                *(_figure(at.scores[name]) for name in _GSD_SCORES),
                _figure(at.native["dice_micro"]),
            ]
            for at in by_gsd
        ],
    )
    page.figure(
        _gsd_plot(by_gsd),
        "Accuracy against GSD. The grey line is the dice_micro of the same tiles at their own, as "
        "they were scored above.",
    )


def _add_conditions(page: Page, as_they_are: Scores, by_condition: Sequence[Under]) -> None:
    page.heading("In other light, air and cameras")
    page.text(
        "All tiles again, changed as training/conditions.py describes: what is lost here may be "
        "lost on imagery of another sensor or season."
    )
    rows = {"as they are": as_they_are} | {one.condition: one.scores for one in by_condition}
    page.table(
        ["", *as_they_are],
        [[name, *map(_figure, scores.values())] for name, scores in rows.items()],
    )


def _add_seams(page: Page, report: Report) -> None:
    if report.seam_difference is None:
        return
    page.heading("Seams")
    page.text(
        f"Seam difference: {report.seam_difference:.2%}. Of the pixels that are building when a "
        "scene is cut out as it is or a third of a patch further right and down, this share is "
        f"building in one of the two only, at an overlap of {report.options['overlap']}. It is "
        "what depends on where the patches fall rather than on what they show; 0 is best. Measured "
        "on the largest tiles, as uploads of unknown GSD."
    )


def _add_worst(
    page: Page,
    evaluated: Evaluated,
    segmenter: Segmenter,
    tiles: Sequence[Tile],
    options: Options,
    *,
    progress: bool,
) -> None:
    built, empty = worst(evaluated.images)
    by_name = {tile.name: tile for tile in tiles}
    with progress_bar(
        total=len(built) + len(empty), desc="pictures", unit="tile", disable=not progress
    ) as bar:
        for heading, names in (
            ("Worst images with buildings", built),
            ("Found where there are no buildings", empty),
        ):
            page.heading(heading)
            page.text(
                "Label: yellow edged in black. Found: blue edged in white."
                if names
                else "There are none."
            )
            for name in names:
                image, label = by_name[name].read(**options.decoding)
                scored = told(options, by_name[name], tell_gsd=evaluated.report.gsd_told)
                found = segmenter.segment_image(image, scored)
                page.picture(
                    outlined(image.pixels, label, found.mask, side=_SIDE),
                    _caption(name, evaluated.images[name]),
                )
                bar.update()


def _add_mistakes(page: Page, drawn: Sequence[Drawn]) -> None:
    page.heading("Mistakes at random")
    page.text(
        "Pixels that count as wrong, each as likely to be shown as any other of its source. Look "
        "at what lies inside of the ring: the share that is right after all is the label's."
    )
    for each in drawn:
        page.picture(
            sheet(list(in_rows(each, _COLUMNS)), MARKED),
            f"{each.source}, {each.kind}: {len(each.pictures)} of {each.total} pixels",
        )


def _caption(name: str, compared: Comparison) -> str:
    pixels = compared.pixels
    if not _has_buildings(compared):
        return f"{name}: {pixels.false_positives} pixels found, none of them building"
    return (
        f"{name}: Dice {pixels.dice:.3f}, precision {pixels.precision:.3f}, "
        f"recall {pixels.recall:.3f}"
    )


def _calibration_plot(images: Iterable[Comparison]) -> Figure:
    mean, share, number = reliability(images)
    figure = Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot((0, 1), (0, 1), "--", color=_GREY)
    above.plot(mean, share, "o-", color=_BLUE)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is building", aspect="equal")
    below.bar(mean, number, width=0.7 / CALIBRATION_BINS, color=_BLUE, log=True)
    below.set(xlabel="probability", ylabel="pixels")
    return figure


def _dice_plot(by_source: Mapping[str, Sequence[Comparison]]) -> Figure:
    """Give every source the same width, however many images it has."""
    figure, axes = _source_axes(by_source)
    for i, images in enumerate(by_source.values()):
        dice = np.array([image.pixels.dice for image in images])
        built = np.array([_has_buildings(image) for image in images])
        at = i + np.linspace(-0.4, 0.4, len(images) + 2)[1:-1]
        for some, inside in ((built, _BLUE), (~built, "none")):
            # Not clipped, so that the dots at 0 and 1 are whole.
            axes.scatter(at[some], dice[some], 16, inside, edgecolors=_BLUE, clip_on=False)
        axes.hlines(dice.mean(), i - 0.4, i + 0.4, color=_ORANGE, clip_on=False)
    axes.set(ylabel="Dice")
    return figure


def _source_plot(report: Report) -> Figure:
    figure, axes = _source_axes(report.sources)
    for side, name, colour in ((-1, "precision", _BLUE), (1, "recall", _ORANGE)):
        heights = [scores[f"{name}_micro"] for scores in report.sources.values()]
        axes.bar(np.arange(len(heights)) + 0.2 * side, heights, 0.36, color=colour, label=name)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return figure


def _source_axes(sources: Iterable[str]) -> tuple[Figure, Axes]:
    names = list(sources)
    figure = Figure(figsize=(max(5, 1 + 0.9 * len(names)), 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _gsd_plot(by_gsd: Sequence[AtGsd]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    gsds = [at.gsd for at in by_gsd]
    axes.plot(
        gsds,
        [at.native["dice_micro"] for at in by_gsd],
        "s--",
        color=_GREY,
        label="the same tiles as they are",
    )
    for name, colour in (("dice_micro", _BLUE), ("object_f1", _ORANGE)):
        axes.plot(gsds, [at.scores[name] for at in by_gsd], "o-", color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xticks(gsds, [f"{gsd:g}" for gsd in gsds])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="GSD in metres", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def _figure(score: float) -> str:
    return f"{score:.4f}"
