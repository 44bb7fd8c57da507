"""Serve for long, and see whether anything grows: `python -m tests.hostile.soak --minutes 10`.

Three clients send images of mixed sizes, every twentieth of them hostile. Every hundredth answer is
compared with the mask that it must be, bit for bit. After a quarter of the time for warming up,
memory, threads and descriptors are sampled, and a straight line through each must be flat.
`--leak` serves a build that leaks on purpose, and fails unless that, and nothing else, is found.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from tests.e2e.conftest import Server, running_server
from tests.factories import scene
from tests.hostile.corpus import MAX_BYTES, MAX_PIXELS, files
from tests.hostile.wire import descriptors, resident
from tests.serving import RAW, decoded, encoded, exact_bundle, toy_mask

MIB = 8.0
"""How much the line through resident memory may rise from its start to its end."""
GROWTH = "memory grows"
SIZES = (20, 64, 224, 300, 500)
CLIENTS = 3


@dataclass
class Soak:
    """What was seen: samples are (requests so far, MiB, threads, descriptors)."""

    samples: list[tuple[float, ...]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def faults_found(self) -> list[str]:
        """Judge, and say in words what is wrong."""
        found = list(self.faults)
        requests, memory, threads, handles = np.array(self.samples).T
        growth = np.polyfit(requests, memory, 1)[0] * (requests[-1] - requests[0])
        if growth > MIB:
            found.append(f"{GROWTH} by {growth:.1f} MiB")
        for name, values in (("threads", threads), ("descriptors", handles)):
            third = len(values) // 3
            if np.median(values[-third:]) > np.median(values[:third]) + 2:
                found.append(f"{name} grow: {values[0]:.0f} to {values[-1]:.0f}")
        if bad := [status for status in self.statuses if status >= 500]:
            found.append(f"statuses {bad}")
        return found


def soak(server: Server, seconds: float) -> Soak:
    """Send requests for so long."""
    seen, lock, until = Soak(), threading.Lock(), time.monotonic() + seconds
    good = [encoded(scene(n, n + 9), kind) for n in SIZES for kind in ("PNG", "JPEG", "TIFF")]
    golden = scene(130, 90, seed=7)
    golden_file, golden_mask = encoded(golden), toy_mask(golden)
    hostile = files()

    def client(number: int) -> None:
        random = np.random.default_rng(number)
        with httpx2.Client(base_url=server.url, timeout=60) as http:
            sent = 0
            while time.monotonic() < until:
                sent += 1
                expected: set[int] = {200}
                if sent % 100 == 0:
                    data = golden_file
                elif random.random() < 0.05:
                    file = hostile[random.integers(len(hostile))]
                    data, expected = file.data, {file.answer[0]}
                else:
                    data = good[random.integers(len(good))]
                try:
                    answer = http.post("/segment", content=data, headers=RAW)
                except httpx2.HTTPError as error:
                    with lock:
                        seen.faults.append(f"{type(error).__name__} in place of an answer")
                    continue
                with lock:
                    seen.statuses[answer.status_code] += 1
                    if answer.status_code not in expected:
                        seen.faults.append(f"{answer.status_code} in place of {expected}")
                    elif data is golden_file and not np.array_equal(
                        decoded(answer.content) == 255, golden_mask
                    ):
                        seen.faults.append("a wrong mask")

    clients = [threading.Thread(target=client, args=[i]) for i in range(CLIENTS)]
    for thread in clients:
        thread.start()
    warm = time.monotonic() + seconds / 4
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 60))
        if time.monotonic() > warm:
            threads = len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))
            now = (float(seen.statuses.total()), resident(server) / 2**20)
            seen.samples.append((*now, float(threads), float(descriptors(server))))
    for thread in clients:
        thread.join()
    return seen


def run(folder: Path, seconds: float, *, leak: bool = False) -> Soak:
    """Start a server, the leaking one if so wanted, and soak it."""
    bundle = exact_bundle(folder / "bundle")
    limits: dict[str, Any] = {"max_upload_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS}
    module = "tests.hostile.leaking" if leak else "app"
    with running_server(folder, bundle, module=module, **limits) as server:
        return soak(server, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, report, and return 1 if anything is wrong, or a leak was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--leak", action="store_true", help="serve the build that leaks")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        seen = run(Path(folder), 60 * args.minutes, leak=args.leak)
    found = seen.faults_found()
    first, last = seen.samples[0], seen.samples[-1]
    names = ("requests", "MiB", "threads", "descriptors")
    report = {name: [round(first[i], 1), round(last[i], 1)] for i, name in enumerate(names)}
    print(json.dumps({"statuses": dict(sorted(seen.statuses.items())), **report, "wrong": found}))
    if args.leak:
        return 0 if [fault.partition(" by ")[0] for fault in found] == [GROWTH] else 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
