"""A building that tiles cut in pieces is the one building that it is on the whole map."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.imaging.georeference import GeoReference
from app.imaging.image import Image
from app.imaging.outline import outline
from app.scale.mosaic import Mosaic
from app.scale.tiles import Tile, grid_of, lay_out, moved, with_neighbours
from app.segmentation.components import Rule, find_buildings
from app.segmentation.seams import is_building, join_parts
from app.segmentation.stream import Band, Building
from tests.maps import NORTH_UP, UTM

GRID = GeoReference(UTM, tuple(NORTH_UP)[:6])
THRESHOLD = 0.4
KEEP_ALL = Rule(0, 0, 0.39)


@dataclass(frozen=True, eq=False)
class Map:
    """A whole map, and the boxes that it is cut into: top, left, bottom and right."""

    probability: NDArray[np.float32]
    boxes: list[tuple[int, int, int, int]]

    def tiles(self) -> list[Tile]:
        """Lay the boxes out, under names whose order is theirs."""
        return lay_out(
            Tile(
                name=f"{number:03}.tif",
                path="",
                named=False,
                georeference=moved(GRID, top, left),
                height=bottom - top,
                width=right - left,
                area=1.0,
            )
            for number, (top, left, bottom, right) in enumerate(self.boxes)
        )

    def image(self, number: int) -> Image:
        """Paint a box: its red is the probability in 255 steps."""
        top, left, bottom, right = self.boxes[number]
        red = np.rint(255 * self.probability[top:bottom, left:right]).astype(np.uint8)
        return Image(
            np.repeat(red[..., np.newaxis], 3, axis=2), georeference=moved(GRID, top, left)
        )


def whole_of(height: int, width: int, seed: int, size: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    levels = random.choice(
        np.array([0.2, 0.6, 0.8], np.float32),
        (height // size + 1, width // size + 1),
        p=[0.45, 0.35, 0.2],
    )
    return np.kron(levels, np.ones((size, size), np.float32))[:height, :width]


@st.composite
def maps(draw: st.DrawFn, *, overlap: bool = False) -> Map:
    """Draw a map, cut again and again across one of its pieces; some then reach into others."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    boxes = [(0, 0, height, width)]
    for _ in range(draw(st.integers(0, 9))):
        box = draw(st.sampled_from(boxes))
        top, left, bottom, right = box
        if draw(st.booleans()) and bottom - top > 1:
            at = draw(st.integers(top + 1, bottom - 1))
            pieces = [(top, left, at, right), (at, left, bottom, right)]
        elif right - left > 1:
            at = draw(st.integers(left + 1, right - 1))
            pieces = [(top, left, bottom, at), (top, at, bottom, right)]
        else:
            continue
        boxes.remove(box)
        boxes += pieces
    if overlap:
        more = draw(st.lists(st.integers(0, 4), min_size=len(boxes), max_size=len(boxes)))
        boxes = [
            (max(0, top - m), max(0, left - m), min(height, bottom + m), min(width, right + m))
            for (top, left, bottom, right), m in zip(boxes, more, strict=True)
        ]
    boxes = draw(st.permutations(boxes))
    probability = whole_of(
        height, width, draw(st.integers(0, 99)), draw(st.sampled_from([1, 2, 5]))
    )
    return Map(probability, list(boxes))


def bands_of(mosaic: Mosaic, cut: int) -> Iterator[Band]:
    """Answer for each pixel with what it shows, in bands of `cut` rows."""
    for row in range(0, mosaic.height, cut):
        stop = min(mosaic.height, row + cut)
        valid = mosaic.read_valid(row, stop)
        probability = mosaic.read_pixels(row, stop)[..., 0].astype(np.float32) / np.float32(255)
        mask = probability >= THRESHOLD
        if valid is not None:
            mask &= valid
        yield Band(row, probability, mask, valid, np.zeros_like(probability))


def found_in_tiles(whole: Map, margin: int, cut: int, rule: Rule) -> Iterator[Building]:
    """Find buildings tile by tile, each moved to the rows and columns of the grid."""
    tiles = whole.tiles()
    for tile, neighbours in with_neighbours(tiles, [margin] * len(tiles)):
        parts = [(near, whole.image(int(near.id[:3]))) for near in neighbours]
        mosaic = Mosaic(tile, whole.image(int(tile.id[:3])), parts, margin)
        for band in find_buildings(mosaic.crop(bands_of(mosaic, cut)), rule, each=True):
            for building in band.buildings:
                place = np.array([tile.row, tile.col, tile.col], np.int32)
                yield replace(building, runs=building.runs + place)


def outlines(buildings: list[Building]) -> list[shapely.Polygon]:
    return [outline(b.crop(), b.window[0].start, b.window[1].start) for b in buildings]


