"""`POST /segment`: each format, parameter and header, against the toy bundle's exact truth."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from scipy import ndimage
from starlette.testclient import TestClient

from app.imaging.image import Image
from app.imaging.sharpness import sharpen_soft
from app.outputs.rle import decode_rle
from app.segmentation.options import PixelOrder
from tests.factories import nan_graph, scene, without_small
from tests.geotiff import tiff
from tests.maps import BUILDINGS, NORTH_UP, UTM, geotiff, picture, plan
from tests.serving import (
    THRESHOLD,
    assert_problem,
    decoded,
    encoded,
    exact_bundle,
    serving,
    toy_mask,
    toy_probability,
)

PIXELS = scene(70, 110)
PNG = encoded(PIXELS)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    bundle = exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)
    with serving(bundle) as client:
        yield client


def post(client: TestClient, data: bytes = PNG, name: str = "tile.png", **kwargs: Any) -> Any:
    return client.post("/segment", files={"file": (name, data)}, **kwargs)


def mask_of(client: TestClient, data: bytes = PNG, **params: Any) -> NDArray[np.bool_]:
    response = post(client, data, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    image = decoded(response.content)
    assert image.dtype == np.uint8
    assert image.ndim == 2  # one channel
    assert set(np.unique(image)) <= {0, 255}
    return image == 255


class TestFormats:
    @pytest.mark.parametrize("params", [{}, {"format": "png"}])
    def test_png_is_the_exact_mask_in_the_uploads_size(
        self, client: TestClient, params: dict[str, Any]
    ) -> None:
        np.testing.assert_array_equal(mask_of(client, **params), toy_mask(PIXELS))

    def test_probability_is_rounded_to_eight_bits(self, client: TestClient) -> None:
        response = post(client, params={"format": "probability"})
        assert response.headers["content-type"] == "image/png"
        exact = 255 * toy_probability(PIXELS)
        assert np.abs(decoded(response.content) - exact).max() <= 0.5 + 1e-4

    def test_disagreement_is_the_range_of_the_members(self, client: TestClient) -> None:
        response = post(client, params={"format": "disagreement"})
        assert response.headers["content-type"] == "image/png"
        spread = PIXELS.max(axis=2).astype(int) - PIXELS.min(axis=2)
        assert np.abs(decoded(response.content) - spread).max() <= 0.5 + 1e-4

    def test_overlay_changes_the_buildings_and_nothing_else(self, client: TestClient) -> None:
        response = post(client, params={"format": "overlay"})
        assert response.headers["content-type"] == "image/png"
        overlay, mask = decoded(response.content), toy_mask(PIXELS)
        assert overlay.shape == PIXELS.shape
        np.testing.assert_array_equal(overlay[~mask], PIXELS[~mask])
        assert (overlay[mask] != PIXELS[mask]).any(axis=-1).mean() > 0.99

    @pytest.mark.parametrize("order", ["row", "column"])
    def test_rle_decodes_to_the_mask_in_its_order(
        self, client: TestClient, order: PixelOrder
    ) -> None:
        response = post(client, params={"format": "rle", "order": order})
        assert response.headers["content-type"] == "application/json"
        result, mask = response.json(), toy_mask(PIXELS)
        np.testing.assert_array_equal(decode_rle(result.pop("rle"), 70, 110, order), mask)
        assert result == {
            "filename": "tile.png",
            "width": 110,
            "height": 70,
            "order": order,
            "building_pixels": mask.sum(),
            "building_fraction": mask.mean(),
            "building_count": ndimage.label(mask)[1],
            "building_area_m2": None,
            "cascade": None,
            "notices": [],
        }

    def test_an_empty_mask_is_an_empty_rle(self, client: TestClient) -> None:
        black = encoded(np.zeros((5, 4, 3), np.uint8))
        result = post(client, black, params={"format": "rle"}).json()
        assert (result["rle"], result["building_pixels"], result["building_fraction"]) == ("", 0, 0)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 90), (32, 32), (33, 31), (200, 7)])
    def test_any_size_comes_back_as_it_came(
        self, client: TestClient, shape: tuple[int, int]
    ) -> None:
        pixels = scene(*shape)
        np.testing.assert_array_equal(mask_of(client, encoded(pixels)), toy_mask(pixels))


class TestMaps:
    def test_every_format_shows_the_same_mask(self, client: TestClient) -> None:
        # A format that shows the mask alone may leave members out where they change nothing.
        pixels = np.tile(scene(300, 300), (2, 2, 1))
        pixels[:, :300] //= 4
        data = geotiff(pixels)
        mask = mask_of(client, data, resample="off")
        np.testing.assert_array_equal(mask, toy_mask(pixels))
        params = {"format": "geotiff", "resample": "off"}
        with MemoryFile(post(client, data, params=params).content) as file, file.open() as result:
            np.testing.assert_array_equal(result.read(1), mask)

    def test_a_georeferenced_image_gives_a_map(self, client: TestClient) -> None:
        data = geotiff(picture(plan()))
        response = post(client, data, params={"format": "geotiff"})
        media_type = "image/tiff; application=geotiff; profile=cloud-optimized"
        assert response.headers["content-type"] == media_type
        with MemoryFile(response.content) as file, file.open() as result:
            assert (result.crs, result.transform) == (CRS.from_user_input(UTM), NORTH_UP)
            np.testing.assert_array_equal(result.read(1), plan())
        response = post(client, data, params={"format": "geojson"})
        assert response.headers["content-type"] == "application/geo+json"
        assert len(response.json()["features"]) == BUILDINGS
        assert int(response.headers["x-building-count"]) == BUILDINGS
        area = float(response.headers["x-building-area-m2"])
        assert area == pytest.approx(plan().sum() * 0.25, rel=0.002)

    @pytest.mark.parametrize("accept", ["image/tiff", "image/tiff;application=geotiff"])
    def test_a_tiff_may_be_asked_for_by_its_type(self, client: TestClient, accept: str) -> None:
        data = geotiff(picture(plan()))
        headers = {"Accept": accept}
        response = post(client, data, headers=headers)
        assert response.headers["content-type"].startswith("image/tiff;")

    def test_an_output_that_the_upload_can_not_give(self, client: TestClient) -> None:
        response = post(client, params={"format": "geotiff"})
        assert_problem(response, 422, "Impossible output", "no georeference", "Give a GeoTIFF")
        response = post(
            client,
            geotiff(picture(plan()), crs=None),
            params={"format": "geojson"},
        )
        assert_problem(response, 422, "Impossible output", "names no coordinate", "gdal_edit.py")

    def test_pixel_coordinates_are_a_notice(self, client: TestClient) -> None:
        response = post(client, params={"format": "geojson"})
        assert response.headers["x-notice"].startswith("The image has no georeference: coordinates")
        assert response.json()["notices"] == [response.headers["x-notice"]]

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"bands": "mask,nir"}, "bands must be among mask, probability, disagreement, got nir"),
            ({"bands": "probability"}, "bands must begin with mask"),
            ({"simplify": "-1"}, "simplify must be at least 0, got '-1'"),
            ({"rectify": "round"}, "rectify must be 'none' or 'orthogonal', got 'round'"),
        ],
    )
    def test_parameters_out_of_range(
        self, client: TestClient, parameters: dict[str, str], words: str
    ) -> None:
        assert_problem(post(client, params=parameters), 422, "Invalid option", words)


class TestAccept:
    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("", "image/png"),
            ("application/octet-stream", "image/png"),
            ("*/*", "image/png"),
            ("image/*", "image/png"),
            ("image/png", "image/png"),
            ("application/json", "application/json"),
            ("application/*", "application/json"),
            ("APPLICATION/JSON", "application/json"),
            ("application/json, image/png", "image/png"),  # equal: the first of our table
            ("image/png;q=0.4, application/json;q=0.5", "application/json"),
            ("image/png;q=0.5, application/json;q=0.4", "image/png"),
            ("image/png;q=0, */*", "application/json"),  # the most specific range counts
            ("*/*;q=0.1, application/json", "application/json"),
            ("text/html, application/xhtml+xml, */*;q=0.8", "image/png"),
            ("image/jpeg, application/json ; q=0.2", "application/json"),
            ("application/geo+json, image/png;q=0.9", "application/geo+json"),
            ("application/json; q=1.000", "application/json"),
        ],
    )
    def test_the_format_that_the_client_prefers(
        self, client: TestClient, accept: str, media_type: str
    ) -> None:
        response = post(client, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["content-type"] == media_type

    @pytest.mark.parametrize(
        "accept", ["text/html", "image/jpeg", "application/json;q=0", "*/*;q=0", "nonsense", ";,;"]
    )
    def test_none_that_we_have(self, client: TestClient, accept: str) -> None:
        response = post(client, headers={"Accept": accept})
        assert_problem(response, 406, "Not acceptable", accept, "image/png, application/json")

    def test_one_that_a_job_has(self, client: TestClient) -> None:
        response = client.post("/segment", params={"format": "gpkg"}, files={"file": PNG})
        detail = "got 'gpkg', which the results of a job have. /docs lists"
        assert_problem(response, 422, "Invalid option", detail)

    def test_several_accept_headers_are_one(self, client: TestClient) -> None:
        accept = [("Accept", "text/html"), ("Accept", "application/json")]
        headers = [("Content-Type", "image/png"), *accept]
        response = client.post("/segment", content=PNG, headers=headers)
        assert response.headers["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("image/tiff, */*;q=0.1", "image/png"),
            ("image/tiff, image/*;q=0.2, application/json;q=0.3", "application/json"),
            ("image/tiff, application/geo+json;q=0.9, */*;q=0.8", "application/geo+json"),
        ],
    )
    def test_the_next_best_for_an_image_that_can_not_have_the_best(
        self, client: TestClient, accept: str, media_type: str
    ) -> None:
        headers = {"Accept": accept}
        assert (
            post(client, geotiff(picture(plan())), headers=headers)
            .headers["content-type"]
            .startswith("image/tiff;")
        )
        response = post(client, headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == media_type
        notice = response.headers.get_list("x-notice")[0]
        assert notice.startswith("The result is ")
        assert "not geotiff: The image has no georeference, which this format needs" in notice

    @pytest.mark.parametrize(
        "accept", ["image/tiff", "image/tiff, text/html", "image/tiff, */*;q=0"]
    )
    def test_no_next_best(self, client: TestClient, accept: str) -> None:
        response = post(client, headers={"Accept": accept})
        assert_problem(response, 422, "Impossible output", "no georeference", "Give a GeoTIFF")

    def test_no_next_best_for_a_map_of_no_place(self, client: TestClient) -> None:
        data = geotiff(picture(plan()), transform=Affine(0, 0, 5e5, 0, 0, 4e6))
        headers = {"Accept": "application/geo+json, image/tiff;q=0.5"}
        response = post(client, data, headers=headers)
        assert_problem(response, 422, "Impossible output", "no place or no area", "gdal_edit")

    def test_a_named_format_goes_before_it(self, client: TestClient) -> None:
        response = post(client, params={"format": "png"}, headers={"Accept": "application/json"})
        assert response.headers["content-type"] == "image/png"


class TestBodies:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {"quality": 95})],
    )
    @pytest.mark.parametrize("raw", [False, True], ids=["form", "raw"])
    def test_each_image_type_either_way(
        self, client: TestClient, kind: str, options: dict[str, Any], raw: bool
    ) -> None:
        data = encoded(PIXELS, kind, **options)
        if raw:
            headers = {"Content-Type": f"image/{kind.lower()}", "Accept": "image/png"}
            response = client.post("/segment", content=data, headers=headers)
        else:
            response = post(client, data)
        assert response.status_code == 200, response.text
        mask = decoded(response.content) == 255
        if kind == "JPEG":
            assert mask.shape == (70, 110)
        else:
            np.testing.assert_array_equal(mask, toy_mask(PIXELS))

    def test_the_content_decides_and_not_the_declared_type(self, client: TestClient) -> None:
        headers = {"Content-Type": "image/jpeg; charset=binary"}
        response = client.post("/segment", content=PNG, headers=headers)
        np.testing.assert_array_equal(decoded(response.content) == 255, toy_mask(PIXELS))
        form = {"file": ("lie.txt", PNG, "text/plain")}
        assert client.post("/segment", files=form).content == response.content

    def test_the_orientation_of_the_stored_pixels_is_kept(self, client: TestClient) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        data = encoded(PIXELS, "PNG", exif=exif)
        response = post(client, data)
        np.testing.assert_array_equal(decoded(response.content) == 255, toy_mask(PIXELS))
        assert "orientation" in response.headers["x-notice"]


class TestParameters:
    @pytest.mark.parametrize("threshold", [0.0002, 0.25021, 0.9998])
    def test_threshold(self, client: TestClient, threshold: float) -> None:
        mask = mask_of(client, threshold=threshold)
        np.testing.assert_array_equal(mask, toy_mask(PIXELS, threshold))

    @pytest.mark.parametrize("overlap", [0, 0.5, 0.75])
    @pytest.mark.parametrize("tta", ["none", "flips", "d4"])
    def test_overlap_and_tta_change_no_pixel_of_a_pixelwise_network(
        self, client: TestClient, overlap: float, tta: str
    ) -> None:
        mask = mask_of(client, overlap=overlap, tta=tta)
        np.testing.assert_array_equal(mask, toy_mask(PIXELS))

    @pytest.mark.parametrize("models", ["red", "green", "blue"])
    def test_models_choose_who_votes(self, client: TestClient, models: str) -> None:
        channel = PIXELS[..., ["red", "green", "blue"].index(models)]
        np.testing.assert_array_equal(mask_of(client, models=models), channel / 255 >= THRESHOLD)

    def test_the_weights_of_some_are_renormalised(self, client: TestClient) -> None:
        threshold = 0.50021  # of red 5/8 and green 3/8: no multiple of 1/2040
        mask = mask_of(client, models="green, red", threshold=threshold)
        exact = (PIXELS.astype(int) @ np.array([5, 3, 0])) / 2040
        np.testing.assert_array_equal(mask, exact >= threshold)

    def test_combine_by_vote(self, client: TestClient) -> None:
        votes = (PIXELS / 255 >= THRESHOLD).sum(axis=-1)
        np.testing.assert_array_equal(mask_of(client, combine="vote"), votes >= 2)

    def test_a_gsd_outside_the_trained_range_is_noticed(self, client: TestClient) -> None:
        response = post(client, params={"gsd": 5})
        assert response.headers["X-Notice"].startswith("The GSD of 5 m lies outside")
        assert "X-Notice" not in post(client, params={"gsd": 0.5}).headers

    def test_rescale_spreads_what_the_models_see(self, client: TestClient) -> None:
        spread = np.clip(PIXELS.astype(int) - 50, 0, 51) * 5
        np.testing.assert_array_equal(
            mask_of(client, rescale="50,101"), toy_mask(spread.astype(np.uint8))
        )

    def test_sharpen_changes_what_the_models_see(self, client: TestClient) -> None:
        np.testing.assert_array_equal(
            mask_of(client, sharpen=200), toy_mask(sharpen_soft(Image(PIXELS), 200).pixels)
        )
        np.testing.assert_array_equal(mask_of(client, sharpen=0), toy_mask(PIXELS))

    def test_min_area_drops_what_is_smaller(self, client: TestClient) -> None:
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[2:6, 2:7] = 255  # 20 pixels
        pixels[20:23, 20:23] = 255  # 9 pixels
        mask = mask_of(client, encoded(pixels), min_area=9.5)
        assert mask.sum() == 20
        assert mask[2:6, 2:7].all()

    @pytest.mark.parametrize(
        ("params", "named"),
        [
            ({"threshold": "0"}, "threshold must be more than 0, got '0'"),
            ({"threshold": "1"}, "threshold must be less than 1, got '1'"),
            ({"threshold": "-0.5"}, "threshold"),
            ({"threshold": "nan"}, "threshold must be a finite number, got 'nan'"),
            ({"threshold": "inf"}, "threshold"),
            ({"threshold": "half"}, "threshold must be a number, got 'half'"),
            ({"threshold": ""}, "threshold must be a number, got ''"),
            ({"overlap": "0.76"}, "overlap must be at most 0.75, got '0.76'"),
            ({"overlap": "-0.01"}, "overlap"),
            ({"tta": "all"}, "tta must be 'none', 'flips' or 'd4', got 'all'"),
            ({"models": "red,pink"}, "pink"),
            ({"models": "red,red"}, "red,red"),
            ({"models": ""}, "models"),
            ({"models": "red,"}, "models"),
            ({"combine": "sum"}, "combine must be 'average' or 'vote', got 'sum'"),
            ({"min_area": "-1"}, "min_area must be at least 0, got '-1'"),
            ({"gsd": "0"}, "gsd must be at least 0.001, got '0'"),
            ({"gsd": "30cm"}, "gsd must be a number, got '30cm'"),
            ({"rescale": "9,1"}, "rescale must be LOW,HIGH"),
            ({"rescale": "1" * 10_000}, "rescale"),
            ({"sharpen": "501"}, "sharpen must be at most 500, got '501'"),
            ({"sharpen": "-1"}, "sharpen must be at least 0, got '-1'"),
            ({"sharpen": "1.5"}, "sharpen must be a whole number, got '1.5'"),
            ({"resample": "on"}, "resample must be 'auto' or 'off', got 'on'"),
            ({"min_area": "1e999"}, "min_area"),
            ({"order": "diagonal"}, "order must be 'row' or 'column', got 'diagonal'"),
            ({"format": "gif"}, "format must be 'png', 'probability', 'disagreement'"),
            ({"format": "PNG"}, "got 'PNG'"),
            ({"treshold": "0.5"}, "'treshold' is not a parameter of /segment"),
            ({"Threshold": "0.5"}, "'Threshold' is not a parameter"),
            ({"threshold": ["0.5", "0.5"]}, "threshold came more than once"),
            ({"threshold": ["0.5", "2"]}, "threshold"),
            ({"threshold": "9" * 10_000}, "threshold"),
            ({"x" * 10_000: "1"}, "is not a parameter"),
        ],
    )
    def test_a_wrong_one_is_named(
        self, client: TestClient, params: dict[str, Any], named: str
    ) -> None:
        # A body that would be a 400: parameters are settled before it is read.
        response = client.post("/segment", params=params)
        problem = assert_problem(response, 422, "Invalid option", named)
        assert len(problem["detail"]) < 1200

    def test_every_wrong_one_is_named(self, client: TestClient) -> None:
        response = post(client, params={"tta": "all", "overlap": 3, "gdal": 1})
        assert_problem(response, 422, "Invalid option", "got 'all'", "got '3'", "'gdal'")


class TestHeaders:
    def test_what_every_result_carries(self, client: TestClient) -> None:
        response = post(client)
        stages = re.findall(r"(\w+);dur=(\d+\.\d)", response.headers["server-timing"])
        assert [name for name, _ in stages] == ["queue", "decode", "infer", "encode"]
        assert 0 < sum(float(ms) for _, ms in stages) < 1000 * response.elapsed.total_seconds() + 1
        assert response.headers["x-model-version"] == client.get("/models").json()["version"]
        assert response.headers["x-execution-provider"] == "CPUExecutionProvider"
        fraction = float(response.headers["x-building-fraction"])
        assert fraction == pytest.approx(toy_mask(PIXELS).mean(), abs=1e-6)
        assert "x-notice" not in response.headers

    def test_the_fraction_is_of_the_valid_pixels(self, client: TestClient) -> None:
        alpha = np.zeros(PIXELS.shape[:2], np.uint8)
        alpha[:35] = 255
        response = post(client, encoded(np.dstack([PIXELS, alpha])))
        mask = decoded(response.content) == 255
        assert not mask[35:].any()
        np.testing.assert_array_equal(mask[:35], toy_mask(PIXELS)[:35])
        fraction = float(response.headers["x-building-fraction"])
        assert fraction == pytest.approx(mask[:35].mean(), abs=1e-6)

    def test_the_count_and_the_area_of_the_buildings(self, client: TestClient) -> None:
        mask = toy_mask(PIXELS)
        response = post(client)
        assert int(response.headers["x-building-count"]) == ndimage.label(mask)[1]
        assert "x-building-area-m2" not in response.headers
        params = {"gsd": 0.5, "resample": "off", "min_area": 1.0}  # m², 4 pixels
        kept = without_small(mask, 4)
        by_format = {
            format: post(client, params=params | {"format": format})
            for format in ("png", "rle", "coco", "geojson")
        }
        for response in by_format.values():
            assert int(response.headers["x-building-count"]) == ndimage.label(kept)[1]
            assert float(response.headers["x-building-area-m2"]) == kept.sum() / 4
        for format in ("rle", "coco", "geojson"):
            result = by_format[format].json()
            assert result["building_count"] == ndimage.label(kept)[1]
            assert result["building_area_m2"] == kept.sum() / 4

    def test_notices_come_as_headers_and_in_json(self, client: TestClient) -> None:
        grey = encoded(PIXELS[..., 0])
        by_header = post(client, grey).headers["x-notice"]
        assert by_header.startswith("The image is greyscale")
        assert post(client, grey, params={"format": "rle"}).json()["notices"] == [by_header]

    @pytest.mark.parametrize("format", ["png", "rle", "coco", "geojson", "geotiff"])
    @pytest.mark.parametrize("how", ["alpha", "nodata"])
    def test_an_image_without_a_valid_pixel_is_told(
        self, client: TestClient, how: str, format: str
    ) -> None:
        nothing = np.zeros((90, 120, 3), np.uint8)
        options = {"nodata": 0} if how == "nodata" else {"alpha": "yes"}
        bands = nothing if how == "nodata" else np.dstack([nothing + 255, nothing[..., 0]])
        options |= {"photometric": "rgb", "crs": UTM, "transform": NORTH_UP}
        data = tiff(np.moveaxis(bands, 2, 0), **options)
        response = post(client, data, params={"format": format})
        assert response.headers["x-building-count"] == "0"
        [notice] = response.headers.get_list("x-notice")
        assert notice.startswith("No pixel of the image is valid")
        if format in ("rle", "coco", "geojson"):
            assert response.json()["notices"] == [notice]

    @pytest.mark.parametrize("ours", ["abcdefgh", "2f5e8d3c-3f4b-4c7e-9a51-0a8a2f6f1c11", "A" * 64])
    def test_a_request_id_is_echoed(self, client: TestClient, ours: str) -> None:
        assert post(client, headers={"X-Request-Id": ours}).headers["x-request-id"] == ours
        problem = client.get("/none", headers={"X-Request-Id": ours}).json()
        assert problem["instance"] == f"urn:rooftrace:request:{ours}"

    @pytest.mark.parametrize(
        "hostile", ["short", "A" * 65, "id with blank", 'x"><script>', "ab\x7fcdefgh"]
    )
    def test_one_that_could_break_a_log_line_is_replaced(
        self, client: TestClient, hostile: str
    ) -> None:
        given = client.get("/health/live", headers={"X-Request-Id": hostile}).headers[
            "x-request-id"
        ]
        assert re.fullmatch(r"[0-9a-f-]{36}", given)

    def test_each_request_without_one_gets_its_own(self, client: TestClient) -> None:
        ids = {client.get("/health/live").headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "C:\\windows\\system.ini",
        "a\x00b.png",
        "\u202egnp.exe",
        "日本.png",
        "n" * 4096,
        "%0d%0aX-Evil: 1",
        "<script>alert(1)</script>.png",
    ],
)
def test_a_hostile_filename_is_a_label_and_nothing_else(client: TestClient, name: str) -> None:
    raw = name.encode()
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="'
        + raw
        + b'"\r\n\r\n'
        + PNG
        + b"\r\n--B--\r\n"
    )
    response = client.post(
        "/segment?format=rle",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=B"},
    )
    assert response.status_code == 200, response.text
    assert isinstance(json.loads(response.content)["filename"], str)
    assert "x-evil" not in response.headers
    assert name not in str(response.headers)


def test_a_member_that_fails_is_a_500_that_gives_nothing_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = exact_bundle(tmp_path, patch_size=32, graphs={"red": nan_graph(32)})
    with serving(bundle) as client:
        response = post(client)
        problem = assert_problem(response, 500, "Inference failed", "the log says which")
        assert "red" not in problem["detail"]
        assert response.headers["x-request-id"] in caplog.text
        assert "member 'red' gave values from nan" in caplog.text
        # The fault is of those pixels: the service lives.
        black = encoded(np.zeros((5, 5, 3), np.uint8))
        assert post(client, black).status_code == 200
