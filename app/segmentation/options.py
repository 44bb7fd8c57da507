"""The options of a client: one model for query parameters, command-line flags and the reference.

`InferenceOptions` decide probabilities, `ResultOptions` what is made of these. Masks need
`MaskOptions` of the latter alone, and live tiles `TileOptions`. The other classes join both kinds.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ..errors import InvalidOption, refusal
from ..imaging.choices import MAX_GSD, MAX_SHARPEN, MIN_GSD, Decoding, parse_rescale, parse_rgb

MAX_OVERLAP = 0.75
"""Largest share of a patch that neighbours may share: at 0.75 each pixel is predicted 16 times."""
Tta = Literal["none", "flips", "d4"]
Combine = Literal["average", "vote"]
Resample = Literal["auto", "off"]
Switch = Literal["on", "off"]
PixelOrder = Literal["row", "column"]
"""`row`: left to right, then down. `column`: top to bottom, then right."""
Rectify = Literal["none", "orthogonal"]
RasterBand = Literal["mask", "probability", "disagreement"]
Background = Literal["transparent", "opaque"]


def _parse_models(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = _split(text)
    if len(set(names)) < len(names) or not all(names):
        raise InvalidOption(f"models must name each member once and at least one, got {text!r}.")
    return names


def _parse_bands(text: str) -> tuple[RasterBand, ...]:
    names, known = _split(text), {str(name): name for name in get_args(RasterBand)}
    if unknown := [name for name in names if name not in known]:
        raise InvalidOption(f"bands must be among {', '.join(known)}, got {', '.join(unknown)}.")
    if names[0] != "mask" or len(set(names)) < len(names):
        raise InvalidOption(f"bands must begin with mask and name each once, got {text!r}.")
    return tuple(known[name] for name in names)


def _split(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_READERS: dict[str, Callable[..., object]] = {
    "models": _parse_models,
    "rgb": parse_rgb,
    "rescale": parse_rescale,
    "bands": _parse_bands,
}
"""Options that stay text, and the functions that check it."""


class _Parsed(BaseModel):
    """Base of all options: text that is checked by `_READERS`, and no unknown names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator(*_READERS, check_fields=False)
    @classmethod
    def _is_readable(cls, text: str | None, info: ValidationInfo) -> str | None:
        _READERS[str(info.field_name)](text)
        return text

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return the options of a mapping from names to values.

        Raises:
            InvalidOption: an unknown name, or a value out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise InvalidOption(f"{name} is not an option; there are {known}.") from error
            raise InvalidOption(f"{refusal(name, first)}.") from error


class InferenceOptions(_Parsed):
    """Options that decide probabilities: a finished job keeps these."""

    overlap: float = Field(0.25, ge=0, le=MAX_OVERLAP, examples=[0.5])
    """Share of a patch that neighbours share. Overlapping probabilities are blended, so no seam
    shows. The cost grows with 1 / (1 - overlap)²."""
    tta: Tta = Field("none", examples=["flips"])
    """Test-time augmentation, averaged: `flips` costs 4 times as much, `d4` 8."""
    models: str | None = Field(None, examples=["unet,pspnet"])
    """Comma-separated names of the members to ask, as `GET /models` and `rooftrace models` list
    them. Their weights are renormalised. Default: all."""
    combine: Combine = Field("average", examples=["vote"])
    """`average`: weighted mean of the probabilities. `vote`: strict majority of the thresholded
    members."""
    cascade: Switch = Field("on", examples=["off"])
    """`on`: the members that the bundle names decide a patch where they leave little doubt; the
    others are asked about the rest. `off`: all members decide every pixel, as they do with
    `models`, `tta`, `combine=vote` or an unusual `threshold`."""
    gsd: float | None = Field(None, ge=MIN_GSD, le=MAX_GSD, examples=[0.3])
    """Metres per pixel of the image. Default: what its georeference says."""
    resample: Resample = Field("auto", examples=["off"])
    """`auto`: with a known GSD, run the models at the GSD that they were trained at, and bring the
    result back to the image's grid. `off`: run them on the pixels as they are."""
    rgb: str | None = Field(None, examples=["3,2,1"])
    """Three band numbers, counted from 1: red, green and blue of the image. Default: the file's
    colour interpretation, else its band descriptions, else 1,2,3 with a notice."""
    rescale: str | None = Field(None, examples=["0,3000"])
    """`low,high` in the file's own samples: they become 0 and 255 before the models run. Or three
    such pairs for red, green and blue. Default: 8-bit samples as they are, corrected where the
    image has a colour cast or little contrast; deeper samples by the 2nd and 98th percentile of
    each band. A notice says what was done."""
    sharpen: int | None = Field(None, ge=0, le=MAX_SHARPEN, examples=[0])
    """Per cent of unsharp masking with a Gaussian of 1.5 pixels before the models run. Default: 0,
    or as much as a soft image needs, with a notice."""

    @property
    def members(self) -> tuple[str, ...] | None:
        """Names in `models`; None for all members."""
        return _parse_models(self.models)

    @property
    def decoding(self) -> Decoding:
        """The choices about decoding the image."""
        return {
            "rescale": parse_rescale(self.rescale),
            "sharpen": self.sharpen,
            "rgb": parse_rgb(self.rgb),
        }


