"""`POST /segment/rle`: three forms of the same answers, and a bad file that loses no other."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from starlette.testclient import TestClient

from app.api.submission import image_ids
from app.outputs.rle import decode_rle
from app.segmentation.options import PixelOrder
from tests.factories import nan_graph, scene
from tests.serving import (
    END,
    FORM,
    assert_no_innards,
    assert_problem,
    decoded,
    encoded,
    exact_bundle,
    part,
    serving,
    toy_mask,
)

BLACK = np.zeros((6, 9, 3), np.uint8)
TILES: dict[str, NDArray[np.uint8]] = {
    "one.png": scene(40, 50, seed=1),
    "empty.png": BLACK,
    "two.tile.png": scene(33, 7, seed=2),
}
BROKEN = encoded(scene(30, 30))[:-40]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    bundle = exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)
    with serving(bundle, max_batch_files=8) as client:
        yield client


def files_of(**more: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    """Return the parts of a form: the tiles, with `more` between the first and the second."""
    named = [(name, encoded(pixels)) for name, pixels in TILES.items()]
    named[1:1] = [(name.replace("_", "."), data) for name, data in more.items()]
    return [("files", part) for part in named]


def post(client: TestClient, files: list[Any] | None = None, **kwargs: Any) -> httpx2.Response:
    return client.post("/segment/rle", files=files_of() if files is None else files, **kwargs)


class TestJson:
    @pytest.mark.parametrize("order", ["row", "column"])
    def test_each_file_in_upload_order(self, client: TestClient, order: PixelOrder) -> None:
        response = post(client, params={"order": order})
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert set(answer) == {"model", "results"}
        version = client.get("/models").json()["version"]
        assert answer["model"] == response.headers["x-model-version"] == version
        assert [result["filename"] for result in answer["results"]] == list(TILES)
        for result, pixels in zip(answer["results"], TILES.values(), strict=True):
            mask = toy_mask(pixels)
            height, width = mask.shape
            rle = result.pop("rle")
            np.testing.assert_array_equal(decode_rle(rle, height, width, order), mask)
            assert rle or not mask.any()
            assert result == {
                "filename": result["filename"],
                "width": width,
                "height": height,
                "order": order,
                "building_pixels": mask.sum(),
                "building_fraction": pytest.approx(mask.mean()),
                "building_count": ndimage.label(mask)[1],
                "building_area_m2": None,
                "cascade": None,
                "notices": [],
            }

    def test_a_bad_file_has_its_problem_and_loses_no_other(self, client: TestClient) -> None:
        files = files_of(broken_png=BROKEN, no_txt=b"hello", nothing_png=b"")
        response = post(client, files)
        assert response.status_code == 200
        one, broken, text, nothing, *others = response.json()["results"]
        assert [r["filename"] for r in others] == ["empty.png", "two.tile.png"]
        assert all("rle" in r for r in (one, *others))
        for result, status, title in (
            (broken, 422, "Damaged image"),
            (text, 415, "Unsupported format"),
            (nothing, 400, "Empty upload"),
        ):
            assert set(result) == {"filename", "error"}
            assert set(result["error"]) == {"type", "title", "status", "detail", "instance"}
            assert (result["error"]["status"], result["error"]["title"]) == (status, title)
            instance = f"urn:rooftrace:request:{response.headers['x-request-id']}"
            assert result["error"]["instance"] == instance
        assert_no_innards(response.text)

    def test_parameters_apply_to_every_file(self, client: TestClient) -> None:
        params = {"threshold": 0.25021, "models": "red", "overlap": 0.5, "tta": "flips"}
        for result in post(client, params=params).json()["results"]:
            pixels = TILES[result["filename"]]
            mask = pixels[..., 0] / 255 >= 0.25021
            height, width = mask.shape
            np.testing.assert_array_equal(decode_rle(result["rle"], height, width, "row"), mask)

    def test_the_same_name_twice_is_two_results(self, client: TestClient) -> None:
        part = ("files", ("a.png", encoded(BLACK)))
        results = post(client, [part, part]).json()["results"]
        assert [r["filename"] for r in results] == ["a.png", "a.png"]


class TestNdjson:
    def test_the_same_objects_a_line_each(self, client: TestClient) -> None:
        files = files_of(broken_png=BROKEN)
        response = post(client, files, params={"format": "ndjson"})
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.text.endswith("\n")
        lines = {r["filename"]: r for r in map(json.loads, response.text.splitlines())}
        expected = {r["filename"]: r for r in post(client, files).json()["results"]}
        for results in (lines, expected):
            results["broken.png"]["error"].pop("instance")  # the id of its own request
        assert lines == expected

    def test_lines_come_as_they_are_ready(self, client: TestClient) -> None:
        slow = ("files", ("slow.png", encoded(scene(250, 250))))
        fast = ("files", ("fast.png", encoded(BLACK)))
        response = post(client, [slow, fast], params={"format": "ndjson", "tta": "d4"})
        names = [json.loads(line)["filename"] for line in response.text.splitlines()]
        assert names == ["fast.png", "slow.png"]


class TestCsv:
    def rows(self, response: httpx2.Response) -> list[list[str]]:
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        return list(csv.reader(io.StringIO(response.text)))

    @pytest.mark.parametrize("order", ["row", "column"])
    def test_it_decodes_to_the_very_mask_of_the_png(
        self, client: TestClient, order: PixelOrder
    ) -> None:
        header, *rows = self.rows(post(client, params={"format": "csv", "order": order}))
        assert header == ["img_id", "mask_rle"]
        assert [name for name, _ in rows] == ["one", "empty", "two.tile"]
        for (_, rle), pixels in zip(rows, TILES.values(), strict=True):
            png = client.post("/segment", files={"file": encoded(pixels)}).content
            height, width, _ = pixels.shape
            mask = decode_rle(rle, height, width, order)
            np.testing.assert_array_equal(mask, decoded(png) == 255)

    def test_an_empty_mask_is_minus_one(self, client: TestClient) -> None:
        rows = dict(self.rows(post(client, params={"format": "csv"})))
        assert rows["empty"] == "-1"

    def test_a_bad_file_is_left_out_and_said(self, client: TestClient) -> None:
        response = post(client, files_of(broken_png=BROKEN), params={"format": "csv"})
        assert [name for name, _ in self.rows(response)[1:]] == ["one", "empty", "two.tile"]
        [notice] = response.headers.get_list("x-notice")
        assert notice.startswith("'broken.png' left out: The PNG")

    def test_a_name_is_a_field_whatever_it_holds(self, client: TestClient) -> None:
        names = ['a,b "c".png', "ä\u202e.png", "../../x.png", "=1+1.png"]
        files = [("files", (name, encoded(BLACK))) for name in names]
        rows = self.rows(post(client, files, params={"format": "csv"}))
        # The browsers' way of quoting: RFC 7578 leaves a quotation mark as %22.
        assert [row[0] for row in rows[1:]] == ["a,b %22c%22", "ä\u202e", "x", "=1+1"]
        assert all(row[1] == "-1" for row in rows[1:])

    @pytest.mark.parametrize(
        ("names", "ids"),
        [
            (["a.png", "b.JPG", "c.tiff", "d.webp"], ["a", "b", "c", "d"]),
            (["tile.1", "tile.2", "tile.1.png"], ["tile.1", "tile.2", "tile.1.png"]),
            (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
            (["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"]),
            (["x/a.png", "y/b.png"], ["a", "b"]),
            (["a.png.png", ".png", "a\n.png"], ["a.png", ".png", "a\n"]),
        ],
    )
    def test_ids_keep_what_tells_them_apart(self, names: list[str], ids: list[str]) -> None:
        assert image_ids(names) == ids

    @pytest.mark.parametrize(
        ("names", "word"),
        [
            (["a.png", "b.png", "a.png"], "'a.png'"),
            (["a.png", "a.jpg", "a.png.tif"], "'a.png'"),
            (["a.png", ""], "File 2 has no name"),
        ],
    )
    def test_never_two_rows_of_one_id(
        self, client: TestClient, names: list[str], word: str
    ) -> None:
        body = b"".join(part("files", encoded(BLACK), name) for name in names) + END
        response = client.post("/segment/rle?format=csv", content=body, headers=FORM)
        assert_problem(response, 422, "Impossible output", word, "format=json")
        answer = client.post("/segment/rle", content=body, headers=FORM).json()
        assert [result["filename"] for result in answer["results"]] == names

    def test_notices_fit_into_headers(self, client: TestClient) -> None:
        name = "ä\x1b\u202e" * 200
        files = [("files", (f"{i}{name}", b"no image")) for i in range(8)]
        response = post(client, files, params={"format": "csv"})
        assert self.rows(response) == [["img_id", "mask_rle"]]
        notices = response.headers.get_list("x-notice")
        assert len(notices) == 8
        assert all(len(notice) <= 300 and notice.isprintable() for notice in notices)


def test_many_notices_are_counted(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = exact_bundle(tmp_path_factory.mktemp("many"), patch_size=32)
    with serving(bundle) as client:
        files = [("files", (f"{i}.txt", b"no image")) for i in range(20)]
        notices = post(client, files, params={"format": "csv"}).headers.get_list("x-notice")
    assert len(notices) == 16
    assert notices[-1] == "and 5 more"


class TestFormat:
    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("*/*", "application/json"),
            ("", "application/json"),
            ("application/*", "application/json"),
            ("application/x-ndjson", "application/x-ndjson"),
            ("text/csv, application/json;q=0.9", "text/csv; charset=utf-8"),
        ],
    )
    def test_accept_chooses(self, client: TestClient, accept: str, media_type: str) -> None:
        response = post(client, headers={"Accept": accept})
        assert response.headers["content-type"] == media_type

    def test_a_named_one_goes_before_accept(self, client: TestClient) -> None:
        response = post(client, params={"format": "csv"}, headers={"Accept": "image/png"})
        assert response.headers["content-type"].startswith("text/csv")

    def test_none_that_we_have(self, client: TestClient) -> None:
        response = post(client, headers={"Accept": "image/png"})
        assert_problem(response, 406, "Not acceptable", "text/csv")

    @pytest.mark.parametrize("name", ["png", "rle", "JSON", ""])
    def test_a_wrong_one_is_named(self, client: TestClient, name: str) -> None:
        response = post(client, params={"format": name})
        assert_problem(
            response, 422, "Invalid option", "format must be", "'ndjson'", f"got {name!r}"
        )


class TestForm:
    def test_a_form_without_files(self, client: TestClient) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        response = client.post("/segment/rle", content=b"--B--\r\n", headers=headers)
        assert_problem(response, 400, "Malformed upload", "no file", "files=@IMAGE")

    def test_the_field_of_the_other_endpoint(self, client: TestClient) -> None:
        response = client.post("/segment/rle", files={"file": encoded(BLACK)})
        assert_problem(response, 400, "Malformed upload", "'file'", "files=@IMAGE")

    def test_an_image_as_the_body(self, client: TestClient) -> None:
        headers = {"Content-Type": "image/png"}
        response = client.post("/segment/rle", content=encoded(BLACK), headers=headers)
        assert_problem(response, 415, "Unsupported format", "image/png", "multipart/form-data")

    def test_as_many_files_as_the_limit_and_one_more(self, client: TestClient) -> None:
        part = ("files", ("a.png", encoded(BLACK)))
        assert len(post(client, [part] * 8).json()["results"]) == 8
        assert_problem(post(client, [part] * 9), 413, "Upload too large", "8")

    def test_wrong_parameters(self, client: TestClient) -> None:
        assert_problem(post(client, params={"models": "pink"}), 422, "Invalid option", "pink")
        assert_problem(
            post(client, params={"simplfy": 1}), 422, "Invalid option", "'simplfy'", "/segment/rle"
        )
        twice = {"order": ["row", "column"]}
        assert_problem(post(client, params=twice), 422, "Invalid option", "order came more than")


def test_a_member_that_fails_on_one_file_loses_no_other(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = exact_bundle(
        tmp_path_factory.mktemp("nan"), patch_size=32, graphs={"red": nan_graph(32)}
    )
    with serving(bundle) as client:
        answer = post(client)
    one, empty, two = answer.json()["results"]
    assert empty["rle"] == ""
    for result in (one, two):
        assert result["error"]["status"] == 500
        assert "nan" not in result["error"]["detail"]
    assert caplog.text.count("member 'red' gave values from nan") == 2
    assert_no_innards(answer.text)


def test_the_deadline_is_of_the_whole_batch(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = exact_bundle(tmp_path_factory.mktemp("late"), patch_size=32)
    with serving(bundle, deadline=2, concurrency=1, workers=1) as client:
        slow = ("files", ("slow.png", encoded(scene(1500, 1500))))
        quick = ("files", ("quick.png", encoded(BLACK)))
        params = {"overlap": 0.75, "tta": "d4"}
        results = post(client, [quick, slow, quick], params=params).json()["results"]
    first, second, third = results
    assert "rle" in first
    assert second["error"]["status"] == third["error"]["status"] == 504
