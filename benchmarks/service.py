"""Requests per second of whole services, side by side, over HTTP on this machine.

Every server is a process of its own on the same ONNX files; all are up, one is asked at a time, and
they take turns after every cell of the table. Clients are threads that ask again as soon as they
have their answer (a closed loop). Memory and processor time are those of the server's process and
its children.
"""

import argparse
import http.client
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, load_manifest
from app.segmentation.options import Options
from app.segmentation.windows import plan_windows
from app.settings import PREFIX, Settings
from benchmarks.imagery import Imagery, jpeg
from benchmarks.machine import Watch, load, own_seconds

ROOT = Path(__file__).parents[1]
_BOUNDARY = "rooftrace-benchmark"
_STARTS_WITHIN, _ANSWERS_WITHIN = 120, 600  # seconds
_PROBED_EVERY = 0.1  # seconds
EXACT_PATH = "/segment?cascade=off&min_confidence=0"
"""Where our service does all that the peers do, and no more."""
_MISSION = ("densenet161", "timm-mobilenetv3_large_100", "resnet50")
"""Encoders of the three networks that our speed is compared with."""
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Contender:
    """A service that takes part: how it is started, and where it answers health checks.

    Its command ends where the port follows.
    """

    name: str
    command: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)
    part: str = "file"
    """Name of the form's part that holds the image."""
    path: str = "/segment"
    """Where images go."""


@dataclass(frozen=True)
class Cell:
    """What is asked: `clients` threads send images of `size` x `size` pixels for `seconds`."""

    size: int
    clients: int
    seconds: float
    empty: float | None = None
    """Share of the image without a building, where it is a scene laid for that."""

    @property
    def label(self) -> str:
        """Name the cell in tables and plots."""
        empty = "" if self.empty is None else f", {self.empty:.0%} empty"
        return f"{self.size}²{empty}, {self.clients} client{'s' if self.clients > 1 else ''}"


SHORT = (
    Cell(512, 1, 5),
    Cell(512, 4, 6),
    Cell(512, 16, 20),
    Cell(224, 4, 3),
    Cell(1024, 4, 6),
    Cell(4096, 1, 0, empty=0.8),
)
FULL = (
    Cell(224, 1, 15),
    Cell(224, 16, 15),
    Cell(512, 1, 30),
    Cell(512, 4, 30),
    Cell(512, 16, 30),
    Cell(512, 64, 30),
    Cell(1024, 1, 30),
    Cell(1024, 4, 30),
    Cell(1024, 16, 30),
    Cell(4096, 1, 0),
    Cell(4096, 1, 0, empty=0.8),
)


def contenders(bundle: Path) -> list[Contender]:
    """List the services: ours in each precision, its fast lane, the peers.

    The fast lane is the cascade's first member alone. One FastAPI peer runs all members, another
    those with the encoders of `_MISSION`.
    """
    manifest = load_manifest(bundle)
    found = [rooftrace("Rooftrace fp32", bundle, EXACT_PATH, precision="fp32")]
    if find_spec("openvino") is not None:
        from app.runtime.capabilities import native_precisions

        native = native_precisions()
        if "bf16" in native:
            found.append(rooftrace("Rooftrace bf16", bundle, precision="bf16"))
        if "int8" in native and any(member.int8 for member in manifest.members):
            found.append(rooftrace("Rooftrace int8", bundle, precision="int8"))
    fast = manifest.cascade.members[0] if manifest.cascade else None
    if fast:
        found.append(rooftrace(f"Rooftrace {fast}", bundle, f"/segment?models={fast}"))
    found.append(_peer("FastAPI, def", "plain_fastapi", bundle))
    chosen = [member.name for member in manifest.members if member.encoder in _MISSION]
    if 0 < len(chosen) < len(manifest.members):
        name = f"FastAPI, {', '.join(chosen)}"
        found.append(_peer(name, "plain_fastapi", bundle, *chosen))
    if find_spec("litserve") is not None:
        # LitServe names the part after its function's argument.
        found.append(_peer("LitServe", "litserve_server", bundle, part="request"))
    return found


