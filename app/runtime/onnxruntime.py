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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest
from app.bundle.verification import read_model
from app.errors import BundleError, DeviceError
from app.runtime.workers import Workers, check_signature, reason, spell

# From 1.29 on, ONNX Runtime reports to its makers unless it is told not to before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
ComputedIn = Literal["fp32", "bf16", "int8"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_SPOKEN = {CUDA: "CUDA", TENSORRT: "TensorRT"}

Providers = Sequence[tuple[str, dict[str, str]]]
"""Names of ONNX Runtime's execution providers, each with its options."""

GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/dxg"))
"""Present when the machine has an NVIDIA GPU: under Linux, and under Windows' Linux (WSL)."""

_OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|Failed to allocate memory|Available memory of .* is smaller", re.I
)
"""CUDA's, cuDNN's and cuBLAS' words for it, and those of ONNX Runtime's arena, whose classes of
errors do not tell this kind from others. Source: onnxruntime/core/framework/bfc_arena.cc."""


_GPU_MEMORY = "cuda"
"""ONNX Runtime's name for where the buffers of `_Bound` lie."""


@dataclass(frozen=True)
class Gpu:
    """How a GPU is used. What is off by default has not been measured on one yet."""

    batch: int = 16
    """Patches at a time, at most."""
    graphs: bool = False
    """Record each size of batch as a CUDA graph, and replay it: no launch waits for the CPU."""
    tensorrt: Path | None = None
    """Let TensorRT build its engines, and keep them in this folder: minutes, the first time."""

    def providers(self, *, half: bool) -> list[tuple[str, dict[str, str]]]:
        """Return the execution providers to ask for, the best first, with their options."""
        graphs = str(int(self.graphs))
        # The default search, EXHAUSTIVE, times every algorithm again for each new batch size.
        cuda = {"cudnn_conv_algo_search": "HEURISTIC"}
        if self.tensorrt is None:
            return [(CUDA, {**cuda, "enable_cuda_graph": graphs})]
        engines = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(self.tensorrt),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.tensorrt),
            "trt_fp16_enable": str(int(half)),
            "trt_cuda_graph_enable": graphs,
        }
        return [(TENSORRT, engines), (CUDA, cuda)]


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

    @property
    def ahead(self) -> bool:
        """Whether the next call should not wait until the last one's answer has been used.

        A GPU would idle meanwhile. On a CPU, whoever uses the answer takes the cores for it.
        """

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

    On a CPU, `workers` threads (default: one per usable core) take one patch at a time through all
    members, shared by every caller: measured to be faster than any batch size and than ONNX
    Runtime's own threads, whose pools spin against each other, and it needs the least memory.
    On a GPU there is one worker, and up to `gpu.batch` patches at a time, of whoever waits, in
    buffers of a few sizes. Where its memory does not hold these, batches are half as large from
    then on. A member of which it does not hold a single patch moves to the CPU for good, if
    `device` left that open, and is said to be there.
    """

    out_of_memory = 0

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        device: Device = "auto",
        workers: int | None = None,
        gpu: Gpu = Gpu(),
        precision: Literal["fp32", "fp16"] = "fp32",
        choice: str = "fp32, as asked",
    ) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
            DeviceError: `device` is "cuda" and some member would not run there.
        """
        half = precision == "fp16"
        models = {member.name: read_model(bundle, member) for member in manifest.members}
        if half and gpu.tensorrt is None:  # which does it itself
            models = {member: _to_half(model) for member, model in models.items()}
        self._sessions, self.fallback = _open_sessions(models, device, gpu.providers(half=half))
        for member, session in self._sessions.items():
            takes, gives = _signature(session.get_inputs()), _signature(session.get_outputs())
            check_signature(member, takes, gives, manifest.patch_size)

        self.choice = choice
        self.members = tuple(self._sessions)
        self.providers = {
            member: session.get_providers()[0] for member, session in self._sessions.items()
        }
        on_gpu = {member for member, provider in self.providers.items() if provider != CPU}
        # What may have to be opened once more, on the CPU.
        self._models = models if device == "auto" and on_gpu else {}
        self._bound = {member: _Bound(self._sessions[member], gpu.batch) for member in on_gpu}
        self.ahead = bool(on_gpu)
        if on_gpu:
            workers, chunk, self.batch_size = 1, gpu.batch, gpu.batch
        else:
            workers = usable_cores() if workers is None else workers
            # Two rounds a call: a whole number, so that no worker idles at the end, and few,
            # so that callers who share the workers, or want to stop, need not wait for long.
            chunk, self.batch_size = 1, 2 * workers
        self._workers = Workers(workers, chunk)

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises."""
        return self._workers.predict(self._run, patches, members)

    def close(self) -> None:
        """Wait for what is running and let go of the threads."""
        self._workers.close()

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        done: list[NDArray[np.float32]] = []
        first = 0
        while first < len(patches):
            part = patches[first : first + self.batch_size]
            try:
                if member in self._bound:
                    done.append(self._bound[member].run(part))
                else:
                    session = self._sessions[member]
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
        del self._bound[member]
        self._sessions[member] = _open(member, self._models[member], [CPU])
        self.providers[member] = CPU
        self.fallback = (
            f"Member {member!r} has moved to the CPU: the GPU has no memory for one patch. "
            "A reload tries the GPU again."
        )
        logger.warning("%s", self.fallback)


class _Bound:
    """A session on a GPU, fed through buffers that lie there and stay where they are.

    Batches come in sizes of powers of two, the last patches of a batch black where it is not full:
    few shapes, for which cuDNN chooses an algorithm once, and which CUDA can record. Patches go to
    the GPU as bytes, probabilities come back, and nothing is reserved or released for a batch.
    They come from memory that is not pinned, which ONNX Runtime does not offer to Python.
    """

    def __init__(self, session: ort.InferenceSession, largest: int) -> None:
        self._session = session
        self._largest = largest
        self._buffers: dict[int, tuple[ort.OrtValue, ort.OrtValue, ort.IOBinding]] = {}

    def run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3): float32 (N, S, S). One thread at a time."""
        size = min(1 << (len(patches) - 1).bit_length(), self._largest)
        if size not in self._buffers:
            self._buffers[size] = self._bind((size, *patches.shape[1:]))
        taken, given, binding = self._buffers[size]
        missing = size - len(patches)
        taken.update_inplace(np.pad(patches, ((0, missing), (0, 0), (0, 0), (0, 0))))
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))  # which recording, if there is one
        self._session.run_with_iobinding(binding, options)
        found: NDArray[np.float32] = given.numpy()
        return found[: len(patches)].copy()  # where the buffer is the CPU's, this was it

    def _bind(self, shape: tuple[int, ...]) -> tuple[ort.OrtValue, ort.OrtValue, ort.IOBinding]:
        new = ort.OrtValue.ortvalue_from_shape_and_type
        taken = new(shape, np.uint8, _GPU_MEMORY)
        given = new(shape[:-1], np.float32, _GPU_MEMORY)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, taken)
        binding.bind_ortvalue_output(self._session.get_outputs()[0].name, given)
        return taken, given, binding


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
    models: Mapping[str, bytes], device: Device, on_gpu: Providers
) -> tuple[dict[str, ort.InferenceSession], str | None]:
    """Open a session per model, and say why, if the CPU stands in for a GPU."""
    if device != "cpu":
        try:
            return _open_on_gpu(models, on_gpu), None
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


