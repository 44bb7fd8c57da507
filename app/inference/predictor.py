"""Patches in, probabilities out: the only importer of ONNX Runtime.

ONNX Runtime would rather compute something somewhere than refuse: it moves from CUDA to the CPU
without a word, reads weights from files beside the process, lets its threads spin against
each other, and reports to its makers. This module is where each of these is settled, once.
"""

import io
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.errors import BundleError, DeviceError
from app.inference.lanes import Lanes, check_signature, reason, spell
from app.inference.manifest import Manifest, read_model

# From 1.29 on, ONNX Runtime reports to its makers unless it is told not to before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
ComputedIn = Literal["fp32", "bf16", "int8"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/dxg"))
"""Present when the machine has an NVIDIA GPU: under Linux, and under Windows' Linux (WSL)."""

_OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|Failed to allocate memory|Available memory of .* is smaller", re.I
)
"""CUDA's, cuDNN's and cuBLAS' words for it, and those of ONNX Runtime's arena, whose classes of
errors do not tell this kind from others. Source: onnxruntime/core/framework/bfc_arena.cc."""


class Predictor(Protocol):
    """Whatever turns patches into probabilities."""

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the networks, in the manifest's order."""

    @property
    def providers(self) -> Mapping[str, str]:
        """The execution provider that each member really runs on."""

    @property
    def fallback(self) -> str | None:
        """Why the CPU is used although a GPU was there; None if nothing fell back."""

    @property
    def out_of_memory(self) -> int:
        """How often the device had no memory for a batch, and fewer patches were tried."""

    @property
    def choice(self) -> str:
        """Which precision it computes in, and why this backend and no other does."""

    @property
    def batch_size(self) -> int:
        """How many patches a call of `predict` should bring, at most, to keep the device busy."""

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3) RGB patches: float32 (M, N, S, S) in [0, 1], as `members`.

        Safe to call from many threads at once.

        Raises:
            InferenceError: a member failed, or gave something that is no probability.
        """

    def close(self) -> None:
        """Wait for what is running and let go of the threads."""


class OnnxPredictor:
    """Run a bundle's networks, one session each, on the CPU or on one GPU.

    On a CPU, `lanes` threads (default: one per usable core) take one patch at a time through all
    members, shared by every caller: measured to be faster than any batch size and than ONNX
    Runtime's own threads, whose pools spin against each other, and it needs the least memory.
    On a GPU there is one lane, and up to `gpu_batch` patches at a time, of whoever waits. Where its
    memory does not hold these, batches are half as large from then on. A member of which it does
    not hold a single patch moves to the CPU for good, if `device` left that open, and is said to be
    there.
    """

    out_of_memory = 0

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        device: Device = "auto",
        lanes: int | None = None,
        gpu_batch: int = 16,
        choice: str = "fp32, as asked",
    ) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
            DeviceError: `device` is "cuda" and some member would not run there.
        """
        models = {member.name: read_model(bundle, member) for member in manifest.members}
        self._sessions, self.fallback = _open_sessions(models, device)
        for member, session in self._sessions.items():
            takes, gives = _signature(session.get_inputs()), _signature(session.get_outputs())
            check_signature(member, takes, gives, manifest.patch_size)

        self.choice = choice
        self.members = tuple(self._sessions)
        self.providers = {
            member: session.get_providers()[0] for member, session in self._sessions.items()
        }
        # What may have to be opened once more, on the CPU.
        self._models = models if device == "auto" and CUDA in self.providers.values() else {}
        if CUDA in self.providers.values():
            lanes, chunk, self.batch_size = 1, gpu_batch, gpu_batch
        else:
            lanes = usable_cores() if lanes is None else lanes
            # Two rounds a call: a whole number of them, so that no lane idles at the end, and few,
            # so that callers who share the lanes, or want to stop, need not wait for long.
            chunk, self.batch_size = 1, 2 * lanes
        self._lanes = Lanes(lanes, chunk)

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises."""
        return self._lanes.predict(self._run, patches, members)

    def close(self) -> None:
        """Wait for what is running and let go of the threads."""
        self._lanes.close()

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        done: list[NDArray[np.float32]] = []
        first = 0
        while first < len(patches):
            part = patches[first : first + self.batch_size]
            session = self._sessions[member]
            try:
                done += session.run(None, {session.get_inputs()[0].name: part})
                first += len(part)
            except Exception as error:  # ONNX Runtime's errors have no other class in common
                if self.providers[member] == CPU or not _OUT_OF_MEMORY.search(str(error)):
                    raise
                self._need_less(member, len(part), error)
        return done[0] if len(done) == 1 else np.concatenate(done)

    def _need_less(self, member: str, patches: int, error: Exception) -> None:
        """Make do with less of the GPU's memory, which did not hold so many patches.

        Raises:
            Exception: `error`; there is nothing left to try.
        """
        self.out_of_memory += 1
        logger.warning(
            "the GPU has no memory for %d patches of member %r: %s", patches, member, reason(error)
        )
        if patches > 1:
            self.batch_size = patches // 2
            logger.warning("from now on, it is given %d at a time", self.batch_size)
            return
        if member not in self._models:
            raise error
        self._sessions[member] = _open(member, self._models[member], [CPU])
        self.providers[member] = CPU
        self.fallback = (
            f"Member {member!r} has moved to the CPU: the GPU has no memory for one patch. "
            "A reload tries the GPU again."
        )
        logger.warning("%s", self.fallback)


def usable_cores() -> int:
    """Count the cores that this process may run on, within its container's CPU quota."""
    if sys.platform == "linux":
        return min(len(os.sched_getaffinity(0)), cpu_quota(Path("/sys/fs/cgroup")))
    return os.cpu_count() or 1


