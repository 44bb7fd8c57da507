"""An experiment goes on where it stopped, repeats to the last digit, and adds up."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

import pytest
import torch

from tests.data import DATA, needs_data
from training.__main__ import main
from training.checkpoints import load_checkpoint
from training.compare.experiment import Experiment, load_experiment
from training.compare.page import write_comparison
from training.compare.queue import run_experiment
from training.compare.results import HEADLINE, SHOWN, Comparison, Result, Spread
from training.config import AugmentConfig
from training.evaluate import evaluate
from training.export import served
from training.samples import TrainingSamples

bits_repeat = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a GPU's sums have no fixed order, so bits need not repeat"
)

EXPERIMENTS = sorted((Path(__file__).parents[2] / "training" / "experiments").glob("*.toml"))
EXPERIMENT = """
title = "Loss & luck"
question = "Which loss?"
base = ["tiny.toml"]
seeds = [0, 7]

[overrides]
data.validation = ["val"]
trainer.epochs = 2
trainer.steps_per_epoch = 2

[arms."bce+dice"]

[arms.dice]
optimizer.loss = "dice"
"""
TURNED = """
[arms.turned]
serve.tta = "flips"
"""


@pytest.fixture(scope="module")
def path(tiny: Path) -> Path:
    """An experiment of two losses, of one seed: each takes seconds to export."""
    path = tiny.parent / "loss.toml"
    path.write_text(EXPERIMENT.replace("[0, 7]", "[7]"))
    return path


@pytest.fixture(scope="module")
def out(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the experiment leaves behind when nothing disturbs it."""
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main(["compare", str(path), "--out", str(out), "--quiet"]) == 0
    return out


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("**/*.json"))}


def files(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob("r*/**/*") if path.is_file()}