def rooftrace(name: str, bundle: Path, path: str = "/segment", **settings: str) -> Contender:
    """Describe our own service on the CPU, unless `settings` say otherwise.

    It turns nobody away: the peers have no limits.
    """
    command = [sys.executable, "-m", "app", "serve", "--bundle", str(bundle)]
    settings = {"max_waiting": "256", "deadline": "600", "device": "cpu", **settings}
    environment = {f"{PREFIX}{key.upper()}": value for key, value in settings.items()}
    return Contender(name, [*command, "--port"], "/health/live", environment, path=path)


def _peer(name: str, module: str, bundle: Path, *members: str, part: str = "file") -> Contender:
    command = [sys.executable, "-m", f"benchmarks.peers.{module}", str(bundle), *members]
    return Contender(name, command, "/health", part=part)


@dataclass
class Measured:
    """What the clients of one cell saw, and what the server took for it."""

    requests: int = 0
    wall_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds, of each request."""
    failures: list[str] = field(default_factory=list)
    server_seconds: float = 0.0
    client_seconds: float = 0.0
    peak_bytes: int = 0
    health_seconds: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    """Mean milliseconds of each stage, as `Server-Timing` has them."""

    def summary(self, cell: Cell, manifest: Manifest) -> dict[str, Any]:
        """Reduce to what the page shows; areas at the GSD that the models were trained at."""
        gsd = manifest.gsd.reference or manifest.gsd.min
        square_km = self.requests * (cell.size * gsd / 1000) ** 2
        p50, p95, p99 = np.percentile(self.latencies or [np.nan], [50, 95, 99]).tolist()
        return {
            **asdict(cell),
            "label": cell.label,
            "patches": len(
                plan_windows(cell.size, cell.size, manifest.patch_size, Options().overlap)
            ),
            "requests": self.requests,
            "failures": self.failures[:3],
            "failed": len(self.failures),
            "requests_per_second": self.requests / self.wall_seconds,
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "square_km_per_minute": 60 * square_km / self.wall_seconds,
            "processor_seconds_per_square_km": self.server_seconds / max(square_km, 1e-9),
            "peak_bytes": self.peak_bytes,
            "client_share": self.client_seconds / self.wall_seconds / (os.cpu_count() or 1),
            "health_p99": float(np.percentile(self.health_seconds or [np.nan], 99)),
            "stages": self.stages,
        }


class Server:
    """A contender that is up."""

    def __init__(self, contender: Contender, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.contender, self.port, self.process = contender, port, process
        self.start_seconds = 0.0

    def ask(self, connection: http.client.HTTPConnection, image: bytes) -> http.client.HTTPResponse:
        """Send an image in a form, as a browser does; the answer is still to be read."""
        part = f'form-data; name="{self.contender.part}"; filename="image.jpg"'
        head = f"--{_BOUNDARY}\r\nContent-Disposition: {part}\r\nContent-Type: image/jpeg\r\n\r\n"
        body = head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Accept": "image/png"}
        connection.request("POST", self.contender.path, body, kind)
        return connection.getresponse()

    def connect(self, timeout: float = _ANSWERS_WITHIN) -> http.client.HTTPConnection:
        """Open a connection, which is kept."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def is_up(self) -> bool:
        """Tell whether it answers its health check."""
        with closing(self.connect(timeout=2)) as connection:
            try:
                connection.request("GET", self.contender.health)
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def mask(self, image: bytes) -> NDArray[np.bool_]:
        """Ask once, and return the mask."""
        with closing(self.connect()) as connection:
            response = self.ask(connection, image)
            data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{self.contender.name}: {response.status} {data[:300]!r}")
        with PIL.Image.open(io.BytesIO(data)) as picture:
            mask: NDArray[np.bool_] = np.asarray(picture) == 255
        return mask


@contextmanager
def serving(contender: Contender) -> Iterator[Server]:
    """Start a contender, wait until it answers, and see to it that it ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [*contender.command, str(port)],
        env={**inherited, **_ENVIRONMENT, **contender.environment},
        cwd=ROOT / "models",  # no .env of somebody's
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = Server(contender, port, process)
    try:
        while not server.is_up():
            if process.poll() is not None or time.perf_counter() - started > _STARTS_WITHIN:
                raise RuntimeError(f"{contender.name} does not start: {contender.command}")
            time.sleep(0.05)
        server.start_seconds = time.perf_counter() - started
        yield server
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children, by their own ids."""
    import psutil

    try:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree[1:], timeout=10)
    process.wait()


