"""Winograd convolution for OpenVINO in fp32: the same results from fewer multiplications.

OpenVINO convolves as fast as the processor multiplies, so only fewer multiplications are faster.

- Winograd: a tile of 4 x 4 results of 3 x 3 weights needs 36 multiplications in place of 144.
- Where a map was doubled by repeating values, weights that meet the same value are added first:
  4 multiplications in place of 9, and no doubled map.
- 1 x 1 weights move before an upsampling, where the map is smaller.

Probabilities move by about 1e-6, as they do from one runtime to another.

Source: Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2015, F(4 x 4, 3 x 3).
"""

from functools import reduce

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as opset

_TILE_OUTPUTS, _TILE_INPUTS = 4, 6
"""Results and inputs of a tile along an axis."""

_G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
"""G, B' and A' of the paper: along an axis, results are A' ((G weights) * (B' inputs))."""

_MERGED = np.array([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
"""The sums of 3 weights that meet the same value of a doubled map. Even results use a value's
predecessor and itself, odd results itself and its successor."""

_WINOGRAD_SIZES = range(14, 29)
_WINOGRAD_CHANNELS = 32
"""Sizes of maps, and the fewest channels, for which Winograd is used. In the shipped networks it
does not pay for maps of 56 pixels, whose transforms cost what it saves, nor for those of 7, which
are mostly edge (docs/benchmarks.md). Sizes between 14 and 28 and fewer channels were not tried."""


def rearrange(graph: ov.Model) -> None:
    """Rearrange the convolutions of a graph where that is faster, in place.

    Weights must be constants already, not casts of them.
    """
    for node in graph.get_ordered_ops():
        if not _is_rewritable(node):
            continue
        weights = node.input_value(1).get_node().get_data()
        size = weights.shape[-1]
        source = node.input_value(0)
        parts = _concatenated_inputs(source)
        if not any(_before_upsampling(part, size) for part in parts):
            if not _winograd_pays(source, weights):
                continue
            parts = [source]
        ends = np.cumsum([part.get_shape()[1] for part in parts])
        convolved = map(_convolve, parts, np.split(weights, ends[:-1], axis=1))
        node.output(0).replace(reduce(lambda a, b: opset.add(a, b).output(0), convolved))


def _is_rewritable(node: ov.Node) -> bool:
    """Tell whether a node convolves with 1 x 1 or 3 x 3 constants, and keeps the map's size."""
    if node.get_type_name() != "Convolution":
        return False
    weights, attributes = node.input_value(1).get_node(), node.get_attributes()
    if weights.get_type_name() != "Constant":
        return False
    size = list(weights.get_output_shape(0))[2:]
    around = [size[0] // 2] * 2
    ordinary = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": around, "pads_end": around}
    return (
        size in ([1, 1], [3, 3])
        and node.input_value(0).get_partial_shape().is_static
        and attributes["auto_pad"] == "explicit"
        and all(list(attributes[name]) == value for name, value in ordinary.items())
    )


def _concatenated_inputs(source: ov.Output) -> list[ov.Output]:
    """Return the maps that were concatenated to `source`, or `source` alone."""
    node = source.get_node()
    if node.get_type_name() == "Concat" and node.get_attributes()["axis"] == 1:
        return list(node.input_values())
    return [source]


def _before_upsampling(source: ov.Output, size: int) -> ov.Output | None:
    """Return the map that was upsampled to `source`, if weights of `size` x `size` may come before.

    1 x 1 weights always may, as upsampling is linear and treats all channels alike.
    """
    node = source.get_node()
    if node.get_type_name() != "Interpolate":
        return None
    before, attributes = node.input_value(0), node.get_attributes()
    # Scales may differ from the ratio of the sizes.
    if attributes["shape_calculation_mode"] != "sizes" or before.get_partial_shape().is_dynamic:
        return None
    channels, height, width = before.get_shape()[1:]
    to_channels, *to = source.get_shape()[1:]
    if channels != to_channels or any([*attributes["pads_begin"], *attributes["pads_end"]]):
        return None
    if size == 1:
        return before if to[0] >= height and to[1] >= width else None
    repeats = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    doubled = to == [2 * height, 2 * width]
    return before if doubled and all(attributes[key] == repeats[key] for key in repeats) else None


def _winograd_pays(source: ov.Output, weights: NDArray[np.float32]) -> bool:
    kernels, channels, size, _ = weights.shape
    return (
        size == 3
        and min(kernels, channels) >= _WINOGRAD_CHANNELS
        and all(length in _WINOGRAD_SIZES for length in list(source.get_shape())[2:])
    )


def _convolve(source: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    size = weights.shape[-1]
    before = _before_upsampling(source, size)
    if before is not None:
        if size == 3:
            return _convolve_doubled(before, weights)
        return _upsample_as(source, _convolve_plain(before, weights))
    if _winograd_pays(source, weights):
        return _convolve_winograd(source, weights)
    return _convolve_plain(source, weights)


def _upsample_as(source: ov.Output, other: ov.Output) -> ov.Output:
    """Upsample another map as `source` was, to the same size."""
    how = source.get_node().get_attributes()
    size, axes = np.array(list(source.get_shape())[2:]), np.array([2, 3])
    return opset.interpolate(other, size, axes=axes, **how).output(0)


def _convolve_winograd(source: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    """Convolve (1, C, H, W) with (K, C, 3, 3) to (1, K, H, W), all tiles at once.

    The transforms along an axis are one matrix for all tiles and edges. It is mostly zeros, and
    still fast, as channels lie innermost.
    """
    channels, height, width = list(source.get_shape())[1:]
    kernels = len(weights)
    bt_down, at_down = _along_axis(height)
    bt_across, at_across = _along_axis(width)
    down, across = (len(m) // _TILE_INPUTS for m in (bt_down, bt_across))
    factors = _in_both_directions(_G, _G, weights)

    values = _reshape(_transpose(source, 0, 2, 3, 1), height, width * channels)
    values = _reshape(_matmul(bt_down, values), down * _TILE_INPUTS, width, channels)
    values = _matmul(bt_across[np.newaxis], values)
    values = _reshape(values, down, _TILE_INPUTS, across, _TILE_INPUTS, channels)
    values = _reshape(_transpose(values, 1, 3, 0, 2, 4), _TILE_INPUTS**2, down * across, channels)
    sums = _matmul(values, factors.reshape(_TILE_INPUTS**2, kernels, channels).transpose(0, 2, 1))
    sums = _transpose(
        _reshape(sums, _TILE_INPUTS, _TILE_INPUTS, down, across, kernels), 2, 0, 3, 1, 4
    )
    sums = _reshape(sums, down * _TILE_INPUTS, across * _TILE_INPUTS, kernels)
    sums = _reshape(_matmul(at_across[np.newaxis], sums), down * _TILE_INPUTS, width * kernels)
    results = _reshape(_matmul(at_down, sums), 1, height, width, kernels)
    return _transpose(results, 0, 3, 1, 2)


def _along_axis(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return B' and A' of all n tiles along an axis: (6 n, size) and (size, 6 n)."""
    tiles = -(-size // _TILE_OUTPUTS)
    bt = np.zeros(
        (tiles, _TILE_INPUTS, tiles * _TILE_OUTPUTS + 2)
    )  # a zero before the axis and after
    at = np.zeros((tiles, _TILE_OUTPUTS, tiles, _TILE_INPUTS))
    for tile in range(tiles):
        first = tile * _TILE_OUTPUTS
        bt[tile, :, first : first + _TILE_INPUTS] = _BT
        at[tile, :, tile] = _AT
    return (
        bt.reshape(tiles * _TILE_INPUTS, -1)[:, 1 : size + 1],
        at.reshape(tiles * _TILE_OUTPUTS, -1)[:size],
    )


def _in_both_directions(
    down: NDArray[np.float64], across: NDArray[np.float64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Multiply (K, C, 3, 3) weights with a (m, 3) and a (n, 3) matrix: (m * n, K * C)."""
    product: NDArray[np.float32] = np.kron(down, across).astype(np.float32)
    return product @ weights.reshape(-1, 9).T


def _convolve_doubled(before: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    """Double (1, C, H, W) and convolve it with (K, C, 3, 3), to (1, K, 2 H, 2 W)."""
    kernels, channels = weights.shape[:2]
    quarters = []
    for y in (0, 1):
        for x in (0, 1):
            added = _in_both_directions(_MERGED[y], _MERGED[x], weights)
            added = added.reshape(2, 2, kernels, channels).transpose(2, 3, 0, 1)
            begin, end = [1 - y, 1 - x], [y, x]
            quarters.append(opset.convolution(before, _constant(added), [1, 1], begin, end, [1, 1]))
    return opset.depth_to_space(opset.concat(quarters, 1), "blocks_first", 2).output(0)


def _convolve_plain(source: ov.Output, weights: NDArray[np.float32]) -> ov.Output:
    around = [weights.shape[-1] // 2] * 2
    return opset.convolution(source, _constant(weights), [1, 1], around, around, [1, 1]).output(0)


def _matmul(
    one: ov.Output | NDArray[np.float64], other: ov.Output | NDArray[np.float64]
) -> ov.Output:
    factors = (_constant(f) if isinstance(f, np.ndarray) else f for f in (one, other))
    return opset.matmul(*factors, False, False).output(0)


def _constant(values: NDArray[np.float32] | NDArray[np.float64]) -> ov.Node:
    return opset.constant(np.ascontiguousarray(values, np.float32))


def _reshape(source: ov.Output, *shape: int) -> ov.Output:
    return opset.reshape(source, np.array(shape), special_zero=False).output(0)


def _transpose(source: ov.Output, *order: int) -> ov.Output:
    return opset.transpose(source, np.array(order)).output(0)
