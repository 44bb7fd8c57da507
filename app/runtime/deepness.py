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

import numpy as np

from ..bundle.manifest import Manifest, Member
from ..errors import BundleError, InvalidOption
from ..extras import check_extra

_OVERLAP = 25
"""Per cent that tiles share: our own default. The plugin keeps the middle of each."""

# Rounded, since 255 times float32(v / 255) may lie just below v, and a cast cuts off.
_BEFORE = """
to_bytes (float[N, 3, SIDE, SIDE] image) => (uint8[N, SIDE, SIDE, 3] pixels)
<float full = {255.0}, float none = {0.0}> {
    scaled = Mul(image, full)
    whole = Round(scaled)
    clipped = Clip(whole, none, full)
    last = Transpose<perm = [0, 2, 3, 1]>(clipped)
    pixels = Cast<to = 2>(last)
}"""
"""From `image` to `pixels`; 2 is ONNX's number of uint8."""


def to_deepness(manifest: Manifest, members: Sequence[tuple[Member, bytes]]) -> bytes:
    """Return one ONNX file of some members, given with theirs, averaged by their weights.

    Raises:
        InvalidOption: the package onnx is not installed.
        BundleError: the members use different versions of ONNX's operators.
    """
    check_extra("exporting for Deepness", "export", "onnx", error=InvalidOption)
    import onnx
    from onnx import compose, helper, parser

    graphs = [
        compose.add_prefix(onnx.load_from_string(model), f"{member.name}/")
        for member, model in members
    ]
    operators = {tuple((o.domain, o.version) for o in model.opset_import) for model in graphs}
    if len(operators) > 1:
        raise BundleError(f"the members use different versions of operators: {sorted(operators)}")
    before = parser.parse_graph(_BEFORE.replace("SIDE", str(manifest.patch_size)))
    after = parser.parse_graph(_average(manifest.patch_size, [m.weight for m, _ in members]))
    nodes, constants = list(before.node), [*before.initializer, *after.initializer]
    for number, model in enumerate(graphs):
        inside = model.graph
        nodes.append(helper.make_node("Identity", ["pixels"], [inside.input[0].name]))
        nodes += inside.node
        nodes.append(helper.make_node("Identity", [inside.output[0].name], [f"map{number}"]))
        constants += inside.initializer
    nodes += after.node
    made = helper.make_model(
        helper.make_graph(nodes, "rooftrace", before.input, after.output, constants),
        opset_imports=graphs[0].opset_import,
        ir_version=max(model.ir_version for model in graphs),
        producer_name="rooftrace",
    )
    metadata = _metadata(manifest)
    helper.set_model_props(made, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString())


def _average(size: int, weights: Sequence[float]) -> str:
    """Write the graph that averages maps to `probability`, as `numpy.average` adds them up."""
    shares = np.array([weight / math.fsum(weights) for weight in weights], np.float32)
    maps, numbers = f"float[N, {size}, {size}] map", range(len(shares))
    constants = [f"float share{n} = {{{share:.9e}}}" for n, share in enumerate(shares)]
    constants += [f"float whole_share = {{{shares.sum():.9e}}}", "int64[1] axis = {1}"]
    lines = ["total0 = Mul(map0, share0)"]
    for n in numbers[1:]:
        lines += [f"part{n} = Mul(map{n}, share{n})", f"total{n} = Add(total{n - 1}, part{n})"]
    return f"""
        average ({", ".join(f"{maps}{n}" for n in numbers)})
            => (float[N, 1, {size}, {size}] probability)
        <{", ".join(constants)}> {{
            {" ".join(lines)}
            mean = Div(total{numbers[-1]}, whole_share)
            probability = Unsqueeze(mean, axis)
        }}"""


def _metadata(manifest: Manifest) -> dict[str, object]:
    """Return the metadata by which the plugin fills in its form, under the plugin's names."""
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
