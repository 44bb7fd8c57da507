"""Small real things with known answers, shared by the tests."""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import ndimage

CHANNELS = ("red", "green", "blue")
TOY_WEIGHTS = {"red": 0.5, "green": 0.3, "blue": 0.2}

EXACTLY: Mapping[str, Any] = {"device": "cpu", "backend": "onnxruntime"}
"""How a bundle must be loaded for its answers to be known to the last bit: OpenVINO multiplies with
1 / 255 where a graph divides by 255."""


def scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make uint8 (height, width, 3) noise: every pixel and channel differs from its neighbours."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def without_small(mask: NDArray[np.bool_], min_pixels: float) -> NDArray[np.bool_]:
    """Drop the components of a whole mask that have fewer pixels, as `min_area` must."""
    labels, count = ndimage.label(mask)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
    large[0] = False
    kept: NDArray[np.bool_] = large[labels]
    return kept


def channel_graph(channel: str, patch: int) -> bytes:
    """Make a member whose probability is `channel` / 255, pixel by pixel."""
    return _graph(patch, [*_channel(channel), _node("Div", ["value", "full"], "probability")])


def ramp_graph(patch: int) -> bytes:
    """Make a member whose probability is where in the patch it looks: (row + 2 col) / (3 patch).

    Nothing in the image matters to it, so every seam, mirror and turn shows.
    """
    ramp = ramp_of(patch)
    nodes = [
        *_channel("red"),
        _node("Mul", ["value", "zero"], "nothing"),
        _node("Add", ["nothing", "ramp"], "probability"),
    ]
    return _graph(patch, nodes, ramp=ramp)


def ramp_of(patch: int) -> NDArray[np.float32]:
    """Say what `ramp_graph` gives for any patch: float32 (patch, patch)."""
    i = np.arange(patch, dtype=np.float32)
    return (i[:, None] + 2 * i) / np.float32(3 * patch)


def nan_graph(patch: int, channel: str = "red") -> bytes:
    """Make a member that gives NaN where `channel` is above 0, and 0 elsewhere."""
    nodes = [
        *_channel(channel),
        _node("Sub", ["zero", "value"], "negative"),
        _node("Sqrt", ["negative"], "probability"),
    ]
    return _graph(patch, nodes)


def slow_graph(channel: str, patch: int, rounds: int = 200) -> bytes:
    """Make a member that answers as `channel_graph`, after `rounds` that come to nothing."""
    detour = [_node("Sin", ["value"], "sin0")]
    detour += [_node("Sin", [f"sin{i}"], f"sin{i + 1}") for i in range(rounds)]
    nodes = [
        *_channel(channel),
        *detour,
        _node("Mul", [f"sin{rounds}", "zero"], "nothing"),
        _node("Add", ["value", "nothing"], "sum"),
        _node("Div", ["sum", "full"], "probability"),
    ]
    return _graph(patch, nodes)


def bright_graph(patch: int) -> bytes:
    """Make a member that forgets its sigmoid and gives values up to 255."""
    return _graph(patch, [*_channel("red"), _node("Identity", ["value"], "probability")])


def channels_first_graph(patch: int) -> bytes:
    """Make a member that wants (N, 3, S, S), as torch does."""
    nodes = [
        _node("Cast", ["image"], "float", to=TensorProto.FLOAT),
        _node("Gather", ["float", "red"], "value", axis=1),
        _node("Div", ["value", "full"], "probability"),
    ]
    return _graph(patch, nodes, takes=("N", 3, patch, patch))


def float_input_graph(patch: int) -> bytes:
    """Make a member that wants float32 pixels."""
    nodes = [
        _node("Gather", ["image", "red"], "value", axis=3),
        _node("Div", ["value", "full"], "probability"),
    ]
    return _graph(patch, nodes, kind=TensorProto.FLOAT)


def channel_axis_graph(patch: int) -> bytes:
    """Make a member that gives (N, S, S, 1)."""
    nodes = [
        _node("Cast", ["image"], "float", to=TensorProto.FLOAT),
        _node("Gather", ["float", "reds"], "value", axis=3),
        _node("Div", ["value", "full"], "probability"),
    ]
    return _graph(patch, nodes, gives=("N", patch, patch, 1), reds=np.array([0], dtype=np.int64))


