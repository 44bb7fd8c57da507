"""The whole loop on tiny scenes: it learns, it repeats, it survives being killed."""

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from training.checkpoints import load_checkpoint, load_network
from training.config import RunConfig, load_config
from training.samples import TrainingSamples
from training.train import TrainingRun, best_precision, train

bits_repeat = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a GPU's sums have no fixed order, so bits need not repeat"
)


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(path)["state_dict"]
    return state


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def epoch_losses(run: Path) -> list[str]:
    """Read the loss of each epoch, to the last digit."""
    with (run / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        return [row["train_loss_epoch"] for row in csv.DictReader(file) if row["train_loss_epoch"]]


@pytest.fixture(scope="module")
def config(tiny: Path) -> RunConfig:
    return load_config(tiny)


@pytest.fixture(scope="module")
def uninterrupted(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(config, folder, progress=False)
    return folder


def test_overfits_one_batch(config: RunConfig) -> None:
    run = TrainingRun(config)
    samples = TrainingSamples(config.data, config.augment, seed=0)
    pixels, label = default_collate([samples[n] for n in range(4)])
    optimizer = torch.optim.AdamW(run.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = run.loss(run.network(pixels), label)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.5 * losses[0]


@bits_repeat
def test_same_seed_repeats_the_run_and_another_does_not(
    config: RunConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    other = config.model_copy(update={"trainer": config.trainer.model_copy(update={"seed": 1})})

    train(config, tmp_path / "again", progress=False)
    train(other, tmp_path / "other", progress=False)

    losses = epoch_losses(uninterrupted)
    assert len(losses) == config.trainer.epochs
    assert epoch_losses(tmp_path / "again") == losses
    assert epoch_losses(tmp_path / "other") != losses
    assert_same_bits(
        weights(tmp_path / "again" / "last.ckpt"), weights(uninterrupted / "last.ckpt")
    )


@bits_repeat
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_killed_run_resumes_to_the_same_bits(tiny: Path, tmp_path: Path, ema: float) -> None:
    config = load_config(tiny, [f"optimizer.ema={ema}"])
    uninterrupted = train(config, tmp_path / "uninterrupted", progress=False)
    last = tmp_path / "killed" / "last.ckpt"
    command = [sys.executable, "-m", "training", "train", str(tiny), "--run", str(last.parent)]
    options = ["--set", f"optimizer.ema={ema}", "--quiet"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert load_checkpoint(last)["epoch"] < config.trainer.epochs - 1

    train(config, last.parent, resume=True, progress=False)

    assert load_checkpoint(last)["epoch"] == config.trainer.epochs - 1
    assert_same_bits(weights(last), weights(uninterrupted))


def test_a_moving_average_is_kept_in_place_of_the_weights(
    config: RunConfig, uninterrupted: Path, tmp_path: Path
) -> None:
    """The steps are those of the run without it, so its last weights are known."""
    averaging = config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"ema": 0.9})}
    )

    last = train(averaging, tmp_path, progress=False)

    stored = load_checkpoint(last)
    assert_same_bits(stored["current_model_state"], weights(uninterrupted / "last.ckpt"))
    name = next(name for name in stored["state_dict"] if name.endswith("conv_stem.weight"))
    distance = (stored["state_dict"][name] - stored["current_model_state"][name]).abs().max()
    assert 0 < distance < 0.1
    network, _ = load_network(last)
    assert torch.equal(
        network.state_dict()[name.removeprefix("network.")], stored["state_dict"][name]
    )


def test_depthwise_convolutions_stay_in_fp32_under_the_same_names(tiny: Path) -> None:
    in_bf16, in_fp32 = (
        TrainingRun(load_config(tiny, [f"trainer.precision={precision}"])).network
        for precision in ("bf16-mixed", "32-true")
    )
    computed: dict[str, torch.dtype] = {}
    for module in in_bf16.modules():
        if isinstance(module, torch.nn.Conv2d):
            kind = "depthwise" if module.groups > 1 else "dense"
            module.register_forward_hook(
                lambda _, __, output, kind=kind: computed.update({kind: output.dtype})
            )

    with torch.autocast("cpu", torch.bfloat16):
        in_bf16(torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8))

    assert computed == {"depthwise": torch.float32, "dense": torch.bfloat16}
    in_fp32.load_state_dict(in_bf16.state_dict(), strict=True)


