"""Run-length encoding, on any mask."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from app.outputs.rle import decode_rle, encode_rle
from app.segmentation.options import PixelOrder

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
thin = arrays(np.bool_, st.sampled_from([(1, 1), (1, 50), (50, 1)]))
orders = st.sampled_from(["row", "column"])


@given(mask=masks | thin, order=orders)
def test_decoding_undoes_encoding(mask: NDArray[np.bool_], order: PixelOrder) -> None:
    height, width = mask.shape
    decoded = decode_rle(encode_rle(mask, order), height, width, order)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)


@given(mask=masks, order=orders)
def test_runs_are_as_few_and_as_long_as_can_be(mask: NDArray[np.bool_], order: PixelOrder) -> None:
    numbers = [int(word) for word in encode_rle(mask, order).split()]
    starts, lengths = numbers[::2], numbers[1::2]
    assert sum(lengths) == mask.sum()
    assert all(
        s + n < following for s, n, following in zip(starts, lengths, starts[1:], strict=False)
    )


@given(mask=masks)
def test_column_order_is_row_order_of_the_transpose(mask: NDArray[np.bool_]) -> None:
    assert encode_rle(mask, "column") == encode_rle(mask.T, "row")
