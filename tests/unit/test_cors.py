"""CORS: on every kind of answer for the origins that are named, and on none for others."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import Response
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from app.api.cors import EXPOSED
from app.errors import SettingsError
from app.main import create_app
from app.settings import load_settings
from tests.serving import (
    FORM,
    PNG,
    RAW,
    Exchange,
    assert_problem,
    part,
    running,
    serving,
    settings_of,
)

OURS = "https://map.example.org"
HEADERS = {"Origin": OURS}
PREFLIGHT = {
    **HEADERS,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.fixture
def client(toy_bundle: Path) -> Iterator[TestClient]:
    with serving(toy_bundle, cors_origins=(OURS, "http://localhost:3000")) as client:
        client.headers.update(HEADERS)
        yield client


def assert_readable(response: httpx2.Response) -> None:
    """Check that a page of `OURS` may read the answer and its headers."""
    assert response.headers["access-control-allow-origin"] == OURS
    assert response.headers["access-control-expose-headers"] == ", ".join(EXPOSED)
    assert "origin" in response.headers["vary"].lower().split(", ")


def cors_headers(response: httpx2.Response) -> list[str]:
    return [name for name in response.headers if name.startswith("access-control-")]


class TestNamed:
    @pytest.mark.parametrize("path", ["/segment", "/segment/rle", "/models", "/nowhere"])
    def test_a_preflight(self, client: TestClient, path: str) -> None:
        response = client.options(path, headers=PREFLIGHT)
        assert (response.status_code, response.content) == (204, b"")
        assert_readable(response)
        assert "POST" in response.headers["access-control-allow-methods"].split(", ")
        allowed = response.headers["access-control-allow-headers"]
        assert allowed == "authorization,content-type"
        assert response.headers["x-request-id"]

    @pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics", "/health/ready"])
    def test_what_is_only_read(self, client: TestClient, path: str) -> None:
        response = client.get(path)
        assert response.status_code == 200
        assert_readable(response)

    def test_a_result(self, client: TestClient) -> None:
        response = client.post("/segment", content=PNG, headers=RAW)
        assert response.status_code == 200
        assert_readable(response)
        ours = {h for h in response.headers if h.startswith("x-")} | {"server-timing"}
        assert ours <= {name.lower() for name in EXPOSED}

    def test_a_stream(self, client: TestClient) -> None:
        files = [("files", PNG), ("files", b"?")]
        response = client.post("/segment/rle?format=ndjson", files=files)
        assert response.text.count("\n") == 2
        assert_readable(response)

    @pytest.mark.parametrize(
        ("path", "content", "headers", "status"),
        [
            ("/segment", b"?", RAW, 415),
            ("/segment", PNG[:-20], RAW, 422),
            ("/segment?threshold=2", PNG, RAW, 422),
            ("/segment", PNG, {**RAW, "Accept": "text/html"}, 406),
            ("/segment", part("nonsense"), FORM, 400),
            ("/segment", bytes(100_001), RAW, 413),
            ("/nowhere", b"", {}, 404),
            ("/models", b"", {}, 405),
        ],
    )
    def test_a_problem(
        self, toy_bundle: Path, path: str, content: bytes, headers: dict[str, str], status: int
    ) -> None:
        with serving(toy_bundle, cors_origins=(OURS,), max_upload_bytes=100_000) as client:
            response = client.post(path, content=content, headers={**HEADERS, **headers})
        assert response.status_code == status
        assert_readable(response)

    def test_keys_and_rates(self, toy_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("a-good-key-of-some-length\n")
        settings = {"api_keys": tmp_path / "keys", "rate_limit": 2, "cors_origins": (OURS,)}
        with serving(toy_bundle, **settings) as client:
            missing = client.get("/models", headers=HEADERS)
            bad = {**HEADERS, "Authorization": "Bearer another-key-that-is-bad"}
            refused = client.get("/models", headers=bad)
            too_many = client.get("/models", headers=HEADERS)
            for _ in range(3):  # a preflight carries no key, and counts for nobody's rate
                assert client.options("/models", headers=PREFLIGHT).status_code == 204
        for response, status in ((missing, 401), (refused, 403), (too_many, 429)):
            assert response.status_code == status
            assert_readable(response)

    def test_a_full_queue(self, toy_bundle: Path) -> None:
        async def refused() -> httpx2.Response:
            async with running(toy_bundle, cors_origins=(OURS,)) as app:
                app.state.service.admission.inside = 1000
                exchange = await Exchange(app, "POST", "/segment", {**RAW, **HEADERS}).run()
                app.state.service.admission.inside = 0
                return exchange.response

        response = asyncio.run(refused())
        assert_problem(response, 503, "Queue full")
        assert_readable(response)

    def test_a_bug(self, toy_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
        app = create_app(settings_of(toy_bundle, cors_origins=(OURS,)))

        async def broken() -> Response:
            raise ZeroDivisionError("/secret/path")

        app.router.routes.insert(0, APIRoute("/broken", broken, methods=["POST"]))
        with TestClient(app) as client:  # nothing is left to raise
            response = client.post("/broken", headers=HEADERS)
        problem = assert_problem(response, 500, "Internal error", "fault of the service")
        assert "secret" not in str(problem)
        assert_readable(response)
        assert "ZeroDivisionError: /secret/path" in caplog.text


class TestOthers:
    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example.org",
            "http://map.example.org",
            "https://map.example.org:444",
            "https://map.example.org.evil.com",
            "null",
            "",
        ],
    )
    def test_they_are_granted_nothing(self, client: TestClient, origin: str) -> None:
        response = client.options("/segment", headers={**PREFLIGHT, "Origin": origin})
        assert_problem(response, 405, "Method not allowed", "ROOFTRACE_CORS_ORIGINS", origin)
        assert cors_headers(response) == []
        response = client.get("/models", headers={"Origin": origin})
        assert response.status_code == 200
        assert cors_headers(response) == []
        assert response.headers["vary"] == "Origin"  # or a cache would answer `OURS` with it

    def test_options_without_a_preflight_is_any_other_method(self, client: TestClient) -> None:
        assert_problem(client.options("/segment"), 405, "Method not allowed", "OPTIONS", "/segment")


def test_all(toy_bundle: Path) -> None:
    with serving(toy_bundle, cors_origins=("*",)) as client:
        for origin in (OURS, "null"):
            response = client.options("/segment", headers={**PREFLIGHT, "Origin": origin})
            assert (response.status_code, response.headers["access-control-allow-origin"]) == (
                204,
                "*",
            )
        response = client.post("/segment", content=PNG, headers={**RAW, **HEADERS})
        assert response.headers["access-control-allow-origin"] == "*"
        assert "vary" not in response.headers
        assert cors_headers(client.get("/models")) == []  # no page asks


def test_none_by_default(toy_bundle: Path) -> None:
    assert settings_of(toy_bundle).cors_origins == ()
    with serving(toy_bundle) as client:
        response = client.options("/segment", headers=PREFLIGHT)
        assert_problem(response, 405, "Method not allowed", "ROOFTRACE_CORS_ORIGINS", OURS)
        assert cors_headers(response) == []
        assert cors_headers(client.get("/models", headers=HEADERS)) == []


class TestSetting:
    @pytest.fixture(autouse=True)
    def _no_env_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("value", "origins"),
        [
            ("", ()),
            ("*", ("*",)),
            ("https://a.org", ("https://a.org",)),
            ("https://a.org/, http://B.org:8080", ("https://a.org", "http://b.org:8080")),
            ('["https://a.org", "*"]', ("https://a.org", "*")),
        ],
    )
    def test_how_it_is_written(
        self, monkeypatch: pytest.MonkeyPatch, value: str, origins: tuple[str, ...]
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_CORS_ORIGINS", value)
        assert load_settings().cors_origins == origins

    @pytest.mark.parametrize(
        "value",
        [
            "map.example.org",
            "https://a.org/page",
            "https://a.org,",
            "https://*.a.org",
            "https://a b",
            "[1",
        ],
    )
    def test_what_no_browser_would_send(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("ROOFTRACE_CORS_ORIGINS", value)
        with pytest.raises(SettingsError, match="ROOFTRACE_CORS_ORIGINS: ") as refused:
            load_settings()
        assert "\n" not in str(refused.value)