def convolution_graph(patch: int, shift: float = 0) -> bytes:
    """Make a member whose probability is red / 255, by way of a convolution.

    It takes the tensor `taken`: whole numbers, pixels less `shift`.
    """
    nodes = [
        *_channels_first(),
        _node("Sub", ["channels", "shift"], "taken"),
        _node("Conv", ["taken", "weights"], "convolved"),
        _node("Squeeze", ["convolved", "axis"], "squeezed"),
        _node("Add", ["squeezed", "shift"], "value"),
        _node("Div", ["value", "full"], "probability"),
    ]
    weights = np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1)
    return _graph(patch, nodes, weights=weights, shift=np.array(shift, np.float32))


def network_graph(patch: int) -> bytes:
    """Make a member of four convolutions of random weights, with a residual and a concatenation."""
    rng = np.random.default_rng(8)

    def weights(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, math.prod(shape[1:]) ** -0.5, shape).astype(np.float32)

    nodes = [
        *_channels_first(),
        _node("Div", ["channels", "full"], "pixels"),
        _node("Conv", ["pixels", "w1"], "c1", pads=[1, 1, 1, 1]),
        _node("Relu", ["c1"], "r1"),
        _node("Conv", ["r1", "w2"], "c2", pads=[1, 1, 1, 1]),
        _node("Add", ["r1", "c2"], "sum"),
        _node("Conv", ["sum", "w3"], "c3", pads=[1, 1, 1, 1], group=16),
        _node("Concat", ["c3", "r1"], "both", axis=1),
        _node("Conv", ["both", "w4"], "c4"),
        _node("Squeeze", ["c4", "axis"], "logits"),
        _node("Sigmoid", ["logits"], "probability"),
    ]
    return _graph(
        patch,
        nodes,
        w1=weights(16, 3, 3, 3),
        w2=weights(16, 16, 3, 3),
        w3=weights(16, 1, 3, 3),
        w4=8 * weights(1, 32, 1, 1),
    )


def fixed_batch_graph(patch: int) -> bytes:
    """Make a member that takes one patch at a time and no other number."""
    nodes = [*_channel("red"), _node("Div", ["value", "full"], "probability")]
    return _graph(patch, nodes, takes=(1, patch, patch, 3), gives=(1, patch, patch))


def lying_graph(patch: int) -> bytes:
    """Make a member that declares (N, S, S) and gives (N, 1, S), which numpy would broadcast."""
    nodes = [
        *_channel("red"),
        _node("Div", ["value", "full"], "whole"),
        # A shape that is only known when the graph runs hides the lie from ONNX Runtime's checks.
        _node("Shape", ["image"], "shape"),
        _node("Gather", ["shape", "last"], "three", axis=0),
        _node("Div", ["three", "last"], "one"),
        _node("Slice", ["whole", "start", "one", "one"], "probability"),
    ]
    return _graph(
        patch, nodes, last=np.array([3], dtype=np.int64), start=np.array([0], dtype=np.int64)
    )


def external_graph(patch: int, folder: Path) -> bytes:
    """Make a member whose weights lie in a second file, `weights.bin` in `folder`."""
    model = onnx.load_from_string(ramp_graph(patch))
    path = folder / "external.onnx"
    onnx.save_model(
        model, path, save_as_external_data=True, location="weights.bin", size_threshold=64
    )
    return path.read_bytes()


