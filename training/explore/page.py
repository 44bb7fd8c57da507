"""The page of a survey: its figures, as tables and plots, and then the pictures."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.explore.exhibits import add_samples, add_suspicious
from training.explore.facts import Facts, Survey
from training.page import Page

BARE, SPARSE, DENSE = 0.01, 0.05, 0.15
"""Building fractions that divide images in the table."""
MOST_SOURCES = 24
"""Sources shown by name; when there are more, those of the fewest tiles are put together."""
MOST_SIZES = 10
"""Image sizes shown by name, likewise."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_RANGE = "a thin line runs from 5 to 95 %, a thick one from 25 to 75 %, and a dot is the median."
# Source of the hues: Okabe and Ito, "Color Universal Design", 2008.
_RGB = {"R": "#d55e00", "G": "#009e73", "B": "#0072b2"}
_BLUE, _GREY = "#0072b2", "#999999"

_Groups = Mapping[str, Sequence[Facts]]


def write_page(folder: Path, survey: Survey, *, seed: int = 0) -> Path:
    """Write `folder`/explore.html, and its plots and sheets as PNG files beside it.

    `seed` and the names of the tiles alone decide which tiles of a source stand in the sheet of
    samples, and which part of them. Returns the path of the page.

    Raises:
        OSError: the folder can't be written, or a tile is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_source = _grouped(survey.tiles)
    page = Page("Labelled tiles")
    page.text(
        f"{len(survey.tiles)} tiles, {_megapixels(survey.tiles)} megapixels. A tile's source is "
        "its name up to the first “_”."
    )
    _add_table(page, by_source)
    _add_fractions(page, by_source, folder)
    _add_areas(page, by_source, folder)
    _add_image_sizes(page, survey.tiles, folder)
    _add_colours(page, by_source, folder)
    add_samples(page, by_source, folder, seed)
    add_suspicious(page, survey, folder)
    path = folder / "explore.html"
    page.write(path)
    return path


def _grouped(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Group tiles by source, in the order of the alphabet; the smallest come last, as one."""
    tiles = Counter(of.tile.source for of in facts)
    named = {name for name, _ in tiles.most_common(MOST_SOURCES)}
    groups: dict[str, list[Facts]] = {name: [] for name in sorted(named)}
    for of in facts:
        source = of.tile.source
        name = source if source in named else f"({len(tiles) - len(named)} other sources)"
        groups.setdefault(name, []).append(of)
    return groups


def _everything(by_source: _Groups) -> list[Facts]:
    return [of for group in by_source.values() for of in group]


def _add_table(page: Page, by_source: _Groups) -> None:
    page.table(
        [
            "source",
            "tiles",
            "megapixels",
            "smallest",
            "median",
            "largest",
            "GSD",
            "building",
            f"under {BARE:.0%}",
            f"under {SPARSE:.0%}",
            f"over {DENSE:.0%}",
            "components",
            "median area",
        ],
        [_row(name, group) for name, group in {**by_source, "all": _everything(by_source)}.items()],
    )
    page.text(
        "Smallest, median and largest: image sizes, height × width, by their pixels. GSD: metres "
        "per pixel. Building: mean over images of the share that is labelled. Under and over: "
        "share of the images with less or more building than that. Components: labelled pixels "
        "that touch at a side or a corner belong together; their area is in m² where the GSD is "
        "known, and otherwise in pixels (px)."
    )


