"""What is around the two endpoints: health, models, metrics, the page, and paths that are not."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app import __version__
from app.bundle.manifest import load_manifest
from app.errors import BundleError
from app.main import create_app
from app.outputs.choices import StreamFormatName
from app.runtime.predictor import Predictor
from app.segmentation.segmenter import Segmenter
from tests.factories import TOY_WEIGHTS, scene
from tests.serving import assert_no_innards, assert_problem, encoded, serving, settings_of

PNG = encoded(scene(9, 9))
WEB = Path(__file__).parents[2] / "app" / "web"
FILES = sorted((WEB / "page").iterdir())


@pytest.fixture
def client(toy_bundle: Path) -> Iterator[TestClient]:
    with serving(toy_bundle) as client:
        yield client


def test_live(client: TestClient) -> None:
    response = client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "live"})


def test_ready(client: TestClient, toy_bundle: Path) -> None:
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "model": load_manifest(toy_bundle).version,
        "execution_providers": ["CPUExecutionProvider"],
        "fallback": None,
        "waiting": 0,
        "jobs": "ready",
    }


def test_models(client: TestClient, toy_bundle: Path) -> None:
    manifest = load_manifest(toy_bundle)
    answer = client.get("/models").json()
    assert answer["version"] == manifest.version
    assert answer["threshold"] == {
        "value": 0.5,
        "min_confidence": 0.0,
        "chosen_by": "nobody: a toy",
    }
    assert answer["gsd"] == {"min": 0.3, "max": 0.6, "reference": 0.4}
    assert answer["patch_size"] == 224
    assert {m["name"]: m["weight"] for m in answer["members"]} == TOY_WEIGHTS
    for member, described in zip(answer["members"], manifest.members, strict=True):
        assert member["sha256"] == described.sha256
        assert member["execution_provider"] == "CPUExecutionProvider"


class TestMetrics:
    def samples(self, client: TestClient) -> dict[tuple[str, tuple[str, ...]], float]:
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        return {
            (sample.name, tuple(v for _, v in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def test_what_is_counted(self, client: TestClient, toy_bundle: Path) -> None:
        client.post("/segment", files={"file": PNG})
        client.post("/segment", files={"file": PNG[:-20]})
        client.post("/segment/rle", files=[("files", PNG), ("files", b"?")])
        client.get("/health/ready")
        samples = self.samples(client)
        assert samples["rooftrace_requests_total", ("POST", "/segment", "200")] == 1
        assert samples["rooftrace_requests_total", ("POST", "/segment", "422")] == 1
        assert samples["rooftrace_requests_total", ("POST", "/segment/rle", "200")] == 1
        assert samples["rooftrace_images_total", ("segmented",)] == 2
        assert samples["rooftrace_images_total", ("DamagedImage",)] == 1
        assert samples["rooftrace_images_total", ("UnsupportedFormat",)] == 1
        assert samples["rooftrace_segmented_pixels_total", ()] == 2 * 81
        assert samples["rooftrace_stage_duration_seconds_count", ("infer",)] == 2
        assert samples["rooftrace_stage_duration_seconds_count", ("decode",)] == 4
        assert samples["rooftrace_request_duration_seconds_count", ("/segment",)] == 2
        assert samples["rooftrace_requests_waiting", ()] == 0
        assert samples["rooftrace_cpu_fallback", ()] == 0
        model = "CPUExecutionProvider", load_manifest(toy_bundle).version
        assert samples["rooftrace_model_info", model] == 1

    def test_no_label_is_a_clients_text(self, client: TestClient) -> None:
        client.get("/hostile/path?hostile=query", headers={"X-Request-Id": "hostile-id"})
        client.request("HOSTILE", "/models")
        client.post("/segment?hostile=1", files={"file": ("hostile.png", PNG)})
        client.post("/segment", files={"file": ("hostile.png", PNG)})
        samples = self.samples(client)
        assert not [key for key in samples if "hostile" in str(key).lower()]
        assert samples["rooftrace_requests_total", ("GET", "unmatched", "404")] == 1
        others = {name for name, labels in samples if labels[::2] == ("other", "405")}
        assert "rooftrace_requests_total" in others


class TestPathsAndMethods:
    @pytest.mark.parametrize(
        "path",
        ["/nowhere", "/segment/png", "/web/index.html", "/../etc/passwd", "/%0d%0aX: 1"],
    )
    def test_unknown_paths(self, client: TestClient, path: str) -> None:
        assert_problem(client.get(path), 404, "Not found", "/docs")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("GET", "/segment", "POST"),
            ("PUT", "/segment", "POST"),
            ("DELETE", "/segment/rle", "POST"),
            ("POST", "/models", "GET, HEAD"),
            ("POST", "/health/live", "GET, HEAD"),
            ("POST", "/", "GET, HEAD"),
            ("OPTIONS", "/models", "GET, HEAD"),
            ("PUT", "/jobs/1", "GET, HEAD, DELETE"),
            ("POST", "/page/page.js", "GET, HEAD"),
            ("BREW", "/segment", "POST"),
        ],
    )
    def test_unknown_methods(
        self, client: TestClient, method: str, path: str, allowed: str
    ) -> None:
        response = client.request(method, path)
        assert_problem(response, 405, "Method not allowed", method, path, allowed)
        assert response.headers["allow"] == allowed

    @pytest.mark.parametrize(
        ("path", "location"),
        [
            ("/health", "health/ready"),
            ("/docs/", "../docs"),
            ("/models/?a=b", "../models?a=b"),
            ("/health/ready/", "../ready"),
        ],
    )
    def test_redirects_are_relative(self, client: TestClient, path: str, location: str) -> None:
        response = client.get(path)
        assert (response.status_code, response.headers["location"]) == (307, location)

    @pytest.mark.parametrize("path", ["/nowhere/", "/docs//", "/swagger/"])
    def test_a_slash_at_the_end_of_nothing(self, client: TestClient, path: str) -> None:
        assert_problem(client.get(path), 404, "Not found", path)


class TestHead:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/docs",
            "/swagger/swagger-ui.css",
            "/openapi.json",
            "/metrics",
            "/models",
            "/health",
            "/health/live",
            "/health/ready",
            "/nowhere",
        ],
    )
    def test_it_is_get_without_a_body(self, client: TestClient, path: str) -> None:
        with_body, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (with_body.status_code, b"")
        assert head.headers.keys() == with_body.headers.keys()
        varies = {"x-request-id"} | ({"content-length"} if path == "/metrics" else set())
        for name in head.headers.keys() - varies:
            assert head.headers[name] == with_body.headers[name]

    def test_where_there_is_no_get_there_is_none(self, client: TestClient) -> None:
        response = client.head("/segment")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")

    def test_it_is_counted_and_logged_as_what_it_is(
        self, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "rooftrace.access")
        client.head("/health/ready")
        assert "HEAD /health/ready 200" in caplog.text
        counted = 'rooftrace_requests_total{method="HEAD",path="/health/ready",status="200"} 1.0'
        assert counted in client.get("/metrics").text


class _BrokenPredictor(Predictor):
    """A predictor with a bug: it can't stand a patch with a pixel of 255, and sees no building."""

    members = ("red", "green", "blue")
    providers: Mapping[str, str] = dict.fromkeys(members, "CPUExecutionProvider")
    choice = "fp32, as asked"
    batch_size = 1

    def __init__(self, error: Exception) -> None:
        super().__init__(1)
        self.error = error

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        if patches.max() == 255:
            raise self.error
        return np.zeros((len(members), *patches.shape[:3]), np.float32)

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.predict(patches, (member,))[0]


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("/secret/path")


