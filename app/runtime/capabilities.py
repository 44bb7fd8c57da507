"""Which precisions this CPU computes in, as OpenVINO uses it: decided before anything is compiled.

OpenVINO accepts every precision on every CPU. With AVX-512 but without bf16 it emulates bf16 in
fp32, without AVX-512 it computes in fp32 and does not say so, and on many CPUs sums of int8
overflow.
"""

from functools import cache
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from ..errors import DeviceError
from .choices import CpuPrecision
from .quantization import convolution_types, quantize


@cache
def native_precisions() -> frozenset[CpuPrecision]:
    """Return the precisions that this CPU computes in: fp32 always, bf16 and int8 where it can.

    The tests replace this one function to stand on another CPU.
    """
    native: set[CpuPrecision] = {"fp32"}
    if _has_bf16():
        native.add("bf16")
    if _has_int8():
        native.add("int8")
    return frozenset(native)


def float_precision() -> Literal["fp32", "bf16"]:
    """Return bf16 where the CPU computes in it, else fp32."""
    return "bf16" if "bf16" in native_precisions() else "fp32"


def require_native(precision: CpuPrecision) -> None:
    """Refuse a precision that this CPU does not compute in.

    Raises:
        DeviceError: OpenVINO would emulate it, compute in fp32 instead, or lose sums.
    """
    if precision == "fp32":
        return
    native = native_precisions()
    if precision not in native:
        without = " without loss" if precision == "int8" else ""
        raise DeviceError(
            f"this CPU can't compute in {precision}{without}; "
            f"set ROOFTRACE_PRECISION to {', '.join(sorted(native))} or auto"
        )


def _has_bf16() -> bool:
    """Tell whether the CPU has instructions for bf16, and OpenVINO uses them.

    A trial alone would not tell instructions from their emulation. The report alone ignores
    `ONEDNN_MAX_CPU_ISA`, which an operator may have set.
    """
    core = ov.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    try:
        compiled = core.compile_model(_convolution(weight=1), "CPU", _options(ov.Type.bf16))
    except RuntimeError:
        return False
    return convolution_types(compiled) == {"bf16"}


def _has_int8() -> bool:
    """Tell whether the CPU multiplies in int8 and adds up without loss.

    The trial is a convolution of the largest values that there can be.
    """
    graph = _convolution(weight=127)
    quantize("test", graph, {"input": (0, 255)})
    compiled = ov.Core().compile_model(graph, "CPU", _options(ov.Type.f32))
    (sums,) = compiled([np.full((1, 2, 8, 8), 255, np.float32)]).values()
    in_8_bits = not convolution_types(compiled).isdisjoint({"u8", "i8"})
    return in_8_bits and bool(np.allclose(sums, 2 * 255 * 127, rtol=1e-3))


def _options(precision: ov.Type) -> dict[str, ov.Type | int]:
    return {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}


def _convolution(weight: float) -> ov.Model:
    """Return a 1 x 1 convolution of (1, 2, 8, 8) whose weights are all the same."""
    values = opset.parameter([1, 2, 8, 8], ov.Type.f32)
    values.output(0).set_names({"input"})
    weights = opset.constant(np.full((1, 2, 1, 1), weight, np.float32))
    convolution = opset.convolution(values, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    return ov.Model([convolution], [values])
