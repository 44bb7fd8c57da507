"""The operator's settings. No other module takes a choice from the environment.

A number that belongs to the model (threshold, member weights, patch size) is in the bundle's
manifest. One that belongs to a request is a request parameter. Neither is ever a setting.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from .choices import Engine, LogFormat, LogLevel
from .errors import SettingsError, refusal
from .runtime.choices import Backend, Device, Precision
from .tiles.spec import TileSource, parse_sources

PREFIX = "ROOFTRACE_"

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#@*\s]+")

_HERE = Path(__file__).parent
_SHIPPED_BUNDLE = (
    # Inside the package where it is installed, beside it in a checkout.
    (_HERE if (_HERE / "models").is_dir() else _HERE.parent) / "models" / "rooftrace-11"
)

_BUCKET = re.compile(r"s3://[^/\s?#]+/[^\s?#]*[^/\s?#]/?")


def _gpu_is_cuda(value: object) -> object:
    return "cuda" if value == "gpu" else value


def _folder_or_bucket(value: object) -> object:
    address = str(value)
    if "://" not in address:
        return Path(address)
    if not _BUCKET.fullmatch(address):
        raise ValueError("must be a folder or s3://BUCKET/PREFIX")
    return address


def _postgresql(address: SecretStr) -> SecretStr:
    if not address.get_secret_value().startswith("postgresql://"):
        raise ValueError("must begin with postgresql://")
    if address.get_secret_value().count("@") > 1:
        # A part of the password would be taken for the host, and named in the log.
        raise ValueError("must have every @ but that before the host as %40")
    return address


def _origins(value: object) -> object:
    """Take `a,b` and the JSON that pydantic-settings wants of other lists."""
    if not isinstance(value, str):
        return value
    names = json.loads(value) if value.startswith("[") else value.split(",")
    origins = tuple(name.strip().lower().rstrip("/") for name in names)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is not an origin: write scheme://host[:port], or *")
    return origins


def _address(address: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", address):
        raise ValueError("must be an address, https://host[:port][/path]")
    return address


def _template(address: str) -> str:
    if missing := [name for name in ("{z}", "{x}", "{y}") if name not in address]:
        raise ValueError(f"must have {', '.join(missing)} too: tiles are asked for by z, x and y")
    if not re.fullmatch(r"(https?://[^\s/;,'\"]+)?/?[^\s:;,'\"]+", address):
        raise ValueError("must be an https:// address or a path of this service")
    return address


class Settings(BaseSettings):
    """Environment variables with the prefix `ROOFTRACE_`, or lines of a `.env` file.

    `rooftrace settings` prints the text below a setting as its meaning.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,  # a limit of infinity is none
        use_attribute_docstrings=True,
    )

    bundle: Path = _SHIPPED_BUNDLE
    """folder with the ONNX files and manifest.json"""
    device: Annotated[Device, BeforeValidator(_gpu_is_cuda)] = "auto"
    """auto: the GPU if there is one, else the CPU; cuda or gpu: the GPU, or no start"""
    backend: Backend = "auto"
    """auto: OpenVINO on CPUs, if it is installed, else ONNX Runtime; onnxruntime or openvino:
    that one, or no start"""
    precision: Precision = "auto"
    """auto: the first of int8, bf16 and fp32 that the CPU has and that keeps the masks, by the
    manifest; fp32, bf16, int8 or fp16 (GPU): that one, or no start"""
    workers: PositiveInt | None = None
    """CPU threads that predict, one patch each; unset: one per usable core"""
    gpu_batch: PositiveInt = 16
    """most patches that a GPU gets at once"""
    cuda_graphs: bool = False
    """experimental: let a GPU replay recorded batches"""
    tensorrt: Path | None = None
    """experimental: folder where TensorRT keeps its engines, which take minutes to build;
    unset: CUDA alone"""
    concurrency: PositiveInt | None = None
    """requests that are worked on at once; unset: one more than `workers`"""
    engine: Engine = "local"
    """where models run. local: in this process; ray: in replicas on a Ray cluster"""
    ray_address: str | None = None
    """the Ray cluster, such as 10.0.0.5:6379, that has the application already; unset: begin
    one on this machine, and end it with the service"""
    replicas: PositiveInt = 2
    """least number of model replicas on Ray"""
    max_replicas: PositiveInt | None = None
    """most model replicas, while requests wait; unset: always `replicas`"""
    max_waiting: int = Field(32, ge=0)
    """requests that may wait for their turn"""
    max_upload_bytes: PositiveInt = 64 * 2**20
    """bytes of one request's body"""
    max_pixels: PositiveInt = 100_000_000
    """pixels of one image"""
    memory_budget: PositiveInt = 6 * 2**30
    """bytes that bodies, images and jobs may take at once, models not counted"""
    max_batch_files: PositiveInt = 64
    """files of one batch"""
    api_keys: Path | None = None
    """file with a key on each line, read again at SIGHUP; unset: no key is needed"""
    rate_limit: PositiveFloat | None = None
    """requests a minute of one client (key, else address); unset: any number"""
    jobs: Annotated[Path | str, BeforeValidator(_folder_or_bucket)] = Path("rooftrace-jobs")
    """folder where jobs are kept, which is made with the first job; or s3://BUCKET/PREFIX, with
    a database beside it"""
    database: Annotated[SecretStr, AfterValidator(_postgresql)] | None = None
    """postgresql://USER:PASSWORD@HOST/NAME: the table of jobs, for several processes that share
    the folder or bucket of jobs; unset: SQLite in the folder, for one process"""
    job_budget: PositiveInt = 20 * 2**30
    """bytes on disk that jobs may take"""
    job_retention: PositiveFloat = 7 * 86400.0
    """seconds that a job is kept after its end"""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    """origins whose pages may use the service, such as https://map.example.org, separated by
    commas; *: all; unset: none but its own"""
    public_url: Annotated[str, AfterValidator(_address)] | None = None
    """address of the service for its clients, such as https://example.org/roofs, where a proxy
    changes it; unset: the one that a request asks"""
    tile_sources: Annotated[dict[str, TileSource], NoDecode, BeforeValidator(parse_sources)] = {}
    """imagery of live tiles, as JSON: a name, and a GeoTIFF's path or address or a template of
    tiles, such as {"city": "/data/city.tif"}; unset: none"""
    tile_cache: PositiveInt = 256 * 2**20
    """bytes of memory that keep live tiles and their imagery"""
    tile_max_age: PositiveFloat = 3600.0
    """seconds that live tiles and their imagery are kept, here and by clients"""
    tile_timeout: PositiveFloat = 10.0
    """seconds that the host of a tile source has to answer"""
    basemap: Annotated[str, AfterValidator(_template)] | None = None
    """map tiles under the images on the page, such as
    https://tiles.example.org/{z}/{x}/{y}.png; unset: the page asks no other host"""
    basemap_attribution: str = ""
    """what the page writes beside these tiles"""
    header_timeout: PositiveFloat = 10.0
    """seconds for a request's headers to arrive"""
    receive_timeout: PositiveFloat = 60.0
    """seconds for a body to arrive"""
    idle_timeout: PositiveInt = 5
    """seconds that a connection may be idle between requests"""
    deadline: PositiveFloat = 120.0
    """seconds for a request, from its arrival"""
    drain_delay: float = Field(1.0, ge=0)
    """seconds from a stop signal, unready, to the end of listening"""
    host: str = "127.0.0.1"
    """address that `rooftrace serve` listens on"""
    port: int = Field(8000, ge=0, le=65535)
    """port that `rooftrace serve` listens on"""
    log_format: LogFormat = "text"
    """text: a line for a person; json: an object on a line for a machine"""
    traces: bool = False
    """send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT"""
    log_level: LogLevel = "info"
    """least severe kind of log line that is written"""

    @property
    def address(self) -> str:
        """Return host and port as a URL has them: an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`; `overrides` go before both; None is none.

    Raises:
        SettingsError: a value that a setting does not allow, or a variable with our prefix that
            is no setting: a misspelt limit would be ignored in silence.
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
        return Settings(**{k: value for k, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = map(str, first["loc"])
        variable = ".".join([PREFIX + name.upper(), *inside])
        shown = "…" if name == "database" else first["input"]  # it has a password
        raise SettingsError(refusal(variable, {**first, "input": shown})) from error
