"""Jobs over HTTP: created, followed, their results in any format, and their end."""

import base64
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.errors import QueueFull, SettingsError
from app.jobs.blobs import Folder
from app.jobs.records import Job
from app.jobs.runner import LEASE
from app.jobs.store import JobTable
from app.main import create_app
from app.memory import Memory
from app.segmentation.stream import never
from tests.factories import nan_graph, scene, toy_cascade, write_toy_bundle
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM
from tests.serving import (
    PNG,
    assert_no_innards,
    assert_problem,
    decoded,
    encoded,
    exact_bundle,
    serving,
    settings_of,
)

EXECUTION = "/processes/segment-buildings/execution"
ASYNC = {"Prefer": "respond-async"}
OGC = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/"

_ROWS, _COLS = np.mgrid[:150, :100]
PIXELS = np.where(
    ((_ROWS // 20 + _COLS // 25) % 2 == 0)[..., None],
    scene(150, 100) // 4 + 150,
    scene(150, 100) // 4,
).astype(np.uint8)
MAP = tiff(np.moveaxis(PIXELS, 2, 0), crs=UTM, transform=NORTH_UP)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("bundles") / "exact", patch_size=32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[TestClient]:
    with serving(bundle, jobs=tmp_path_factory.mktemp("jobs")) as client:
        yield client


def create(client: TestClient, image: bytes = MAP, **query: Any) -> str:
    """Create a job, and return its id."""
    files = {"file": ("a.tif", image)}
    response = client.post(EXECUTION, params=query, files=files, headers=ASYNC)
    assert response.status_code == 201, response.text
    id: str = response.json()["jobID"]
    assert response.headers["location"] == f"../../jobs/{id}"
    assert response.headers["preference-applied"] == "respond-async"
    return id


def finished(client: TestClient, id: str, **headers: str) -> dict[str, Any]:
    """Follow a job to its end, and return its last state."""
    give_up = time.monotonic() + 60
    while True:
        response = client.get(f"/jobs/{id}", headers=headers)
        assert response.status_code == 200, response.text
        state: dict[str, Any] = response.json()
        if state["status"] not in ("accepted", "running"):
            return state
        assert time.monotonic() < give_up, state
        time.sleep(0.02)


@pytest.fixture(scope="module")
def done(client: TestClient) -> str:
    """A job that is finished."""
    id = create(client)
    assert finished(client, id)["status"] == "successful"
    return id


class TestStatus:
    def test_it_tells_what_came_and_what_was_found(self, client: TestClient, done: str) -> None:
        state = client.get(f"/jobs/{done}").json()
        assert (state["jobID"], state["processID"], state["type"]) == (
            done,
            "segment-buildings",
            "process",
        )
        assert state["progress"] == 100
        assert state["created"] <= state["started"] <= state["finished"] <= state["updated"]
        image = state["image"]
        assert (image["filename"], image["width"], image["height"]) == ("a.tif", 100, 150)
        assert image["crs"] == "EPSG:32633"
        assert len(image["corners"]) == 4
        assert set(image["formats"].values()) == {None}
        answer = client.post("/segment", files={"file": ("a.tif", MAP)})
        assert state["building_count"] == int(answer.headers["x-building-count"])
        assert state["building_fraction"] == float(answer.headers["x-building-fraction"])
        assert state["building_area_m2"] == float(answer.headers["x-building-area-m2"])
        assert state["model"] == answer.headers["x-model-version"]
        rels = {link["rel"].rpartition("/")[2]: link["href"] for link in state["links"]}
        assert rels["results"] == f"../jobs/{done}/results"
        assert rels["self"] == f"../jobs/{done}"

    def test_corners_are_where_the_image_lies(self, client: TestClient, done: str) -> None:
        """As the corners of a building that fills it."""
        corners = client.get(f"/jobs/{done}").json()["image"]["corners"]
        everything: dict[str, Any] = {"format": "geojson", "threshold": 1e-9, "min_confidence": 0}
        features = client.get(f"/jobs/{done}/results", params=everything).json()["features"]
        points = np.concatenate(
            [np.array(ring) for f in features for ring in f["geometry"]["coordinates"]]
        )
        for corner in corners:
            assert np.abs(points - corner).max(axis=1).min() < 1e-6

    def test_formats_that_the_image_cant_have_say_why(self, client: TestClient) -> None:
        image = client.get(f"/jobs/{create(client, PNG)}").json()["image"]
        assert (image["gsd"], image["crs"], image["corners"]) == (None, None, None)
        assert image["formats"]["png"] is image["formats"]["geojson"] is None
        for name in ("geotiff", "gpkg", "flatgeobuf", "geoparquet"):
            assert "no georeference" in image["formats"][name]


class TestResults:
    @pytest.mark.parametrize(
        "format",
        ["png", "probability", "disagreement", "overlay", "rle", "coco", "geojson", "geotiff"],
    )
    @pytest.mark.parametrize(
        "query",
        [
            {},
            {"threshold": 0.62},
            {"threshold": 0.3, "min_area": 4, "order": "column"},
            {"min_confidence": 0.7, "simplify": 1, "rectify": "orthogonal"},
            {"bands": "mask,probability,disagreement"},
        ],
        ids=str,
    )
    def test_they_are_those_of_a_request_bit_for_bit(
        self, client: TestClient, done: str, format: str, query: dict[str, Any]
    ) -> None:
        asked = client.get(f"/jobs/{done}/results", params={"format": format, **query})
        direct = client.post(
            "/segment", params={"format": format, **query}, files={"file": ("a.tif", MAP)}
        )
        assert asked.status_code == direct.status_code == 200, asked.text
        assert asked.content == direct.content
        own = {"server-timing", "x-request-id"}
        for headers in (asked.headers, direct.headers):
            for name in own:
                headers.pop(name)
        assert asked.headers.multi_items() == direct.headers.multi_items()

    @pytest.mark.parametrize("format", ["gpkg", "flatgeobuf", "geoparquet"])
    def test_formats_of_the_command_line_come_too(
        self, client: TestClient, done: str, format: str
    ) -> None:
        response = client.get(f"/jobs/{done}/results", params={"format": format})
        assert response.status_code == 200
        start = {"gpkg": b"SQLite format 3", "flatgeobuf": b"fgb", "geoparquet": b"PAR1"}[format]
        assert response.content.startswith(start)

    @pytest.mark.parametrize(
        "options",
        [
            {"combine": "vote"},
            {"models": "red,blue", "tta": "flips"},
            {"overlap": 0.5, "gsd": 0.3, "rescale": "10,200"},
        ],
        ids=str,
    )
    def test_what_decides_probabilities_is_kept(
        self, client: TestClient, options: dict[str, Any]
    ) -> None:
        id = create(client, **options)
        assert finished(client, id)["status"] == "successful"
        for query in ({}, {"min_area": 30}):
            params: dict[str, Any] = {
                "format": "geotiff",
                "bands": "mask,probability,disagreement",
                **query,
            }
            direct = client.post(
                "/segment", params={**params, **options}, files={"file": ("a.tif", MAP)}
            )
            assert client.get(f"/jobs/{id}/results", params=params).content == direct.content

    @pytest.mark.parametrize("name", ["overlap", "tta", "models", "combine", "gsd", "rgb"])
    def test_what_decides_probabilities_is_fixed(
        self, client: TestClient, done: str, name: str
    ) -> None:
        response = client.get(f"/jobs/{done}/results", params={name: "1"})
        assert_problem(response, 422, "Invalid option", f"{name} is fixed when a job is created")

    def test_votes_are_fixed_with_their_threshold(self, client: TestClient) -> None:
        id = create(client, combine="vote", threshold=0.4)
        finished(client, id)
        response = client.get(f"/jobs/{id}/results?threshold=0.6")
        assert_problem(response, 422, "Invalid option", "threshold is fixed for this job")
        assert client.get(f"/jobs/{id}/results").status_code == 200

    def test_the_format_is_the_jobs_then_what_is_accepted(self, client: TestClient) -> None:
        id, free = create(client, format="geojson"), create(client, PNG)
        finished(client, id)
        finished(client, free)
        assert client.get(f"/jobs/{id}/results").headers["content-type"] == "application/geo+json"
        wanted = {"Accept": "application/json"}
        assert client.get(f"/jobs/{free}/results", headers=wanted).json()["rle"] is not None
        picture = client.get(f"/jobs/{free}/results")
        assert (picture.headers["content-type"], picture.headers["vary"]) == ("image/png", "Accept")

    def test_an_unknown_format_is_refused_with_those_that_there_are(
        self, client: TestClient, done: str
    ) -> None:
        response = client.get(f"/jobs/{done}/results?format=shp")
        words = "format must be 'png', .* 'flatgeobuf' or 'geoparquet', got 'shp'"
        assert re.match(words, assert_problem(response, 422, "Invalid option")["detail"])

    def test_a_format_that_the_image_cant_have_is_refused(self, client: TestClient) -> None:
        id = create(client, PNG)
        finished(client, id)
        response = client.get(f"/jobs/{id}/results?format=geotiff")
        assert_problem(response, 422, "Impossible output", "no georeference")


@pytest.fixture(scope="module")
def cascaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose blue member decides patches alone."""
    folder = tmp_path_factory.mktemp("cascaded")
    cascade = toy_cascade("blue", 0.3, 0.7, 0.5)
    bundle = write_toy_bundle(folder / "bundle", patch_size=32, cascade=cascade)
    with serving(bundle, jobs=folder / "jobs") as client:
        yield client


class TestCascade:
    def test_it_is_counted_as_in_a_request(self, cascaded: TestClient) -> None:
        id = create(cascaded)
        finished(cascaded, id)
        direct = cascaded.post("/segment?format=rle", files={"file": ("a.tif", MAP)})
        asked = cascaded.get(f"/jobs/{id}/results?format=rle")
        assert direct.headers["x-cascade"] == asked.headers["x-cascade"]
        assert asked.content == direct.content

    def test_a_threshold_at_which_it_would_be_off_is_said(self, cascaded: TestClient) -> None:
        id = create(cascaded)
        finished(cascaded, id)
        response = cascaded.get(f"/jobs/{id}/results?format=rle&threshold=0.8")
        [notice] = response.json()["notices"]
        assert "the cascade was on" in notice
        assert "POST /segment would have it off" in notice
        assert response.headers["x-cascade"]


class TestJson:
    def body(self, **inputs: Any) -> dict[str, Any]:
        image = {"value": base64.b64encode(MAP).decode(), "mediaType": "image/tiff"}
        return {"inputs": {"image": image, **inputs}}

    def test_a_result_at_once(self, client: TestClient) -> None:
        response = client.post(EXECUTION, json=self.body(format="png", threshold=0.6))
        direct = client.post("/segment?threshold=0.6", files={"file": MAP})
        assert response.content == direct.content
        media_type = {"mediaType": "application/geo+json"}
        wanted = {"outputs": {"result": {"format": media_type}}}
        response = client.post(EXECUTION, json=self.body() | wanted)
        assert response.json()["type"] == "FeatureCollection"

    @pytest.mark.parametrize("when", [{}, ASYNC])
    def test_a_document(self, client: TestClient, when: dict[str, str]) -> None:
        def answer(**inputs: Any) -> Any:
            body = self.body(**inputs) | {"response": "document"}
            response = client.post(EXECUTION, json=body, headers=when)
            if when:
                id = response.json()["jobID"]
                finished(client, id)
                response = client.get(f"/jobs/{id}/results")
            assert response.headers["content-type"] == "application/json"
            return response.json()["result"]

        picture = answer()
        assert (picture["mediaType"], picture["encoding"]) == ("image/png", "base64")
        direct = client.post("/segment", files={"file": MAP})
        assert base64.b64decode(picture["value"]) == direct.content
        geojson = answer(format="geojson")
        assert geojson["value"]["type"] == "FeatureCollection"

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"{", ["is not JSON"]),
            (b"[" * 10**5, ["is not JSON", "nested too deeply"]),
            (
                b'{"inputs": {"a": 1, "threshold": 2, "threshold": 3}}',
                ["the key 'threshold' comes"],
            ),
            (
                b'{"inputs": {}, "outputs": {"result": {}, "result": {}}}',
                ["the key 'result' comes"],
            ),
            (b"[]", ["The body must be an object"]),
            ({}, ["inputs is missing"]),
            ({"inputs": {}}, ["inputs.image is missing"]),
            ({"inputs": {"image": 3}}, ["inputs.image holds no text"]),
            ({"inputs": {"image": {"value": "?"}}}, ["inputs.image is not base64"]),
            ({"inputs": {"image": {"href": "http://h"}}}, ["inputs.image is a link"]),
        ],
        ids=str,
    )
    def test_wrong_inputs_are_named(
        self, client: TestClient, body: bytes | dict[str, Any], words: list[str]
    ) -> None:
        how: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Content-Type": "application/json"}
        response = client.post(EXECUTION, headers=headers, **how)
        assert_problem(response, 400, "Invalid inputs", *words)

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("threshold", 7, "threshold must be less than 1, got 7"),
            ("treshold", 0.5, "treshold is not an option"),
            ("models", "pink", "models must be among red, green, blue, got pink"),
            ("format", "gif", "format must be 'png', "),
            ("rescale", "5", "rescale must be LOW,HIGH"),
        ],
    )
    def test_a_wrong_option_is_refused_as_in_a_query(
        self, client: TestClient, name: str, value: object, words: str
    ) -> None:
        response = client.post(EXECUTION, json=self.body(**{name: value}))
        assert_problem(response, 422, "Invalid option", words)
        image = {"Content-Type": "image/tiff"}
        response = client.post(EXECUTION, params={name: str(value)}, content=MAP, headers=image)
        assert_problem(response, 422, "Invalid option", words.split(",")[0].split(" is ")[0])

    def test_a_name_that_is_no_text(self, client: TestClient) -> None:
        response = client.post(EXECUTION, json=self.body(filename=3))
        assert_problem(response, 422, "Invalid option", "filename must be text, got 3")

    def test_wrong_outputs_are_named(self, client: TestClient) -> None:
        for outputs, status, title, word in (
            ({"mask": {}}, 400, "Invalid inputs", "'mask'"),
            ({"result": {"transmissionMode": "reference"}}, 400, "Invalid inputs", "transmission"),
            (
                {"result": {"format": {"mediaType": "image/gif"}}},
                *(422, "Invalid option", "mediaType must be among"),
            ),
        ):
            response = client.post(EXECUTION, json=self.body() | {"outputs": outputs})
            assert_problem(response, status, title, word)

    def test_parameters_are_inputs(self, client: TestClient) -> None:
        response = client.post(f"{EXECUTION}?threshold=0.5", json=self.body())
        assert_problem(response, 400, "Invalid inputs", "The query has threshold")


class TestRefusals:
    def test_an_image_that_cant_be_read_is_refused_at_once(self, client: TestClient) -> None:
        response = client.post(EXECUTION, files={"file": ("a", b"%PDF-1")}, headers=ASYNC)
        assert_problem(response, 415, "Unsupported format", "PDF")
        cut = client.post(EXECUTION, files={"file": ("a", PNG[:-40])}, headers=ASYNC)
        assert_problem(cut, 422, "Damaged image")
        response = client.post(f"{EXECUTION}?format=geotiff", files={"file": PNG}, headers=ASYNC)
        assert_problem(response, 422, "Impossible output")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/jobs/nobody"),
            ("GET", "/jobs/nobody/results"),
            ("GET", "/jobs/nobody/preview"),
            ("DELETE", "/jobs/nobody"),
        ],
    )
    def test_an_unknown_job_is_not_found(self, client: TestClient, method: str, path: str) -> None:
        create(client, PNG)
        problem = client.request(method, path)
        assert (problem.status_code, problem.json()["type"]) == (404, f"{OGC}no-such-job")
        assert problem.headers["content-type"] == "application/problem+json"
        assert_no_innards(problem.text)

    def test_an_unknown_process_is_not_found(self, client: TestClient) -> None:
        for response in (
            client.get("/processes/draw"),
            client.post("/processes/draw/execution", files={"file": PNG}),
        ):
            assert (response.status_code, response.json()["type"]) == (404, f"{OGC}no-such-process")

    def test_a_full_budget_is_a_507(self, tmp_path: Path, bundle: Path) -> None:
        with serving(bundle, jobs=tmp_path / "jobs", job_budget=100_000) as client:
            first = create(client, PNG)
            response = client.post(EXECUTION, files={"file": PNG}, headers=ASYNC)
            assert_problem(response, 507, "Storage full", "100000 bytes", "Delete jobs")
            assert finished(client, first)["status"] == "successful"
            assert client.post("/segment", files={"file": PNG}).status_code == 200
            assert len(list((tmp_path / "jobs" / "files").iterdir())) == 1
            assert client.delete(f"/jobs/{first}").status_code == 200
            create(client, PNG)

    def test_a_folder_that_cant_be_made_is_a_507(self, tmp_path: Path, bundle: Path) -> None:
        (tmp_path / "file").touch()
        with serving(bundle, jobs=tmp_path / "file" / "jobs") as client:
            response = client.post(EXECUTION, files={"file": PNG}, headers=ASYNC)
            assert_problem(response, 507, "Storage full", "ROOFTRACE_JOBS")
            assert client.post("/segment", files={"file": PNG}).status_code == 200
            assert client.get("/jobs").json()["jobs"] == []


class TestFailures:
    def test_the_results_of_a_failed_job_are_its_problem(
        self, tmp_path: Path, bundle: Path
    ) -> None:
        broken = write_toy_bundle(
            tmp_path / "broken", {"nan": 1.0}, graphs={"nan": nan_graph(32)}, patch_size=32
        )
        with serving(broken, jobs=tmp_path / "jobs") as client:
            id = create(client)
            state = finished(client, id)
            assert state["status"] == "failed"
            assert [link["href"] for link in state["links"] if "exceptions" in link["rel"]]
            response = client.get(f"/jobs/{id}/results")
            assert_problem(response, 500, "Inference failed", "A model failed")
            assert "job" not in response.headers.get("location", "")
            assert client.get(f"/jobs/{id}/preview").status_code == 200
            assert 'rooftrace_jobs_ended_total{outcome="failed"} 1.0' in client.get("/metrics").text


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 255  # in the probabilities of a band
    file.write_bytes(data)


def _change(file: Path) -> None:
    """Change a figure: the file can still be read."""
    data = file.read_bytes()
    for figure in (b'"cascade": {"0": [', b'"value":0.'):  # of a band, of a manifest
        before, found, after = data.partition(figure)
        if found:
            data = before + found + (b"7" if after[:1] != b"7" else b"6") + after[1:]
    assert data != file.read_bytes()
    file.write_bytes(data)


class TestLostFiles:
    """Another program writes to the folder, or the job is dismissed while its result is made."""

    @pytest.mark.parametrize("harm", [_cut, _flip, _change, Path.unlink])
    @pytest.mark.parametrize("name", ["manifest.json", "bands/*"])
    def test_no_result_is_made_of_what_is_left(
        self, tmp_path: Path, harm: Callable[[Path], None], name: str
    ) -> None:
        cascade = toy_cascade("blue", 0.3, 0.7, 0.5)
        bundle = write_toy_bundle(tmp_path / "bundle", patch_size=32, cascade=cascade)
        with serving(bundle, jobs=tmp_path) as client:
            id = create(client, encoded(scene(300, 40)))
            finished(client, id)
            files = sorted((tmp_path / "files" / id).glob(name))
            assert len(files) > 1 or name == "manifest.json"
            harm(files[-1])
            for format in ("png", "geojson", "rle", "coco"):
                response = client.get(f"/jobs/{id}/results?format={format}")
                assert response.status_code == 404, format
                assert response.json()["type"] == f"{OGC}no-such-job"
                assert "has lost its files" in response.json()["detail"]

    @pytest.mark.parametrize("harm", [_cut, _flip, Path.unlink])
    @pytest.mark.parametrize("image", [PNG, MAP], ids=["compressed", "not compressed"])
    def test_a_damaged_upload_is_not_blamed_on_the_client(
        self, tmp_path: Path, bundle: Path, harm: Callable[[Path], None], image: bytes
    ) -> None:
        with serving(bundle, jobs=tmp_path) as client:
            id = create(client, image)
            finished(client, id)
            harm(tmp_path / "files" / id / "upload")
            for path in ("results", "results?format=overlay", "preview"):
                response = client.get(f"/jobs/{id}/{path}")
                assert (response.status_code, response.json()["type"]) == (404, f"{OGC}no-such-job")
                assert "has lost its files" in response.json()["detail"]
                assert_no_innards(response.text)

    def test_nor_where_it_is_damaged_before_the_work_begins(
        self, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Folder.write

        def cut(self: Folder, name: str, data: bytes) -> None:
            write(self, name, data[:-40] if name.endswith("/upload") else data)

        monkeypatch.setattr(Folder, "write", cut)
        with serving(bundle, jobs=tmp_path) as client:
            id = create(client, PNG)
            state = finished(client, id)
            assert (state["status"], "has lost its files" in state["message"]) == ("failed", True)
            response = client.get(f"/jobs/{id}/results")
            assert (response.status_code, response.json()["type"]) == (404, f"{OGC}no-such-job")

    def test_a_folder_that_is_removed_is_made_anew(self, tmp_path: Path, bundle: Path) -> None:
        folder = tmp_path / "jobs"
        with serving(bundle, jobs=folder) as client:
            lost = create(client)
            finished(client, lost)
            shutil.rmtree(folder)
            assert client.get("/jobs").json()["jobs"] == []
            assert client.get(f"/jobs/{lost}").status_code == 404
            id = create(client)
            assert finished(client, id)["status"] == "successful"
        with serving(bundle, jobs=folder) as client:
            assert [job["jobID"] for job in client.get("/jobs").json()["jobs"]] == [id]
            assert client.get(f"/jobs/{id}/results").status_code == 200


class TestDismissal:
    def test_nothing_is_left_of_it(self, tmp_path: Path, bundle: Path) -> None:
        with serving(bundle, jobs=tmp_path) as client:
            id = create(client)
            finished(client, id)
            assert (tmp_path / "files" / id).exists()
            response = client.delete(f"/jobs/{id}")
            assert response.json()["status"] == "dismissed"
            assert client.get(f"/jobs/{id}").status_code == 404
            assert client.get("/jobs").json()["jobs"] == []
            assert not list((tmp_path / "files").iterdir())

    def test_a_finished_job_goes_in_time(self, tmp_path: Path, bundle: Path) -> None:
        with serving(bundle, jobs=tmp_path, job_retention=0.5) as client:
            id = create(client)
            give_up = time.monotonic() + 20
            while client.get(f"/jobs/{id}").status_code != 404:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            while list((tmp_path / "files").iterdir()):  # a moment later
                assert time.monotonic() < give_up
                time.sleep(0.05)


class TestOwners:
    def test_a_client_sees_its_own_jobs_alone(self, tmp_path: Path, bundle: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text("first-key-of-sixteen\nsecond-key-of-sixteen\n")
        mine, theirs = ({"Authorization": f"Bearer {key}"} for key in keys.read_text().splitlines())
        with serving(bundle, jobs=tmp_path / "jobs", api_keys=keys) as client:
            created = client.post(EXECUTION, files={"file": PNG}, headers={**ASYNC, **mine})
            id = created.json()["jobID"]
            finished(client, id, **mine)
            for method, path in (
                ("GET", f"/jobs/{id}"),
                ("GET", f"/jobs/{id}/results"),
                ("GET", f"/jobs/{id}/preview"),
                ("DELETE", f"/jobs/{id}"),
            ):
                assert client.request(method, path, headers=theirs).status_code == 404
                assert client.request(method, path).status_code == 401
            assert client.get("/jobs", headers=theirs).json()["jobs"] == []
            assert len(client.get("/jobs", headers=mine).json()["jobs"]) == 1
            database = (tmp_path / "jobs" / "jobs.sqlite").read_bytes()
            assert b"first-key" not in database
            assert client.delete(f"/jobs/{id}", headers=mine).status_code == 200


class TestMemory:
    def test_a_job_takes_the_bodies_share_and_no_images(self) -> None:
        memory = Memory(1000, largest_body=100, largest_image=500)
        assert memory.largest_job == 300
        with memory.for_job(300, never), memory.for_image(500, never):
            memory.resize_body(0, 200)  # the largest, which is held twice
            with pytest.raises(QueueFull):
                memory.resize_body(200, 201)
        memory.resize_body(200, 500)

        def stop() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError), memory.for_job(1, stop):
            pass

    def test_an_image_with_too_long_rows_is_no_job(self, tmp_path: Path, bundle: Path) -> None:
        limits = {"max_pixels": 10_000, "max_upload_bytes": 100_000, "memory_budget": 1_000_000}
        with serving(bundle, jobs=tmp_path, **limits) as client:
            wide = encoded(scene(2, 5000))
            response = client.post(EXECUTION, files={"file": wide}, headers=ASYNC)
            assert_problem(response, 413, "Upload too large", "5000 x 2 pixels", "POST /segment")
            assert client.post("/segment", files={"file": wide}).status_code == 200


class TestList:
    def test_it_is_filtered_and_paged(self, tmp_path: Path, bundle: Path) -> None:
        with serving(bundle, jobs=tmp_path) as client:
            ids = [create(client, PNG) for _ in range(3)]
            for id in ids:
                finished(client, id)

            def listed(query: str = "") -> list[str]:
                return [job["jobID"] for job in client.get(f"/jobs{query}").json()["jobs"]]

            assert listed() == ids[::-1]
            first = client.get("/jobs?limit=2&status=successful").json()
            [following] = [link["href"] for link in first["links"] if link["rel"] == "next"]
            assert listed("?limit=2") == ids[:0:-1]
            page = client.get(f"/{following}").json()["jobs"]
            assert [job["jobID"] for job in page] == ids[:1]
            assert listed("?status=failed") == listed("?processID=other") == []
            assert listed("?status=failed&status=successful&type=process") == ids[::-1]
            assert listed("?minDuration=1000") == []
            assert listed("?maxDuration=1000") == ids[::-1]
            created = client.get(f"/jobs/{ids[1]}").json()["created"]
            assert listed(f"?datetime={created}/..")[-1] == ids[1]
            assert listed("?datetime=../2020-01-01T00:00:00Z") == []
            assert_problem(client.get("/jobs?datetime=soon"), 422, "Invalid option", "datetime")
            lost = assert_problem(client.get("/jobs?status=lost"), 422, "Invalid option")
            assert lost["detail"].startswith("status must be 'accepted', ")
            assert_problem(client.get("/jobs?limit=0"), 422, "Invalid option", "limit")


def test_a_preview_is_the_upload_in_small(client: TestClient) -> None:
    tall = scene(4100, 10)
    picture = decoded(client.get(f"/jobs/{create(client, encoded(tall))}/preview").content)
    assert picture.shape == (2048, 5, 3)
    id = create(client)
    np.testing.assert_array_equal(decoded(client.get(f"/jobs/{id}/preview").content), PIXELS)


def test_the_log_names_the_request_that_created_a_job(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    headers = {**ASYNC, "X-Request-Id": "of-the-client"}
    id = client.post(EXECUTION, files={"file": PNG}, headers=headers).json()["jobID"]
    finished(client, id)
    assert f"request of-the-client created job {id}" in caplog.messages


def test_metrics_count_jobs(tmp_path: Path, bundle: Path) -> None:
    with serving(bundle, jobs=tmp_path) as client:
        finished(client, create(client))
        give_up = time.monotonic() + 20
        while 'rooftrace_jobs{status="successful"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        assert "rooftrace_job_bytes" in client.get("/metrics").text


def test_what_shared_jobs_lack_is_said_before_the_start(bundle: Path) -> None:
    words = "ROOFTRACE_JOBS=s3://city/jobs: jobs in a bucket .* Name one in ROOFTRACE_DATABASE"
    with pytest.raises(SettingsError, match=words):
        create_app(settings_of(bundle, jobs="s3://city/jobs"))
    with pytest.raises(SettingsError, match="ROOFTRACE_DATABASE can't be read as an address"):
        create_app(settings_of(bundle, database="postgresql://host:none/name"))


def test_a_clock_that_goes_back_holds_up_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = JobTable(f"sqlite:///{tmp_path}/jobs.sqlite", budget=10**6)
    table.add(Job(owner="", filename="a.tif", options={}, image={}, bytes=1))
    earlier = time.time() - 3600
    assert table.claim("one that is killed", LEASE)
    assert table.claim("another", LEASE) is None, "it is worked on"
    monkeypatch.setattr(time, "time", lambda: earlier)
    assert table.claim("another", LEASE), "nobody has worked on it for an hour"
    assert table.claim("a third", LEASE) is None
    table.close()


def test_files_of_no_job_are_removed_at_the_start_and_others_stay(
    tmp_path: Path, bundle: Path
) -> None:
    lost, theirs = (tmp_path / "files" / name for name in (str(uuid.uuid4()), "another's"))
    for folder in (lost, theirs):
        folder.mkdir(parents=True)
        (folder / "upload").write_bytes(b"1")
    with serving(bundle, jobs=tmp_path):
        give_up = time.monotonic() + 20
        while lost.exists():
            assert time.monotonic() < give_up
            time.sleep(0.02)
    assert theirs.exists()


def test_no_folder_without_a_job(tmp_path: Path, bundle: Path) -> None:
    with serving(bundle, jobs=tmp_path / "jobs") as client:
        assert client.get("/jobs").json()["jobs"] == []
        assert client.get("/jobs/x").status_code == 404
    assert not (tmp_path / "jobs").exists()
