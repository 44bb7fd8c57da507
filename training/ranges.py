"""Measure the ranges of values that int8 rounds. Imports OpenVINO, which need not be installed."""

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.runtime.openvino import compile_graph, read_graph
from app.runtime.quantization import convolutions, fold_constants


def measure_ranges(
    member: str, model: bytes, patches: NDArray[np.uint8]
) -> dict[str, tuple[float, float]]:
    """Measure the ranges of a member's convolution inputs in fp32, on uint8 (N, S, S, 3) patches.

    A range is the mean of the patches' lowest values, and of their highest, so that one odd patch
    does not widen it. {} if the member has no convolution to compute in int8.

    Raises:
        BundleError: OpenVINO can't run the graph, or it is not of the agreed kind.
    """
    core = ov.Core()
    graph = read_graph(core, member, model, patches.shape[1])
    fold_constants(graph)
    tensors = {min(values.get_names()): values for values, _ in convolutions(graph)}
    if not tensors:
        return {}
    watched = ov.Model(list(tensors.values()), graph.get_parameters())
    request = compile_graph(core, member, watched, "fp32", 1).create_infer_request()
    extremes = []
    for patch in patches:
        request.infer([patch[np.newaxis]])
        outputs = (request.get_output_tensor(i).data for i in range(len(tensors)))
        extremes.append([(data.min(), data.max()) for data in outputs])
    means: NDArray[np.float64] = np.array(extremes, np.float64).mean(axis=0)
    return {
        name: (float(f"{low:.5g}"), float(f"{high:.5g}"))
        for name, (low, high) in zip(tensors, means, strict=True)
        if low < high  # else it is constant, and int8 gains nothing
    }
