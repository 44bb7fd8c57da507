"""What an operator may change, and the only reader of the environment.

A number that belongs to the model (threshold, member weights, patch size) is in the bundle's
manifest, one that belongs to a request is a request parameter; neither is ever a setting.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from .errors import InvalidOption, SettingsError
from .imaging.choices import MAX_SHARPEN, parse_rescale, parse_rgb
from .runtime.choices import Backend, Device, Precision

PREFIX = "ROOFTRACE_"

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@*\s]+")

_HERE = Path(__file__).parent
_SHIPPED_BUNDLE = (
    # Inside the package where it is installed, beside it in a checkout.
    (_HERE if (_HERE / "models").is_dir() else _HERE.parent) / "models" / "rooftrace-9"
)

_HOST = re.compile(r"https?://[^/?#\s{}]+(/|$)")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BUCKET = re.compile(r"s3://[^/\s?#]+/[^\s?#]*[^/\s?#]/?")
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class TileSource(BaseModel):
    """Imagery for live tiles. Its address is the operator's, and never a client's."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str
    """A GeoTIFF by its path or its http(s) address, or a template with {z}, {x} and {y} or {-y}."""
    attribution: str = ""
    bounds: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; None: all of the GeoTIFF, or of the world."""
    min_zoom: int = Field(0, ge=0, le=24)
    max_zoom: int = Field(24, ge=0, le=24)
    """Zooms that a template's server has."""
    rgb: str | None = None
    rescale: str | None = None
    sharpen: int | None = Field(None, ge=0, le=MAX_SHARPEN)
    """As the parameters of a request: the same for all tiles."""

    @property
    def is_template(self) -> bool:
        """Whether it names the tiles of another server."""
        return "{" in self.url

    @property
    def is_remote(self) -> bool:
        """Whether it lies on a web server."""
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
            raise ValueError("url must be a path or an http(s) address, not a name of GDAL's")
        if "://" in url or names:
            if not _HOST.match(url):
                raise ValueError("url must begin with http:// or https:// and a host, or be a path")
            if names and names not in (["x", "y", "z"], ["-y", "x", "z"]):
                raise ValueError("url must have each of {z}, {x} and {y} or {-y} once")
        elif not Path(url).is_file():
            raise ValueError(f"there is no file {url!r}")
        return url

    @model_validator(mode="after")
    def _readable(self) -> Self:
        try:
            if self.rgb is not None:
                parse_rgb(self.rgb)
            if self.rescale is not None:
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


def _template(address: str) -> str:
    if missing := [name for name in ("{z}", "{x}", "{y}") if name not in address]:
        raise ValueError(f"{', '.join(missing)} is missing: tiles are asked for by z, x and y")
    if not re.fullmatch(r"(https?://[^\s/;,'\"]+)?/?[^\s:;,'\"]+", address):
        raise ValueError("it must be an https:// address or a path of this service")
    return address