def _row(name: str, group: Sequence[Facts]) -> list[str]:
    sizes = sorted(((of.height, of.width) for of in group), key=math.prod)
    fractions = np.array([of.fraction for of in group])
    areas = {unit: _areas(group, unit) for unit in ("m²", "px")}
    medians = [f"{np.median(of):.3g} {unit}" for unit, of in areas.items() if of.size]
    return [
        name,
        str(len(group)),
        _megapixels(group),
        *(
            f"{h}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{w}"
            for h, w in (sizes[0], sizes[(len(sizes) - 1) // 2], sizes[-1])
        ),
        _gsds(group),
        f"{fractions.mean():.2%}",
        *(f"{share.mean():.0%}" for share in (fractions < BARE, fractions < SPARSE)),
        f"{(fractions > DENSE).mean():.0%}",
        str(sum(of.size for of in areas.values())),
        ", ".join(medians) or "–",
    ]


def _megapixels(group: Iterable[Facts]) -> str:
    return f"{sum(of.pixels for of in group) / 1e6:.2f}"


def _gsds(group: Sequence[Facts]) -> str:
    known = sorted(of.tile.gsd for of in group if of.tile.gsd)
    if not known:
        return "unknown"
    ends = dict.fromkeys(f"{gsd:.3g}" for gsd in (known[0], known[-1]))
    few = f" ({len(known)} of {len(group)})" if len(known) < len(group) else ""
    return "–".join(ends) + few


def _areas(group: Iterable[Facts], unit: str) -> NDArray[np.float64]:
    """Return the components' areas in m², of tiles of known GSD, or in px, of the others."""
    areas = [
        of.areas * (of.tile.gsd**2 if of.tile.gsd else 1.0)
        for of in group
        if (unit == "m²") == bool(of.tile.gsd)
    ]
    return np.concatenate([np.empty(0), *areas])


def _add_fractions(page: Page, by_source: _Groups, folder: Path) -> None:
    page.heading("Building fraction")
    fractions = {name: np.array([of.fraction for of in group]) for name, group in by_source.items()}
    pooled = np.concatenate(list(fractions.values()))
    top = max(0.1, math.ceil(pooled.max() * 10) / 10)
    figure, above, below = _distribution(fractions, np.linspace(0, top, 51))
    above.set(ylabel="images")
    below.set(xlabel="share of the image that is building")
    page.figure(
        figure,
        f"Building fraction per image, of all images and by source; {_RANGE} "
        f"{np.count_nonzero(pooled == 0)} images have no building.",
        png=folder / "building_fraction.png",
    )


def _add_areas(page: Page, by_source: _Groups, folder: Path) -> None:
    page.heading("Building sizes")
    if not any(of.areas.size for of in _everything(by_source)):
        page.text("There are no buildings.")
    for unit, file, whose in (
        ("m²", "building_areas_m2.png", "whose GSD is known, in m²"),
        ("px", "building_areas_pixels.png", "whose GSD is not known, in pixels"),
    ):
        areas = {name: _areas(group, unit) for name, group in by_source.items()}
        areas = {name: of for name, of in areas.items() if of.size}
        if not areas:
            continue
        pooled = np.concatenate(list(areas.values()))
        # An area of one pixel alone would make bins of no width.
        ends = np.log10(pooled.min()), np.log10(max(pooled.max(), 2 * pooled.min()))
        figure, above, below = _distribution(areas, np.logspace(*ends, 51))
        above.set(ylabel="components")
        below.set(xscale="log", xlabel=f"area in {unit}")
        page.figure(
            figure,
            f"Areas of the {pooled.size} labelled components of tiles {whose}, on a logarithmic "
            f"axis; {_RANGE} Houses that touch count as one, and those that a tile's edge cuts are "
            "as small as what is left of them.",
            png=folder / file,
        )


def _distribution(
    values: Mapping[str, NDArray[np.float64]], edges: NDArray[np.float64]
) -> tuple[Figure, Axes, Axes]:
    """Draw a histogram of all values, and below it the `_QUANTILES` of each source's."""
    rows = 0.5 + 0.25 * len(values)
    figure = Figure(figsize=(8, 3 + rows), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.5, rows))
    above.hist(np.concatenate(list(values.values())), edges.tolist(), color=_BLUE)
    for row, of in enumerate(values.values()):
        low, lower, median, upper, high = np.quantile(of, _QUANTILES)
        below.hlines(row, low, high, color=_GREY, lw=1)
        below.hlines(row, lower, upper, color=_GREY, lw=4)
        below.plot(median, row, "o", ms=5, color=_BLUE)
    _name_rows(below, list(values))
    return figure, above, below


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    # A name is not a formula, whatever dollars it has.
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _add_image_sizes(page: Page, facts: Sequence[Facts], folder: Path) -> None:
    page.heading("Image sizes")
    sizes = Counter((of.height, of.width) for of in facts)
    rows = {f"{h} × {w}": tiles for (h, w), tiles in sizes.most_common(MOST_SIZES)}
    if others := len(facts) - sum(rows.values()):
        rows[f"({len(sizes) - len(rows)} other sizes)"] = others
    figure = Figure(figsize=(8, 1 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(rows)), list(rows.values()), color=_BLUE)
    axes.bar_label(bars, padding=3)
    axes.margins(x=0.1)
    axes.set(xlabel="images")
    _name_rows(axes, list(rows))
    page.figure(
        figure,
        "Image sizes, height × width in pixels, the most frequent first.",
        png=folder / "image_sizes.png",
    )


def _add_colours(page: Page, by_source: _Groups, folder: Path) -> None:
    page.heading("Colours")
    colours = {name: _colour(group) for name, group in by_source.items()}
    page.table(
        ["source", *(f"{what} {channel}" for what in ("mean", "std") for channel in _RGB)],
        [
            [name, *(f"{value:.1f}" for value in of.ravel())]
            for name, of in {**colours, "all": _colour(_everything(by_source))}.items()
        ],
    )
    figure = Figure(figsize=(8, 1.2 + 0.4 * len(colours)), layout="constrained")
    axes = figure.subplots()
    for i, (channel, colour) in enumerate(_RGB.items()):
        mean, std = np.array([of[:, i] for of in colours.values()]).T
        at = np.arange(len(colours)) + 0.2 * (i - 1)
        axes.errorbar(mean, at, xerr=std, fmt="o", ms=4, capsize=2, color=colour, label=channel)
    _name_rows(axes, list(colours))
    axes.set(xlabel="mean ± standard deviation of pixels, of 255", xlim=(0, 255))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    page.figure(
        figure,
        "Red, green and blue by source, over all of its pixels together.",
        png=folder / "colours.png",
    )


def _colour(group: Sequence[Facts]) -> NDArray[np.float64]:
    """Return mean and standard deviation of R, G and B, float64 (2, 3), over all valid pixels."""
    valid = max(1, sum(of.valid for of in group))
    mean, square = np.sum([of.colour for of in group], axis=0) / valid
    return np.array([mean, np.sqrt(np.maximum(0, square - mean**2))])
