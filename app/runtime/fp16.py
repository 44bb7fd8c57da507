"""Experimental: graphs in fp16, for GPUs. Speed and masks were not measured on a GPU."""

import numpy as np

from ..errors import DeviceError
from ..extras import check_extra


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