def write_toy_bundle(
    folder: Path,
    weights: Mapping[str, float] = TOY_WEIGHTS,
    *,
    threshold: float = 0.5,
    patch_size: int = 224,
    graphs: Mapping[str, bytes] | None = None,
    cascade: dict[str, Any] | None = None,
    min_confidence: float = 0.0,
    ranges: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Path:
    """Write a bundle into `folder`: real ONNX files with known answers, and a true manifest.

    A member's graph is the one of its name in `graphs`, else that of the channel of its name.
    `cascade` is as `toy_cascade` describes it. Those in `ranges` are to compute in int8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graphs = graphs or {}
    files = {
        name: graphs[name] if name in graphs else channel_graph(name, patch_size)
        for name in weights
    }
    for name, model in files.items():
        (folder / f"{name}.onnx").write_bytes(model)
    manifest = toy_manifest(files, weights, threshold=threshold, patch_size=patch_size)
    if cascade is not None:
        manifest["cascade"] = cascade
    manifest["threshold"]["min_confidence"] = min_confidence
    for member in manifest["members"]:
        if of_member := (ranges or {}).get(member["name"]):
            member["int8"] = {"ranges": of_member, "calibrated_on": "nothing: a toy"}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder


def toy_cascade(
    member: str, low: float, high: float = 1.0, share: float = 0.0, **then: float
) -> dict[str, Any]:
    """Describe a cascade as a manifest's JSON; nothing of it is true but its rule.

    `then` are the shares of further stages by the member that they ask.
    """
    stages = {member: share, **then}
    return {
        "doubt": [low, high],
        "stages": [{"member": m, "share": s, "decided": 0.4} for m, s in stages.items()],
        "dice_micro_change": -0.0001,
        "object_f1_change": -0.001,
        "fitted_on": "val (4 images), 36 patches",
    }


def toy_manifest(
    files: Mapping[str, bytes],
    weights: Mapping[str, float] = TOY_WEIGHTS,
    *,
    threshold: float = 0.5,
    patch_size: int = 224,
) -> dict[str, Any]:
    """Describe `files` as a manifest's JSON; where nothing depends on a value, it is plausible."""
    members = [
        {
            "name": name,
            "architecture": "Toy",
            "encoder": name,
            "file": f"{name}.onnx",
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "weight": weights[name],
            "parity": {"max_abs_difference": 8e-6, "patches": 8, "tolerance": 1e-4},
            "metrics": {"dice_micro": 0.7},
        }
        for name, model in files.items()
    ]
    return {
        "schema_version": 1,
        "name": "toy",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat(),
        "patch_size": patch_size,
        "members": members,
        "threshold": {"value": threshold, "chosen_by": "nobody: a toy"},
        "gsd": {"min": 0.3, "max": 0.6, "reference": 0.4},
        "sources": [{"name": "noise", "licence": "CC0-1.0", "images": 12, "gsd": "0.3 to 0.6 m"}],
        "evaluation": {
            "split": "val",
            "date": "2026-01-02",
            "images": 4,
            "ensemble": {"dice_micro": 0.72},
            "members": {name: {"dice_micro": 0.7} for name in files},
            "sources": {"noise": {"dice_micro": 0.71}},
        },
        "training": {name: {"epochs": 1, "augment": {"flips": True}} for name in files},
        "git_commit": "0" * 40,
        "exporter": {"torch": "2.13.0", "onnx": "1.23.2"},
    }


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _channel(name: str) -> list[onnx.NodeProto]:
    return [
        _node("Cast", ["image"], "float", to=TensorProto.FLOAT),
        _node("Gather", ["float", name], "value", axis=3),
    ]


def _channels_first() -> list[onnx.NodeProto]:
    return [
        _node("Cast", ["image"], "float", to=TensorProto.FLOAT),
        _node("Transpose", ["float"], "channels", perm=[0, 3, 1, 2]),
    ]


def _graph(
    patch: int,
    nodes: list[onnx.NodeProto],
    *,
    kind: int = TensorProto.UINT8,
    takes: tuple[str | int, ...] | None = None,
    gives: tuple[str | int, ...] | None = None,
    **constants: NDArray[Any],
) -> bytes:
    constants |= {name: np.array(i, np.int64) for i, name in enumerate(CHANNELS)}
    constants |= {"zero": np.array(0, np.float32), "full": np.array(255, np.float32)}
    constants |= {"axis": np.array([1], np.int64)}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", kind, takes or ("N", patch, patch, 3))],
        [
            helper.make_tensor_value_info(
                "probability", TensorProto.FLOAT, gives or ("N", patch, patch)
            )
        ],
        [numpy_helper.from_array(a, name) for name, a in constants.items() if name in used],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())
