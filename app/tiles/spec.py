"""The operator's description of the imagery of live tiles."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..documents import read_json
from ..errors import InvalidOption
from ..imaging.choices import MAX_SHARPEN, parse_rescale, parse_rgb

MAX_ZOOM = 24

_HOST = re.compile(r"https?://[^/?#\s{}]+(/|$)")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class TileSource(BaseModel):
    """Imagery for live tiles. Its address is the operator's, and never a client's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str
    """A GeoTIFF by its path or its http(s) address, or a template with {z}, {x} and {y} or {-y}."""
    attribution: str = ""
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; None: all of the GeoTIFF, or of the world."""
    min_zoom: int = Field(0, ge=0, le=MAX_ZOOM)
    max_zoom: int = Field(MAX_ZOOM, ge=0, le=MAX_ZOOM)
    """Zooms that a template's server has."""
    rgb: str | None = None
    rescale: str | None = None
    sharpen: int | None = Field(None, ge=0, le=MAX_SHARPEN)
    """As the parameters of a request: the same for all tiles."""

    @property
    def is_template(self) -> bool:
        """Whether `url` is a template of another server's tiles, such as `…/{z}/{x}/{y}.png`."""
        return "{" in self.url

    @property
    def is_remote(self) -> bool:
        """Whether `url` is an address on a web server."""
        return "://" in self.url

    @model_validator(mode="before")
    @classmethod
    def _url_alone(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        names = sorted(_PLACEHOLDER.findall(url))
        if url.startswith("/vsi"):
            raise ValueError("must be a path or an http(s) address, not a name of GDAL's")
        if "://" in url or names:
            if not _HOST.match(url):
                raise ValueError("must begin with http:// or https:// and a host, or be a path")
            if names and names not in (["x", "y", "z"], ["-y", "x", "z"]):
                raise ValueError("must have each of {z}, {x} and {y} or {-y} once")
        elif not Path(url).is_file():
            raise ValueError("must be a file that is there, or an address")
        return url

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            parse_rgb(self.rgb)
            parse_rescale(self.rescale)
        except InvalidOption as error:
            raise ValueError(str(error)) from error
        if self.min_zoom > self.max_zoom:
            raise ValueError(f"min_zoom {self.min_zoom} exceeds max_zoom {self.max_zoom}")
        if self.bounds is not None:
            west, south, east, north = self.bounds
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ValueError("bounds must be west, south, east, north in degrees")
        return self


def parse_sources(value: object) -> dict[str, object]:
    """Read sources by name, from JSON or an object; `TileSource` reads each.

    Raises:
        ValueError: it is no such object, or a name is not allowed.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except ValueError as error:
            raise ValueError(f"it is not JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError('must be an object of names, such as {"city": "/data/city.tif"}')
    for name in value:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} can't name a source: use up to 64 letters, digits, - and _")
    return value
