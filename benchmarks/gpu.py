"""What a GPU makes of a bundle: `python -m benchmarks.gpu`, or `make bench-gpu`.

Patches per second of all members together, by the number of patches that the GPU gets at once, and
how far its probabilities are from the CPU's; then the service on it, with many clients. Without a
GPU that answers it ends with the reason; `--device cpu` rehearses the run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from app.errors import DeviceError
from app.inference.manifest import load_manifest
from app.inference.predictor import Device, OnnxPredictor
from app.settings import PREFIX, Settings
from benchmarks import machine, report, service
from benchmarks.imagery import Imagery

BATCHES = (1, 4, 16, 64)
PATCHES = 128
CELLS = (
    service.Cell(224, 1, 10),
    service.Cell(224, 16, 10),
    service.Cell(224, 64, 10),
    service.Cell(1024, 1, 15),
    service.Cell(1024, 16, 20),
    service.Cell(4096, 4, 20),
)
_ROUNDS = 5


def measure(
    bundle: Path,
    imagery: Imagery,
    *,
    device: Device = "cuda",
    batches: Sequence[int] = BATCHES,
    patches: int = PATCHES,
    cells: Sequence[service.Cell] = CELLS,
) -> dict[str, Any]:
    """Measure engine and service on a device; return what `main` writes.

    Raises:
        DeviceError: some member would not run on the GPU.
    """
    manifest = load_manifest(bundle)
    some, _ = imagery.patches(patches, manifest.patch_size)
    weights = np.array([member.weight for member in manifest.members], np.float32)
    found: dict[str, Any] = {
        "machine": machine.describe() | {"GPU": _gpu()},
        "bundle": manifest.version,
        "imagery": imagery.origin,
        "batches": {},
    }
    expected = None
    for batch in batches:
        with closing(OnnxPredictor(bundle, manifest, device=device, gpu_batch=batch)) as predictor:
            found["providers"] = sorted(set(predictor.providers.values()))
            if expected is None:
                with closing(OnnxPredictor(bundle, manifest, device="cpu")) as on_cpu:
                    expected = on_cpu.predict(some, on_cpu.members)
            answer = predictor.predict(some, predictor.members)  # and warm
            seconds = []
            for _ in range(_ROUNDS):
                started = perf_counter()
                predictor.predict(some, predictor.members)
                seconds.append(perf_counter() - started)
            masks = [
                np.tensordot(weights, one, 1) >= manifest.threshold.value
                for one in (answer, expected)
            ]
            found["batches"][str(batch)] = {
                "patches_per_second": patches / float(np.median(seconds)),
                "largest_difference": float(np.abs(answer - expected).max()),
                "masks_agree": float(np.mean(masks[0] == masks[1])),
                "out_of_memory": predictor.out_of_memory,
            }
    ours = [sys.executable, "-m", "app.cli", "serve", "--bundle", str(bundle)]
    limits = {f"{PREFIX}MAX_WAITING": "256", f"{PREFIX}DEADLINE": "600", f"{PREFIX}DEVICE": device}
    contender = service.Contender(
        f"Rooftrace {device}", ours, "/health/live", limits, path="/segment?gate=off"
    )
    found["service"] = service.measure(bundle, imagery, cells, [contender])
    return found


def table(found: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    fastest = max(one["patches_per_second"] for one in found["batches"].values())
    engine = report.table(
        ("patches at once", "patches/s", "farthest from the CPU", "masks agree", "out of memory"),
        [
            (
                batch,
                f"{one['patches_per_second']:.1f}",
                f"{one['largest_difference']:.1e}",
                f"{one['masks_agree']:.4%}",
                str(one["out_of_memory"]),
            )
            for batch, one in found["batches"].items()
        ],
    )
    [(name, cells)] = found["service"]["services"].items()
    served = report.table(
        ("", "requests/s", "patches/s", "share of the engine", "p50 s", "p99 s", "health p99 ms"),
        [
            (
                cell["label"],
                f"{cell['requests_per_second']:.2f}",
                f"{cell['requests_per_second'] * cell['patches']:.1f}",
                f"{cell['requests_per_second'] * cell['patches'] / fastest:.0%}",
                f"{cell['p50']:.2f}",
                f"{cell['p99']:.2f}",
                f"{1000 * cell['health_p99']:.0f}",
            )
            for cell in cells
        ],
    )
    machines = report.table(("", ""), list(found["machine"].items()))
    head = f"{found['bundle']} on {', '.join(found['providers'])}; {found['imagery']}"
    return f"{head}\n\n{machines}\n\n{engine}\n\n{name}:\n\n{served}"


def _gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none that nvidia-smi knows of"
    return "; ".join(answer.stdout.split("\n")).strip("; ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables and write the figures as JSON; return 1 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"))
    args = parser.parse_args(arguments)
    try:
        found = measure(args.bundle.resolve(), Imagery(args.data), device=args.device)
    except DeviceError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
