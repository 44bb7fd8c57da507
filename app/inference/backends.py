"""Which runtime predicts, and in which precision: the fastest that keeps the masks."""

import logging
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

logger = logging.getLogger(__name__)


def load_predictor(
    bundle: Path,
    manifest: Manifest,
    *,
    device: Device = "auto",
    lanes: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> Predictor:
    """Load the bundle in the folder `bundle` into the backend that suits the machine, and say why.

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
    why_not_bf16: str | None = "as asked"
    if backend == "openvino" or precision == "bf16":
        if find_spec("openvino") is None:
            raise DeviceError("OpenVINO is not installed; install the `openvino` extra")
        if precision == "auto":
            why_not_bf16 = _why_not_bf16(manifest)
        elif precision == "bf16":
            why_not_bf16 = None
        return _load_openvino(bundle, manifest, why_not_bf16, lanes)
    if backend == "auto" and precision == "auto":
        if device == "cuda" or (device == "auto" and gpu_expected()):
            why_not_bf16 = "GPUs are ONNX Runtime's"
        else:
            why_not_bf16 = _why_not_bf16(manifest)
    if why_not_bf16 is None:
        return _load_openvino(bundle, manifest, None, lanes)
    logger.info("ONNX Runtime in fp32: %s", why_not_bf16)
    return OnnxPredictor(bundle, manifest, device=device, lanes=lanes)


def _load_openvino(
    bundle: Path, manifest: Manifest, why_not_bf16: str | None, lanes: int | None
) -> Predictor:
    # Here, because it need not be installed, and takes its time.
    from app.inference.openvino_predictor import OpenvinoPredictor

    if why_not_bf16 is None:
        logger.info("OpenVINO in bf16")
        return OpenvinoPredictor(bundle, manifest, precision="bf16", lanes=lanes)
    logger.info("OpenVINO in fp32: %s", why_not_bf16)
    return OpenvinoPredictor(bundle, manifest, precision="fp32", lanes=lanes)


def _why_not_bf16(manifest: Manifest) -> str | None:
    """Say why bf16 should not be taken unasked; None if it should."""
    if find_spec("openvino") is None:
        return "for bf16, install the `openvino` extra"
    from app.inference.openvino_predictor import has_bf16

    if not has_bf16():
        return "this CPU has no bf16"
    cost = manifest.precisions.get("bf16")
    if cost is None:
        return (
            "the manifest does not say what bf16 does to this bundle's masks; "
            "it is taken if precision is set to bf16"
        )
    if abs(cost.dice_micro_change) > DICE_TOLERANCE:
        return (
            f"bf16 changes micro Dice by {cost.dice_micro_change:+.4f} "
            f"on {cost.measured_on}, more than {DICE_TOLERANCE}"
        )
    return None
