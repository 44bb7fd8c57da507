"""Choose runtime and precision: the fastest that this machine has and that keeps the masks."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from ..bundle.manifest import Lower, Manifest
from ..errors import DeviceError
from .choices import Backend, CpuPrecision, Device, GpuPrecision, Precision
from .gpu import Gpu, GpuPredictor, gpu_expected
from .onnxruntime import OnnxPredictor
from .predictor import Predictor, reason

logger = logging.getLogger(__name__)

DICE_TOLERANCE = 0.003
"""`auto` takes a precision if the manifest says that micro Dice differs from fp32's by no more."""

_FASTEST_FIRST: tuple[Lower, ...] = ("int8", "bf16")


class Choices(TypedDict, total=False):
    """Choices of `load_predictor`. Those that are left out have its defaults."""

    device: Device
    workers: int | None
    backend: Backend
    precision: Precision
    gpu: Gpu


def load_predictor(
    bundle: Path,
    manifest: Manifest,
    *,
    device: Device = "auto",
    workers: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    gpu: Gpu = Gpu(),
) -> Predictor:
    """Load the bundle in the folder `bundle` into the backend that suits the machine.

    On a GPU, ONNX Runtime computes in fp32, or in fp16 if asked. On a CPU, OpenVINO computes in
    int8, bf16 or fp32; where it is not installed, ONNX Runtime computes in fp32. `auto` takes the
    fastest precision that the CPU has and in which, by the manifest, this bundle keeps its masks.

    Raises:
        BundleError: a file, or the graph in it, is not what the manifest describes.
        DeviceError: device, backend and precision exclude each other, or this machine lacks one.
    """
    _check_combination(device, backend, precision)
    if precision == "fp16":
        device = "cuda"  # a CPU would round to fp16 and compute in fp32
    why = _why_onnxruntime(device, backend)
    if precision == "fp16" or (why and precision in ("auto", "fp32")):
        chosen: GpuPrecision = "fp16" if precision == "fp16" else "fp32"
        predictor = _load_onnx(bundle, manifest, device, workers, gpu, chosen)
        choice = f"{chosen}: {why if precision == 'auto' else 'as asked'}"
        # TF32 is CUDA's default since Ampere; switching it off was not measured.
        rounds = "; NVIDIA GPUs since Ampere round its factors to TF32"
        on_gpu = isinstance(predictor, GpuPredictor) and chosen == "fp32"
        predictor.choice = choice + (rounds if on_gpu else "")
        return predictor
    # Here, because it need not be installed, and takes its time.
    from .openvino import OpenvinoPredictor

    lower, why = _fastest(manifest) if precision == "auto" else (precision, "as asked")
    on_cpu = OpenvinoPredictor(bundle, manifest, precision=lower, workers=workers)
    on_cpu.choice = f"{lower}: {why}"
    return on_cpu


def openvino_problem() -> str | None:
    """Say why OpenVINO can't be used; None if it can."""
    if find_spec("openvino") is None:
        return "OpenVINO is not installed; install the `openvino` extra"
    try:
        from . import capabilities  # noqa: F401
    except (ImportError, OSError) as error:  # such as a system without a library that it needs
        return f"OpenVINO is installed but does not load ({reason(error)}); install it again"
    return None


def _check_combination(device: Device, backend: Backend, precision: Precision) -> None:
    if backend == "openvino" and device == "cuda":
        raise DeviceError("OpenVINO runs on CPUs here; for the GPU, set backend to auto")
    lower = precision in _FASTEST_FIRST
    if lower and (backend == "onnxruntime" or device == "cuda"):
        raise DeviceError(
            f"ONNX Runtime has no {precision} here; set backend to openvino and device to cpu"
        )
    if precision == "fp16" and (backend == "openvino" or device == "cpu"):
        raise DeviceError("fp16 is for GPUs; set backend to auto and device to auto or cuda")
    if (backend == "openvino" or lower) and (problem := openvino_problem()):
        raise DeviceError(problem)


def _why_onnxruntime(device: Device, backend: Backend) -> str | None:
    """Say why ONNX Runtime computes, in fp32 unless asked; None where OpenVINO does."""
    if backend == "onnxruntime":
        return "ONNX Runtime computes in no other precision here"
    if backend == "openvino":
        return None
    if device == "cuda" or (device == "auto" and gpu_expected()):
        return "ONNX Runtime serves GPUs, in fp32 unless fp16 is asked for"
    return openvino_problem()


def _fastest(manifest: Manifest) -> tuple[CpuPrecision, str]:
    """Choose the fastest precision that the CPU has and that keeps the masks, and say why."""
    from . import capabilities  # here, as it imports OpenVINO

    passed_over: list[str] = []
    for name in _FASTEST_FIRST:
        cost = manifest.precisions.get(name)
        if cost is None:
            why = "the manifest does not say what it does to this bundle's masks"
        elif name not in capabilities.native_precisions():
            why = "this CPU has none"
        else:
            why = f"it changes micro Dice by {cost.dice_micro_change:+.4f} on {cost.measured_on}"
            if abs(cost.dice_micro_change) <= DICE_TOLERANCE:
                return name, "; ".join([why, *passed_over])
        passed_over.append(f"not {name}: {why}")
    return "fp32", "; ".join(passed_over)


def _load_onnx(
    bundle: Path,
    manifest: Manifest,
    device: Device,
    workers: int | None,
    gpu: Gpu,
    precision: GpuPrecision,
) -> Predictor:
    """Load a bundle on the GPU, or on the CPU if `device` allows it; say why, if one was there."""
    fallback, may_move = None, device == "auto"
    if device != "cpu":
        try:
            return GpuPredictor(
                bundle, manifest, options=gpu, precision=precision, may_move=may_move
            )
        except DeviceError as error:
            if device == "cuda":
                raise
            if gpu_expected():
                fallback = f"Running on the CPU: {error}"
                logger.warning("%s", fallback)
    predictor = OnnxPredictor(bundle, manifest, workers=workers)
    predictor.fallback = fallback
    return predictor
