"""Patches in, probabilities out, on Intel and AMD CPUs: the only importer of OpenVINO.

OpenVINO computes in bf16 where the CPU can, whether or not anybody asked for it, and in silence in
fp32 where the CPU can't. It reads weights from files beside the process, and reports to its makers
each time it is imported. This module is where each of these is settled, once.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import BundleError, DeviceError
from app.inference.lanes import Lanes, check_signature, reason, spell
from app.inference.manifest import Manifest, read_model
from app.inference.predictor import usable_cores

# It reports when it is imported, unless this package, which does that and no more, can't be.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402

ComputedIn = Literal["fp32", "bf16"]

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
_SPELT = {ov.Type.u8: "tensor(uint8)", ov.Type.f32: "tensor(float)"}
"""As ONNX Runtime names them."""

_OUTSIDE = b"\n\x08location\x12"
"""Where an ONNX file keeps a weight in another file: `TensorProto.external_data`'s key "location",
as protobuf writes it. Source: ONNX, docs/ExternalData.md; Protocol Buffers, Encoding."""


class OpenvinoPredictor:
    """Run a bundle's networks on the CPU, in fp32 or bf16.

    As in `OnnxPredictor`, `lanes` threads (default: one per usable core) take one patch at a time.
    Networks are compiled for exactly one patch, so memory does not depend on what is asked.
    """

    fallback = None

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        precision: ComputedIn = "fp32",
        lanes: int | None = None,
        choice: str = "as asked",
    ) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
            DeviceError: the CPU can't compute in `precision`.
        """
        lanes = usable_cores() if lanes is None else lanes
        self._lanes = Lanes(lanes)
        self._of_lane = threading.local()
        core = ov.Core()
        self._compiled = {
            member.name: _compile(
                core, member.name, read_model(bundle, member), manifest.patch_size, precision, lanes
            )
            for member in manifest.members
        }
        self.choice = choice
        self.members = tuple(self._compiled)
        self.providers: Mapping[str, str] = dict.fromkeys(self.members, f"OpenVINO CPU {precision}")
        self.batch_size = 2 * lanes  # as `OnnxPredictor` has it

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises."""
        return self._lanes.predict(self._run, patches, members)

    def close(self) -> None:
        """Wait for what is running and let go of the threads."""
        self._lanes.close()

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        requests: dict[str, ov.InferRequest] = self._of_lane.__dict__
        if member not in requests:
            requests[member] = self._compiled[member].create_infer_request()
        request = requests[member]
        # Not `infer`, which would run in this thread: only a stream's own thread is sure to find
        # the stream's copy of the network free.
        request.start_async([patches], share_inputs=True)
        request.wait()
        # The next run of this lane overwrites it; `Lanes` copies it before.
        probability: NDArray[np.float32] = request.get_output_tensor(0).data
        return probability


def has_bf16() -> bool:
    """Tell whether the CPU computes in bf16 by itself, rather than by way of fp32."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _compile(
    core: ov.Core, member: str, model: bytes, patch: int, precision: ComputedIn, lanes: int
) -> ov.CompiledModel:
    """Compile a network for one patch at a time, in each of `lanes` threads that call it.

    Raises:
        BundleError: OpenVINO can't run the graph, or it is not of the kind that was agreed.
        DeviceError: the CPU can't compute in `precision`.
    """
    if _OUTSIDE in model:
        raise BundleError(
            f"can't load member {member!r}: it keeps weights in external files, which nobody "
            "verified; export it as one file"
        )
    options = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "NUM_STREAMS": lanes,
        "INFERENCE_NUM_THREADS": lanes,
        # Other processes would be pinned to the same cores, and a container's are not the first.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        graph = core.read_model(model=model)
        check_signature(member, _signature(graph.inputs), _signature(graph.outputs), patch)
        graph.reshape([1, patch, patch, 3])
        compiled = core.compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise BundleError(
            f"OpenVINO {ov.__version__} can't load member {member!r}: {reason(error)}"
        ) from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT")
    if used != _TYPES[precision]:
        raise DeviceError(
            f"this CPU can't compute in {precision}: OpenVINO chose {used.to_string()}; "
            "set ROOFTRACE_PRECISION to fp32 or auto"
        )
    return compiled


def _signature(ports: Sequence[ov.Output]) -> str:
    return " and ".join(
        spell(
            _SPELT.get(port.element_type, port.element_type.to_string()),
            [n.get_length() if n.is_static else n.to_string() for n in port.partial_shape],
        )
        for port in ports
    )
