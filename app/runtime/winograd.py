"""Convolutions by fewer products, for OpenVINO in fp32: the same sums, arranged otherwise.

OpenVINO convolves at the processor's ceiling, so what is left is to have it multiply less.

- 4 neighbouring results of 3 x 3 weights are 12 products along an axis, and follow from 6 products
  of sums of what is taken: 36 in place of 144 for a tile of 4 x 4.
- Where a map was doubled by repeating values, weights that meet the same value are added up before:
  4 products in place of 9, and nothing need be doubled.
- 1 x 1 weights may come before a map is enlarged, when there is less of it.

Probabilities move by about 1e-6, as they do from one runtime to another.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2015, F(4 x 4, 3 x 3).
"""

from functools import reduce

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

_TILE, _TAKES = 4, 6
"""How many results a tile has along an axis, and how many values it takes."""

_TO_WEIGHTS = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
) / np.array(24)
_TO_VALUES = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_TO_RESULTS = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)
"""G, B' and A' of the paper: along an axis, results are A' ((G weights) * (B' values))."""

_MEETING = np.array([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""Which of 3 weights meet the same value of a doubled map: of the even results, for a value's
predecessor and itself; of the odd ones, for it and its successor."""

_TILED_SIZES = range(14, 29)
_TILED_FROM = 32
"""Maps of which sizes, with how many channels, are cut into tiles. In the shipped networks, those
of 56 pixels cost as much on the way there and back as products save, and those of 7 are mostly edge
(docs/benchmarks.md); sizes between 14 and 28, and fewer channels, were not tried."""


def rearrange(graph: ov.Model) -> None:
    """Rearrange the convolutions of a graph where that is faster, in place.

    Weights must be constants already, not casts of them.
    """
    for node in graph.get_ordered_ops():
        if not _is_ordinary(node):
            continue
        weights = node.input_value(1).get_node().get_data()
        size = weights.shape[-1]
        taken = node.input_value(0)
        parts = _joined(taken)
        if not any(_before_enlarging(part, size) for part in parts):
            if not _worth_tiles(taken, weights):
                continue
            parts = [taken]
        ends = np.cumsum([part.get_shape()[1] for part in parts])
        convolved = map(_convolve, parts, np.split(weights, ends[:-1], axis=1))
        node.output(0).replace(reduce(lambda a, b: opset.add(a, b).output(0), convolved))


def _is_ordinary(node: ov.Node) -> bool:
    """Tell whether it convolves 1 x 1 or 3 x 3 constants with a map that keeps its size."""
    if node.get_type_name() != "Convolution":
        return False
    weights, found = node.input_value(1).get_node(), node.get_attributes()
    if weights.get_type_name() != "Constant":
        return False
    size = list(weights.get_output_shape(0))[2:]
    around = [size[0] // 2] * 2
    ordinary = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": around, "pads_end": around}
    return (
        size in ([1, 1], [3, 3])
        and node.input_value(0).get_partial_shape().is_static
        and found["auto_pad"] == "explicit"
        and all(list(found[name]) == value for name, value in ordinary.items())
    )


def _joined(taken: ov.Output) -> list[ov.Output]:
    """Return the maps whose channels were joined to `taken`, or it alone."""
    node = taken.get_node()
    if node.get_type_name() == "Concat" and node.get_attributes()["axis"] == 1:
        return list(node.input_values())
    return [taken]


def _before_enlarging(taken: ov.Output, size: int) -> ov.Output | None:
    """Return what was enlarged to `taken`, if weights of `size` x `size` may come before.

    With 1 x 1 they may anyway, as enlarging is linear and does the same to every channel.
    """
    node = taken.get_node()
    if node.get_type_name() != "Interpolate":
        return None
    before, found = node.input_value(0), node.get_attributes()
    # Scales that are told need not be those of the sizes.
    if found["shape_calculation_mode"] != "sizes" or before.get_partial_shape().is_dynamic:
        return None
    channels, height, width = before.get_shape()[1:]
    to_channels, *to = taken.get_shape()[1:]
    if channels != to_channels or any([*found["pads_begin"], *found["pads_end"]]):
        return None
    if size == 1:
        return before if to[0] >= height and to[1] >= width else None
    repeats = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    doubled = to == [2 * height, 2 * width]
    return before if doubled and all(found[key] == repeats[key] for key in repeats) else None


def _worth_tiles(taken: ov.Output, weights: NDArray[np.float32]) -> bool:
    kernels, channels, size, _ = weights.shape
    return (
        size == 3
        and min(kernels, channels) >= _TILED_FROM
        and all(length in _TILED_SIZES for length in list(taken.get_shape())[2:])
    )


def _convolve(taken: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    size = weights.shape[-1]
    before = _before_enlarging(taken, size)
    if before is not None:
        if size == 3:
            return _convolve_doubled(before, weights)
        return _enlarge_as(taken, _plainly(before, weights))
    if _worth_tiles(taken, weights):
        return _convolve_by_tiles(taken, weights)
    return _plainly(taken, weights)


def _enlarge_as(taken: ov.Output, other: ov.Output) -> ov.Output:
    """Enlarge another map to the size of `taken`, and in the same way."""
    how = taken.get_node().get_attributes()
    size, axes = np.array(list(taken.get_shape())[2:]), np.array([2, 3])
    return opset.interpolate(other, size, axes=axes, **how).output(0)


def _convolve_by_tiles(taken: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    """Convolve (1, C, H, W) with (K, C, 3, 3) to (1, K, H, W), all tiles at once.

    Sums along an axis are products with a matrix, edges and tiles included: of mostly zeros, and
    still fast, as channels lie innermost.
    """
    channels, height, width = list(taken.get_shape())[1:]
    kernels = len(weights)
    to_values_down, to_results_down = _along_axis(height)
    to_values_across, to_results_across = _along_axis(width)
    down, across = (len(m) // _TAKES for m in (to_values_down, to_values_across))
    factors = _in_both_directions(_TO_WEIGHTS, _TO_WEIGHTS, weights)

    values = _reshape(_transpose(taken, 0, 2, 3, 1), height, width * channels)
    values = _reshape(_matmul(to_values_down, values), down * _TAKES, width, channels)
    values = _matmul(to_values_across[np.newaxis], values)
    values = _reshape(values, down, _TAKES, across, _TAKES, channels)
    values = _reshape(_transpose(values, 1, 3, 0, 2, 4), _TAKES**2, down * across, channels)
    sums = _matmul(values, factors.reshape(_TAKES**2, kernels, channels).transpose(0, 2, 1))
    sums = _transpose(_reshape(sums, _TAKES, _TAKES, down, across, kernels), 2, 0, 3, 1, 4)
    sums = _reshape(sums, down * _TAKES, across * _TAKES, kernels)
    sums = _reshape(_matmul(to_results_across[np.newaxis], sums), down * _TAKES, width * kernels)
    results = _reshape(_matmul(to_results_down, sums), 1, height, width, kernels)
    return _transpose(results, 0, 3, 1, 2)


def _along_axis(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return B' and A' for all tiles along an axis: (6 n, size) and (size, 6 n) for n tiles."""
    tiles = -(-size // _TILE)
    to_values = np.zeros((tiles, _TAKES, tiles * _TILE + 2))  # a zero before the axis and after
    to_results = np.zeros((tiles, _TILE, tiles, _TAKES))
    for tile in range(tiles):
        first = tile * _TILE
        to_values[tile, :, first : first + _TAKES] = _TO_VALUES
        to_results[tile, :, tile] = _TO_RESULTS
    return (
        to_values.reshape(tiles * _TAKES, -1)[:, 1 : size + 1],
        to_results.reshape(tiles * _TILE, -1)[:size],
    )


def _in_both_directions(
    down: NDArray[np.float64], across: NDArray[np.float64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply (K, C, 3, 3) weights with a (m, 3) and a (n, 3) matrix: (m * n, K * C)."""
    product: NDArray[np.float32] = np.kron(down, across).astype(np.float32)
    return product @ weights.reshape(-1, 9).T


def _convolve_doubled(before: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    """Convolve what (1, C, H, W) doubled is with (K, C, 3, 3) to (1, K, 2 H, 2 W)."""
    kernels, channels = weights.shape[:2]
    quarters = []
    for y in (0, 1):
        for x in (0, 1):
            added = _in_both_directions(_MEETING[y], _MEETING[x], weights)
            added = added.reshape(2, 2, kernels, channels).transpose(2, 3, 0, 1)
            begin, end = [1 - y, 1 - x], [y, x]
            quarters.append(opset.convolution(before, _constant(added), [1, 1], begin, end, [1, 1]))
    return opset.depth_to_space(opset.concat(quarters, 1), "blocks_first", 2).output(0)


def _plainly(taken: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    around = [weights.shape[-1] // 2] * 2
    return opset.convolution(taken, _constant(weights), [1, 1], around, around, [1, 1]).output(0)


def _matmul(
    one: ov.Output | NDArray[np.float64], other: ov.Output | NDArray[np.float64]
) -> ov.Output:
    factors = (_constant(f) if isinstance(f, np.ndarray) else f for f in (one, other))
    return opset.matmul(*factors, False, False).output(0)


def _constant(values: NDArray[np.float32] | NDArray[np.float64]) -> ov.Node:
    return opset.constant(np.ascontiguousarray(values, np.float32))


def _reshape(taken: ov.Output, *shape: int) -> ov.Output:
    return opset.reshape(taken, np.array(shape), special_zero=False).output(0)


def _transpose(taken: ov.Output, *order: int) -> ov.Output:
    return opset.transpose(taken, np.array(order)).output(0)
