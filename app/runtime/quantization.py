"""int8: rounds the inputs and weights of convolutions to 8 bits when a network is loaded.

The ONNX file stays the same. Ranges of inputs are measured once, on training tiles, and stand in
the manifest.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset
from openvino.passes import ConstantFolding, Manager

from ..errors import BundleError

Ranges = Mapping[str, tuple[float, float]]
"""The lowest and the highest value that count, by the tensor's name in the ONNX file."""

_LARGEST_WEIGHT = 63
"""Weights in int8 have 7 bits, so that every CPU computes the same sums: a CPU without VNNI adds
pairs of products in 16 bits, which saturate above 2 x 255 x 64. Source: Intel, Software
Developer's Manual, PMADDUBSW."""


def fold_constants(graph: ov.Model) -> None:
    """Compute constant expressions, in place: weights are stored as fp16, and cast."""
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(graph)


def convolutions(graph: ov.Model) -> Iterator[tuple[ov.Output, ov.Node]]:
    """Yield the input and the node of each convolution with constant weights, in a folded graph."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            values, weights = node.input_value(0), node.input_value(1).get_node()
            if values.get_names() and weights.get_type_name() == "Constant":
                yield values, node


def quantize(member: str, graph: ov.Model, ranges: Ranges) -> None:
    """Round the inputs and weights of convolutions to 8 bits, in place.

    OpenVINO then multiplies in int8. An input without negative values has 256 levels from 0 to the
    end of its range, others have 256 around 0. Weights have 127 levels around 0, scaled for each
    output channel. Values between convolutions are not rounded: that was measured to be hardly
    slower, and loses less.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, 2018; OpenVINO, FakeQuantize-1.

    Raises:
        BundleError: a range belongs to a tensor that is no convolution's input.
    """
    rounded: dict[str, ov.Output] = {}
    for values, node in list(convolutions(graph)):
        name = next((name for name in sorted(values.get_names()) if name in ranges), None)
        if name is None:
            continue
        if name not in rounded:
            low, high = ranges[name]
            end = max(-low, high)
            low, high = (0.0, high) if low >= 0 else (-end, end * 127 / 128)
            rounded[name] = _round(values, np.float32(low), np.float32(high), 256)
        weights = node.input_value(1).get_node().get_data()
        axes = tuple(range(1 if node.get_type_name() == "Convolution" else 2, weights.ndim))
        largest = np.abs(weights).max(axes, keepdims=True)
        # A channel may be all zeros. OpenVINO stores tensors of 255 levels; these use half of them.
        end = np.maximum(largest, np.float32(1e-8)) * np.float32(127 / _LARGEST_WEIGHT)
        node.input(0).replace_source_output(rounded[name])
        node.input(1).replace_source_output(_round(opset.constant(weights), -end, end, 255))
    if unknown := ranges.keys() - rounded.keys():
        raise BundleError(
            f"the manifest has int8 ranges for {len(unknown)} tensors that are no convolution's "
            f"input in member {member!r}, such as {min(unknown)}; calibrate the bundle again"
        )


def convolution_types(compiled: ov.CompiledModel) -> set[str]:
    """Return the types that the convolutions of a compiled network compute in, such as "u8"."""
    described = (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    return {
        info["runtimePrecision"].astype(str)
        for info in described
        if info["layerType"].astype(str) == "Convolution"
    }


def _round(
    value: ov.Output | ov.Node,
    low: NDArray[np.float32] | np.float32,
    high: NDArray[np.float32] | np.float32,
    levels: int,
) -> ov.Output:
    ends = opset.constant(low), opset.constant(high)
    return opset.fake_quantize(value, *ends, *ends, levels).output(0)
