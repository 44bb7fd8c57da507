"""However the rows of a mask come, its buildings are the components of the whole."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from app.segmentation.buildings import Building, find_components
from tests.factories import Rows


def maps_of(
    height: int, width: int, share: float, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    noise = np.random.default_rng(seed)
    maps = noise.random((2, height, width), np.float32)
    return noise.random((height, width)) < share, maps[0], maps[1]


def cut(
    maps: tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]], cuts: list[int]
) -> Iterator[Rows]:
    height = len(maps[0])
    bounds = sorted({0, height, *(cut for cut in cuts if cut < height)})
    for start, stop in pairwise(bounds):
        yield Rows(start, *(part[start:stop] for part in maps))  # type: ignore[arg-type]


def figures(building: Building) -> tuple[bytes, float, float]:
    return building.runs.tobytes(), building.confidence, building.agreement


masks = st.tuples(
    st.integers(1, 24), st.integers(1, 24), st.sampled_from([0, 0.3, 0.55, 0.8, 1]), st.integers(0)
)
cuts = st.lists(st.integers(1, 23))


@given(masks, cuts, cuts)
def test_cuts_do_not_show(
    mask: tuple[int, int, float, int], some: list[int], others: list[int]
) -> None:
    maps = maps_of(*mask)
    found = [figures(building) for building in find_components(cut(maps, some))]
    assert found == [figures(building) for building in find_components(cut(maps, others))]


@given(masks, cuts)
def test_buildings_are_the_components_of_the_whole(
    mask: tuple[int, int, float, int], some: list[int]
) -> None:
    maps = maps_of(*mask)
    labels, count = ndimage.label(maps[0])
    found = list(find_components(cut(maps, some)))
    assert len(found) == count
    drawn = np.zeros_like(labels)
    for building in found:
        crop = building.crop()
        [label] = np.unique(labels[building.window][crop])
        np.testing.assert_array_equal(crop, labels[building.window] == label)
        assert crop.any(axis=1).all()
        assert crop[:, [0, -1]].any(axis=0).all()
        assert building.pixels == np.count_nonzero(crop)
        here = labels == label
        assert building.confidence == pytest.approx(maps[1][here].mean(dtype=float), abs=1e-7)
        assert building.agreement == pytest.approx(1 - maps[2][here].mean(dtype=float), abs=1e-7)
        drawn[building.window][crop] = label
    np.testing.assert_array_equal(drawn, labels)


@given(masks, cuts)
def test_a_building_leaves_as_soon_as_it_has_ended(
    mask: tuple[int, int, float, int], some: list[int]
) -> None:
    maps = maps_of(*mask)
    taken = [0]

    def counted() -> Iterator[Rows]:
        for band in cut(maps, some):
            taken.append(band.row + len(band.mask))
            yield band

    for building in find_components(counted()):
        stop = building.window[0].stop
        assert stop <= taken[-1]  # all of its rows have come
        assert stop >= taken[-2] or len(taken) == 2  # and it did not wait for a further band


def test_a_gap_between_bands_is_refused() -> None:
    empty = np.zeros((2, 3), bool), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="row 3; row 2 is expected"):
        list(find_components([Rows(0, *empty), Rows(3, *empty)]))
