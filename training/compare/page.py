"""The page of a comparison, and the same as Markdown, JSON and PNG."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.compare.results import HEADLINE, Comparison
from training.page import Page
from training.report import EXPLAINED

_BLUE, _ORANGE = "#0072b2", "#e69f00"


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write compare.html, compare.md, compare.json and compare.png; `comparison` has a result.

    Raises:
        OSError: they can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = Page(comparison.experiment.title)
    page.text(comparison.experiment.question)
    page.text(comparison.how())
    header, rows = comparison.by_arm()
    page.table(header, rows)
    page.figure(
        _dots(comparison),
        f"{HEADLINE} of each arm: a dot for each seed, of which equal heights within a row are the "
        "same seed, and a bar for their mean.",
        png=out / "compare.png",
    )
    page.heading("By threshold")
    page.text(
        "Where a curve is flat, the threshold hardly matters; where its top lies far from 0.5, the "
        "arm's probabilities can't be taken at their word."
    )
    page.figure(_curves(comparison), f"{HEADLINE} at each threshold, mean over seeds.")
    page.heading("By source")
    page.table(*comparison.by_source())
    page.heading("Scores")
    page.table(
        ["score", "what it is"],
        [[name, text] for name, text in EXPLAINED.items() if name in header],
    )
    page.write(out / "compare.html")
    (out / "compare.md").write_text(comparison.markdown(), encoding="utf-8")
    (out / "compare.json").write_text(json.dumps(comparison.document(), indent=2) + "\n")


def _dots(comparison: Comparison) -> Figure:
    """Give every arm a row; a seed has its own height in it."""
    seeds = comparison.experiment.seeds
    heights = dict(zip(seeds, np.linspace(-0.25, 0.25, len(seeds) + 2)[1:-1], strict=True))
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(comparison.results)), layout="constrained")
    axes = figure.subplots()
    for row, results in enumerate(comparison.results.values()):
        dice = [result.scores[HEADLINE] for result in results]
        axes.scatter(dice, [row + heights[result.seed] for result in results], 24, _BLUE)
        axes.vlines(float(np.mean(dice)), row - 0.35, row + 0.35, color=_ORANGE)
    axes.set_yticks(range(len(comparison.results)), list(comparison.results), parse_math=False)
    axes.set_ylim(len(comparison.results) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set(xlabel=HEADLINE)
    return figure


def _curves(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm, results in comparison.results.items():
        thresholds = [float(threshold) for threshold in results[0].curve]
        mean = np.mean([list(result.curve.values()) for result in results], axis=0)
        axes.plot(thresholds, mean, label=arm.replace("$", r"\$"))
    axes.grid(alpha=0.3)
    axes.set(xlabel="threshold", ylabel=HEADLINE)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
