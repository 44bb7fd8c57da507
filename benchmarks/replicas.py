"""What model replicas on Ray cost, and what they lose: `python -m benchmarks.replicas`.

Two services take turns, the one on its own and the other before replicas, with one worker each: the
overhead is the ratio of what one image takes, and of the processor time of all processes. Then
replicas are killed under load, 500 uploads come at once, and a body over the limit is announced.
Whatever was lost is printed as it came.
"""

import argparse
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil

from app.settings import load_settings
from benchmarks import report
from tests.e2e.conftest import Server, running_server
from tests.factories import scene
from tests.scale.load import Load
from tests.serving import encoded

_ANNOUNCED = 300_000_000
_PATIENCE = 600


def overhead(local: Server, ray: Server, path: str, image: bytes, pairs: int) -> str:
    """Send the image to both, in turns, and lay out what it took."""
    walls: list[tuple[float, float]] = []
    busy: list[tuple[float, float]] = []
    for number in range(pairs + 1):
        took = [_took(server, path, image) for server in (local, ray)]
        if number:  # the first only warms
            walls.append((took[0][0], took[1][0]))
            busy.append((took[0][1], took[1][1]))
    rows = [
        (
            name,
            *(f"{statistics.median(column):.2f}" for column in zip(*figures, strict=True)),
            f"{statistics.median(ray / local for local, ray in figures):.2f}",
        )
        for name, figures in (("seconds", walls), ("seconds of processors", busy))
    ]
    return report.table(("median of an image", "local", "ray", "median ratio of pairs"), rows)


def _took(server: Server, path: str, image: bytes) -> tuple[float, float]:
    before, began = _processor_seconds(server), time.perf_counter()
    _post(server, path, image).raise_for_status()
    return time.perf_counter() - began, _processor_seconds(server) - before


def _processor_seconds(server: Server) -> float:
    process = psutil.Process(server.process.pid)
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def burst(server: Server, path: str, image: bytes, number: int) -> Counter[str]:
    """Send as many uploads at once; count how they ended."""

    def end(_: int) -> str:
        try:
            answer = _post(server, path, image)
        except httpx2.HTTPError as error:
            return repr(error)
        again = " with Retry-After" if "Retry-After" in answer.headers else ""
        return f"{answer.status_code}{again}"

    with ThreadPoolExecutor(number) as clients:
        return Counter(clients.map(end, range(number)))


def over_the_limit(server: Server) -> tuple[str, int, int]:
    """Announce a body over the limit and send it: the answer, bytes sent, bytes of memory more."""
    host, port = server.url.removeprefix("http://").split(":")
    process = psutil.Process(server.process.pid)
    before, sent = process.memory_info().rss, 0
    with socket.create_connection((host, int(port)), 60) as connection:
        head = f"Host: {host}\r\nContent-Type: image/png\r\nContent-Length: {_ANNOUNCED}\r\n\r\n"
        connection.sendall(f"POST /segment HTTP/1.1\r\n{head}".encode())
        status = connection.recv(65536).split(b"\r\n")[0].decode()
        try:
            while sent < _ANNOUNCED:
                sent += connection.send(bytes(65536))
        except OSError:  # the server has closed it
            pass
    return status, sent, process.memory_info().rss - before


def _post(server: Server, path: str, image: bytes) -> httpx2.Response:
    headers = {"Content-Type": "image/png"}
    return httpx2.post(server.url + path, headers=headers, content=image, timeout=600)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=load_settings().bundle)
    parser.add_argument("--models", default="unet_lite", help="members; default: unet_lite")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1400)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--burst", type=int, default=500)
    parser.add_argument("--backend", default="auto", help="as ROOFTRACE_BACKEND; default: auto")
    args = parser.parse_args(arguments)
    path = f"/segment?models={args.models}"
    large, small = (encoded(scene(side, side)) for side in (1000, 224))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours: dict[str, Any] = {"patience": _PATIENCE, "workers": 1, "backend": args.backend}
        with (
            running_server(folder, args.bundle, **ours) as local,
            running_server(folder, args.bundle, engine="ray", replicas=2, **ours) as ray,
        ):
            print(overhead(local, ray, path, large, args.pairs), flush=True)
            with Load(ray, path, small, clients=4) as load:
                load.kill_replicas(args.kills, requests=args.requests)
            lost = load.ends.total() - load.ends["right"]
            print(
                f"{lost} of {load.ends.total()} requests lost over {args.kills} kills", flush=True
            )
            print(f"  {dict(load.ends)}")
            print(f"{args.burst} at once: {dict(burst(ray, path, small, args.burst))}")
            status, sent, grown = over_the_limit(ray)
            print(f"{_ANNOUNCED} bytes announced: {status}, {sent} sent, {grown} of memory")
            ray.stop()


if __name__ == "__main__":
    main()