def test_two_processes_train_one_network(tiny: Path, tmp_path: Path) -> None:
    """As two GPUs would: each takes its share of the samples, and gradients are averaged."""
    command = [sys.executable, "-m", "training", "train", str(tiny), "--run", str(tmp_path)]
    options = ["trainer.devices=2", "trainer.epochs=1", "trainer.steps_per_epoch=3"]
    more = ["trainer.accumulate=2", 'data.validation=["val"]']
    sets = [part for option in (*options, *more) for part in ("--set", option)]

    done = subprocess.run([*command, *sets, "--quiet"], capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert "All distributed processes registered. Starting with 2 processes" in done.stderr
    stored = load_checkpoint(tmp_path / "last.ckpt")
    assert stored["global_step"] == 2  # optimiser steps, of two batches and of the one left
    network, _ = load_network(tmp_path / "best.ckpt")
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_a_log_gets_a_line_for_each_epoch_and_no_bar(tiny: Path, tmp_path: Path) -> None:
    few = ["trainer.epochs=2", "trainer.steps_per_epoch=1", "trainer.validate_every=2"]
    arguments = [part for value in (*few, 'data.validation=["val"]') for part in ("--set", value)]
    command = [sys.executable, "-m", "training", "train", str(tiny), "--run", str(tmp_path / "run")]
    with (tmp_path / "log").open("w+", newline="") as log:  # as nohup has it
        subprocess.run([*command, *arguments], stdout=log, stderr=log, check=True)
        log.seek(0)
        written = log.read()

    assert "\r" not in written
    lines = [line for line in written.splitlines() if line.startswith("epoch ")]
    assert re.fullmatch(r"epoch 1 of 2: train_loss \d\.\d{4}, \d+ s", lines[0])
    scored = r"epoch 2 of 2: train_loss \d\.\d{4}, val_dice_micro \d\.\d{4}, \d+ s"
    assert re.fullmatch(scored, lines[1])
    assert len(lines) == 2


def test_precision_is_settled_once_for_a_run(tiny: Path, tmp_path: Path) -> None:
    options = ["trainer.precision=auto", "trainer.epochs=1", "trainer.steps_per_epoch=1"]
    last = train(load_config(tiny, options), tmp_path / "native", progress=False)
    assert load_checkpoint(last)["config"]["trainer"]["precision"] == best_precision()

    exact = load_config(tiny, [*options, "trainer.precision=32-true"])
    last = train(exact, tmp_path / "exact", progress=False)
    longer = load_config(tiny, [*options, "trainer.epochs=2"])
    stored = load_checkpoint(train(longer, last.parent, resume=True, progress=False))
    assert stored["config"]["trainer"]["precision"] == "32-true"
    assert stored["epoch"] == 1


def test_run_is_neither_overwritten_nor_continued_as_another(
    config: RunConfig, uninterrupted: Path
) -> None:
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(config, uninterrupted)
    other = config.model_copy(update={"member": "other"})
    with pytest.raises(ValueError, match="another configuration"):
        train(other, uninterrupted, resume=True)


def test_checkpoint_rebuilds_the_network_and_its_configuration(
    tiny: Path, checkpoint: Path
) -> None:
    network, config = load_network(checkpoint)

    assert config == load_config(tiny, ['data.validation=["val"]'])
    assert not network.training
    assert_same_bits(
        {f"network.{name}": value for name, value in network.state_dict().items()},
        weights(checkpoint),
    )


def test_checkpoint_with_a_weight_missing_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)
    del stored["state_dict"][next(iter(stored["state_dict"]))]
    torch.save(stored, tmp_path / "poorer.ckpt")

    with pytest.raises(RuntimeError, match="Missing key"):
        load_network(tmp_path / "poorer.ckpt")


def test_validation_keeps_the_best_epoch(checkpoint: Path) -> None:
    with (checkpoint.parent / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
        scores = [
            float(row["val_dice_micro"]) for row in csv.DictReader(file) if row["val_dice_micro"]
        ]

    assert checkpoint.name == "best.ckpt"
    assert len(scores) == 3
    assert load_checkpoint(checkpoint)["epoch"] == scores.index(max(scores))