def normal(polygons: list[shapely.Polygon]) -> list[str]:
    """Write polygons so that equal ones are equal text, without points on straight edges."""
    return sorted(shapely.to_wkt(p.simplify(0).normalize()) for p in polygons)


@settings(max_examples=60)
@given(
    whole=st.one_of(maps(), maps(overlap=True)),
    margin=st.integers(1, 9),
    cut=st.integers(1, 50),
    rule=st.sampled_from([KEEP_ALL, Rule(0.65, 0, 0.39), Rule(0, 9, 0.39), Rule(0.65, 9, 0.39)]),
)
def test_a_building_across_tiles_is_one_of_the_whole_map(
    whole: Map, margin: int, cut: int, rule: Rule
) -> None:
    levels = (np.rint(255 * whole.probability) / 255).astype(np.float32)
    band = Band(0, levels, levels >= THRESHOLD, None, np.zeros_like(levels))
    expected = [b for one in find_buildings([band], rule, each=True) for b in one.buildings]

    found = list(found_in_tiles(whole, margin, cut, rule))
    joined = [building for building, _ in join_parts([b for b in found if b.is_part])]
    kept = [b for b in joined if is_building(b, b.pixels, rule.min_confidence, rule.min_area)]
    together = [b for b in found if not b.is_part] + kept

    # The grid counts from the first tile's own first pixel, wherever that lies on the map.
    top, left, *_ = whole.boxes[0]
    moved_back = [replace(b, runs=b.runs + np.array([top, left, left], np.int32)) for b in together]
    polygons, of_whole = outlines(moved_back), outlines(expected)
    assert normal(polygons) == normal(of_whole)
    assert sum(p.area for p in polygons) == sum(b.pixels for b in expected)
    union = shapely.union_all(polygons)
    assert union.symmetric_difference(shapely.union_all(of_whole)).area == 0
    assert sorted(b.confidence for b in together) == pytest.approx(
        sorted(b.confidence for b in expected), abs=1e-7
    )


@settings(max_examples=40)
@given(whole=maps(overlap=True), margin=st.integers(1, 9))
def test_a_mosaic_shows_what_the_map_shows(whole: Map, margin: int) -> None:
    tiles = whole.tiles()
    top, left, *_ = whole.boxes[0]
    shown = np.rint(255 * whole.probability).astype(np.uint8)
    owned = np.zeros(whole.probability.shape, np.int64)
    for tile, neighbours in with_neighbours(tiles, [margin] * len(tiles)):
        parts = [(near, whole.image(int(near.id[:3]))) for near in neighbours]
        mosaic = Mosaic(tile, whole.image(int(tile.id[:3])), parts, margin)
        row, col = (own.start for own in mosaic.core)
        place = np.s_[
            tile.row - row + top : tile.row - row + top + mosaic.height,
            tile.col - col + left : tile.col - col + left + mosaic.width,
        ]
        owners = mosaic.owners(0, mosaic.height)
        pixels = mosaic.read_pixels(0, mosaic.height)[..., 0]
        np.testing.assert_array_equal(pixels[owners >= 0], shown[place][owners >= 0])
        owned[place] += owners == 0
        assert grid_of(tile).transform == pytest.approx(tiles[0].georeference.transform)
    np.testing.assert_array_equal(owned, 1)  # each pixel is one tile's


def test_a_tile_alone_shows_its_own_image() -> None:
    """Pixels that alpha hides are seen by the networks, as in an image that is sent alone."""
    random = np.random.default_rng(0)
    valid = random.random((9, 7)) < 0.5
    image = Image(random.integers(0, 256, (9, 7, 3), np.uint8), valid, GRID)
    [tile] = Map(np.zeros((9, 7), np.float32), [(0, 0, 9, 7)]).tiles()
    mosaic = Mosaic(tile, image, [], margin=5)
    np.testing.assert_array_equal(mosaic.read_pixels(0, 9), image.pixels)
    np.testing.assert_array_equal(mosaic.read_valid(0, 9), valid)


def test_corners_do_not_connect() -> None:
    one = Building(np.array([[0, 0, 2]], np.int32), 0.9, 1.0, is_part=True)
    other = Building(np.array([[1, 2, 4]], np.int32), 0.9, 1.0, is_part=True)
    assert [numbers for _, numbers in join_parts([one, other])] == [[0], [1]]


def test_means_are_over_all_pixels() -> None:
    large = Building(np.array([[4, 0, 3]], np.int32), 0.9, 0.8, is_part=True)
    small = Building(np.array([[4, 3, 4]], np.int32), 0.5, 0.4, is_part=True)
    [(building, _)] = join_parts([large, small])
    np.testing.assert_array_equal(building.runs, [[4, 0, 4]])
    assert (building.confidence, building.agreement) == pytest.approx((0.8, 0.7))
    assert list(join_parts([])) == []
