"""How long `POST /segment` takes beside a job that is at work, and without one, in turns.

One client asks again as soon as it has its answer, with images of 512 x 512 pixels. The job's
image is so large that it is at work for a whole turn; then it is dismissed. So a drift of the
machine hits both alike.
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from app.settings import Settings
from benchmarks import machine
from benchmarks.imagery import Imagery, jpeg
from benchmarks.service import Cell, Server, rooftrace, run_cell, serving

_TURNS = 4
_STARTS_WITHIN = 60  # seconds


@contextmanager
def job_at_work(server: Server, image: bytes) -> Iterator[None]:
    """Create a job, wait until it is at work, and dismiss it, which must not have ended by then."""
    headers = {"Content-Type": "image/jpeg", "Prefer": "respond-async"}
    path = "/processes/segment-buildings/execution"
    status, created = _asked(server, "POST", path, image, headers)
    if status != 201:
        raise RuntimeError(f"no job was created: {status} {created}")
    job = f"/jobs/{created['jobID']}"
    until = time.monotonic() + _STARTS_WITHIN
    while _asked(server, "GET", job)[1]["status"] != "running":
        if time.monotonic() > until:
            raise RuntimeError("the job did not begin")
        time.sleep(0.1)
    yield
    ended = _asked(server, "GET", job)[1]
    if ended["status"] != "running":
        raise RuntimeError(f"the job was {ended['status']} before its turn was over: raise --side")
    _asked(server, "DELETE", job)


def _asked(
    server: Server, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    with closing(server.connect()) as connection:
        connection.request(method, path, body or None, headers or {})
        answer: http.client.HTTPResponse = connection.getresponse()
        return answer.status, json.loads(answer.read())


def measure(bundle: Path, data: Path, seconds: float, side: int) -> dict[str, list[float]]:
    """Return the seconds that requests took, without a job and beside one."""
    imagery = Imagery(data)
    images, large = imagery.pictures(512), jpeg(imagery.scene(side, empty=0.0))
    taken: dict[str, list[float]] = {"without a job": [], "beside a job": []}
    with TemporaryDirectory() as folder:
        contender = rooftrace("Rooftrace", bundle, jobs=folder)
        with serving(contender) as server:
            server.mask(images[0])
            for _ in range(_TURNS):
                cell = Cell(512, 1, seconds)
                taken["without a job"] += run_cell(server, cell, images).latencies
                with job_at_work(server, large):
                    taken["beside a job"] += run_cell(server, cell, images).latencies
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of 2 x 4 turns")
    parser.add_argument("--side", type=int, default=6144, help="of the job's image, in pixels")
    args = parser.parse_args(arguments)
    print(machine.describe(), file=sys.stderr)
    print(f"{machine.load():.0%} of the processor is in use by others", file=sys.stderr)
    print("| `POST /segment`, 512 x 512 pixels | requests | p50 | p95 |\n| --- | --- | --- | --- |")
    for name, seconds in measure(args.bundle, args.data, args.seconds, args.side).items():
        p50, p95 = np.percentile(seconds, (50, 95))
        print(f"| {name} | {len(seconds)} | {1000 * p50:.0f} ms | {1000 * p95:.0f} ms |")


if __name__ == "__main__":
    main()
