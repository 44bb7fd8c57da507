"""What changes with the weights: the manifest that lies beside the ONNX files of a bundle.

`python -m training export` and `fit` write it; `training` assembles it in memory.
"""

import hashlib
import json
import math
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ..errors import BundleError, refusal
from .cascade import Cascade, Name

FILE_NAME = "manifest.json"

_MARGIN = 1.01  # a grid of 0.6 m in its projection may be 0.6002 m on the ground
_FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-][A-Za-z0-9_+.-]*\.onnx$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Lower = Literal["bf16", "int8"]
"""Precisions below fp32."""


class _Model(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    pass


class Parity(_Model):
    """How far ONNX Runtime's probabilities lay from torch's when the member was exported."""

    max_abs_difference: NonNegativeFloat
    patches: PositiveInt
    tolerance: PositiveFloat

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.max_abs_difference > self.tolerance:
            raise ValueError(
                f"the difference {self.max_abs_difference} exceeds the tolerance {self.tolerance}"
            )
        return self


class Calibration(_Model):
    """The range of each convolution's input, which a member needs to compute in int8.

    `ranges` holds the lowest and the highest value that count, by the tensor's name in the ONNX
    file; `calibrated_on` names the patches that they were measured on.
    """

    ranges: Annotated[dict[str, tuple[float, float]], Field(min_length=1)]
    calibrated_on: str

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for tensor, (low, high) in self.ranges.items():
            if low >= high:
                raise ValueError(f"the range of {tensor} is empty: {low} to {high}")
        return self


class Member(_Model):
    """One network of the ensemble: its file, its share, and how well it does alone.

    `int8` is None if it is not to be computed in int8: too little gained, or too much lost.
    """

    name: Name
    architecture: str
    encoder: str
    file: _FileName
    sha256: _Sha256
    bytes: PositiveInt
    weight: PositiveFloat
    parity: Parity
    metrics: dict[str, float]
    int8: Calibration | None = None


class Threshold(_Model):
    """The probability at and above which a pixel is building, and how it was chosen.

    A connected component whose mean probability lies below `min_confidence` is no building; 0: all
    are.
    """

    value: Annotated[float, Field(gt=0, lt=1)]
    min_confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    chosen_by: str


class GsdRange(_Model):
    """The GSD that the members were trained at, in metres per pixel.

    With a `reference`, members are shown imagery of known GSD at a GSD from `min` to `reference`:
    coarser imagery is enlarged, finer shrunk. None if they are shown every image as it is.
    """

    min: PositiveFloat
    max: PositiveFloat
    reference: PositiveFloat | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} exceeds max {self.max}")
        if self.reference is not None and not self.min <= self.reference <= self.max:
            raise ValueError(f"reference {self.reference} lies outside {self.min} to {self.max}")
        return self

    def knows(self, gsd: float) -> bool:
        """Tell whether the members were trained at a GSD in metres per pixel, or nearly."""
        return self.min / _MARGIN <= gsd <= self.max * _MARGIN

    def shown(self, gsd: float) -> float:
        """Return the GSD at which members are shown imagery of `gsd` metres per pixel."""
        if self.reference is None:
            return gsd
        if gsd >= self.max:  # enlarged more than in training, it would cost more and show no more
            return self.reference * (gsd / self.max)
        return max(self.min, min(gsd, self.reference))


class PrecisionCost(_Model):
    """The effect of a precision below fp32 on the masks of `measured_on`.

    For int8, members that have no `int8` computed in bf16, as they are served.
    `dice_micro_change` is micro Dice less that in fp32, `agreement` the share of pixels on which
    the masks of both are the same, `iou` that of the one with the other over all pixels.
    """

    dice_micro_change: Annotated[float, Field(ge=-1, le=1)]
    agreement: Annotated[float, Field(ge=0, le=1)]
    iou: Annotated[float, Field(ge=0, le=1)]
    measured_on: str


class DataSource(_Model):
    """Imagery that the members were trained on, with its licence."""

    name: str
    licence: str
    images: PositiveInt
    gsd: str


