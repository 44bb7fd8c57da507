"""Run-length encoding, on examples that can be checked by eye."""

import re

import numpy as np
import pytest

from app.outputs.rle import EMPTY_CSV, decode_rle, encode_rle
from app.segmentation.options import PixelOrder

# . X X
# X . X
MASK = np.array([[0, 1, 1], [1, 0, 1]], bool)


@pytest.mark.parametrize(("order", "text"), [("row", "2 3 6 1"), ("column", "2 2 5 2")])
def test_the_two_orders(order: PixelOrder, text: str) -> None:
    assert encode_rle(MASK, order) == text
    np.testing.assert_array_equal(decode_rle(text, 2, 3, order), MASK)


@pytest.mark.parametrize("text", ["", "  ", EMPTY_CSV, " -1\n"])
def test_an_empty_mask(text: str) -> None:
    assert encode_rle(np.zeros((2, 3), bool), "row") == ""
    assert not decode_rle(text, 2, 3, "row").any()


def test_a_full_mask_is_one_run() -> None:
    assert encode_rle(np.ones((2, 3), bool), "row") == "1 6"
    assert decode_rle("1 6", 2, 3, "column").all()


def test_runs_may_touch() -> None:
    np.testing.assert_array_equal(decode_rle("2 1 3 2 6 1", 2, 3, "row"), MASK)


def test_a_column_mask_comes_contiguous() -> None:
    assert decode_rle("2 2", 2, 3, "column").flags.c_contiguous


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "pairs"),
        ("1 2 3", "pairs"),
        ("0 2", "counted from 1"),
        ("1 0", "at least 1"),
        ("6 2", "outside"),
        ("7 1", "outside"),
        ("1 7", "outside"),
        (f"{10**18 - 1} {10**18 - 1}", "outside"),
        (f"1 {10**30}", "no image reaches"),
        ("1 9223372036854775807", "no image reaches"),
        ("4 1 1 1", "ascend"),
        ("1 3 3 1", "overlap"),
        ("1 1 1 1", "overlap"),
        ("-1 2", "something other"),
        ("-1 -1", "something other"),
        ("1.0 2", "something other"),
        ("1_0 2", "something other"),
        ("+1 2", "something other"),
        ("1,2", "something other"),
        ("٣ 1", "something other"),
        ("nan", "something other"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        decode_rle(text, 2, 3, "row")