@bits_repeat
def test_killed_between_and_within_runs_it_ends_the_same(
    path: Path, out: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "training", "compare", str(path), "--out", str(tmp_path)]
    process = subprocess.Popen([*command, "--quiet"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while (
        # One result is written, and the next run has an epoch behind it.
        len(list(tmp_path.glob("runs/*/last.ckpt"))) < 2
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the experiment was over before it could be killed"
    before = files(tmp_path)
    assert [path.name.split("-")[0] for path in before if path.suffix == ".json"] == ["bce+dice"]

    run_experiment(load_experiment(path), tmp_path)

    assert written(tmp_path) == written(out)
    after = files(tmp_path)
    (finished,) = (path for path in before if path.suffix == ".json")
    assert after[finished] == before[finished]


def test_what_is_there_is_not_done_again(path: Path, out: Path) -> None:
    before = files(out)

    comparison = run_experiment(load_experiment(path), out)

    assert files(out) == before
    assert {arm: len(of) for arm, of in comparison.results.items()} == {"bce+dice": 1, "dice": 1}


def test_new_arm_takes_the_runs_that_there_are(path: Path, out: Path, tmp_path: Path) -> None:
    more = path.with_name("more.toml")
    more.write_text(path.read_text() + TURNED)
    shutil.copytree(out / "results", tmp_path / "results")
    before = files(out)

    comparison = run_experiment(load_experiment(more), tmp_path, runs=out / "runs")

    assert files(out) == before
    assert not (tmp_path / "runs").exists()
    plain, dice, turned = (results[0] for results in comparison.results.values())
    stored = json.loads((out / "compare.json").read_text())["arms"]
    assert dice == Result(**stored["dice"]["results"][0])
    assert len(list((tmp_path / "results").iterdir())) == 3
    assert turned.curve != plain.curve


def test_result_is_what_evaluate_says_of_the_checkpoint(path: Path, out: Path) -> None:
    experiment = load_experiment(path)
    dice = json.loads((out / "compare.json").read_text())["arms"]["dice"]
    (result,) = dice["results"]
    (checkpoint,) = (
        last
        for last in out.glob("runs/*/last.ckpt")
        if load_checkpoint(last)["config"]["optimizer"]["loss"] == "dice"
    )
    assert load_checkpoint(checkpoint)["config"]["data"]["validation"] == []
    assert dice["members"][0]["optimizer"]["loss"] == "dice"

    with served(checkpoint) as segmenter:
        report = evaluate(
            segmenter, experiment.tiles(), experiment.arms[1].serve.options_at(result["threshold"])
        )

    assert result["scores"] == report.ensemble
    assert result["sources"] == report.sources
    # The curve is of probabilities that were rounded to levels.
    best = max(result["curve"].values())
    assert result["curve"][f"{result['threshold']:.2f}"] == best
    assert best == pytest.approx(report.ensemble[HEADLINE], abs=0.01)


def test_members_trained_for_one_arm_are_combined_in_others(
    path: Path, out: Path, tmp_path: Path
) -> None:
    tiny = path.with_name("tiny.toml")
    path.with_name("twin.toml").write_text(tiny.read_text().replace('"tiny"', '"twin"'))
    combine = path.with_name("combine.toml")
    combine.write_text(
        path.read_text().split("[arms")[0].replace('"tiny.toml"', '"tiny.toml", "twin.toml"')
        + """
        [arms.average]
        [arms.vote]
        serve.combine = "vote"
        """
    )
    runs = out.parent / "shared"
    shutil.copytree(out / "runs", runs)
    before = {run.name for run in runs.iterdir()}

    comparison = run_experiment(load_experiment(combine), tmp_path, runs=runs)

    assert [run.name.split("-")[0] for run in runs.iterdir() if run.name not in before] == ["twin"]
    alone = json.loads((out / "compare.json").read_text())["arms"]["bce+dice"]["results"][0]
    average, vote = (results[0] for results in comparison.results.values())
    # Twins have the same weights, so that neither way to combine them changes anything.
    assert average.curve == vote.curve == alone["curve"]
    for combined in (average, vote):
        assert combined.scores[HEADLINE] == pytest.approx(alone["scores"][HEADLINE], abs=1e-6)


def result(seed: int, dice: float, threshold: float = 0.5) -> Result:
    scores = dict.fromkeys(SHOWN, dice)
    return Result(seed, threshold, scores, {"mass": scores, "accra": scores}, {"0.50": dice})


@pytest.fixture
def comparison(path: Path) -> Comparison:
    """Results as they might stand after five of six: the last seed of the last arm is not done."""
    three = path.with_name("three.toml")
    three.write_text(EXPERIMENT + TURNED)
    comparison = Comparison(load_experiment(three), tiles=2)
    for arm, seed, dice in (
        ("bce+dice", 0, 0.5),
        ("dice", 0, 0.6),
        ("turned", 0, 0.4),
        ("bce+dice", 7, 0.7),
        ("dice", 7, 0.9),
    ):
        comparison = comparison.with_result(arm, result(seed, dice, threshold=dice))
    return comparison


def test_mean_and_spread_are_those_of_a_sample(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path)

    document = json.loads((tmp_path / "compare.json").read_text())
    arms = document["arms"]
    assert arms["dice"]["scores"][HEADLINE] == {
        "mean": pytest.approx(mean((0.6, 0.9))),
        "deviation": pytest.approx(stdev((0.6, 0.9))),
        "seeds": 2,
    }
    assert arms["turned"]["scores"][HEADLINE]["deviation"] is None
    assert arms["bce+dice"]["gain"] is None
    # Seed by seed: 0.6 - 0.5 and 0.9 - 0.7.
    assert arms["dice"]["gain"]["mean"] == pytest.approx(0.15)
    assert arms["dice"]["gain"]["deviation"] == pytest.approx(stdev((0.1, 0.2)))
    assert arms["turned"]["gain"]["mean"] == pytest.approx(-0.1)


def test_table_says_what_was_measured(comparison: Comparison) -> None:
    lines = comparison.markdown().splitlines()

    assert lines[0] == "# Loss & luck"
    header = next(line for line in lines if line.startswith("| arm |")).strip("| ").split(" | ")
    assert header[:4] == ["arm", "seeds", "gain", HEADLINE]
    for arm, first in (
        ("bce+dice", ["2", "–", "0.600\xa0±\xa00.141"]),
        ("dice", ["2", "+0.150\xa0±\xa00.071", "0.750\xa0±\xa00.212"]),
        ("turned", ["1", "-0.100", "0.400"]),
    ):
        line = next(line for line in lines if line.startswith(f"| {arm} |"))
        cells = line.strip("| ").split(" | ")
        assert cells[1:4] == first
        assert len(cells) == len(header)
    assert f"| {HEADLINE} | mass | accra |" in lines
    assert "(0, 7)" in comparison.how()
    assert "8 samples" in comparison.how()  # 2 epochs x 2 steps x 2


def test_spread_of_one_seed_is_not_known() -> None:
    assert Spread.of([0.5]).text() == "0.500"
    assert Spread.of([0.5, 0.5]).text("+") == "+0.500\xa0±\xa00.000"


def test_page_is_self_contained(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison(comparison, tmp_path)

    page = (tmp_path / "compare.html").read_text()
    assert "http" not in page
    assert not re.search(r"<script|<link|url\(", page)
    assert "<h1>Loss &amp; luck</h1>" in page
    assert page.count("data:image/png") == 2
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "compare.md").read_text() == comparison.markdown()
    for cell in ("bce+dice", "+0.150\xa0±\xa00.071", "0.750\xa0±\xa00.212", "0.400"):
        assert f"<td>{cell}</td>" in page


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("[arms.dice]\n", "[arms.dice]\ntrainer.epochs = 3\n"), "the same samples to train on"),
        (("[arms.dice]\n", "[arms.dice]\ntrainer.seed = 3\n"), "arm dice sets trainer.seed"),
        (("[arms.dice]\n", '[arms.dice]\ndata.validation = ["train"]\n'), "the same tiles"),
        (('data.validation = ["val"]\n', ""), "names no tiles to score on"),
        (('optimizer.loss = "dice"', ""), r"arms bce\+dice and dice are the same"),
        (('optimizer.loss = "dice"', 'serve.tts = "flips"'), "serve.tts"),
        (("[arms.dice]\noptimizer.loss", "[arms.dice]\noptimiser.loss"), "optimiser"),
        (('loss = "dice"', 'loss = "hinge"'), "optimizer.loss"),
        (("[0, 7]", "[7, 7]"), "seeds must differ"),
        (("[0, 7]", "[]"), "seeds"),
        (('["tiny.toml"]', '["tiny.toml", "tiny.toml"]'), "the same member name"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_training(
    path: Path, change: tuple[str, str], complaint: str
) -> None:
    text = EXPERIMENT.replace(*change)
    assert text != EXPERIMENT
    broken = path.with_name("broken.toml")
    broken.write_text(text)

    with pytest.raises(ValueError, match=complaint):
        load_experiment(broken)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_of_the_repository_can_be_read(path: Path) -> None:
    experiment = load_experiment(path)

    assert isinstance(experiment, Experiment)
    assert len(experiment.seeds) >= 2


@needs_data
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_arm_of_the_repository_has_tiles_to_train_on(path: Path) -> None:
    """A filter may leave a source nothing, and its weight then names tiles that are not there."""
    experiment = load_experiment(path, [f"data.root={DATA}"])
    runs = [run for arm in experiment.arms for run in arm.members]
    for data in {repr(run.data): run.data for run in runs}.values():
        assert TrainingSamples(data, AugmentConfig(), seed=0).tiles
