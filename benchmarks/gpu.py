"""What a GPU makes of a bundle: `python -m benchmarks.gpu`, or `make bench-gpu`.

Patches per second of all members together, by precision, by whether batches are recorded as CUDA
graphs, by TensorRT, and by the number of patches that the GPU gets at once; which share that is of
what it computes at most, and how far its probabilities are from the CPU's. Then the service on it,
with many clients, in each precision.
Without a GPU that answers it ends with the reason; `--device cpu` rehearses the run.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, load_manifest
from app.errors import DeviceError, RooftraceError
from app.runtime.gpu import Gpu
from app.runtime.onnxruntime import OnnxPredictor
from app.runtime.predictor import Predictor
from app.runtime.select import load_predictor
from app.settings import Settings
from benchmarks import machine, report, service
from benchmarks.ceiling import Device, ceiling, operations
from benchmarks.imagery import Imagery

BATCHES = (1, 4, 16, 64)
PATCHES = 128
CELLS = (
    service.Cell(224, 1, 10),
    service.Cell(224, 64, 10),
    service.Cell(1024, 1, 15),
    service.Cell(1024, 16, 20),
    service.Cell(4096, 4, 20),
)
_ROUNDS = 5


@dataclass(frozen=True)
class Arrangement:
    """A way to use the GPU."""

    precision: Literal["fp32", "fp16"]
    gpu: Gpu = Gpu()
    batches: Sequence[int] = BATCHES

    def __str__(self) -> str:
        graphs = ", CUDA graphs" if self.gpu.graphs else ""
        return f"{'TensorRT ' if self.gpu.tensorrt else ''}{self.precision}{graphs}"


def arrangements(engines: Path) -> list[Arrangement]:
    """List all. TensorRT, which builds its engines for minutes, gets one size of batch."""
    return [
        Arrangement("fp32"),
        Arrangement("fp16"),
        Arrangement("fp32", Gpu(graphs=True)),
        Arrangement("fp16", Gpu(graphs=True)),
        Arrangement("fp16", Gpu(tensorrt=engines), batches=(16,)),
    ]


def measure(
    bundle: Path,
    imagery: Imagery,
    *,
    device: Device = "cuda",
    some: Sequence[Arrangement] = (Arrangement("fp32"),),
    patches: int = PATCHES,
    cells: Sequence[service.Cell] = CELLS,
) -> dict[str, Any]:
    """Measure engine and service on a device; return what `main` writes.

    Raises:
        DeviceError: some member would not run on the GPU in the first arrangement.
    """
    manifest = load_manifest(bundle)
    given, _ = imagery.patches(patches, manifest.patch_size)
    with closing(OnnxPredictor(bundle, manifest)) as on_cpu:
        expected = on_cpu.predict(given, on_cpu.members)
    found: dict[str, Any] = {
        "machine": machine.describe() | {"GPU": _gpu()},
        "bundle": manifest.version,
        "imagery": imagery.origin,
        "operations_per_patch": sum(operations(bundle / m.file) for m in manifest.members),
        "engine": [],
        "not measured": {},
    }
    for arrangement in some:
        precision = arrangement.precision
        try:
            for batch in arrangement.batches:
                gpu = replace(arrangement.gpu, batch=batch)
                with closing(
                    load_predictor(
                        bundle,
                        manifest,
                        device=device,
                        backend="onnxruntime",
                        gpu=gpu,
                        precision=precision,
                    )
                ) as predictor:
                    row = _engine(predictor, manifest, given, expected)
                row |= {"arrangement": str(arrangement), "precision": precision, "batch": batch}
                found["engine"].append(row)
        except RooftraceError as error:
            if arrangement == some[0]:
                raise
            found["not measured"][str(arrangement)] = str(error)
    precisions = dict.fromkeys(row["precision"] for row in found["engine"])
    found["ceiling"] = {precision: ceiling(device, precision) for precision in precisions}
    measured = {row["arrangement"] for row in found["engine"]}
    contenders = [
        service.rooftrace(
            f"Rooftrace {device} {precision}",
            bundle,
            "/segment?cascade=off",
            device=device,
            precision=precision,
        )
        for precision in ("fp32", "fp16")
        if precision in measured
    ]
    found["service"] = service.measure(bundle, imagery, cells, contenders)
    return found


def _engine(
    predictor: Predictor,
    manifest: Manifest,
    given: NDArray[np.uint8],
    expected: NDArray[np.float32],
) -> dict[str, Any]:
    answer = predictor.predict(given, predictor.members)  # and warm
    predictor.predict(given, predictor.members)  # and recorded
    seconds = []
    for _ in range(_ROUNDS):
        started = perf_counter()
        predictor.predict(given, predictor.members)
        seconds.append(perf_counter() - started)
    weights = np.array([member.weight for member in manifest.members], np.float32)
    masks = [
        np.tensordot(weights, one, 1) >= manifest.threshold.value for one in (answer, expected)
    ]
    return {
        "providers": predictor.providers_in_use,
        "patches_per_second": len(given) / float(np.median(seconds)),
        "largest_difference": float(np.abs(answer - expected).max()),
        "masks_agree": float(np.mean(masks[0] == masks[1])),
        "out_of_memory": predictor.out_of_memory,
    }


def table(found: dict[str, Any]) -> str:
    """Lay the figures out in Markdown."""
    rows, operations_per_patch = found["engine"], found["operations_per_patch"]
    most = found["ceiling"]
    engine = report.table(
        (
            "computed in",
            "patches at once",
            "patches/s",
            "share of the ceiling",
            "farthest from the CPU",
            "masks agree",
            "out of memory",
        ),
        [
            (
                row["arrangement"],
                str(row["batch"]),
                f"{row['patches_per_second']:.1f}",
                f"{row['patches_per_second'] * operations_per_patch / most[row['precision']]:.0%}",
                f"{row['largest_difference']:.1e}",
                f"{row['masks_agree']:.4%}",
                str(row["out_of_memory"]),
            )
            for row in rows
        ],
    )
    rates = "; ".join(f"{rate / 1e12:.3g} TFLOP/s in {p}" for p, rate in most.items())
    limit = (
        f"A patch takes {operations_per_patch / 1e9:.1f} GFLOP. The ceiling is what the device "
        f"reaches in products of large square matrices: {rates}."
    )
    unmeasured = [f"Not measured: {name} ({why})." for name, why in found["not measured"].items()]
    parts = []
    for name, cells in found["service"]["services"].items():
        precision = name.rpartition(" ")[2]
        fastest = max(row["patches_per_second"] for row in rows if row["arrangement"] == precision)
        parts += [f"{name}:", _served(cells, fastest)]
    providers = sorted({provider for row in rows for provider in row["providers"]})
    head = f"{found['bundle']} on {', '.join(providers)}; {found['imagery']}"
    machines = report.table(("", ""), list(found["machine"].items()))
    return "\n\n".join([head, machines, engine, limit, *unmeasured, *parts])


def _served(cells: Sequence[dict[str, Any]], fastest: float) -> str:
    return report.table(
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
    engines = args.json.parent / "tensorrt"
    try:
        found = measure(
            args.bundle.resolve(),
            Imagery(args.data),
            device=args.device,
            some=arrangements(engines.absolute())[: None if args.device == "cuda" else 1],
        )
    except DeviceError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 1
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
