"""Experimental: ONNX Runtime on one NVIDIA GPU. Speed, and masks in fp16, were not measured yet.

CUDA graphs and TensorRT are off unless an operator asks for them.
"""

import io
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..bundle.verification import read_model
from ..errors import DeviceError
from ..extras import check_extra
from .choices import GpuPrecision
from .onnxruntime import CPU, Providers, open_session, run_session
from .predictor import Predictor, reason

logger = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_SPOKEN = {CUDA: "CUDA", TENSORRT: "TensorRT"}

GPU_FILES = (Path("/dev/nvidia0"), Path("/dev/dxg"))
"""Present when the machine has an NVIDIA GPU: under Linux, and under Windows' Linux (WSL)."""

_GPU_MEMORY = "cuda"
"""ONNX Runtime's name for the memory that holds `_Buffers`."""

_OUT_OF_MEMORY = re.compile(
    "out of memory|ALLOC_FAILED|Failed to allocate memory|Available memory of .* is smaller", re.I
)
"""The words of CUDA, cuDNN, cuBLAS and ONNX Runtime's arena. Their classes of errors do not tell
this kind from others. Source: onnxruntime/core/framework/bfc_arena.cc."""


@dataclass(frozen=True)
class Gpu:
    """How to use a GPU."""

    batch: int = 16
    """The most patches at a time."""
    graphs: bool = False
    """Record each batch size as a CUDA graph and replay it, so that no launch waits for the CPU."""
    tensorrt: Path | None = None
    """Let TensorRT build its engines, and keep them in this folder: minutes, the first time."""

    def providers(self, precision: GpuPrecision) -> list[tuple[str, dict[str, str]]]:
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
            "trt_fp16_enable": str(int(precision == "fp16")),
            "trt_cuda_graph_enable": graphs,
        }
        return [(TENSORRT, engines), (CUDA, cuda)]


class GpuPredictor(Predictor):
    """Run a bundle's networks on one GPU, one session each.

    One thread takes up to `options.batch` patches at a time, of all callers who wait. If the GPU's
    memory does not hold a batch, batches are half as large from then on. A member of which it does
    not hold a single patch moves to the CPU for good, if `may_move`, and `fallback` says so.
    """

    ahead = True

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        options: Gpu = Gpu(),
        precision: GpuPrecision = "fp32",
        may_move: bool = False,
    ) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
            DeviceError: a member would not run on the GPU.
        """
        super().__init__(1, options.batch)
        models = {member.name: read_model(bundle, member) for member in manifest.members}
        if precision == "fp16" and options.tensorrt is None:  # TensorRT converts by itself
            models = {member: to_fp16(model) for member, model in models.items()}
        self._patch = manifest.patch_size
        sessions = _open_on_gpu(models, options.providers(precision), self._patch)
        self._buffers = {
            member: _Buffers(session, options.batch) for member, session in sessions.items()
        }
        self._on_cpu: dict[str, ort.InferenceSession] = {}
        self._models = models if may_move else {}
        self.providers = {
            member: session.get_providers()[0] for member, session in sessions.items()
        }
        self.members = tuple(models)
        self.batch_size = options.batch

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        results: list[NDArray[np.float32]] = []
        first = 0
        while first < len(patches):
            if member in self._on_cpu:
                results.append(run_session(self._on_cpu[member], patches[first:]))
                break
            part = patches[first : first + self.batch_size]
            try:
                results.append(self._buffers[member].run(part))
                first += len(part)
            except Exception as error:  # ONNX Runtime's errors have no other class in common
                if not _OUT_OF_MEMORY.search(str(error)):
                    raise
                self._need_less(member, len(part), error)
        return results[0] if len(results) == 1 else np.concatenate(results)

    def _need_less(self, member: str, patches: int, error: Exception) -> None:
        """Use less of the GPU's memory, which did not hold so many patches.

        Raises:
            Exception: `error`; nothing is left to try.
        """
        self.out_of_memory += 1
        logger.warning(
            "the GPU has no memory for %d patches of member %r: %s", patches, member, reason(error)
        )
        if patches > 1:
            self.batch_size = patches // 2
            logger.warning("from now on, it gets %d at a time", self.batch_size)
            return
        if member not in self._models:
            raise error
        del self._buffers[member]
        self._on_cpu[member] = open_session(member, self._models[member], [CPU], self._patch)
        self.providers = {**self.providers, member: CPU}
        self.fallback = (
            f"Member {member!r} has moved to the CPU: the GPU has no memory for one patch. "
            "A reload tries the GPU again."
        )
        logger.warning("%s", self.fallback)


class _Buffers:
    """Feeds a session through buffers in the GPU's memory that stay where they are.

    Batches have sizes of powers of two, filled up with black patches: few shapes, for which cuDNN
    chooses an algorithm once, and which CUDA can record. Nothing is allocated for a batch. Copies
    start from memory that is not pinned; ONNX Runtime offers no other to Python.
    """

    def __init__(self, session: ort.InferenceSession, largest: int) -> None:
        self._session = session
        self._largest = largest
        self._bound: dict[int, tuple[ort.OrtValue, ort.OrtValue, ort.IOBinding]] = {}

    def run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3): float32 (N, S, S). One thread at a time."""
        size = min(1 << (len(patches) - 1).bit_length(), self._largest)
        if size not in self._bound:
            self._bound[size] = self._bind((size, *patches.shape[1:]))
        inputs, outputs, binding = self._bound[size]
        missing = size - len(patches)
        inputs.update_inplace(np.pad(patches, ((0, missing), (0, 0), (0, 0), (0, 0))))
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))  # which recording, if there is one
        self._session.run_with_iobinding(binding, options)
        probability: NDArray[np.float32] = outputs.numpy()
        return probability[: len(patches)].copy()  # a buffer of the CPU is not copied by `numpy`

    def _bind(self, shape: tuple[int, ...]) -> tuple[ort.OrtValue, ort.OrtValue, ort.IOBinding]:
        new = ort.OrtValue.ortvalue_from_shape_and_type
        inputs = new(shape, np.uint8, _GPU_MEMORY)
        outputs = new(shape[:-1], np.float32, _GPU_MEMORY)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, inputs)
        binding.bind_ortvalue_output(self._session.get_outputs()[0].name, outputs)
        return inputs, outputs, binding


