"""Train one network: Lightning runs the loop, this file says what a step is.

A run is a folder: `last.ckpt` (after every epoch), `best.ckpt` (highest validation Dice), and the
logs `csv/` and `tensorboard/`. Checkpoints carry the run's configuration.
"""

import logging
import math
import sys
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from app.segmentation.blending import blend
from app.segmentation.windows import plan_windows, read_patch
from training.checkpoints import load_checkpoint, load_weights
from training.config import PATCH_SIZE, OptimizerConfig, Precision, RunConfig
from training.data import WholeTiles, list_tiles
from training.depthwise import keep_depthwise_in_fp32
from training.losses import build_loss
from training.metrics import Counts, count
from training.network import DeepSupervision, SegmentationNetwork
from training.samples import SampleNumbers, TrainingSamples
from training.teacher import Teacher

logger = logging.getLogger(__name__)

_THRESHOLDS = np.arange(0.2, 0.81, 0.05)
"""Where validation looks for the best threshold; export fits it anew on the whole ensemble."""


class TrainingRun(LightningModule):
    """A network, its loss and its schedule."""

    def __init__(self, config: RunConfig) -> None:
        """Build the network of `config` from the run's seed."""
        super().__init__()
        self.config = config
        torch.manual_seed(config.trainer.seed)
        self.network = SegmentationNetwork(config.network)
        if config.trainer.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.trainer.precision == "bf16-mixed" and not torch.cuda.is_available():
            keep_depthwise_in_fp32(self.network)
        self.loss = build_loss(config.optimizer.loss)
        self.deep_supervision = (
            DeepSupervision(self.network.deepest_channels, config.optimizer.deep_supervision)
            if config.optimizer.deep_supervision
            else None
        )
        self.teacher = Teacher(config.teacher) if config.teacher.checkpoints else None
        self.validated: list[list[Counts]] = []

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Make dropout a function of seed and step, so that a resumed run repeats it."""
        options = self.config.trainer
        step = self.current_epoch * options.steps_per_epoch + batch_idx
        torch.manual_seed((options.seed << 32) + step)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch of patches."""
        pixels, target = batch
        if self.teacher:
            target = self.teacher.target(pixels, target)
        features = self.network.encode(pixels)
        loss = self.loss(self.network.decode(features).float(), target)
        if self.deep_supervision:
            loss = loss + self.deep_supervision(self.loss, features[-1], target)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the previous validation."""
        self.validated = []

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Predict a whole tile along the served path's windows, and count at every threshold."""
        pixels, label = (array.cpu().numpy() for array in batch)
        probability = self.predict_tile(pixels)
        self.validated.append([count(probability >= t, label) for t in _THRESHOLDS])

    def predict_tile(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return probability float32 (H, W) for pixels uint8 (H, W, 3), without overlap."""
        height, width = pixels.shape[:2]
        grid = plan_windows(height, width, PATCH_SIZE, overlap=0)
        patches = torch.from_numpy(np.stack([read_patch(pixels, w, PATCH_SIZE) for w in grid]))
        predicted = (
            torch.sigmoid(self.network(batch.to(self.device)).float()).cpu().numpy()
            for batch in patches.split(self.config.trainer.batch_size)
        )
        bands = blend(grid, (patch[np.newaxis] for batch in predicted for patch in batch))
        return np.concatenate([band.members[0] for band in bands])

    def on_validation_epoch_end(self) -> None:
        """Log the highest micro Dice over the thresholds, and where it lies."""
        totals = torch.tensor(
            [
                [c.true_positives, c.false_positives, c.false_negatives]
                for c in (sum(column, Counts()) for column in zip(*self.validated, strict=True))
            ],
            dtype=torch.float64,
            device="cpu" if self.device.type == "mps" else self.device,
        )
        totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        dice = [Counts(*map(int, row)).dice for row in totals.tolist()]
        best = int(np.argmax(dice))
        self.log("val_dice_micro", dice[best], prog_bar=True)
        self.log("val_threshold", float(_THRESHOLDS[best]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser, and a schedule that steps with every optimiser step."""
        options, trainer = self.config.optimizer, self.config.trainer
        build = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
        optimizer = build(self.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        per_epoch = math.ceil(trainer.steps_per_epoch / trainer.accumulate)
        factor = partial(
            _lr_factor, options=options, per_epoch=per_epoch, steps=per_epoch * trainer.epochs
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the configuration into the checkpoint."""
        checkpoint["config"] = self.config.model_dump(mode="json")


def _lr_factor(step: int, *, options: OptimizerConfig, per_epoch: int, steps: int) -> float:
    """Return what the learning rate is multiplied with at an optimiser step."""
    if options.schedule == "step":
        return float(options.step_factor ** (step // per_epoch // options.step_epochs))
    warmup = max(1, round(options.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train(config: RunConfig, folder: Path, *, resume: bool = False, progress: bool = True) -> Path:
    """Train a network and return the path of its best checkpoint.

    With `resume`, the run in `folder` goes on after its last complete epoch, and ends as if it had
    never stopped; without a checkpoint there it starts from the beginning. `trainer.epochs` may
    differ from what the run began with: a cosine schedule is then stretched or squeezed to end
    with the new last epoch.

    Raises:
        FileExistsError: `folder` holds a run already and `resume` was not asked for.
        ValueError: data or configuration that can't be trained on, or a checkpoint of another
            configuration or, in `network.weights`, of another network.
        OSError: a checkpoint that the configuration names can't be read.
    """
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        raise FileExistsError(f"{folder} holds a run already: resume it or name another folder")
    config = _as_begun(last, config) if last.exists() else _with_precision(config, best_precision())
    options = config.trainer
    assert options.precision != "auto"
    if options.precision == "bf16-mixed" and best_precision() == "32-true":
        logger.warning(
            "this CPU has no bf16: %s takes 20 times as long as 32-true", options.precision
        )
    # A resumed run gets logs of its own beside the earlier ones, which CSVLogger would overwrite.
    loggers: list[Logger] = [
        CSVLogger(folder, name="csv", flush_logs_every_n_steps=20),
        TensorBoardLogger(folder, name="tensorboard"),
    ]
    trainer = Trainer(
        accelerator="auto",
        devices=options.devices,
        precision=options.precision,
        max_epochs=options.epochs,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=config.optimizer.gradient_clip or None,
        check_val_every_n_epoch=options.validate_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # SampleNumbers deals the samples out itself
        log_every_n_steps=20,
        logger=loggers,
        callbacks=_callbacks(config, folder, progress=progress),
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
    run = TrainingRun(config)
    if config.network.weights != "none" and not last.exists():
        start = Path(config.network.weights)
        try:
            load_weights(run.network, load_checkpoint(start))
        except RuntimeError as error:  # torch has no class of its own
            raise ValueError(f"{start} holds weights of another network: {error}") from error
    training, validation = _loaders(config, trainer)
    trainer.fit(
        run, training, validation, ckpt_path=last if last.exists() else None, weights_only=True
    )
    best = folder / "best.ckpt"
    return best if best.exists() else last


def best_precision() -> Precision:
    """Return the lowest precision in which this machine trains without emulating it."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    # torch has no public question for it; `get_cpu_capability` knows nothing of bf16.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


def _with_precision(config: RunConfig, precision: Precision) -> RunConfig:
    """Put a precision where the configuration leaves it open."""
    if config.trainer.precision != "auto":
        return config
    trainer = config.trainer.model_copy(update={"precision": precision})
    return config.model_copy(update={"trainer": trainer})


def _as_begun(checkpoint: Path, config: RunConfig) -> RunConfig:
    """Return the configuration to go on with: what a run began with, but for its length.

    Raises:
        ValueError: another configuration.
    """
    begun = RunConfig.model_validate(load_checkpoint(checkpoint)["config"])
    config = _with_precision(config, begun.trainer.precision)
    length = {"epochs": config.trainer.epochs}
    if config != begun.model_copy(update={"trainer": begun.trainer.model_copy(update=length)}):
        raise ValueError(f"{checkpoint} was written by another configuration: name another folder")
    return config


def _callbacks(config: RunConfig, folder: Path, *, progress: bool) -> list[Callback]:
    callbacks: list[Callback] = [
        LearningRateMonitor(),
        # Saved when an epoch ends, before a validation that might die: at most one epoch is lost.
        ModelCheckpoint(
            folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        ),
    ]
    if config.optimizer.ema:
        # A checkpoint then holds the average where the weights were, and the weights beside it.
        callbacks.append(EMAWeightAveraging(decay=config.optimizer.ema))
    if config.data.validation:
        score: dict[str, Any] = {"monitor": "val_dice_micro", "mode": "max"}
        callbacks.append(
            ModelCheckpoint(folder, filename="best", enable_version_counter=False, **score)
        )
        if config.trainer.patience:
            callbacks.append(EarlyStopping(patience=config.trainer.patience, **score))
    if progress:
        is_watched = sys.stdout.isatty()  # Lightning's bar is written there
        callbacks.append(TQDMProgressBar(refresh_rate=1) if is_watched else _EpochLines())
    return callbacks


class _EpochLines(ProgressBar):
    """In place of a bar, in a log: a line after each epoch."""

    def disable(self) -> None:
        """Do nothing: no process but the first writes lines."""

    def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
        self._began = perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, _: LightningModule) -> None:
        if trainer.is_global_zero:
            found = trainer.callback_metrics
            told = f"train_loss {found['train_loss_epoch']:.4f}"
            if self.total_val_batches:  # of this epoch: it may have had no validation
                told += f", val_dice_micro {found['val_dice_micro']:.4f}"
            epoch, seconds = trainer.current_epoch + 1, perf_counter() - self._began
            logger.info("epoch %d of %d: %s, %.0f s", epoch, trainer.max_epochs, told, seconds)


def _loaders(
    config: RunConfig, trainer: Trainer
) -> tuple[DataLoader[tuple[Tensor, Tensor]], DataLoader[tuple[Tensor, Tensor]] | None]:
    options = config.trainer
    world = trainer.world_size
    samples = TrainingSamples(config.data, config.augment, options.seed)
    if not config.teacher.checkpoints:
        samples.check_taught()
    per_epoch = options.steps_per_epoch * options.batch_size * world
    training = DataLoader(
        samples,
        batch_size=options.batch_size,
        sampler=SampleNumbers(per_epoch, rank=trainer.global_rank, world=world),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if options.workers else None,
    )
    tiles = [t for path in config.data.validation for t in list_tiles(config.data.root / path)]
    if not tiles:
        return training, None
    validation = DataLoader(
        WholeTiles(tiles[trainer.global_rank :: world]), batch_size=None, num_workers=0
    )
    return training, validation
