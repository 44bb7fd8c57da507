"""Patches per second of the three networks, arranged as people arrange them, side by side.

Each arrangement runs in a process of its own. All are loaded first; then they take turns, so that
whatever happens to the machine happens to all of them. Beside each speed stands what its masks are
worth: how many pixels agree with fp32, and micro Dice on the labels of the same patches.

Those processes import this module, and their memory is measured: what needs torch is imported where
it is used.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, load_manifest
from app.errors import DeviceError
from app.runtime.choices import Backend, Precision
from app.runtime.select import load_predictor
from app.settings import Settings
from benchmarks.machine import peak_memory

if TYPE_CHECKING:
    from benchmarks.imagery import Imagery

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Patches, uint8 (N, S, S, 3), to weighted mean probabilities, float32 (N, S, S)."""

EXACT = "ONNX Runtime fp32, one-thread workers"
_BATCH = 8
_PATIENCE = 300  # seconds


@dataclass(frozen=True)
class Job:
    """The parts of an arrangement."""

    bundle: Path
    checkpoints: Path | None
    """Folder of the members as torch checkpoints."""

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return load_manifest(self.bundle)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The members' weights in the ensemble, float32 (members,)."""
        return np.array([member.weight for member in self.manifest.members], np.float32)


def _workers(backend: Backend, precision: Precision) -> Callable[[Job], Predict]:
    """Arrange as the service does."""

    def build(job: Job) -> Predict:
        predictor = load_predictor(
            job.bundle, job.manifest, device="cpu", backend=backend, precision=precision
        )
        weights = job.weights

        def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = []
            for start in range(0, len(patches), predictor.batch_size):
                batch = patches[start : start + predictor.batch_size]
                answers = predictor.predict(batch, predictor.members)
                found.append(np.tensordot(weights, answers, 1))
            return np.concatenate(found)

        return predict

    return build


def _sessions(batch: int) -> Callable[[Job], Predict]:
    """Arrange as most scripts do: a default session per network, one after the other."""

    def build(job: Job) -> Predict:
        from benchmarks.peers.ensemble import DefaultSessions

        return DefaultSessions(job.bundle, batch=batch).probability

    return build