def _open_on_gpu(
    models: Mapping[str, bytes], providers: Providers
) -> dict[str, ort.InferenceSession]:
    (wanted, _), *_ = providers
    for name, install in ((CUDA, "the `gpu` extra in place of `cpu`"), (wanted, "TensorRT")):
        if name not in ort.get_available_providers():
            raise DeviceError(
                f"this build of ONNX Runtime ({ort.__version__}) has no {_SPOKEN[name]}; "
                f"install {install}"
            )
    # CUDA and cuDNN may come as Python packages, where the system's loader does not look.
    # What it can't load it prints, which would spoil output that is written to stdout.
    with redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        logger.warning("preloading CUDA: %s", line)
    sessions = {}
    for member, model in models.items():
        sessions[member] = _open(member, model, [*providers, CPU])
        # The list of available providers names what was compiled in; only the session knows
        # what was loaded (onnxruntime issue 23372).
        used = sessions[member].get_providers()[0]
        if used != wanted:
            raise DeviceError(_did_not_load(wanted, member, f"ONNX Runtime chose {used}"))
    return sessions


def _to_half(model: bytes) -> bytes:
    """Return a graph that computes in fp16 what `model` computes in fp32.

    What goes in and comes out keeps its type.

    Raises:
        DeviceError: the package onnx is not installed.
    """
    try:
        import onnx  # here, because only the `gpu` extra has it
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise DeviceError("fp16 needs the package onnx; install the `gpu` extra") from error
    whole = onnx.load_from_string(model)
    graph = whole.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:  # always in fp32
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
    [last] = [node for node in graph.node if graph.output[0].name in node.output]
    in_half = f"{last.output[0]}_in_half"
    graph.node.append(helper.make_node("Cast", [in_half], [last.output[0]], to=TensorProto.FLOAT))
    last.output[0] = in_half
    del graph.value_info[:]  # which says that all is fp32
    return bytes(whole.SerializeToString())


def _did_not_load(provider: str, member: str, found: str) -> str:
    needed = "the `gpu` extra's CUDA and cuDNN packages are installed"
    if provider == TENSORRT:
        needed += ", and a TensorRT for the same CUDA"
    return (
        f"{_SPOKEN[provider]} did not load for member {member!r} ({found}); check that the driver "
        f"works (`nvidia-smi`) and that {needed}"
    )


def _open(
    member: str, model: bytes, providers: Sequence[str | tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
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
            raise DeviceError(_did_not_load(providers[0][0], member, reason(error))) from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} can't load member {member!r}: {reason(error)}"
        ) from error


def _signature(nodes: Sequence[ort.NodeArg]) -> str:
    return " and ".join(spell(node.type, node.shape) for node in nodes)
