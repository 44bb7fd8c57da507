"""A bundle as single ONNX files for Deepness, the plugin that runs networks inside QGIS.

The plugin sends float32 (N, 3, S, S) from 0 to 1 and expects a probability (N, 1, S, S). Our graphs
take uint8 (N, S, S, 3). So a file first brings the samples back to the bytes that the plugin
divided by 255, and averages the members in the end. Cascade and minimum confidence are left out:
the plugin has no place for them.

Source: github.com/PUTvision/qgis-plugin-deepness, `src/deepness/processing/models/model_base.py`.
"""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.manifest import Manifest, Member
from ..errors import BundleError, InvalidOption
from ..extras import check_extra

if TYPE_CHECKING:
    import onnx

_OVERLAP = 25
"""Per cent that tiles share: our own default. The plugin keeps the middle of each."""


def to_deepness(manifest: Manifest, members: Sequence[tuple[Member, bytes]]) -> bytes:
    """Return one ONNX file of some members, given with theirs, averaged by their weights.

    Raises:
        InvalidOption: the package onnx is not installed.
        BundleError: the members use different versions of ONNX's operators.
    """
    check_extra("exporting for Deepness", "export", "onnx", error=InvalidOption)
    import onnx
    from onnx import TensorProto, compose, helper

    graphs = [
        compose.add_prefix(onnx.load_from_string(model), f"{member.name}/")
        for member, model in members
    ]
    operators = {tuple((of.domain, of.version) for of in model.opset_import) for model in graphs}
    if len(operators) > 1:
        raise BundleError(f"the members use different versions of operators: {sorted(operators)}")
    size = manifest.patch_size
    nodes, constants = _to_bytes()
    for model in graphs:
        nodes.append(helper.make_node("Identity", ["pixels"], [model.graph.input[0].name]))
        nodes += model.graph.node
        constants += model.graph.initializer
    outputs = [model.graph.output[0].name for model in graphs]
    nodes_behind, constants_behind = _average(outputs, [member.weight for member, _ in members])
    made = helper.make_model(
        helper.make_graph(
            nodes + nodes_behind,
            "rooftrace",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1, size, size])],
            constants + constants_behind,
        ),
        opset_imports=graphs[0].opset_import,
        ir_version=max(model.ir_version for model in graphs),
        producer_name="rooftrace",
    )
    metadata = _metadata(manifest)
    helper.set_model_props(made, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


_Part = tuple[list["onnx.NodeProto"], list["onnx.TensorProto"]]


def _to_bytes() -> _Part:
    """Make the nodes from `image` to `pixels`, and their constants."""
    from onnx import TensorProto, helper, numpy_helper

    # Rounded, since 255 times float32(v / 255) may lie just below v, and a cast cuts off.
    nodes = [
        helper.make_node("Mul", ["image", "full"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["whole"]),
        helper.make_node("Clip", ["whole", "none", "full"], ["clipped"]),
        helper.make_node("Transpose", ["clipped"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], ["pixels"], to=TensorProto.UINT8),
    ]
    values = {"full": np.float32(255), "none": np.float32(0)}
    return nodes, [numpy_helper.from_array(np.array(of), name) for name, of in values.items()]


def _average(outputs: Sequence[str], weights: Sequence[float]) -> _Part:
    """Make the nodes that average (N, S, S) to `probability`, as `numpy.average` adds them up."""
    from onnx import helper, numpy_helper

    shares = np.array([weight / math.fsum(weights) for weight in weights], np.float32)
    nodes, constants = [], [numpy_helper.from_array(np.array([1]), "axis")]
    for index, (output, share) in enumerate(zip(outputs, shares, strict=True)):
        constants.append(numpy_helper.from_array(np.array(share), f"share{index}"))
        nodes.append(helper.make_node("Mul", [output, f"share{index}"], [f"part{index}"]))
    total = "part0"
    for index in range(1, len(shares)):
        nodes.append(helper.make_node("Add", [total, f"part{index}"], [f"total{index}"]))
        total = f"total{index}"
    constants.append(numpy_helper.from_array(np.array(shares.sum()), "whole_share"))
    nodes.append(helper.make_node("Div", [total, "whole_share"], ["mean"]))
    nodes.append(helper.make_node("Unsqueeze", ["mean", "axis"], ["probability"]))
    return nodes, constants


def _metadata(manifest: Manifest) -> dict[str, object]:
    """Return what the plugin reads, by its names: its form is filled in with that."""
    gsd = manifest.gsd
    metres = gsd.reference or math.sqrt(gsd.min * gsd.max)
    return {
        "model_type": "Segmentor",
        "class_names": {"0": "building"},
        "resolution": round(100 * metres, 2),  # centimetres per pixel
        "tile_size": manifest.patch_size,
        "tiles_overlap": _OVERLAP,
        "standardization_mean": [0.0, 0.0, 0.0],
        "standardization_std": [1.0, 1.0, 1.0],
        "seg_thresh": manifest.threshold.value,
        "seg_small_segment": 0,
        "rooftrace_model": manifest.version,
    }