def cpu_quota(cgroup: Path) -> int:
    """Return the CPU quota of a control group in whole cores, at least 1; huge without a quota.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`; and cgroup-v1's
    `cpu.cfs_quota_us`.
    """
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / "cpu" / name).read_text() for name in files)
        cores = float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return sys.maxsize
    return max(1, round(cores)) if cores > 0 else sys.maxsize


def gpu_expected() -> bool:
    """Tell whether the machine has a GPU, or ONNX Runtime was built for one."""
    return CUDA in ort.get_available_providers() or any(map(Path.exists, GPU_FILES))


def _open_sessions(
    models: Mapping[str, bytes], device: Device
) -> tuple[dict[str, ort.InferenceSession], str | None]:
    """Open a session per model, and say why, if the CPU stands in for a GPU."""
    if device != "cpu":
        try:
            return _open_on_cuda(models), None
        except DeviceError as error:
            if device == "cuda":
                raise
            refusal = str(error)
    sessions = {member: _open(member, model, [CPU]) for member, model in models.items()}
    if device == "cpu" or not gpu_expected():
        return sessions, None
    fallback = f"Running on the CPU: {refusal}"
    logger.warning(fallback)
    return sessions, fallback


def _open_on_cuda(models: Mapping[str, bytes]) -> dict[str, ort.InferenceSession]:
    if CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"this build of ONNX Runtime ({ort.__version__}) has no CUDA; "
            "install the `gpu` extra in place of `cpu`"
        )
    # CUDA and cuDNN may come as Python packages, where the system's loader does not look.
    # What it can't load it prints, which would spoil output that is written to stdout.
    with redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.warning("preloading CUDA: %s", line)
    # The default, EXHAUSTIVE, times every algorithm again for each new batch size.
    provider = (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"})
    sessions = {}
    for member, model in models.items():
        sessions[member] = _open(member, model, [provider, CPU])
        # The list of available providers names what was compiled in; only the session knows
        # what was loaded (onnxruntime issue 23372).
        used = sessions[member].get_providers()[0]
        if used != CUDA:
            raise DeviceError(_no_cuda(member, f"ONNX Runtime chose {used}"))
    return sessions


def _no_cuda(member: str, found: str) -> str:
    return (
        f"CUDA did not load for member {member!r} ({found}); check that the driver works "
        "(`nvidia-smi`) and that the `gpu` extra's CUDA and cuDNN packages are installed"
    )


def _open(member: str, model: bytes, providers: Sequence[object]) -> ort.InferenceSession:
    """Open a session that uses one thread, nothing but `model`, and no provider but those given.

    Raises:
        BundleError: ONNX Runtime can't run the graph.
        DeviceError: a provider other than the CPU's could not be set up.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; what its warnings would say is checked here
    options.intra_op_num_threads = 1  # the caller's own: no pool, so nothing spins
    # Weights outside the file were not verified. Even for a model that comes as bytes, ONNX
    # Runtime looks for them in the working directory; inside this file there can be none.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        # enable_fallback is on by default: a failure, now or in a later run, would move the
        # session to the CPU, with a print.
        return ort.InferenceSession(model, options, providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no other class in common
        # Of providers it complains with these two, of graphs with classes of its own.
        if providers != [CPU] and isinstance(error, RuntimeError | ValueError):
            raise DeviceError(_no_cuda(member, reason(error))) from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} can't load member {member!r}: {reason(error)}"
        ) from error


def _signature(nodes: Sequence[ort.NodeArg]) -> str:
    return " and ".join(spell(node.type, node.shape) for node in nodes)