class Negatives(_Model):
    """Tiles that surely have no building, and on how many of them the ensemble finds one.

    A component of 20 pixels or more is one. The last run of each network left these tiles out.
    """

    tiles: PositiveInt
    found: NonNegativeInt


class Evaluation(_Model):
    """Scores on labelled tiles on one day: of the ensemble, of each member, and by source.

    `splits` has the ensemble's on each of several splits, such as home and abroad.
    `threshold_curve` is the ensemble's micro Dice at other thresholds, by threshold, with each
    source counted alike; `held_out` that on each source with weights and threshold fitted to the
    other sources. In both, all members are asked, and a building needs no confidence. `negatives`
    are counted where they were named.
    """

    split: str
    date: date
    images: PositiveInt
    ensemble: dict[str, float]
    members: dict[str, dict[str, float]]
    sources: dict[str, dict[str, float]]
    splits: dict[str, dict[str, float]] = {}
    threshold_curve: dict[str, float] = {}
    held_out: dict[str, float] = {}
    negatives: Negatives | None = None


class Manifest(_Model):
    """Describe a bundle: which networks it holds, how they are combined, where they come from."""

    schema_version: Literal[1]
    name: Name
    created: AwareDatetime
    patch_size: PositiveInt
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    threshold: Threshold
    gsd: GsdRange
    cascade: Cascade | None = None
    precisions: dict[Lower, PrecisionCost] = {}
    sources: tuple[DataSource, ...]
    evaluation: Evaluation | None
    training: dict[str, dict[str, JsonValue]]
    checkpoints: dict[str, str] = {}
    """The file of its run that each member was exported from, such as `last.ckpt`."""
    refitted_from: str | None = None
    """Name of the bundle that the networks were exported to, where they were fitted anew."""
    joined: tuple[Name, ...] = ()
    """Members that were added then."""
    git_commit: str
    exporter: dict[str, str]

    @model_validator(mode="after")
    def _members_form_an_ensemble(self) -> Self:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError(f"member names must be unique, got {', '.join(names)}")
        total = math.fsum(member.weight for member in self.members)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the weights of the members must sum to 1, got {total:.7g}")
        if self.cascade:
            asked = self.cascade.members
            if len(set(asked)) < len(asked) or not set(asked) < set(names):
                raise ValueError(
                    f"cascade.stages must ask some of {', '.join(names)}, but not all, and each "
                    f"once, got {', '.join(asked)}"
                )
            low, high = self.cascade.doubt
            if not low <= self.threshold.value <= high:
                raise ValueError(
                    f"cascade.doubt must hold the threshold, {self.threshold.value}, "
                    f"got {low} to {high}"
                )
        if "int8" in self.precisions and not any(member.int8 for member in self.members):
            raise ValueError("precisions has int8, but no member has the ranges for it")
        return self

    @property
    def version(self) -> str:
        """Identify these contents: `<name>-<12 hex digits>`, the start of a SHA-256.

        The digest runs over the manifest's canonical JSON (keys sorted, no spaces), and so, by
        way of their own digests, over the weights. How the file is indented does not count, nor
        does a field that holds its default: a bundle keeps its version when fields are added here.
        """
        contents = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def load_manifest(bundle: Path) -> Manifest:
    """Read the manifest of the bundle in the folder `bundle`.

    Raises:
        BundleError: there is none, it is not JSON, or a field is missing, unknown or wrong.
    """
    path = bundle / FILE_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"{path} can't be read ({error.strerror}): a bundle is a folder with a {FILE_NAME} "
            "and its ONNX files. Name one with --bundle or ROOFTRACE_BUNDLE; without either, it is "
            "the one that comes with Rooftrace."
        ) from error
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        name = ".".join(map(str, first["loc"]))
        if not name and first["type"] != "value_error":
            name = "the document"
        more = f"; and {len(others)} more" if others else ""
        raise BundleError(
            f"{path} is not a valid manifest: {refusal(name, first)}{more}"
        ) from error
