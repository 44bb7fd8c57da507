"""Keys and rates: who is let in, and that a key is never told to anybody."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.api.access import _MAX_CLIENTS, Access, Rate, read_keys
from app.errors import KeyRefused, RateExceeded, SettingsError
from app.main import create_app
from app.settings import Settings
from tests.serving import PNG, RAW, assert_problem, serving, settings_of

FIRST, SECOND = "first-key-of-two-0001", "second-key-of-two-0002"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# rotated in May\n{FIRST}\n\n  {SECOND}\n")
    return file


@pytest.fixture
def client(toy_bundle: Path, keys: Path) -> Iterator[TestClient]:
    with serving(toy_bundle, api_keys=keys) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class TestKeys:
    @pytest.mark.parametrize("key", [FIRST, SECOND])
    def test_each_is_good(self, client: TestClient, key: str) -> None:
        assert client.get("/models", headers=bearer(key)).is_success
        assert client.post("/segment", content=PNG, headers=RAW | bearer(key)).is_success

    @pytest.mark.parametrize(
        "headers", [{}, {"Authorization": FIRST}, {"Authorization": f"Basic {FIRST}"}]
    )
    @pytest.mark.parametrize("path", ["/segment", "/segment/rle", "/segment?nonsense=1"])
    def test_401_without_one(self, client: TestClient, path: str, headers: dict[str, str]) -> None:
        response = client.post(path, content=PNG, headers=RAW | headers)
        assert_problem(response, 401, "Key missing", "Authorization: Bearer")
        assert response.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "key", [FIRST[:-1], FIRST + "x", FIRST.upper(), "# rotated in May", "ü"]
    )
    def test_403_with_another(self, client: TestClient, key: str) -> None:
        response = client.get("/models", headers={b"Authorization": b"Bearer " + key.encode()})
        problem = assert_problem(response, 403, "Key refused")
        assert key not in problem["detail"]

    @pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/docs", "/"])
    def test_none_is_asked_for_here(self, client: TestClient, path: str) -> None:
        assert client.get(path).is_success

    def test_they_are_told_to_nobody(
        self, client: TestClient, keys: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        client.get("/models", headers=bearer(FIRST))
        client.get("/models", headers=bearer("a-key-that-is-not-good"))
        told = caplog.text + client.get("/metrics").text + repr(read_keys(keys))
        assert FIRST not in told
        assert "a-key-that-is-not-good" not in told

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "holds no key"),
            ("# nothing\n", "holds no key"),
            (f"{FIRST}\nshort\n", "key 2 must have at least 16"),
            ("two words of twenty letters\n", "key 1"),
        ],
    )
    def test_a_file_that_is_of_no_use_refuses_to_start(
        self, toy_bundle: Path, tmp_path: Path, content: str, words: str
    ) -> None:
        file = tmp_path / "bad"
        file.write_text(content)
        with pytest.raises(SettingsError, match=words) as refused:
            create_app(settings_of(toy_bundle, api_keys=file))
        assert "short" not in str(refused.value)

    def test_a_file_as_windows_writes_it(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_bytes(f"\ufeff{FIRST}\r\n\r\n  # of the GIS team, für später\r\n".encode())
        access = Access(read_keys(file))
        assert access.check("", FIRST)
        with pytest.raises(KeyRefused):
            access.check("", "# of the GIS team, für später")

    def test_no_file_refuses_to_start(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="can't be read"):
            read_keys(tmp_path / "none")


class TestRate:
    def test_429_says_when_to_come_back(self, toy_bundle: Path) -> None:
        with serving(toy_bundle, rate_limit=3) as client:
            statuses = [client.get("/models").status_code for _ in range(3)]
            response = client.get("/models")
            assert client.get("/health/ready").is_success
        assert statuses == [200] * 3
        seconds = int(response.headers["retry-after"])
        assert_problem(response, 429, "Rate exceeded", "3 requests a minute", f" {seconds} s.")
        assert 15 <= seconds <= 20

    def test_each_key_has_its_own_and_guesses_count(self, toy_bundle: Path, keys: Path) -> None:
        with serving(toy_bundle, rate_limit=2, api_keys=keys) as client:

            def get(headers: dict[str, str]) -> int:
                return client.get("/models", headers=headers).status_code

            assert [get(bearer(FIRST)) for _ in range(3)] == [200, 200, 429]
            assert get(bearer(SECOND)) == 200
            assert [get(bearer(f"guess-of-a-key-{i}")) for i in range(3)] == [403, 403, 429]
            assert get({}) == 429
            assert get(bearer(SECOND)) == 200

    def test_it_is_as_fast_as_promised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr("app.api.access.time.monotonic", lambda: now[0])
        rate, passed, waits = Rate(30), 0, []
        for _ in range(6000):  # ten minutes, ten requests a second
            now[0] += 0.1
            try:
                rate.check(b"client")
                passed += 1
            except RateExceeded as error:
                waits.append(error.seconds)
        assert 0 < min(waits) <= max(waits) <= 2.01
        assert 30 * 10 + 28 <= passed <= 30 * 10 + 31

    def test_it_remembers_no_more_than_it_must(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr("app.api.access.time.monotonic", lambda: now[0])
        rate = Rate(1)
        for i in range(2 * _MAX_CLIENTS):
            rate.check(str(i).encode())
        assert len(rate._free_at) <= _MAX_CLIENTS
        with pytest.raises(RateExceeded):
            rate.check(str(2 * _MAX_CLIENTS - 1).encode())

    def test_it_forgets_the_client_that_was_silent_longest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.api.access._MAX_CLIENTS", 3)
        rate = Rate(2)
        for client in (b"busy", b"silent", b"busy", b"other", b"new"):
            rate.check(client)
        with pytest.raises(RateExceeded):
            rate.check(b"busy")
        assert set(rate._free_at) == {b"busy", b"other", b"new"}


def test_nothing_is_asked_unless_the_operator_wants_it() -> None:
    fields = Settings.model_fields
    assert fields["api_keys"].default is None
    assert fields["rate_limit"].default is None
