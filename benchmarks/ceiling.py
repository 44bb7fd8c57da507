"""How near the networks come to the most that a device computes.

The most is measured, not read off a data sheet: the rate of products of large square matrices, in
the same runtime, on the same provider. What a network needs is counted from its graph.
"""

from itertools import pairwise
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from app.errors import DeviceError

Device = Literal["cpu", "cuda"]

_SIDES: dict[Device, tuple[int, ...]] = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_PRODUCTS = 8
"""In one run: so many that starting it doesn't count."""
_FACTORS = "left", "right"


def operations(graph: Path) -> int:
    """Count the floating-point operations of a network on one patch.

    Two for each product that is added up in a convolution or a matrix product, as is usual; the
    rest (activations, pooling, resizing) is not counted.
    """
    model = onnx.load(graph)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {of.name: tuple(of.dims) for of in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    found = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "MatMul"):
            weight = shapes[node.input[1]]
            summed = prod(weight[1:]) if node.op_type == "Conv" else weight[-2]
            found += 2 * summed * prod(shapes[node.output[0]])
    return found


def ceiling(
    device: Device, precision: Literal["fp32", "fp16"] = "fp32", *, rounds: int = 5
) -> float:
    """Return how many operations a second a device reaches in the best of some sizes of product.

    Of a CPU, this is all of its cores together. A GPU computes fp32 as it does for the networks, in
    TF32 where it can.

    Raises:
        DeviceError: the device is not there.
    """
    return max(_rate(device, precision, side, rounds) for side in _SIDES[device])


def _rate(device: Device, precision: Literal["fp32", "fp16"], side: int, rounds: int) -> float:
    number, stored = {
        "fp32": (TensorProto.FLOAT, np.float32),
        "fp16": (TensorProto.FLOAT16, np.float16),
    }[precision]
    names = ["left", *(f"product{i}" for i in range(1, _PRODUCTS)), "out"]
    values = [helper.make_tensor_value_info(n, number, [side, side]) for n in (*_FACTORS, "out")]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", [one, "right"], [to]) for one, to in pairwise(names)],
            "products",
            values[:-1],
            values[-1:],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
    if session.get_providers()[0] != provider:
        raise DeviceError(f"{provider} is not in use: {session.get_providers()} are")
    random = np.random.default_rng(0)
    binding = session.io_binding()
    for name in _FACTORS:
        # Of this spread, products stay as large as they were, and no fp16 overflows.
        matrix = (random.standard_normal((side, side)) / side**0.5).astype(stored)
        there = onnxruntime.OrtValue.ortvalue_from_numpy(matrix, device, 0)
        binding.bind_ortvalue_input(name, there)
    binding.bind_output("out", device)
    seconds = []
    for _ in range(1 + rounds):  # the first is to warm up
        started = perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        seconds.append(perf_counter() - started)
    return 2 * side**3 * _PRODUCTS / min(seconds[1:])