def run_cell(server: Server, cell: Cell, images: Sequence[bytes]) -> Measured:
    """Let the clients ask for `cell.seconds`, at least once each, and wait for every answer."""
    measured = Measured()
    stages: list[dict[str, float]] = []
    begin, done = Event(), Event()
    until = 0.0

    def client(number: int) -> None:
        begin.wait()
        with closing(server.connect()) as connection:
            for turn in itertools.count(number):
                started = time.perf_counter()
                try:
                    response = server.ask(connection, images[turn % len(images)])
                    data = response.read()
                except (OSError, http.client.HTTPException) as error:
                    measured.failures.append(repr(error))
                    return
                if response.status == 200:
                    measured.latencies.append(time.perf_counter() - started)
                    stages.append(_stages(response.headers.get("Server-Timing", "")))
                else:
                    measured.failures.append(f"{response.status} {data[:200]!r}")
                if time.perf_counter() >= until:
                    return

    def probe() -> None:
        while not done.wait(_PROBED_EVERY):
            started = time.perf_counter()
            server.is_up()
            measured.health_seconds.append(time.perf_counter() - started)

    clients = [Thread(target=client, args=(n,)) for n in range(cell.clients)]
    for thread in clients:
        thread.start()
    prober = Thread(target=probe)
    with Watch(server.process.pid) as watch:
        prober.start()
        started, own = time.perf_counter(), own_seconds()
        until = started + cell.seconds
        begin.set()
        for thread in clients:
            thread.join()
        measured.wall_seconds = time.perf_counter() - started
        measured.client_seconds = own_seconds() - own
        done.set()
        prober.join()
    measured.requests = len(measured.latencies)
    measured.server_seconds, measured.peak_bytes = watch.seconds, watch.peak_bytes
    names = dict.fromkeys(name for one in stages for name in one)
    measured.stages = {
        name: float(np.mean([one.get(name, 0.0) for one in stages])) for name in names
    }
    return measured


def _stages(header: str) -> dict[str, float]:
    """Read `Server-Timing`: `queue;dur=0.2, decode;dur=3.8`."""
    parts = (part.strip().partition(";dur=") for part in header.split(",") if ";dur=" in part)
    return {name: float(milliseconds) for name, _, milliseconds in parts}


def measure(
    bundle: Path, imagery: Imagery, cells: Sequence[Cell], taking_part: Sequence[Contender]
) -> dict[str, Any]:
    """Start all services, and ask each in turn, cell by cell; return what `main` writes."""
    manifest = load_manifest(bundle)
    results: dict[str, list[dict[str, Any]]] = {}
    starts: dict[str, float] = {}
    agreement: dict[str, float] = {}
    with ExitStack() as stack:
        servers = []
        for contender in taking_part:
            servers.append(stack.enter_context(serving(contender)))
            starts[contender.name] = servers[-1].start_seconds
            results[contender.name] = []
        (warm,) = imagery.pictures(512, 1)
        masks = {server.contender.name: server.mask(warm) for server in servers}
        reference = next(iter(masks.values()))
        agreement = {name: float(np.mean(mask == reference)) for name, mask in masks.items()}
        idle = load()
        for cell in cells:
            images = (
                imagery.pictures(cell.size)
                if cell.empty is None
                else [jpeg(imagery.scene(cell.size, cell.empty))]
            )
            for server in servers:
                measured = run_cell(server, cell, images)
                summary = measured.summary(cell, manifest)
                results[server.contender.name].append(summary)
                print(
                    f"{server.contender.name:16} {cell.label:28} "
                    f"{summary['requests_per_second']:7.2f} requests/s",
                    file=sys.stderr,
                    flush=True,
                )
    return {
        "bundle": manifest.version,
        "gsd": manifest.gsd.reference or manifest.gsd.min,
        "imagery": imagery.origin,
        "idle_load": idle,
        "start_seconds": starts,
        "agreement": agreement,
        "services": results,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--full", action="store_true", help="up to 64 clients and 4096²")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="services by name")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="images of this size alone")
    args = parser.parse_args(arguments)
    cells = [c for c in (FULL if args.full else SHORT) if args.size in (None, c.size)]
    bundle = args.bundle.resolve()
    taking_part = [c for c in contenders(bundle) if not args.only or c.name in args.only]
    found = measure(bundle, Imagery(args.data), cells, taking_part)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