class TileOptions(_Parsed):
    """Options that make buildings of probabilities: those of live tiles."""

    threshold: float | None = Field(None, gt=0, lt=1, examples=[0.5])
    """Probability at and above which a pixel is building. Default: the bundle's."""
    min_confidence: float | None = Field(None, ge=0, le=1, examples=[0.5])
    """A connected component whose mean probability is lower is no building; 0 keeps all. Default:
    the bundle's; 0 with `models`, with `combine=vote` or with a `threshold` below the bundle's."""
    min_area: float = Field(0.0, ge=0, examples=[20])
    """A smaller connected component is no building: in m² where the GSD is known, else in
    pixels."""


class MaskOptions(TileOptions):
    """Options that make a mask of probabilities."""

    order: PixelOrder = Field("row", examples=["column"])
    """Pixel order of run-length encodings: along rows, or down columns."""


class ResultOptions(MaskOptions):
    """Options that act on finished probabilities: those of the results of a job."""

    simplify: float = Field(0.0, ge=0, examples=[0.5])
    """Tolerance of simplified outlines: metres where the GSD is known, else pixels. No building is
    dropped."""
    rectify: Rectify = Field("none", examples=["orthogonal"])
    """`orthogonal`: square up the corners of outlines. An outline stays as it is where its IoU with
    the building's pixels would fall below 0.9."""
    bands: str = Field("mask", examples=["mask,probability,disagreement"])
    """Comma-separated bands of `geotiff`: `mask`, then `probability`, `disagreement` or both. These
    two are stored as 0 to 250, with a scale of 1 / 250."""
    background: Background = Field("transparent", examples=["opaque"])
    """`transparent`: `geotiff` has alpha as its last band, 0 where no building is, so that a map
    shows the imagery beneath. `opaque`: it has the `bands` alone."""

    @property
    def raster_bands(self) -> tuple[RasterBand, ...]:
        """Names in `bands`."""
        return _parse_bands(self.bands)


class BatchOptions(InferenceOptions, MaskOptions):
    """Options of `POST /segment/rle`."""


SCORED = tuple(name for name in BatchOptions.model_fields if name != "order")
"""Names of the options that decide a mask, as training scores it."""


class Options(BatchOptions, ResultOptions):
    """All options."""


def add_flags(parser: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Add a flag for each of these fields of `Options`; one that is left out is None.

    `Options` reads their values, so that a refusal has the words that it has over HTTP.
    """
    for name in names:
        field = Options.model_fields[name]
        kinds = get_args(field.annotation)
        choices = kinds if kinds and all(isinstance(kind, str) for kind in kinds) else None
        help = " ".join((field.description or "").split()).replace("`", "").replace("%", "%%")
        if field.default is not None:
            help += f" Default: {field.default}."
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            choices=choices,
            metavar=None if choices else name.upper(),
            help=help,
        )


def given_options(args: argparse.Namespace) -> Options:
    """Return the options that flags gave.

    Raises:
        InvalidOption: a value out of range.
    """
    given = {name: getattr(args, name, None) for name in Options.model_fields}
    return Options.parse({name: value for name, value in given.items() if value is not None})
