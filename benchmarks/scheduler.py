"""Simulate a run of `rooftrace bulk` on many nodes: `python -m benchmarks.scheduler`.

Workers take files one by one, from a driver that hands out one at a time. Now and then a node is
taken away, and the files that it was at begin again on another. At the end one process joins
buildings and writes tables. So it tells how long a country takes, and what it waits for.
"""

import argparse
import heapq
from collections import deque
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What a run costs; times in seconds. The defaults are those of docs/scale.md."""

    km2: float = 1e6
    """Area of all files."""
    tile_km2: float = 2.25
    """Area of a file: 5000 x 5000 pixels of 0.3 m."""
    seconds_per_km2: float = 18.0
    """Of one worker."""
    workers: int = 8
    """Workers of a node."""
    dispatch: float = 0.01
    """Of the driver, for each file."""
    finish: float = 0.008
    """Of the one process at the end, for each file."""
    node_hours: float = 24.0
    """Mean time until a node is taken away; another comes."""
    replacement: float = 180.0
    """Until the other is there, its models loaded."""
    spread: float = 0.3
    """Standard deviation of the logarithm of a file's time: buildings and clear patches differ."""


@dataclass(frozen=True)
class Run:
    """A simulated run: hours until all files are segmented, and until all is finished."""

    segmented: float
    finished: float
    busy: float
    """Share of the workers' time that led to a result."""
    repeated: int
    """Files that were begun again."""


def simulate(nodes: int, costs: Costs, seed: int = 0) -> Run:
    """Hand out every file, event by event.

    A node's whole life is known when it begins: an exponential time. A worker whose file would end
    later gives it back, and comes again when the node has been replaced.
    """
    random = np.random.default_rng(seed)
    files = max(1, round(costs.km2 / costs.tile_km2))
    mean = costs.tile_km2 * costs.seconds_per_km2
    times = mean * random.lognormal(-(costs.spread**2) / 2, costs.spread, files)
    waiting = deque(times.tolist())
    lives = (3600 * costs.node_hours * random.exponential(size=nodes)).tolist()
    free = [(0.0, node) for node in range(nodes) for _ in range(costs.workers)]
    heapq.heapify(free)
    driver = end = useful = 0.0
    repeated = 0
    while waiting:
        now, node = heapq.heappop(free)
        if now >= lives[node]:  # taken away since; the first worker to see it begins the next
            lives[node] = now + 3600 * costs.node_hours * float(random.exponential())
        driver = max(now, driver) + costs.dispatch
        seconds = waiting.popleft()
        done = driver + seconds
        if done > lives[node]:
            waiting.append(seconds)
            repeated += 1
            heapq.heappush(free, (lives[node] + costs.replacement, node))
            continue
        useful += seconds
        end = max(end, done)
        heapq.heappush(free, (done, node))
    busy = useful / (end * nodes * costs.workers)
    return Run(end / 3600, (end + files * costs.finish) / 3600, busy, repeated)


def table(costs: Costs, sizes: tuple[int, ...] = (10, 100, 1000)) -> str:
    """Return the runs on so many nodes as a table of Markdown."""
    lines = [
        "| nodes | hours to segment | hours with the finish | workers busy | files begun again |",
        "| --- | --- | --- | --- | --- |",
    ]
    for nodes in sizes:
        run = simulate(nodes, costs)
        lines.append(
            f"| {nodes:,} | {run.segmented:,.1f} | {run.finished:,.1f} | {run.busy:.0%} "
            f"| {run.repeated:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table for the costs that flags give."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in vars(Costs()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"default: {default}")
    print(table(replace(Costs(), **vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
