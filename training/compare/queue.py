"""Train and score what an experiment asks for, one run after another; stop and go on at any time.

A run lies in a folder named after its configuration, and a result in a file named after the runs,
how they are served and where the tiles lie. What is there is not done again, a run that was cut off
goes on after its last epoch, and arms or experiments that share a run train it once. A changed
experiment needs no care, for what changed has another name; changed tiles or code want new folders.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from app.terminal import progress_bar
from training.checkpoints import load_checkpoint
from training.compare.experiment import Arm, Experiment
from training.compare.page import write_comparison
from training.compare.results import Comparison, Result
from training.config import RunConfig
from training.data import Tile
from training.evaluate import evaluate
from training.export import served
from training.fit import fit_threshold, tally_sources
from training.train import train


def run_experiment(
    experiment: Experiment, out: Path, *, runs: Path | None = None, progress: bool = False
) -> Comparison:
    """Do what is not done yet, and write the comparison to `out` after each result.

    All arms get their first seed before any gets its second, so that what there is can be compared
    at any time. `runs` (default: `out`/runs) may be shared by experiments, but not at one time.

    Raises:
        As `training.train.train`, `training.export.served` and `training.evaluate.evaluate`.
    """
    tiles = experiment.tiles()
    comparison = Comparison(experiment, len(tiles))
    queue = [(arm, seed) for seed in experiment.seeds for arm in experiment.arms]
    for arm, seed in progress_bar(queue, desc="comparing", unit="result", disable=not progress):
        members = arm.at(seed)
        name = _digest(*map(repr, (members, arm.serve, experiment.validation)))
        path = out / "results" / f"{arm.name}-{seed}-{name}.json"
        if not path.exists():
            checkpoints = [
                _trained(run, runs or out / "runs", progress=progress) for run in members
            ]
            score(checkpoints, arm, seed, tiles, progress=progress).write(path)
        comparison = comparison.with_result(arm.name, Result.read(path))
        write_comparison(comparison, out)
    return comparison


def score(
    checkpoints: Sequence[Path], arm: Arm, seed: int, tiles: Sequence[Tile], *, progress: bool
) -> Result:
    """Score checkpoints together through the served path, at the threshold that suits them best."""
    told = {"tell_gsd": arm.serve.tell_gsd, "progress": progress}
    with served(*checkpoints) as segmenter:
        pixels = tally_sources(segmenter, tiles, arm.serve.options_at(), **told)
        fitted = fit_threshold(list(pixels.values()), arm.serve.combine)
        report = evaluate(segmenter, tiles, arm.serve.options_at(fitted.threshold), **told)
    return Result(
        seed,
        fitted.threshold,
        report.ensemble,
        report.sources,
        {f"{threshold:.2f}": dice for threshold, dice in fitted.curve.items()},
    )


def _trained(run: RunConfig, runs: Path, *, progress: bool) -> Path:
    """Return the last checkpoint of a run, trained as far as it is not yet."""
    folder = runs / f"{run.member}-{_digest(run.model_dump_json())}"
    last = folder / "last.ckpt"
    if not last.exists() or load_checkpoint(last)["epoch"] + 1 < run.trainer.epochs:
        train(run, folder, resume=True, progress=progress)
    return last


def _digest(*texts: str) -> str:
    """Return a name for all that the texts say."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
