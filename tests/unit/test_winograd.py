"""Winograd convolution gives the same results as OpenVINO's own."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ov = pytest.importorskip("openvino", reason="the `openvino` extra is not installed")
from openvino import opset13 as opset  # noqa: E402

from app.runtime.winograd import rearrange  # noqa: E402

Shape = tuple[int, int, int]
"""Channels, height and width."""


def enlarged(source: Any, height: int, width: int, **how: Any) -> Any:
    to, axes = np.array([height, width]), np.array([2, 3])
    found = opset.interpolate(source, to, shape_calculation_mode="sizes", axes=axes, **how)
    return found.output(0)


def doubled(source: Any, **other: Any) -> Any:
    _, _, height, width = source.get_shape()
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} | other
    return enlarged(source, 2 * height, 2 * width, mode="nearest", **how)


def convolved(source: Any, kernels: int, **other: Any) -> Any:
    """Convolve with random weights, and go on as networks do: a bias and ReLU."""
    rng = np.random.default_rng(kernels)
    channels = source.get_shape()[1]
    size = other.pop("size", 3)
    weights = rng.normal(0, (size**2 * channels) ** -0.5, (kernels, channels, size, size))
    around = [size // 2] * 2
    how = {"strides": [1, 1], "pads_begin": around, "pads_end": around, "dilations": [1, 1]} | other
    found = opset.convolution(source, weights.astype(np.float32), **how)
    bias = rng.normal(0, 1, (1, kernels, 1, 1)).astype(np.float32)
    return opset.relu(opset.add(found, bias)).output(0)


def given(*shapes: Shape) -> list[Any]:
    return [opset.parameter([1, *shape], ov.Type.f32) for shape in shapes]


def model(result: Any, parameters: list[Any]) -> Any:
    return ov.Model([result], parameters)


def run(graph: Any) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    data = [rng.normal(0, 1, list(i.get_shape())).astype(np.float32) for i in graph.inputs]
    exact = {"INFERENCE_PRECISION_HINT": ov.Type.f32}
    (found,) = ov.Core().compile_model(graph, "CPU", exact)(data).values()
    return np.array(found)


def convolutions(graph: Any, size: int) -> list[Any]:
    return [
        node
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Convolution"
        and list(node.input(1).get_shape())[2:] == [size, size]
    ]


def threes(graph: Any) -> int:
    """Count the convolutions of 3 x 3 that are left."""
    return len(convolutions(graph, 3))


def assert_rearranged(build: Any, left: int = 0) -> None:
    before, after = build(), build()
    rearrange(after)
    assert threes(after) == left
    expected = run(before)
    np.testing.assert_allclose(run(after), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("height", [14, 15, 28])
@pytest.mark.parametrize("width", [17, 20])
def test_by_tiles(height: int, width: int) -> None:
    def build() -> Any:
        source = given((32, height, width))
        return model(convolved(source[0].output(0), 33), source)

    assert_rearranged(build)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 7), (2, 5, 8), (40, 16, 3)])
def test_doubled(shape: Shape) -> None:
    def build() -> Any:
        source = given(shape)
        return model(convolved(doubled(source[0].output(0)), 5), source)

    assert_rearranged(build)


@pytest.mark.parametrize(
    ("joined", "left"),
    [
        pytest.param((3, 12, 12), 1, id="with one that stays"),
        pytest.param((32, 14, 14), 0, id="with one that is cut into tiles"),
    ],
)
def test_doubled_and_joined(joined: Shape, left: int) -> None:
    def build() -> Any:
        _, height, width = joined
        small = (4, height // 2, width // 2)
        source = given(small, joined, small)
        first, middle, last = (one.output(0) for one in source)
        parts = opset.concat([doubled(first), middle, doubled(last)], 1).output(0)
        return model(convolved(parts, 32), source)

    assert_rearranged(build, left)


def test_one_after_the_other() -> None:
    def build() -> Any:
        source = given((32, 7, 7))
        first = convolved(doubled(source[0].output(0)), 32)
        return model(convolved(doubled(convolved(first, 32)), 8), source)

    assert_rearranged(build)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "linear_onnx", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "linear_onnx", "coordinate_transformation_mode": "align_corners"},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
    ],
)
def test_one_by_one_comes_before_enlarging(how: dict[str, str]) -> None:
    def build() -> Any:
        source = given((5, 3, 4), (7, 12, 15), (6, 1, 1))
        small, whole, one = (each.output(0) for each in source)
        parts = [enlarged(small, 12, 15, **how), whole, enlarged(one, 12, 15, **how)]
        return model(convolved(opset.concat(parts, 1).output(0), 9, size=1), source)

    assert_rearranged(build)
    graph = build()
    rearrange(graph)
    sizes = [list(node.get_output_shape(0))[2:] for node in convolutions(graph, 1)]
    assert sorted(sizes) == [[1, 1], [3, 4], [12, 15]]


def test_one_by_one_comes_after_shrinking() -> None:
    source = given((5, 12, 15))
    small = enlarged(source[0].output(0), 3, 15, mode="nearest")
    graph = model(convolved(small, 9, size=1), source)
    rearrange(graph)
    assert [list(n.get_output_shape(0))[2:] for n in convolutions(graph, 1)] == [[3, 15]]


@pytest.mark.parametrize(
    ("shape", "kernels", "other"),
    [
        pytest.param((32, 13, 20), 32, {}, id="small"),
        pytest.param((32, 20, 29), 32, {}, id="large"),
        pytest.param((31, 20, 20), 32, {}, id="thin"),
        pytest.param((32, 20, 20), 31, {}, id="few kernels"),
        pytest.param((32, 20, 20), 32, {"strides": [2, 2]}, id="in steps"),
        pytest.param((32, 20, 20), 32, {"dilations": [2, 2]}, id="dilated"),
        pytest.param((32, 20, 20), 32, {"pads_end": [0, 0]}, id="not padded"),
        pytest.param((32, 20, 20), 32, {"auto_pad": "valid"}, id="not padded, otherwise said"),
        pytest.param((32, 20, 20), 32, {"size": 1}, id="1 x 1"),
    ],
)
def test_what_stays(shape: Shape, kernels: int, other: dict[str, Any]) -> None:
    source = given(shape)
    graph = model(convolved(source[0].output(0), kernels, **other), source)
    before = [node.get_friendly_name() for node in graph.get_ordered_ops()]
    rearrange(graph)
    assert [node.get_friendly_name() for node in graph.get_ordered_ops()] == before


@pytest.mark.parametrize(
    "other", [{"nearest_mode": "ceil"}, {"coordinate_transformation_mode": "half_pixel"}]
)
def test_what_is_enlarged_otherwise_stays(other: dict[str, str]) -> None:
    source = given((3, 7, 7))
    graph = model(convolved(doubled(source[0].output(0), **other), 4), source)
    rearrange(graph)
    assert threes(graph) == 1


def test_what_is_enlarged_by_a_told_scale_stays() -> None:
    """By 2.1, 3 pixels become 6 as well, but of others."""
    source = given((3, 3, 3))
    how = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    scales, axes = np.array([2.1, 2.1], np.float32), np.array([2, 3])
    large = opset.interpolate(source[0], scales, shape_calculation_mode="scales", axes=axes, **how)
    assert list(large.get_output_shape(0)) == [1, 3, 6, 6]
    graph = model(convolved(large.output(0), 4), source)
    rearrange(graph)
    assert threes(graph) == 1


def test_weights_that_are_no_constants_stay() -> None:
    source = given((32, 20, 20))
    weights = opset.parameter([32, 32, 3, 3], ov.Type.f32)
    found = opset.convolution(source[0], weights, [1, 1], [1, 1], [1, 1], [1, 1])
    graph = model(found.output(0), [*source, weights])
    rearrange(graph)
    assert threes(graph) == 1
