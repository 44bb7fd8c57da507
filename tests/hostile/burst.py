"""Hundreds of uploads at once: who is served, how fast health answers, what becomes of goodput.

`python -m tests.hostile.burst` sends 500 uploads of 3 MB to one process and prints what it found;
`--side`, `--number` and `--bundle` change what is sent, and to what. Steady state comes first: as
many clients as there is room at work for, each with the next image as soon as it has a mask.
Goodput of the burst is masks a second, from its beginning to its last mask.

The clients are one process with one thread, which takes of a core what they cost and no more.
Whoever asks for health is a process of its own. It asks
every 20 ms, on a connection of its own each time, and one long wait counts as all the asks that it
held up: 100 ms also as 80, 60, 40 and 20.
"""

import argparse
import asyncio
import email.parser
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.e2e.conftest import ROOT, Server, running_server
from tests.factories import scene
from tests.hostile.wire import metric, peak, resident
from tests.serving import decoded, encoded, exact_bundle, toy_mask

BUDGET = 400 * 2**20
LIMITS: dict[str, Any] = {
    "memory_budget": BUDGET,
    "max_pixels": 2_000_000,
    "max_upload_bytes": 8 * 2**20,
    "concurrency": 2,
    "workers": 1,
}
ROOM = 34
"""Requests that these limits let in at once: two at work and 32 behind them."""

_PERIOD = 0.02


@dataclass
class Tally:
    """How requests ended: statuses, masks that were not what they must be, the last mask's time."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    last: float = 0.0


async def send(url: str, image: bytes) -> tuple[int, bytes, str | None]:
    """Send an image on a connection of its own; return status, body and `Retry-After`.

    As simple clients do, all of it is sent before the answer is looked at.
    """
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"Host: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        writer.write(f"POST /segment?overlap=0 HTTP/1.1\r\n{head}".encode())
        writer.write(image)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        headers = email.parser.BytesParser().parsebytes(await reader.readuntil(b"\r\n\r\n"))
        return (
            status,
            await reader.readexactly(int(headers["Content-Length"])),
            headers["Retry-After"],
        )
    finally:
        writer.close()


def post(url: str, image: bytes) -> tuple[int, bytes, str | None]:
    """Send one image, as `send`."""
    return asyncio.run(send(url, image))


@contextmanager
def asking_for_health(url: str) -> Iterator[list[float]]:
    """Have a process ask for the health meanwhile; the list is filled at the end, in seconds."""
    answers: list[float] = []
    command = [sys.executable, "-m", "tests.hostile.burst", "--ask", url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as asker:
        assert asker.stdout is not None
        asker.stdout.readline()  # it has begun
        yield answers
        answers += json.loads(asker.communicate()[0])
    assert asker.returncode == 0


def _ask(url: str) -> list[float]:
    """Ask for the health until standard input ends."""
    told = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        told.set()

    threading.Thread(target=wait, daemon=True).start()
    answers: list[float] = []
    print("asking", flush=True)
    while not told.is_set():
        asked = time.perf_counter()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)
        connection.request("GET", "/health/live")
        assert connection.getresponse().status == 200
        connection.close()
        waited = time.perf_counter() - asked
        answers += np.arange(waited, 0, -_PERIOD).tolist()
        time.sleep(max(0.0, _PERIOD - waited))
    return answers


def burst(
    server: Server, images: list[bytes], masks: list[NDArray[np.bool_]] | None, number: int
) -> Tally:
    """Send `number` uploads at once; `masks` are what must come back, None where nobody knows."""
    tally = Tally()

    async def one(i: int) -> None:
        try:
            status, body, retry_after = await send(server.url, images[i % len(images)])
        except (OSError, EOFError, IndexError) as error:  # reset, cut short, or no answer at all
            tally.statuses[type(error).__name__] += 1
            return
        now = time.perf_counter()
        tally.statuses[str(status) if status != 503 or retry_after else "503 without end"] += 1
        if status == 200:
            tally.last = max(tally.last, now)
            if masks:
                same = np.array_equal(decoded(body) == 255, masks[i % len(masks)])
                tally.wrong += not same

    async def all_of_them() -> None:
        await asyncio.gather(*map(one, range(number)))

    asyncio.run(all_of_them())
    return tally


def steady(server: Server, images: list[bytes], number: int) -> float:
    """Return masks a second while as many clients are there as requests are at work at once."""
    remaining = iter(range(number))

    async def client() -> None:
        for i in remaining:
            status, *_ = await send(server.url, images[i % len(images)])
            assert status == 200

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(LIMITS["concurrency"])))

    started = time.perf_counter()
    asyncio.run(clients())
    return number / (time.perf_counter() - started)


def measure(server: Server, number: int, side: int, *, toy: bool = True) -> dict[str, object]:
    """Send a burst of images of side², three bytes a pixel, and report what it cost."""
    pixels = [scene(side, side, seed=seed) for seed in range(3)]
    images = [encoded(p, compress_level=0) for p in pixels]
    masks = [toy_mask(p) for p in pixels] if toy else None
    for image in images:
        assert post(server.url, image)[0] == 200
    before = resident(server)
    rate = steady(server, images, ROOM)
    with asking_for_health(server.url) as health:
        started = time.perf_counter()
        tally = burst(server, images, masks, number)
        seconds = time.perf_counter() - started
    goodput = tally.statuses["200"] / (tally.last - started) if tally.last else 0.0
    lag = "rooftrace_event_loop_lag_seconds"
    return {
        "statuses": dict(tally.statuses),
        "wrong": tally.wrong,
        "seconds": round(seconds, 2),
        "grown MiB": round((peak(server) - before) / 2**20, 1),
        "masks a second, steady": round(rate, 2),
        "masks a second, burst": round(goodput, 2),
        "goodput / steady": round(goodput / rate, 3),
        "health ms": {
            "asked": len(health),
            "p50": round(1000 * statistics.median(health), 1),
            "p99": round(1000 * sorted(health)[int(0.99 * (len(health) - 1))], 1),
            "max": round(1000 * max(health), 1),
        },
        "loop later than 100 ms": metric(server, f"{lag}_count")
        - metric(server, f'{lag}_bucket{{le="0.1"}}'),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if somebody got no answer, or a wrong one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=500, help="uploads at once")
    parser.add_argument("--side", type=int, default=1003, help="of an image, in pixels")
    parser.add_argument("--bundle", type=Path, help="models to serve; default: a toy bundle")
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.ask:
        print(json.dumps(_ask(args.ask)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = args.bundle.absolute() if args.bundle else exact_bundle(folder / "bundle")
        with running_server(folder, bundle, **LIMITS) as server:
            found = measure(server, args.number, args.side, toy=not args.bundle)
    print(json.dumps(found, indent=1))
    statuses = found["statuses"]
    assert isinstance(statuses, dict)
    return int(bool(found["wrong"]) or not set(statuses) <= {"200", "503"})


if __name__ == "__main__":
    sys.exit(main())