def gpu_expected() -> bool:
    """Tell whether the machine has a GPU, or ONNX Runtime was built for one."""
    return CUDA in ort.get_available_providers() or any(map(Path.exists, GPU_FILES))


def _open_on_gpu(
    models: Mapping[str, bytes], providers: Sequence[tuple[str, dict[str, str]]], patch: int
) -> dict[str, ort.InferenceSession]:
    (wanted, _), *_ = providers
    for name, install in ((CUDA, "the `gpu` extra in place of `cpu`"), (wanted, "TensorRT")):
        if name not in ort.get_available_providers():
            raise DeviceError(
                f"this build of ONNX Runtime ({ort.__version__}) has no {_SPOKEN[name]}; "
                f"install {install}"
            )
    # CUDA and cuDNN may come as Python packages, where the system's loader does not look. ONNX
    # Runtime prints what it can't load, which would spoil output that is written to stdout.
    with redirect_stdout(io.StringIO()) as printed:
        ort.preload_dlls()
    for line in printed.getvalue().splitlines():
        logger.warning("preloading CUDA: %s", line)
    with_cpu: Providers = [*providers, CPU]
    sessions = {}
    for member, model in models.items():
        try:
            sessions[member] = open_session(member, model, with_cpu, patch)
        except (RuntimeError, ValueError) as error:
            raise DeviceError(_did_not_load(wanted, member, reason(error))) from error
        # The list of available providers names the compiled ones; only the session knows the
        # loaded ones (onnxruntime issue 23372).
        used = sessions[member].get_providers()[0]
        if used != wanted:
            raise DeviceError(_did_not_load(wanted, member, f"ONNX Runtime chose {used}"))
    return sessions


def _did_not_load(provider: str, member: str, why: str) -> str:
    needed = "the `gpu` extra's CUDA and cuDNN packages are installed"
    if provider == TENSORRT:
        needed += ", and a TensorRT for the same CUDA"
    return (
        f"{_SPOKEN[provider]} did not load for member {member!r} ({why}); check that the driver "
        f"works (`nvidia-smi`) and that {needed}"
    )


def to_fp16(model: bytes) -> bytes:
    """Return a graph that computes in fp16 instead of fp32. Inputs and outputs keep their types.

    Raises:
        DeviceError: the package onnx is not installed.
    """
    check_extra("fp16", "gpu", "onnx", error=DeviceError)
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    loaded = onnx.load_from_string(model)
    graph = loaded.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:  # always in fp32
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
    [last] = [node for node in graph.node if graph.output[0].name in node.output]
    in_fp16 = f"{last.output[0]}_in_fp16"
    graph.node.append(helper.make_node("Cast", [in_fp16], [last.output[0]], to=TensorProto.FLOAT))
    last.output[0] = in_fp16
    del graph.value_info[:]  # it says that everything is fp32
    return bytes(loaded.SerializeToString())
