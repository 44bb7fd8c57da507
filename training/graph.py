"""Export a network as one ONNX graph: normalisation and sigmoid inside, large weights as fp16."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18 as op

from training.config import PATCH_SIZE
from training.network import ProbabilityNetwork, SegmentationNetwork

_HALVED_FROM = 4096
"""Elements from which on a weight is stored as fp16. Biases, batch normalisation, mean and standard
deviation lie below: about 1 % of a file, so rounding them would cost precision and save nothing."""


def to_onnx(network: SegmentationNetwork) -> bytes:
    """Export a network as one ONNX file: uint8 (N, S, S, 3) in, probability float32 (N, S, S) out.

    Normalisation and sigmoid are inside, N is free, and large weights are stored as fp16.
    """
    example = torch.zeros(2, PATCH_SIZE, PATCH_SIZE, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        # Batch normalisation and dropout must stand still.
        ProbabilityNetwork(network).eval(),
        (example,),
        dynamo=True,  # the older exporter fails on PSPNet's pooling pyramid
        custom_translation_table={torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_pool},
        dynamic_shapes=({0: torch.export.Dim("N")},),
        input_names=["pixels"],
        output_names=["probability"],
        external_data=False,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _store_as_half(model.graph)
    _drop_traces(model)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _adaptive_pool(pixels: Any, output_size: Sequence[int]) -> Any:  # noqa: ANN401  # traced
    """Write average pooling to a fixed size as products with matrices that average.

    PyTorch's own decomposition gathers and masks every window where these differ in size, as those
    of PSPNet's pyramid do: a fifth of its time in int8.
    """
    if tuple(output_size) == (1, 1):
        return op.GlobalAveragePool(pixels)
    down, across = map(_averages, pixels.shape[2:], output_size)
    rows = op.MatMul(op.Constant(value=numpy_helper.from_array(down)), pixels)
    return op.MatMul(rows, op.Constant(value=numpy_helper.from_array(across.T.copy())))


def _averages(size: int, parts: int) -> NDArray[np.float32]:
    """Return the float32 (parts, size) matrix that averages `parts` windows.

    Source: PyTorch, aten/src/ATen/native/AdaptivePooling.h, `start_index` and `end_index`.
    """
    starts = [part * size // parts for part in range(parts)]
    ends = [-(-(part + 1) * size // parts) for part in range(parts)]
    averages = np.zeros((parts, size), np.float32)
    for row, start, end in zip(averages, starts, ends, strict=True):
        row[start:end] = 1 / (end - start)
    return averages


def _drop_traces(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of each node: lines of code, with paths of this machine."""
    graph = model.graph
    noted = (graph.node, graph.value_info, graph.input, graph.output, graph.initializer)
    for one in (model, graph, *chain.from_iterable(noted)):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")


def _store_as_half(graph: onnx.GraphProto) -> None:
    """Store large float32 weights as fp16, each with a node that casts it back.

    Half the file at the same speed: ONNX Runtime runs such casts once, when it loads the graph.
    """
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or values.size < _HALVED_FROM:
            continue
        name, stored = weight.name, f"{weight.name}_half"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
