"""What is compared with what: one TOML file, such as those in `training/experiments/`.

Arms are laid over the same base and train from the same seeds on as many samples; what can't be
compared is refused before anything is trained.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from app.segmentation.options import Combine, Options, Tta
from training.config import RunConfig, Section, load_config, read_toml, validated
from training.data import Tile, list_tiles

ArmName = Annotated[str, Field(pattern=r"^[\w.+% -]+$")]
_Value = TypeVar("_Value")


class ServeConfig(Section):
    """How a trained arm is served when it is scored."""

    combine: Combine = "average"
    tta: Tta = "none"
    overlap: float = Options().overlap
    tell_gsd: bool = False
    """Tell the GSD of a tile where it is known."""

    def options_at(self, threshold: float | None = None) -> Options:
        """Return what the segmenter is asked for."""
        return Options(
            threshold=threshold, overlap=self.overlap, tta=self.tta, combine=self.combine
        )


class Changes(Section):
    """What is laid over a run's configuration, section by section."""

    network: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    augment: dict[str, Any] = Field(default_factory=dict)
    optimizer: dict[str, Any] = Field(default_factory=dict)
    teacher: dict[str, Any] = Field(default_factory=dict)
    trainer: dict[str, Any] = Field(default_factory=dict)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return the sections alone, as `load_config` takes them."""
        return {name: getattr(self, name) for name in Changes.model_fields}


class ArmConfig(Changes):
    """One arm: what it changes, and how it is served.

    With several configurations in `base`, each trains a network, and these are served together.
    """

    base: tuple[Path, ...] = ()
    """In place of the experiment's."""
    serve: ServeConfig = ServeConfig()


class ExperimentConfig(Section):
    """The file; its paths are relative to its folder."""

    title: str
    question: str
    """What is asked, and why, in a sentence or two for the page."""
    base: tuple[Path, ...]
    """Configurations of runs, such as those in `training/configs/`."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    overrides: Changes = Changes()
    """What is laid over the base in all arms, such as the budget."""
    arms: Annotated[dict[ArmName, ArmConfig], Field(min_length=2)]
    """By name; the first is what the others are compared with."""


@dataclass(frozen=True)
class Arm:
    """One arm: the runs that it is made of, at any seed, and how it is served."""

    name: str
    members: tuple[RunConfig, ...]
    serve: ServeConfig

    def at(self, seed: int) -> tuple[RunConfig, ...]:
        """Return the runs of a seed."""
        return tuple(
            run.model_copy(update={"trainer": run.trainer.model_copy(update={"seed": seed})})
            for run in self.members
        )


@dataclass(frozen=True)
class Experiment:
    """Arms, the seeds that each of them is trained from, and the tiles that they are scored on.

    `samples` is what every network is trained on: steps x batch size.
    """

    title: str
    question: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    validation: tuple[Path, ...]
    samples: int

    def tiles(self) -> list[Tile]:
        """List the tiles to score on."""
        return [tile for path in self.validation for tile in list_tiles(path)]


def load_experiment(path: Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment; `overrides`, as `load_config` takes them, go for all arms.

    A run is not validated while it trains: nothing is chosen on the tiles that it is scored on but
    the threshold.

    Raises:
        ValueError: a value that the configuration does not allow, or arms that can't be compared:
            of other budgets, seeds or validation tiles, or two that are the same.
        OSError: a file can't be read.
    """
    config = validated(ExperimentConfig, read_toml(path), path)
    if len(set(config.seeds)) < len(config.seeds):
        raise ValueError(f"{path}: seeds must differ, got {list(config.seeds)}")
    overrides = list(overrides)
    full = {
        name: [
            load_config(
                path.parent / base,
                overrides,
                tables=(config.overrides.sections(), arm.sections()),
            )
            for base in arm.base or config.base
        ]
        for name, arm in config.arms.items()
    }
    for name, members in full.items():
        if "seed" in config.arms[name].trainer:
            raise ValueError(f"{path}: arm {name} sets trainer.seed; seeds are the experiment's")
        if len({one.member for one in members}) < len(members):
            raise ValueError(f"{path}: two networks of arm {name} have the same member name")
    samples = _the_same(path, full, "samples to train on", _samples)
    validation = _the_same(path, full, "tiles to validate on", _validation)
    if not validation:
        raise ValueError(f"{path}: data.validation names no tiles to score on")
    arms = tuple(
        Arm(name, tuple(_without_validation(one) for one in members), config.arms[name].serve)
        for name, members in full.items()
    )
    for one, other in combinations(arms, 2):
        if (one.members, one.serve) == (other.members, other.serve):
            raise ValueError(f"{path}: arms {one.name} and {other.name} are the same")
    return Experiment(config.title, config.question, config.seeds, arms, validation, samples)


def _samples(run: RunConfig) -> int:
    return run.trainer.epochs * run.trainer.steps_per_epoch * run.trainer.batch_size


def _validation(run: RunConfig) -> tuple[Path, ...]:
    return tuple(run.data.root / path for path in run.data.validation)


def _without_validation(run: RunConfig) -> RunConfig:
    return run.model_copy(update={"data": run.data.model_copy(update={"validation": ()})})


def _the_same(
    path: Path,
    arms: Mapping[str, Sequence[RunConfig]],
    what: str,
    read: Callable[[RunConfig], _Value],
) -> _Value:
    """Return the one value that all runs of all arms have.

    Raises:
        ValueError: they have several.
    """
    found = {read(one): name for name, members in arms.items() for one in members}
    if len(found) > 1:
        told = ", ".join(f"{value} in {name}" for value, name in found.items())
        raise ValueError(f"{path}: all arms must have the same {what}, got {told}")
    return next(iter(found))
