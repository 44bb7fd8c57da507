"""OpenVINO: a predictor on Intel and AMD CPUs, in fp32, bf16 or int8.

By default, OpenVINO computes in bf16 where the CPU can, reads weights from further files, and hangs
if its first patches come in two threads at once. This module prevents all three. `capabilities`
finds which precisions the CPU has.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ..bundle.manifest import Manifest, Member
from ..bundle.verification import read_model
from ..errors import BundleError, DeviceError
from .capabilities import float_precision, require_native
from .choices import CpuPrecision
from .cores import usable_cores
from .predictor import Predictor, check_signature, reason, spell
from .quantization import Ranges, fold_constants, quantize
from .winograd import rearrange

# The first of these calls fills a table. Two threads that make it at once, as workers do, wait for
# each other for ever: one for the table, one for the interpreter (seen in OpenVINO 2026.4.1).
ov.Type.u8.to_dtype()

_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
_SPELT = {ov.Type.u8: "tensor(uint8)", ov.Type.f32: "tensor(float)"}
"""As ONNX Runtime names them."""

_OUTSIDE = b"\n\x08location\x12"
"""Where an ONNX file keeps a weight in another file: `TensorProto.external_data`'s key "location",
as protobuf writes it. Source: ONNX, docs/ExternalData.md; Protocol Buffers, Encoding."""


class OpenvinoPredictor(Predictor):
    """Run a bundle's networks on the CPU, in fp32, bf16 or int8.

    Members without int8 ranges in the manifest compute in bf16 where the CPU has it, else in fp32.
    As in `OnnxPredictor`, `workers` threads (default: one per usable core) take one patch at a
    time. Networks are compiled for exactly one patch, so memory does not depend on the batch.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        *,
        precision: CpuPrecision = "fp32",
        workers: int | None = None,
    ) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
            DeviceError: the CPU can't compute in `precision`, or no member has int8 ranges.
        """
        workers = usable_cores() if workers is None else workers
        super().__init__(workers)
        require_native(precision)
        in_int8: dict[str, Ranges] = {}
        if precision == "int8":
            in_int8 = {m.name: m.int8.ranges for m in manifest.members if m.int8}
            if not in_int8:
                raise DeviceError(
                    f"no member of {manifest.version} has the ranges that int8 needs; write a copy "
                    "of the bundle with `python -m training fit BUNDLE VALIDATION --calibration "
                    "TILES`, or set ROOFTRACE_PRECISION to auto"
                )
        rest = float_precision() if precision == "int8" else precision
        core = ov.Core()

        def load(member: Member) -> ov.CompiledModel:
            name = member.name
            graph = read_graph(core, name, read_model(bundle, member), manifest.patch_size)
            fold_constants(graph)
            if name in in_int8:
                quantize(name, graph, in_int8[name])
            elif rest == "fp32":
                rearrange(graph)  # not in bf16, which would round its sums before they are used
            return compile_graph(core, name, graph, rest, workers)

        # Compiling releases the interpreter: a second core takes a third off the time.
        with ThreadPoolExecutor(workers) as threads:
            loaded = threads.map(load, manifest.members)
            names = (member.name for member in manifest.members)
            self._compiled = dict(zip(names, loaded, strict=True))
        self._of_worker = threading.local()
        self.members = tuple(self._compiled)
        self.providers = {
            name: f"OpenVINO CPU {'int8' if name in in_int8 else rest}" for name in self.members
        }
        self.batch_size = 2 * workers  # as in `OnnxPredictor`

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        requests: dict[str, ov.InferRequest] = self._of_worker.__dict__
        if member not in requests:
            requests[member] = self._compiled[member].create_infer_request()
        request = requests[member]
        # Not `infer`, which would run in this thread: only a stream's own thread is sure to find
        # the stream's copy of the network free.
        request.start_async([patches], share_inputs=True)
        request.wait()
        # The next run of this worker overwrites it; `Predictor` copies it before.
        probability: NDArray[np.float32] = request.get_output_tensor(0).data
        return probability


def read_graph(core: ov.Core, member: str, model: bytes, patch: int) -> ov.Model:
    """Read a network for one patch at a time.

    Raises:
        BundleError: OpenVINO can't read the graph, or it is not of the agreed kind.
    """
    if _OUTSIDE in model:
        raise BundleError(
            f"can't load member {member!r}: it keeps weights in external files, which nobody "
            "verified; export it as one file"
        )
    try:
        graph = core.read_model(model=model)
        check_signature(member, _signature(graph.inputs), _signature(graph.outputs), patch)
        graph.reshape([1, patch, patch, 3])
    except RuntimeError as error:
        raise _cant_load(member, error) from error
    return graph


def compile_graph(
    core: ov.Core, member: str, graph: ov.Model, precision: Literal["fp32", "bf16"], workers: int
) -> ov.CompiledModel:
    """Compile a network for `workers` threads that call it.

    Raises:
        BundleError: OpenVINO can't run the graph.
        DeviceError: the CPU can't compute in `precision`.
    """
    options = {
        "INFERENCE_PRECISION_HINT": _TYPES[precision],
        "NUM_STREAMS": workers,
        "INFERENCE_NUM_THREADS": workers,
        # Other processes would be pinned to the same cores, and a container's are not the first.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core.compile_model(graph, "CPU", options)
    except RuntimeError as error:
        raise _cant_load(member, error) from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT")
    if used != _TYPES[precision]:
        raise DeviceError(
            f"this CPU can't compute in {precision}: OpenVINO chose {used.to_string()}; "
            "set ROOFTRACE_PRECISION to fp32 or auto"
        )
    return compiled


def _cant_load(member: str, error: RuntimeError) -> BundleError:
    return BundleError(f"OpenVINO {ov.__version__} can't load member {member!r}: {reason(error)}")


def _signature(ports: Sequence[ov.Output]) -> str:
    return " and ".join(
        spell(
            _SPELT.get(port.element_type, port.element_type.to_string()),
            [n.get_length() if n.is_static else n.to_string() for n in port.partial_shape],
        )
        for port in ports
    )