def broken(bundle: Path, error: Exception) -> FastAPI:
    """Make the application with a predictor that raises `error`."""
    segmenter = Segmenter(load_manifest(bundle), _BrokenPredictor(error))
    return create_app(settings_of(bundle), load=lambda _: segmenter)


class TestBugs:
    @pytest.fixture(
        params=[
            ZeroDivisionError("/secret/path"),
            MemoryError("/secret/path"),
            RecursionError("/secret/path"),
            TimeoutError("/secret/path"),
            _Unprintable(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def client(self, toy_bundle: Path, request: pytest.FixtureRequest) -> Iterator[TestClient]:
        with TestClient(broken(toy_bundle, request.param)) as client:
            yield client

    def test_one_in_the_middle_of_an_answer_breaks_it_off(self, toy_bundle: Path) -> None:
        async def lines() -> AsyncIterator[str]:
            yield "one"
            raise ZeroDivisionError

        async def stream() -> StreamingResponse:
            return StreamingResponse(lines())

        app = create_app(settings_of(toy_bundle))
        app.router.routes.insert(0, APIRoute("/stream", stream))
        with TestClient(app) as client, pytest.raises(ZeroDivisionError):
            client.get("/stream")

    def test_one_that_looks_like_the_end_of_the_patches_gives_no_mask(
        self, toy_bundle: Path
    ) -> None:
        with TestClient(broken(toy_bundle, StopIteration())) as client:
            response = client.post("/segment", files={"file": PNG})
        assert_problem(response, 500, "Inference failed", "A model failed")

    def test_one_is_a_problem_without_details(
        self, client: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = client.post("/segment", files={"file": PNG})
        problem = assert_problem(response, 500, "Internal error", "fault of the service")
        assert "secret" not in json.dumps(problem)
        assert f"request {response.headers['x-request-id']} failed" in caplog.text
        metrics = client.get("/metrics").text
        assert 'rooftrace_requests_total{method="POST",path="/segment",status="500"} 1.0' in metrics
        assert 'rooftrace_images_total{outcome="segmented"}' not in metrics

    @pytest.mark.parametrize("format", ["json", "ndjson"])
    def test_one_in_a_batch_is_of_its_file(
        self, client: TestClient, caplog: pytest.LogCaptureFixture, format: str
    ) -> None:
        names = {"bug.png": PNG, "bad.png": b"?", "good.png": encoded(scene(9, 9) // 2)}
        files = [("files", (name, data)) for name, data in names.items()]
        response = client.post("/segment/rle", files=files, params={"format": format})
        assert response.status_code == 200
        lines = response.text.splitlines() if format == "ndjson" else []
        results = [json.loads(line) for line in lines] or response.json()["results"]
        by_name = {result["filename"]: result for result in results}
        assert by_name.keys() == names.keys()
        assert by_name["bug.png"]["error"]["status"] == 500
        assert by_name["bad.png"]["error"]["status"] == 415
        assert by_name["good.png"]["rle"] == ""
        request_id = response.headers["x-request-id"]
        assert by_name["bug.png"]["error"]["instance"] == f"urn:rooftrace:request:{request_id}"
        assert "secret" not in response.text
        assert_no_innards(response.text)
        assert f"request {request_id} failed" in caplog.text

    def test_one_in_a_csv_is_said(self, client: TestClient) -> None:
        files = [("files", ("bug.png", PNG)), ("files", ("good.png", encoded(scene(9, 9) // 2)))]
        response = client.post("/segment/rle", files=files, params={"format": "csv"})
        assert response.text == "img_id,mask_rle\ngood,-1\n"
        assert response.headers["x-notice"].startswith("'bug.png' left out: This is a fault of")


def test_the_access_log_has_templates_and_ids(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rooftrace.access")
    client.get("/models?evil=%0aline", headers={"X-Request-Id": "my-request-id"})
    client.get("/evil")
    client.get("/page/style.css")
    lines = [record.getMessage() for record in caplog.records if record.name == "rooftrace.access"]
    assert len(lines) == 3
    assert re.fullmatch(r"GET /models 200 \d+ ms my-request-id", lines[0])
    assert re.fullmatch(r"GET unmatched 404 \d+ ms [0-9a-f-]{36}", lines[1])
    assert re.fullmatch(r"GET /page 200 \d+ ms [0-9a-f-]{36}", lines[2])


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class TestPage:
    def test_it_comes_with_everything_that_it_needs(self, client: TestClient) -> None:
        response = client.get("/", headers=BROWSER)
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        html = response.text
        assert 'lang="en"' in html
        addresses = set(re.findall(r"""(?:src|href)=["']([^"'#]+)""", html))
        ours = {address for address in addresses if address.startswith("page/")}
        assert addresses - ours - {a for a in addresses if a.startswith("data:")} == {"docs"}
        names = {path.name for path in FILES}
        assert {address.removeprefix("page/") for address in ours} <= names
        for label in re.findall(r'<input type="range" id="([\w-]+)"', html):
            assert f'<label for="{label}">' in html

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("text/html, application/xhtml+xml, */*", "text/html; charset=utf-8"),
            ("application/json, text/html", "text/html; charset=utf-8"),
            ("TEXT/HTML;q=0.5", "text/html; charset=utf-8"),
            ("application/json, text/html;q=0.5", "application/json"),
            ("application/json, text/html;q=0", "application/json"),
            ("*/*", "application/json"),
            ("image/png", "application/problem+json"),
        ],
    )
    def test_accept_is_weighed(self, client: TestClient, accept: str, media_type: str) -> None:
        """RFC 9110, section 12.5.1."""
        response = client.get("/", headers={"Accept": accept})
        assert response.headers["content-type"] == media_type

    @pytest.mark.parametrize("path", ["/", "/page/page.js", "/swagger/swagger-ui.css"])
    def test_a_copy_that_is_current_is_not_sent_again(self, client: TestClient, path: str) -> None:
        first = client.get(path, headers=BROWSER)
        again = client.get(path, headers={**BROWSER, "If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control", "vary", "content-security-policy"):
            assert again.headers.get(name) == first.headers.get(name)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("wanted", ["bytes=0-9", "bytes=99999999-", "bytes=nonsense"])
    @pytest.mark.parametrize("path", ["/", "/page/page.js", "/swagger/swagger-ui.css"])
    def test_files_come_whole(
        self, client: TestClient, method: str, wanted: str, path: str
    ) -> None:
        whole = client.get(path, headers=BROWSER)
        response = client.request(method, path, headers={**BROWSER, "Range": wanted})
        assert response.status_code == 200
        assert response.headers["content-length"] == str(len(whole.content))
        assert response.headers["accept-ranges"] == "none"

    @pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in FILES)])
    def test_the_browser_is_held_to_this_service(self, client: TestClient, path: str) -> None:
        response = client.get(path, headers=BROWSER)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert not re.search(r"unsafe|\*|https?:", policy)
        assert response.headers["cache-control"] == "no-cache"
        if response.headers["content-type"].startswith("text/"):
            urls = set(re.findall(r"https?://[^\s'\")]+", response.text))
            assert urls <= {"http://www.w3.org/2000/svg"}  # a name, not an address

    def test_a_basemaps_host_is_allowed_and_no_other(self, toy_bundle: Path) -> None:
        tiles = "https://tiles.example.org:8443/{z}/{x}/{y}.png?a=b"
        with serving(toy_bundle, basemap=tiles, basemap_attribution="© us") as client:
            answer = client.get("/page.json")
        assert answer.json()["basemap"] == {"url": tiles, "attribution": "© us"}
        policy = answer.headers["content-security-policy"]
        assert policy.count("https:") == 2
        assert "img-src 'self' blob: data: https://tiles.example.org:8443;" in policy
        assert "connect-src 'self' https://tiles.example.org:8443;" in policy

    def test_our_own_tiles_need_no_other_host(self, toy_bundle: Path) -> None:
        with serving(toy_bundle, basemap="tiles/ortho/{z}/{x}/{y}.png") as client:
            assert "http" not in client.get("/page.json").headers["content-security-policy"]

    @pytest.mark.parametrize("installed", [True, False])
    def test_a_map_is_there_if_its_extra_is(
        self, toy_bundle: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if installed and find_spec("maplibre") is None:
            pytest.skip("the extra `map` is not installed")
        if not installed:
            monkeypatch.setattr("app.api.page.find_spec", lambda name: None)
        with serving(toy_bundle) as client:
            answer = client.get("/page.json")
            formats = list(get_args(StreamFormatName))
            assert answer.json() == {"map": installed, "basemap": None, "formats": formats}
            assert ("worker-src blob:" in answer.headers["content-security-policy"]) == installed
            for name in ("maplibre-gl.js", "maplibre-gl.css"):
                assert (client.get(f"/map/{name}").status_code == 200) == installed

    def test_it_weighs_less_than_200_kb(self) -> None:
        page = [WEB / "index.html", *(f for f in FILES if f.suffix in {".css", ".js", ".svg"})]
        assert len(page) > 2
        assert sum(file.stat().st_size for file in page) < 200_000

    def test_it_leads_to_the_documents(self, client: TestClient) -> None:
        docs = client.get("/docs").text
        addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", docs)
        assert addresses
        assert all(address.startswith("swagger/") for address in addresses)
        for address in addresses:
            assert client.get(f"/{address}").status_code == 200
        assert "url: 'openapi.json'" in docs
        assert client.get("/openapi.json").json()["info"]["version"] == __version__


def test_a_bundle_that_can_not_be_loaded_refuses_to_start(tmp_path: Path) -> None:
    app = create_app(settings_of(tmp_path / "none"))
    with pytest.raises(BundleError, match=r"manifest\.json"), TestClient(app):
        pass
