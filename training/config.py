"""What a training run is made of: one TOML file per network, any value overridden by `--set`.

A checkpoint carries its `RunConfig`, so that resuming, exporting and the model card need no file
but the checkpoint itself.
"""

import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import refusal

S = TypeVar("S", bound="Section")

PATCH_SIZE = 224
"""Side of a patch in pixels: what the networks train on and what the service cuts images into."""

Share = Annotated[float, Field(ge=0, le=1)]

Labels = Literal["complete", "shifted", "incomplete", "weak", "empty", "none"]
"""How far the label of a tile is to be trusted; `training/labels.py` says what follows from it."""


class Section(BaseModel):
    """Settings of one kind: read once, and no name goes unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Section):
    """Which segmentation_models_pytorch network, and where its encoder's weights come from."""

    architecture: Literal["PSPNet", "DeepLabV3Plus", "Unet", "FPN"]
    encoder: str
    encoder_weights: str = "none"
    """`none` (from scratch), `imagenet`, or the path of a state dict. ImageNet weights of
    `timm-tf_efficientnet_lite0`, `1` and `2` come from packages (extra `pretrained`), others are
    downloaded by timm."""
    size: int = Field(PATCH_SIZE, ge=32, le=4 * PATCH_SIZE, multiple_of=32)
    """Pixels on each side at which the network sees a patch: a larger one is enlarged before the
    network and its answer is brought back, so that small buildings have more pixels."""
    served_size: int | None = Field(None, ge=32, le=4 * PATCH_SIZE, multiple_of=32)
    """The same once the network is trained: validated, asked as a teacher, exported. None: `size`.
    A network may do better on patches that are larger than those it learnt from."""
    dropout: Share = 0.0
    """Channel dropout before the segmentation head, on top of the architecture's own."""
    weights: str = "none"
    """What the whole network starts from: `none`, or the path of a checkpoint of the same network
    (fine-tuning). It goes before `encoder_weights`."""


