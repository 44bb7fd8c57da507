"""The plots of the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.large import Cost

_OURS, _THEIRS = "#1b6ca8", "#9a9a9a"


def engine(arrangements: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw milliseconds per patch, as bars."""
    names = list(arrangements)[::-1]
    colours = [_OURS if "workers" in name else _THEIRS for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1), layout="constrained")
    bars = axes.barh(names, [arrangements[n]["milliseconds"] for n in names], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xlabel("milliseconds per 224 x 224 patch (less is better)")
    axes.margins(x=0.1)
    _save(figure, path)


def services(results: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw requests per second of each cell, relative to the best peer."""
    labels = [cell["label"] for cell in next(iter(results.values()))]
    best = best_peer(results)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(results)
    for n, (name, cells) in enumerate(results.items()):
        at = [i + n * width for i in range(len(labels))]
        heights = [c["requests_per_second"] / b for c, b in zip(cells, best, strict=True)]
        axes.bar(at, heights, width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(labels))], labels, rotation=20)
    axes.set_ylabel("requests/s, best peer = 1")
    figure.legend(loc="outside upper center", ncols=3)  # beside the bars, not upon them
    _save(figure, path)


def best_peer(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
    """Return the requests per second of the best peer in each cell."""
    peers = [cells for name, cells in results.items() if not name.startswith("Rooftrace")]
    rates = [[cell["requests_per_second"] for cell in cells] for cells in peers]
    return [max(of_cell) for of_cell in zip(*rates, strict=True)]


def cascade(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the speed-up against the empty share, a line per precision."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for precision in dict.fromkeys(row["precision"] for row in rows):
        of_it = [row for row in rows if row["precision"] == precision]
        shares = [100 * row["empty"] for row in of_it]
        axes.plot(shares, [r["without"] / r["with"] for r in of_it], "o-", label=precision)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlabel("share of the scene without a building, %")
    axes.set_ylabel("times as fast")
    axes.legend()
    _save(figure, path)


def linear(costs: Mapping[int, Cost], path: Path) -> None:
    """Draw time and memory against the number of pixels, and a line of constant cost a pixel."""
    megapixels = [side**2 / 1e6 for side in costs]
    seconds = [cost.processor_seconds for cost in costs.values()]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    time, memory = axes
    time.loglog(megapixels, seconds, "o-", color=_OURS)
    slope = (seconds[-1] - seconds[0]) / megapixels[-1]
    line = [seconds[0] + slope * x for x in megapixels]
    time.loglog(megapixels, line, "--", color=_THEIRS, label="a constant cost per pixel")
    time.legend()
    time.set_ylabel("seconds of CPU")
    memory.semilogx(megapixels, [c.peak_bytes / 2**20 for c in costs.values()], "o-", color=_OURS)
    memory.set_ylabel("peak MiB")
    memory.set_ylim(bottom=0)
    for one in axes:
        one.set_xlabel("megapixels")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
