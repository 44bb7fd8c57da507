"""Which runtime predicts, and in which precision: the fastest that keeps the masks."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from app.errors import DeviceError
from app.inference.manifest import Manifest
from app.inference.predictor import Device, OnnxPredictor, Predictor, gpu_expected

Backend = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16"]

DICE_TOLERANCE = 0.003
"""How far micro Dice in bf16 may lie from that in fp32, by the manifest, for `auto` to take it."""


def load_predictor(
    bundle: Path,
    manifest: Manifest,
    *,
    device: Device = "auto",
    lanes: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Predictor:
    """Load the bundle in the folder `bundle` into the backend that suits the machine.

    ONNX Runtime computes in fp32, on GPUs and CPUs; OpenVINO is here for bf16 on CPUs. What is left
    to us (`auto`) comes to bf16 only where the CPU has it and the manifest says that the masks of
    this bundle do not suffer.

    Raises:
        BundleError: a file, or the graph in it, is not what the manifest describes.
        DeviceError: device, backend and precision do not go together, or not on this machine.
    """
    if backend == "openvino" and device == "cuda":
        raise DeviceError("OpenVINO runs on CPUs here; for the GPU, set backend to auto")
    if precision == "bf16" and (backend == "onnxruntime" or device == "cuda"):
        raise DeviceError(
            "ONNX Runtime computes in fp32 here; for bf16, set backend to openvino "
            "and device to cpu"
        )
    if (backend == "openvino" or precision == "bf16") and find_spec("openvino") is None:
        raise DeviceError("OpenVINO is not installed; install the `openvino` extra")
    chosen, why = _choose(manifest, device, backend, precision)
    choice = f"{chosen}: {why}"
    if backend != "openvino" and chosen == "fp32":
        return OnnxPredictor(bundle, manifest, device=device, lanes=lanes, choice=choice)
    # Here, because it need not be installed, and takes its time.
    from app.inference.openvino_predictor import OpenvinoPredictor

    return OpenvinoPredictor(bundle, manifest, precision=chosen, lanes=lanes, choice=choice)


def _choose(
    manifest: Manifest, device: Device, backend: Backend, precision: Precision
) -> tuple[Literal["fp32", "bf16"], str]:
    """Choose a precision, and say why."""
    if precision != "auto":
        return precision, "as asked"
    if backend == "onnxruntime":
        return "fp32", "ONNX Runtime has no other here"
    if backend == "auto" and (device == "cuda" or (device == "auto" and gpu_expected())):
        return "fp32", "GPUs are ONNX Runtime's"
    if find_spec("openvino") is None:
        return "fp32", "for bf16, install the `openvino` extra"
    from app.inference.openvino_predictor import has_bf16

    if not has_bf16():
        return "fp32", "this CPU has no bf16"
    cost = manifest.precisions.get("bf16")
    if cost is None:
        return "fp32", (
            "the manifest does not say what bf16 does to this bundle's masks; "
            "it is taken if precision is set to bf16"
        )
    said = f"it changes micro Dice by {cost.dice_micro_change:+.4f} on {cost.measured_on}"
    if abs(cost.dice_micro_change) > DICE_TOLERANCE:
        return "fp32", f"bf16 is faster, but {said}"
    return "bf16", said
