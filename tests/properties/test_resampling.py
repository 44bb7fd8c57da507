"""However a map is cut into bands, it comes out on the other grid as if it had come whole."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import PIL.Image
from hypothesis import given
from hypothesis import strategies as st
from PIL.Image import Resampling

from app.segmentation.blending import MemberBand
from app.segmentation.resampling import resample_bands, seen_size

sides = st.integers(1, 90)
sizes = st.tuples(sides, sides)


@given(seen=sizes, size=sizes, cuts=st.lists(st.integers(1, 89)), seed=st.integers(0, 99))
def test_bands_do_not_show(
    seen: tuple[int, int], size: tuple[int, int], cuts: list[int], seed: int
) -> None:
    members = np.random.default_rng(seed).random((2, *seen), np.float32)
    edges = sorted({0, seen[0], *(cut for cut in cuts if cut < seen[0])})
    bands = [MemberBand(top, members[:, top:end]) for top, end in pairwise(edges)]

    out = list(resample_bands(bands, seen, size))

    assert [band.row for band in out] == [0, *np.cumsum([b.members.shape[1] for b in out])[:-1]]
    expected = [
        np.asarray(PIL.Image.fromarray(m).resize(size[::-1], Resampling.BILINEAR)) for m in members
    ]
    found = np.concatenate([band.members for band in out], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.min() >= 0
    assert found.max() <= 1


def test_rows_leave_as_soon_as_they_can() -> None:
    """Memory is a matter of the width: before the last band came, most rows had left."""
    seen, size = (1000, 10), (400, 4)
    held = []

    def bands() -> Iterator[MemberBand]:
        for top in range(0, 1000, 50):
            held.append(top - left * 2.5)
            yield MemberBand(top, np.zeros((1, 50, 10), np.float32))

    left = 0
    for band in resample_bands(bands(), seen, size):
        left = band.rows.stop

    assert left == 400
    assert max(held) < 50 + 10


def test_an_image_always_has_a_pixel() -> None:
    assert seen_size(3, 1000, (1e-9, 1e-9)) == (1, 1)
    assert seen_size(3, 1000, (2.4, 0.5)) == (7, 500)