def _torch(precision: str) -> Callable[[Job], Predict]:
    """Arrange as the training does: eager, channels last, `_BATCH` patches at once."""

    def build(job: Job) -> Predict:
        import torch

        from training.checkpoints import load_network
        from training.network import ProbabilityNetwork
        from training.train import best_precision

        if precision == "bf16" and best_precision() == "32-true":
            raise DeviceError("this CPU has no bf16, and torch is 20 times as slow without")
        assert job.checkpoints is not None
        weights = job.weights
        networks = []
        for member in job.manifest.members:
            network, _ = load_network(job.checkpoints / f"{member.name}.ckpt")
            network.network.to(memory_format=torch.channels_last)
            networks.append(ProbabilityNetwork(network).eval())

        @torch.inference_mode()
        def predict(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            found = []
            for start in range(0, len(patches), _BATCH):
                batch = torch.from_numpy(patches[start : start + _BATCH])
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                    answers = [network(batch).float().numpy() for network in networks]
                found.append(np.tensordot(weights, np.stack(answers), 1))
            return np.concatenate(found)

        return predict

    return build


ARRANGEMENTS: dict[str, Callable[[Job], Predict]] = {
    "ONNX Runtime fp32, default sessions": _sessions(1),
    f"ONNX Runtime fp32, default sessions, batch {_BATCH}": _sessions(_BATCH),
    f"torch eager fp32, batch {_BATCH}": _torch("fp32"),
    f"torch eager bf16, batch {_BATCH}": _torch("bf16"),
    EXACT: _workers("onnxruntime", "fp32"),
    "OpenVINO fp32, one-thread workers": _workers("openvino", "fp32"),
    "OpenVINO bf16, one-thread workers": _workers("openvino", "bf16"),
    "OpenVINO int8, one-thread workers": _workers("openvino", "int8"),
}


@dataclass
class Measured:
    """What one arrangement took and gave."""

    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    patches_per_round: int = 0
    load_seconds: float = 0.0
    peak_bytes: int = 0
    agreement: float = 0.0
    """Share of pixels whose mask is that of `EXACT`."""
    dice_micro_change: float = 0.0

    @property
    def milliseconds(self) -> float:
        """Return milliseconds per patch, in the round that was the median."""
        return 1000 * float(np.median(self.seconds)) / self.patches_per_round


def _work(name: str, job: Job, pipe: Connection) -> None:
    """Load an arrangement, then run whatever patches come through the pipe."""
    started = perf_counter()
    try:
        predict = ARRANGEMENTS[name](job)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(perf_counter() - started)
    while (patches := pipe.recv()) is not None:
        started = perf_counter()
        probability = predict(patches)
        pipe.send((perf_counter() - started, peak_memory(), probability))


def measure(
    bundle: Path,
    imagery: Imagery,
    *,
    names: Sequence[str] = tuple(ARRANGEMENTS),
    rounds: int = 3,
    per_round: int = 16,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Run all arrangements in turn; return what `main` writes."""
    from training.metrics import count

    manifest = load_manifest(bundle)
    patches, labels = imagery.patches(rounds * per_round, manifest.patch_size)
    job = Job(bundle, checkpoints)
    context = multiprocessing.get_context("spawn")
    found: dict[str, Measured] = {}
    left_out: dict[str, str] = {}
    pipes: dict[str, Connection] = {}
    masks: dict[str, list[NDArray[np.bool_]]] = {}
    with ExitStack() as stack:
        for name in names:
            pipe, theirs = context.Pipe()
            process = context.Process(target=_work, args=(name, job, theirs), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(_dismiss, pipe)
            ready = _receive(pipe, name)
            if isinstance(ready, str):
                left_out[name] = ready
                continue
            pipes[name], masks[name] = pipe, []
            found[name] = Measured(patches_per_round=per_round, load_seconds=ready)
        for pipe, name in ((pipe, name) for name, pipe in pipes.items()):
            pipe.send(patches[:4])
            _receive(pipe, name)
        for start in range(0, len(patches), per_round):
            for name, pipe in pipes.items():
                pipe.send(patches[start : start + per_round])
                seconds, found[name].peak_bytes, probability = _receive(pipe, name)
                found[name].seconds.append(seconds)
                masks[name].append(probability >= manifest.threshold.value)

    from benchmarks.ceiling import ceiling, operations  # here: the processes above don't need onnx

    exact = np.concatenate(masks[EXACT])
    dice = {name: count(np.concatenate(of), labels).dice for name, of in masks.items()}
    for name, one in found.items():
        one.agreement = float(np.mean(np.concatenate(masks[name]) == exact))
        one.dice_micro_change = dice[name] - dice[EXACT]
    return {
        "bundle": manifest.version,
        "imagery": imagery.origin,
        "patches": len(patches),
        "rounds": rounds,
        "operations_per_patch": sum(operations(bundle / m.file) for m in manifest.members),
        "ceiling": ceiling("cpu"),
        "arrangements": {
            name: asdict(one) | {"milliseconds": one.milliseconds} for name, one in found.items()
        },
        "left_out": left_out,
    }


def _dismiss(pipe: Connection) -> None:
    try:
        pipe.send(None)
    except OSError:
        return  # it left by itself, and said why


def _receive(pipe: Connection, name: str) -> Any:  # noqa: ANN401  # the far side sends results or text
    if not pipe.poll(_PATIENCE):
        raise TimeoutError(f"{name!r} said nothing for {_PATIENCE} s")
    return pipe.recv()


def restored(bundle: Path, data: Path) -> Path | None:
    """Turn the bundle's members into torch checkpoints, once; None without torch or tiles."""
    out = Path("runs") / f"checkpoints-{load_manifest(bundle).version}"
    if not out.exists():
        if find_spec("torch") is None or not data.is_dir():
            return None
        from training.restore import restore

        out.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=out.parent) as scratch:
            restore(bundle, data, Path(scratch) / "checkpoints")
            (Path(scratch) / "checkpoints").rename(out)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as JSON."""
    from benchmarks.imagery import Imagery

    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=16, help="in a round")
    parser.add_argument("--only", nargs="+", choices=ARRANGEMENTS, default=tuple(ARRANGEMENTS))
    args = parser.parse_args(arguments)
    needed = any("torch" in name for name in args.only)
    found = measure(
        args.bundle,
        Imagery(args.data),
        names=[*dict.fromkeys([*args.only, EXACT])],
        rounds=args.rounds,
        per_round=args.patches,
        checkpoints=restored(args.bundle, args.data / "val") if needed else None,
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
