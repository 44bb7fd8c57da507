"""Whether memory stays flat: `python -m benchmarks.steady` sends 500 images by 16 clients.

The shipped models serve as they do by default. Images are JPEGs of 224 and 384 pixels a side, from
labelled tiles where there are some. Prints resident memory by the number of answers.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Lock

import psutil

from app.settings import Settings
from benchmarks import machine, report, service
from benchmarks.imagery import Imagery

SIDES = (224, 384)


def measure(
    bundle: Path, imagery: Imagery, *, requests: int, clients: int
) -> tuple[list[int], int]:
    """Return the resident bytes after each answer, and the most at any moment.

    Raises:
        RuntimeError: an answer was no mask.
    """
    images = [image for side in SIDES for image in imagery.pictures(side)]
    resident: list[int] = []
    lock = Lock()
    contender = service.rooftrace("Rooftrace", bundle, max_waiting=str(clients))
    with service.serving(contender) as server, ThreadPoolExecutor(clients) as pool:
        process = psutil.Process(server.process.pid)

        def ask(number: int) -> None:
            with closing(server.connect()) as connection:
                response = server.ask(connection, images[number % len(images)])
                answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {answer[:300]!r}")
            with lock:
                resident.append(process.memory_info().rss)

        with machine.Watch(server.process.pid) as watch:
            list(pool.map(ask, range(requests)))
    return resident, watch.peak_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args(arguments)
    resident, peak = measure(
        args.bundle.resolve(), Imagery(args.data), requests=args.requests, clients=args.clients
    )
    step = max(1, len(resident) // 10)
    rows = [
        (str(n + 1), f"{resident[n] / 2**20:.0f}") for n in range(step - 1, len(resident), step)
    ]
    print(report.table(("answers", "resident MiB"), rows))
    print(f"\npeak: {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