class DataConfig(Section):
    """Where tiles come from and how often each source is drawn."""

    root: Path = Path("../shared/data")
    """What relative folders and CSV paths below are relative to."""
    folders: tuple[Path, ...] = ()
    """Folders with `images/` and `masks/`, the same file stem in both; without `masks/`, the labels
    of its tiles are `none`."""
    csv: tuple[Path, ...] = ()
    """CSV files with the columns `img_id,img_path,mask_rle` (row-major RLE, `-1` when empty)."""
    validation: tuple[Path, ...] = ()
    """Folders or CSV files for choosing epochs; never augmented."""
    source_weights: dict[str, float] = {}
    """Draw probability by group: a source (a tile's name up to its first `_`), or, for tiles whose
    labels are `empty`, `weak` or `none`, that word. Groups without a weight share what is left in
    proportion to their tiles."""
    labels: dict[str, Labels] = {}
    """How far the labels of a source are to be trusted; it goes before the column `labels` of
    `SOURCES.csv`. A source that neither names is `complete`."""
    edge_tolerance: int = Field(3, ge=0)
    """Pixels on either side of a `shifted` label's edges in which the label is not known."""
    without: tuple[str, ...] = ()
    """Patterns of tile names that are not trained on, such as `kampala_*`, to judge by them."""
    scenes: Share = 0.0
    """Share of samples that are procedural scenes; 1.0 needs no data at all."""
    min_building_fraction: Share = 0.0
    """Leave out training tiles with a smaller share of building pixels (the ancestor: 0.05)."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of each source's tiles that is trained on, for learning curves: the tiles of a smaller
    share are among those of a larger one."""
    gsd: float | None = Field(None, gt=0)
    """Metres per pixel around which most cuts of tiles of known GSD are made; the bundle says so,
    and the service enlarges coarser uploads to it. None: every tile as it is."""
    cache: bool = True
    """Keep decoded tiles in memory."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, values: object) -> object:
        """Read what bundles up to rooftrace-7 say: `unlabelled` named sources without labels."""
        if isinstance(values, Mapping) and "unlabelled" in values:
            values = dict(values)
            values["labels"] = dict.fromkeys(values.pop("unlabelled"), "none")
        return values


class AugmentConfig(Section):
    """How a training patch is cut from its tile and disturbed."""

    recipe: Literal["crop_nonempty", "resized_crop", "aerial", "any_light"] = "aerial"
    soft_edge: float = Field(0.0, ge=0)
    """Standard deviation, in pixels, of a blur of the labels, for footprints whose edges are known
    no better than that; 0: edges are sharp. Not for `ce+lovasz`, which needs whole labels."""


class OptimizerConfig(Section):
    """Loss, optimiser and learning-rate schedule."""

    loss: Literal["focal+dice", "bce", "dice", "bce+dice", "ce+lovasz", "bce+dice+boundary"] = (
        "bce+dice"
    )
    deep_supervision: float = Field(0.0, ge=0)
    """Weight of the same loss on what a single convolution makes of the encoder's deepest features
    (Zhao et al., "Pyramid scene parsing network", CVPR 2017, section 3.3, takes 0.4); 0: none. It
    is not exported."""
    name: Literal["adam", "adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["step", "cosine"] = "cosine"
    """`step`: lr × `step_factor` every `step_epochs` epochs. `cosine`: linear warm-up, then half a
    cosine down to zero over the whole run."""
    step_epochs: int = Field(10, ge=1)
    step_factor: float = Field(0.1, gt=0, le=1)
    warmup: Share = 0.05
    """Share of all steps over which a cosine schedule warms up."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay, per step, of an exponential moving average of the weights, which is then validated
    and kept in the weights' place; 0: the weights themselves."""
    gradient_clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 switches clipping off."""


class TeacherConfig(Section):
    """Trained networks whose answers a network learns beside the labels, or in their place.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, at temperature 1.
    """

    checkpoints: tuple[Path, ...] = ()
    """Networks of any architecture; the mean of their probabilities is the answer. (): no teacher.
    They see the patch that the network sees, disturbed as it is."""
    share: Share = 0.5
    """Share of the answer in the target where the label is known; the label has the rest."""


Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]


class TrainerConfig(Section):
    """How long, on what, and how exactly repeatable."""

    seed: int = 0
    epochs: int = Field(50, ge=1)
    steps_per_epoch: int = Field(100, ge=1)
    batch_size: int = Field(16, ge=2)
    """Samples per step and device; batch normalisation needs at least two."""
    accumulate: int = Field(1, ge=1)
    precision: Precision = "auto"
    """Lightning's; auto: bf16-mixed where the GPU or the CPU computes in bf16 by itself, else
    16-mixed on a GPU and 32-true on a CPU. A run's checkpoints say which it was."""
    devices: int | Literal["auto"] = "auto"
    channels_last: bool = True
    workers: int = Field(1, ge=0)
    validate_every: int = Field(1, ge=1)
    """Epochs between two passes over the validation tiles."""
    patience: int = Field(0, ge=0)
    """Validations without a better Dice until the run stops early; 0: never (the ancestor: 5)."""


class RunConfig(Section):
    """One training run."""

    member: Annotated[str, Field(pattern=r"^[a-z0-9_+-]+$")]
    """The name of the trained network in the ensemble."""
    network: NetworkConfig
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: TeacherConfig = TeacherConfig()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _targets_suit_the_loss(self) -> Self:
        if self.teacher.checkpoints and self.optimizer.loss == "ce+lovasz":
            raise ValueError("ce+lovasz takes labels of 0 and 1: a teacher's answers lie between")
        return self


def load_config(
    path: Path, overrides: Iterable[str] = (), *, tables: Iterable[Mapping[str, Any]] = ()
) -> RunConfig:
    """Read a run's TOML file and apply overrides such as `trainer.epochs=3`.

    An override's value is TOML; what is not valid TOML is taken as a string. `tables`, such as
    `{"trainer": {"epochs": 3}}`, are laid over the file before, one after the other.

    Raises:
        ValueError: an override without `=`, or a value that the configuration does not allow
            (the message names the field).
        OSError: the file can't be read.
    """
    document = read_toml(path)
    for table in tables:
        for section, values in table.items():
            document[section] = {**document.get(section, {}), **deepcopy(dict(values))}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(
                f"override {override!r} has no '='; write for example trainer.epochs=3"
            )
        *sections, name = key.strip().split(".")
        table = document
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = _toml_value(text.strip())
    return validated(RunConfig, document, path)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ValueError: it is not TOML.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        try:
            return tomllib.load(file)
        except ValueError as error:  # not TOML, or not UTF-8
            raise ValueError(f"{path} is not TOML: {error}") from error


def validated(model: type[S], document: Mapping[str, Any], path: Path) -> S:
    """Return what a TOML file configures.

    Raises:
        ValueError: a value that the configuration does not allow, with its name.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {refusal(name, first)}") from error


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
