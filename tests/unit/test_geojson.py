"""GeoJSON: where the polygons lie, how they run, what is said of them, and what can't be given."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from rasterio.transform import Affine
from scipy import ndimage

from app.errors import ImpossibleOutput
from app.outputs.formats import FORMATS
from app.segmentation.segmenter import Segmenter
from tests.maps import (
    BUILDINGS,
    NORTH_UP,
    UTM,
    encode,
    equal_area,
    geotiff,
    iou,
    picture,
    plan,
    polygons,
    rasterised,
    stream_of,
)
from tests.serving import encoded

MASK = plan()
GRIDS = [
    (UTM, NORTH_UP),
    (UTM, Affine(0.3, 0.4, 5e5, 0.4, -0.3, 4e6)),  # turned
    (UTM, Affine(0.3, 0, 5e5, 0, 0.9, 4e6)),  # the first row is the southernmost
    ("EPSG:4326", Affine(4e-6, 0, 10, 0, -3e-6, 60)),
    ("EPSG:3857", Affine(0.6, 0, 1e6, 0, -0.6, 8_399_738)),
    ("EPSG:2263", Affine(2, 0, 980_000, 0, -2, 200_000)),  # US feet
    ("EPSG:26915", Affine(0.15, 0, 366_000, 0, -0.15, 4_100_000)),  # NAD83
]


def collection(segmenter: Segmenter, data: bytes, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(segmenter, data, "geojson", **options))
    assert found["type"] == "FeatureCollection"
    return found


@pytest.mark.parametrize(("crs", "transform"), GRIDS)
class TestPlaces:
    def test_polygons_lie_on_the_mask(
        self, small_toy: Segmenter, crs: str, transform: Affine
    ) -> None:
        found = collection(small_toy, geotiff(picture(MASK), crs, transform))
        back = rasterised(polygons(found), crs, transform, MASK.shape)
        assert iou(back, MASK) > 0.999

    def test_areas_are_those_on_the_ground(
        self, small_toy: Segmenter, crs: str, transform: Affine
    ) -> None:
        found = collection(small_toy, geotiff(picture(MASK), crs, transform))
        for feature, shape in zip(found["features"], polygons(found), strict=True):
            # A centimetre, to which coordinates are rounded, is much of the smallest one here.
            assert feature["properties"]["area_m2"] == pytest.approx(equal_area(shape), rel=0.005)
        total = sum(feature["properties"]["area_m2"] for feature in found["features"])
        assert found["building_area_m2"] == pytest.approx(total, rel=0.002)

    def test_rings_follow_the_right_hand_and_have_seven_decimals(
        self, small_toy: Segmenter, crs: str, transform: Affine
    ) -> None:
        text = encode(small_toy, geotiff(picture(MASK), crs, transform), "geojson").decode()
        shapes = polygons(json.loads(text))
        assert len(shapes) == BUILDINGS
        assert sum(len(shape.interiors) for shape in shapes) == 1
        for shape in shapes:
            assert shape.is_valid
            assert shape.exterior.is_ccw
            assert not any(hole.is_ccw for hole in shape.interiors)
        for pair in re.findall(r"\[(-?\d[^\[\]]*)\]", text):
            assert all(len(number.partition(".")[2]) <= 7 for number in pair.split(","))


def test_each_building_tells_how_sure_the_members_are(small_toy: Segmenter) -> None:
    pixels = picture(MASK)
    pixels[5:25, 6:36] = (255, 204, 0)  # the members say 1, 0.8 and 0: weights 0.5, 0.3, 0.2
    [feature] = [
        feature
        for feature in collection(small_toy, geotiff(pixels))["features"]
        if feature["properties"]["confidence"] < 1
    ]
    assert feature["properties"] == {
        "area_m2": pytest.approx(600 * 0.25, rel=0.002),
        "confidence": pytest.approx(0.74, abs=1e-3),
        "agreement": pytest.approx(0, abs=1e-3),
    }


def test_how_it_came_about_is_said(small_toy: Segmenter) -> None:
    options = {"threshold": 0.4, "models": "blue,red", "gsd": 0.45}
    found = collection(small_toy, geotiff(picture(MASK)), **options)
    version = small_toy.manifest.version
    assert re.fullmatch(r"rooftrace \d+\.\d+\.\d+.*", found["provenance"].pop("software"))
    assert found["provenance"] == {
        "model": version,
        "threshold": 0.4,
        "weights": {"red": pytest.approx(5 / 7), "blue": pytest.approx(2 / 7)},
        "combine": "average",
        "min_confidence": 0.0,
        "gsd": 0.45,
        "cascade": None,
    }
    assert found["building_count"] == BUILDINGS
    assert found["building_area_m2"] == pytest.approx(MASK.sum() * 0.45**2, abs=0.01)


@pytest.mark.parametrize("min_area", [0.0, 14.9, 15.1, 400.0])
def test_the_mask_and_the_polygons_drop_the_same_buildings(
    small_toy: Segmenter, min_area: float
) -> None:
    data = geotiff(picture(MASK))
    stream = stream_of(small_toy, data, "geojson", min_area=min_area)
    drawn = np.zeros_like(MASK)
    for building in stream.buildings():
        drawn[building.window] |= building.crop()
    whole = json.loads(encode(small_toy, data, "geojson", min_area=min_area))
    kept = ndimage.label(drawn)[1]
    assert whole["building_count"] == kept == stream.building_count
    back = rasterised(polygons(whole), UTM, NORTH_UP, MASK.shape)
    np.testing.assert_array_equal(back, drawn)


@pytest.mark.parametrize("format", ["geojson", "coco"])
def test_an_image_that_comes_in_bands_gives_the_same_bytes(
    small_toy: Segmenter, tmp_path: Path, format: str
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 200, 3), np.uint8)
    data, path = geotiff(pixels), tmp_path / "out"
    stream = stream_of(small_toy, data, format, min_area=1.0, overlap=0.5)
    FORMATS[format].save(stream, path)
    assert path.read_bytes() == encode(small_toy, data, format, min_area=1.0, overlap=0.5)
    assert stream.building_count > 100
    assert stream.valid_pixels == 60_000


class TestWithoutGeoreference:
    def test_coordinates_are_pixels(self, small_toy: Segmenter) -> None:
        found = collection(small_toy, encoded(picture(MASK)))
        assert found["coordinate_system"] == "pixel"
        assert "coordinates" not in found  # RFC 7946, section 7.1, reserves the name
        [notice] = found["notices"]
        assert "coordinates are pixels" in notice
        shapes = polygons(found)
        assert {shape.bounds for shape in shapes} >= {(6, 5, 36, 25), (80, 50, 95, 60)}
        assert [f["properties"]["area_pixels"] for f in found["features"]] == [
            shape.area for shape in shapes
        ]
        assert found["building_area_m2"] is None

    def test_areas_are_in_metres_where_the_gsd_is_told(self, small_toy: Segmenter) -> None:
        found = collection(small_toy, encoded(picture(MASK)), gsd=0.2)
        areas = [f["properties"]["area_m2"] for f in found["features"]]
        assert sum(areas) == pytest.approx(MASK.sum() * 0.04) == found["building_area_m2"]


def test_a_datum_that_is_not_known_is_said(small_toy: Segmenter) -> None:
    crs = "+proj=utm +zone=32 +ellps=intl"
    found = collection(small_toy, geotiff(picture(MASK), crs, Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6)))
    [notice] = found["notices"]
    assert "datum" in notice


class TestImpossible:
    @pytest.mark.parametrize(
        ("crs", "transform", "words"),
        [
            (None, NORTH_UP, "names no coordinate reference system"),
            ('LOCAL_CS["my yard",UNIT["metre",1]]', NORTH_UP, "my yard"),
            (UTM, Affine(0.5, 0, 5e5, 0, 0, 4e6), "no place or no area"),
            ("EPSG:4326", Affine(1, 0, 500, 0, -1, 500), "not valid"),
        ],
    )
    def test_a_georeference_to_no_known_place_is_refused(
        self, small_toy: Segmenter, crs: str | None, transform: Affine, words: str
    ) -> None:
        with pytest.raises(ImpossibleOutput, match=words) as caught:
            collection(small_toy, geotiff(picture(MASK), crs, transform))
        assert "gdal_edit" in str(caught.value)


def test_a_maze_is_refused_before_its_outline_takes_the_memory(
    small_toy: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.outputs.footprints._MAX_RUNS", 60)
    mask = np.zeros((130, 90), bool)
    mask[::2] = mask[:, 0] = True
    with pytest.raises(
        ImpossibleOutput, match=f"of {mask.sum()} pixels is too long to draw. Raise the threshold"
    ):
        collection(small_toy, geotiff(picture(mask)))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        # At 16.6 degrees south, UTM zone 60 reaches 180 degrees at x = 820,123.
        ("EPSG:32760", Affine(1, 0, 820_123 - 85, 0, -1, 8_162_298 + 45)),
        ("EPSG:4326", Affine(1e-5, 0, 180 - 85e-5, 0, -1e-5, -16.6)),
        ("EPSG:4326", Affine(1e-5, 0, -180 - 85e-5, 0, -1e-5, -16.6)),
    ],
)
def test_a_building_on_the_antimeridian_is_cut(
    small_toy: Segmenter, crs: str, transform: Affine
) -> None:
    found = collection(small_toy, geotiff(picture(MASK), crs, transform))
    shapes = polygons(found)
    assert len(shapes) == BUILDINGS
    # The yard and its hut lie across the line, the others to both sides of it.
    assert [shape.geom_type for shape in shapes].count("MultiPolygon") == 2
    assert all(shape.is_valid for shape in shapes)
    longitudes = shapely.get_coordinates(shapes)[:, 0]
    assert (longitudes.min(), longitudes.max()) == (-180, 180)
    assert (abs(longitudes) > 179.99).all()
    for feature, shape in zip(found["features"], shapes, strict=True):
        parts = sum(equal_area(part) for part in shapely.get_parts(shape))
        assert feature["properties"]["area_m2"] == pytest.approx(parts, rel=0.005)


@pytest.mark.parametrize("west", [8, -85e-5])
def test_longitudes_may_be_counted_to_360_and_on(small_toy: Segmenter, west: float) -> None:
    here, a_turn_on = (
        polygons(
            collection(
                small_toy,
                geotiff(picture(MASK), "EPSG:4326", Affine(1e-5, 0, x, 0, -1e-5, 50)),
            )
        )
        for x in (west, west + 360)
    )
    assert shapely.equals_exact(
        shapely.normalize(here), shapely.normalize(a_turn_on), tolerance=2e-7
    ).all()


class TestShaping:
    def test_simpler_outlines_drop_no_building(self, small_toy: Segmenter) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8)
        exact = collection(small_toy, geotiff(pixels))
        simple = collection(small_toy, geotiff(pixels), simplify=0.6)
        assert len(simple["features"]) == len(exact["features"])
        shapes = polygons(simple)
        assert all(shape.is_valid and shape.area > 0 for shape in shapes)
        before, after = (shapely.get_num_coordinates(polygons(c)).sum() for c in (exact, simple))
        assert after < before

    def test_tolerance_is_in_metres(self, small_toy: Segmenter) -> None:
        # The corners of a step of 2 pixels, 1 m, are half a metre off the line without it.
        mask = np.zeros((60, 60), bool)
        mask[10:40, 10:30] = mask[12:40, 30:50] = True

        def corners(simplify: float) -> int:
            data = geotiff(picture(mask))
            [shape] = polygons(collection(small_toy, data, simplify=simplify))
            return len(shape.exterior.coords) - 1

        assert corners(0) == corners(0.45) == 6
        assert corners(0.55) == 4

    def test_corners_are_squared_on_the_ground(self, small_toy: Segmenter) -> None:
        # Where longitudes are half as long, so that these pixels are 2 wide and 3 high.
        data = geotiff(picture(turned_house(25, 2, 3)), "EPSG:4326", GRIDS[3][1])
        [raw] = polygons(collection(small_toy, data))
        [shape] = polygons(collection(small_toy, data, rectify="orthogonal"))
        assert len(shape.exterior.coords) - 1 == 4 < len(raw.exterior.coords)
        plane = shapely.transform(shape, lambda xy: xy * (np.cos(np.deg2rad(60)), 1))
        edges = np.diff(shapely.get_coordinates(plane), axis=0)
        edges /= np.hypot(*edges.T)[:, np.newaxis]
        np.testing.assert_allclose((edges[:-1] * edges[1:]).sum(axis=1), 0, atol=0.02)
        union = shapely.union(raw, shape).area
        assert shapely.intersection(raw, shape).area / union > 0.9

    def test_what_has_no_corners_stays(self, small_toy: Segmenter) -> None:
        row, col = np.mgrid[:90, :90]
        # Two thin arms that cross: no right angle comes near.
        mask = (abs(row - col) < 3) | ((row - 45) ** 2 + (col - 45) ** 2 < 200)
        data = geotiff(picture(mask))
        assert polygons(collection(small_toy, data, rectify="orthogonal")) == polygons(
            collection(small_toy, data)
        )


def turned_house(degrees: float, width: float, height: float) -> NDArray[np.bool_]:
    """Draw a house of 80 × 50, turned, in pixels of `width` × `height`."""
    row, col = np.mgrid[:90, :90] - 44.5
    x, y = col * width, row * height
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    inside: NDArray[np.bool_] = (abs(cos * x + sin * y) < 40) & (abs(cos * y - sin * x) < 25)
    return inside