class Settings(BaseSettings):
    """Environment variables with the prefix `ROOFTRACE_`, or lines of a `.env` file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,  # a limit of infinity is none
    )

    bundle: Path = Field(
        _SHIPPED_BUNDLE, description="folder with the ONNX files and manifest.json"
    )
    device: Device = Field(
        "auto",
        description="auto: the GPU if there is one, else the CPU; "
        "cuda or gpu: the GPU, or no start",
    )
    backend: Backend = Field(
        "auto",
        description="auto: OpenVINO on CPUs, if it is installed, else ONNX Runtime; "
        "onnxruntime or openvino: that one, or no start",
    )
    precision: Precision = Field(
        "auto",
        description="auto: the first of int8, bf16 and fp32 that the CPU has and that keeps the "
        "masks, by the manifest; fp32, bf16, int8 or fp16 (GPU): that one, or no start",
    )
    workers: PositiveInt | None = Field(
        None, description="CPU threads that predict, one patch each; unset: one per usable core"
    )
    gpu_batch: PositiveInt = Field(16, description="most patches that a GPU gets at once")
    cuda_graphs: bool = Field(False, description="experimental: let a GPU replay recorded batches")
    tensorrt: Path | None = Field(
        None,
        description="experimental: folder where TensorRT keeps its engines, which take minutes to "
        "build; unset: CUDA alone",
    )
    concurrency: PositiveInt | None = Field(
        None, description="requests that are worked on at once; unset: one more than `workers`"
    )
    engine: Literal["local", "ray"] = Field(
        "local",
        description="who predicts. local: this process; ray: replicas on a Ray cluster",
    )
    ray_address: str | None = Field(
        None,
        description="the Ray cluster, such as 10.0.0.5:6379, that has the application already; "
        "unset: begin one on this machine, and end it with the service",
    )
    replicas: PositiveInt = Field(2, description="least number of model replicas on Ray")
    max_replicas: PositiveInt | None = Field(
        None, description="most of them, while requests wait; unset: always `replicas`"
    )
    max_waiting: int = Field(32, ge=0, description="requests that may wait for their turn")
    max_upload_bytes: PositiveInt = Field(64 * 2**20, description="bytes of one request's body")
    max_pixels: PositiveInt = Field(100_000_000, description="pixels of one image")
    memory_budget: PositiveInt = Field(
        6 * 2**30, description="bytes that bodies and images may take at once, models not counted"
    )
    max_batch_files: PositiveInt = Field(64, description="files of one batch")
    api_keys: Path | None = Field(
        None, description="file with a key on each line, read again at SIGHUP; unset: none is asked"
    )
    rate_limit: PositiveFloat | None = Field(
        None, description="requests a minute of one client (key, else address); unset: any number"
    )
    jobs: Path | str = Field(
        Path("rooftrace-jobs"),
        description="folder where jobs are kept, which is made with the first job; or "
        "s3://BUCKET/PREFIX, with a database beside it",
    )
    database: SecretStr | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST/NAME: where jobs are noted, for several "
        "processes that share the folder of jobs; unset: SQLite in that folder, for one process",
    )
    job_budget: PositiveInt = Field(20 * 2**30, description="bytes on disk that jobs may take")
    job_retention: PositiveFloat = Field(
        7 * 86400.0, description="seconds that a job is kept after its end"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="origins whose pages may use the service, such as https://map.example.org, "
        "separated by commas; *: all; unset: none but its own",
    )
    public_url: str | None = Field(
        None,
        description="address of the service for its clients, such as https://example.org/roofs, "
        "where a proxy changes it; unset: the one that a request asks",
    )
    tile_sources: Annotated[dict[str, TileSource], NoDecode] = Field(
        {},
        description="imagery of live tiles, as JSON: a name, and a GeoTIFF's path or address or a "
        'template of tiles, such as {"city": "/data/city.tif"}; unset: none',
    )
    tile_cache: PositiveInt = Field(
        256 * 2**20, description="bytes of memory that keep live tiles and their imagery"
    )
    tile_max_age: PositiveFloat = Field(
        3600.0,
        description="seconds that live tiles and their imagery are kept, here and by clients",
    )
    tile_timeout: PositiveFloat = Field(
        10.0, description="seconds that the host of a tile source has to answer"
    )
    basemap: Annotated[str, AfterValidator(_template)] | None = Field(
        None,
        description="map tiles under the images on the page, such as "
        "https://tiles.example.org/{z}/{x}/{y}.png; unset: the page asks no other host",
    )
    basemap_attribution: str = Field("", description="what the page writes beside these tiles")
    header_timeout: PositiveFloat = Field(
        10.0, description="seconds for a request's headers to arrive"
    )
    receive_timeout: PositiveFloat = Field(60.0, description="seconds for a body to arrive")
    idle_timeout: PositiveInt = Field(
        5, description="seconds that a connection may be idle between requests"
    )
    deadline: PositiveFloat = Field(120.0, description="seconds for a request, from its arrival")
    drain_delay: float = Field(
        1.0, ge=0, description="seconds from a stop signal, unready, to the end of listening"
    )
    host: str = Field("127.0.0.1", description="address that `rooftrace serve` listens on")
    port: int = Field(8000, ge=0, le=65535, description="port that `rooftrace serve` listens on")
    log_format: Literal["text", "json"] = Field(
        "text", description="text: a line for a person; json: an object on a line for a machine"
    )
    traces: bool = Field(
        False, description="send OpenTelemetry traces to where OTEL_EXPORTER_OTLP_ENDPOINT says"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe kind of log line that is written"
    )

    @field_validator("device", mode="before")
    @classmethod
    def _gpu_is_cuda(cls, value: object) -> object:
        return "cuda" if value == "gpu" else value

    @field_validator("tile_sources", mode="before")
    @classmethod
    def _sources(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"it is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError('it must be an object of names, such as {"city": "/data/city.tif"}')
        for name in value:
            if not _SOURCE_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} can't name a source: use up to 64 letters, digits, - and _"
                )
        return value

    @field_validator("jobs", mode="before")
    @classmethod
    def _folder_or_bucket(cls, value: object) -> object:
        address = str(value)
        if "://" not in address:
            return Path(address)
        if not _BUCKET.fullmatch(address):
            raise ValueError("it must be a folder or s3://BUCKET/PREFIX")
        return address

    @field_validator("database")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith("postgresql://"):
            raise ValueError("it must begin with postgresql://")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", address):
            raise ValueError(f"{address!r} is no address: write https://host[:port][/path]")
        return address

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        """Take `a,b` and the JSON that pydantic-settings wants of other lists."""
        if not isinstance(value, str):
            return value
        names = json.loads(value) if value.startswith("[") else value.split(",")
        origins = tuple(name.strip().lower().rstrip("/") for name in names)
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin: write scheme://host[:port], or *")
        return origins


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`; `overrides` go before both.

    Raises:
        SettingsError: a value that a setting does not allow, or a variable with our prefix that
            is no setting: a misspelt limit must not be silently without effect.
    """
    sources = (EnvSettingsSource(Settings), DotEnvSettingsSource(Settings))
    for variable in (name.upper() for source in sources for name in source.env_vars):
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in Settings.model_fields:
            meant = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = "`rooftrace settings` lists them"
            if meant:
                hint = f"did you mean {PREFIX}{meant[0].upper()}?"
            raise SettingsError(f"{variable} is not a setting: {hint}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = map(str, first["loc"])
        variable = ".".join([PREFIX + name.upper(), *inside])
        came = "…" if name == "database" else repr(first["input"])  # it has a password
        raise SettingsError(f"{variable}={came}: {first['msg']}") from error
