"""Where a bundle comes from: the imagery behind its members, the code, and the tools."""

import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from app.bundle.manifest import DataSource
from training.config import DataConfig, RunConfig
from training.data import Tile, described
from training.samples import TrainingSamples
from training.scenes import GSD_RANGE

_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "segmentation-models-pytorch", "timm")


def data_sources(configs: Sequence[RunConfig]) -> tuple[DataSource, ...]:
    """Say what imagery the runs drew from: by source, its licences, images and GSD.

    Images are counted once, however many members saw them, and only if the runs' own filter keeps
    them. Of procedural scenes, the count is how many a whole run draws on average, summed over the
    runs.

    Raises:
        ValueError: the tiles of a run are not where its configuration says.
    """
    rows: dict[str, dict[str, str]] = {}
    tiles: dict[str, set[Tile]] = defaultdict(set)
    scenes = 0.0
    for config in configs:
        for path in (*config.data.folders, *config.data.csv):
            rows |= described(config.data.root / path)
        samples = TrainingSamples(config.data, config.augment, config.trainer.seed)
        for tile in (tile for of_group in samples.tiles.values() for tile in of_group):
            tiles[tile.source].add(tile)
        options = config.trainer
        scenes += config.data.scenes * options.epochs * options.steps_per_epoch * options.batch_size
    sources = [_source(name, tiles[name], rows) for name in sorted(tiles)]
    if scenes:
        low, high = GSD_RANGE
        sources.append(
            DataSource(
                name="procedural",
                licence="this project's own: drawn by training/scenes.py, no imagery in them",
                images=max(1, round(scenes)),
                gsd=f"{low} to {high}",
            )
        )
    return tuple(sources)


def trained_on(data: DataConfig) -> list[str]:
    """Name what a run drew from, for a person."""
    names = [str(path) for path in (*data.folders, *data.csv)]
    return [*names, "procedural scenes"] if data.scenes else names


def git_commit() -> str:
    """Return the commit of this code, with `-dirty` after it when files differ, or `unknown`."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def tool_versions() -> dict[str, str]:
    """Return the versions of what an export depends on."""
    return {tool: version(tool) for tool in _TOOLS}


def _source(name: str, tiles: set[Tile], rows: dict[str, dict[str, str]]) -> DataSource:
    of_tiles = [rows.get(tile.name, {}) for tile in tiles]
    return DataSource(
        name=name,
        licence=_values(row.get("licence") for row in of_tiles),
        images=len(tiles),
        gsd=_values(row.get("gsd_m") for row in of_tiles),
    )


def _values(texts: Iterable[str | None]) -> str:
    return "; ".join(sorted({text or "not stated" for text in texts}))
