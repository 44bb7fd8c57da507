"""Which runtime predicts, and in which precision: the fastest that keeps the masks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from app.bundle.manifest import Manifest
from app.errors import DeviceError
from app.runtime.onnxruntime import (
    ComputedIn,
    Device,
    Gpu,
    OnnxPredictor,
    Predictor,
    gpu_expected,
)

Backend = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8", "fp16"]

DICE_TOLERANCE = 0.003
"""How far micro Dice may lie from that in fp32, by the manifest, for `auto` to take a precision."""


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

    GPUs are ONNX Runtime's, which computes in fp32 there, and in fp16 where it is told to. On CPUs
    OpenVINO is faster, in int8, bf16 and fp32; where it is not installed, ONNX Runtime computes in
    fp32.
    What is left to us (`auto`) comes to the fastest of these that the CPU has and of which the
    manifest says that the masks of this bundle do not suffer.

    Raises:
        BundleError: a file, or the graph in it, is not what the manifest describes.
        DeviceError: device, backend and precision do not go together, or not on this machine.
    """
    if backend == "openvino" and device == "cuda":
        raise DeviceError("OpenVINO runs on CPUs here; for the GPU, set backend to auto")
    lower = precision in ("bf16", "int8")
    if lower and (backend == "onnxruntime" or device == "cuda"):
        raise DeviceError(
            f"ONNX Runtime has no {precision} here; set backend to openvino and device to cpu"
        )
    if precision == "fp16":
        if backend == "openvino" or device == "cpu":
            raise DeviceError("fp16 is for GPUs; set backend to auto and device to auto or cuda")
        device = "cuda"  # a CPU would round to fp16 and compute in fp32
    if (backend == "openvino" or lower) and find_spec("openvino") is None:
        raise DeviceError("OpenVINO is not installed; install the `openvino` extra")
    chosen, why = _choose(manifest, device, backend, precision)
    choice = f"{chosen}: {why}"
    if chosen == "fp32" and backend == "auto":
        on_cpu = not _on_gpu(device) and find_spec("openvino") is not None
        backend = "openvino" if on_cpu else "onnxruntime"
    if chosen == "fp16" or (chosen == "fp32" and backend == "onnxruntime"):
        return OnnxPredictor(
            bundle,
            manifest,
            device=device,
            workers=workers,
            gpu=gpu,
            precision=chosen,
            choice=choice,
        )
    # Here, because it need not be installed, and takes its time.
    from app.runtime.openvino import OpenvinoPredictor

    return OpenvinoPredictor(bundle, manifest, precision=chosen, workers=workers, choice=choice)


def _on_gpu(device: Device) -> bool:
    """Tell whether a GPU is to be used, or to be looked for."""
    return device == "cuda" or (device == "auto" and gpu_expected())


def _choose(
    manifest: Manifest, device: Device, backend: Backend, precision: Precision
) -> tuple[ComputedIn | Literal["fp16"], str]:
    """Choose a precision, and say why."""
    if precision != "auto":
        return precision, "as asked"
    if backend == "onnxruntime":
        return "fp32", "ONNX Runtime has no other here"
    if backend == "auto" and _on_gpu(device):
        return "fp32", "GPUs are ONNX Runtime's"
    if find_spec("openvino") is None:
        return "fp32", "for int8 and bf16, install the `openvino` extra"
    from app.runtime import capabilities  # here, as it imports OpenVINO

    passed_over: list[str] = []
    fastest_first: tuple[Literal["int8", "bf16"], ...] = ("int8", "bf16")
    for name in fastest_first:
        cost = manifest.precisions.get(name)
        if cost is None:
            reason = "the manifest does not say what it does to this bundle's masks"
        elif name not in capabilities.native_precisions():
            reason = "this CPU has none"
        else:
            reason = f"it changes micro Dice by {cost.dice_micro_change:+.4f} on {cost.measured_on}"
            if abs(cost.dice_micro_change) <= DICE_TOLERANCE:
                return name, "; ".join([reason, *passed_over])
        passed_over.append(f"not {name}: {reason}")
    return "fp32", "; ".join(passed_over)
