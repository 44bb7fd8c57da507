"""The log for machines: an object on a line, and nothing of a client's that could break it."""

import json
import logging
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from app.logs import JsonFormatter
from tests.serving import PNG, serving


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What is written to a root logger that is set up for JSON."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel("INFO")
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def entries(log: StringIO) -> list[dict[str, object]]:
    """Parse what was written; every line must be an object of ASCII."""
    text = log.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_request_has_its_id_stages_and_sizes(log: StringIO, toy_bundle: Path) -> None:
    with serving(toy_bundle) as client:
        answer = client.post("/segment", files={"file": PNG}, headers={"X-Request-Id": "12345678"})
        client.post("/segment", files={"file": PNG[:-20]})
        batch = [("files", PNG), ("files", PNG)]
        client.post("/segment/rle", files=batch)
    good, bad, many = [e for e in entries(log) if e["logger"] == "rooftrace.access"]
    assert good["request_id"] == "12345678"
    assert (good["method"], good["path"], good["status"]) == ("POST", "/segment", 200)
    assert good["problem"] is None
    assert set(good["stages_ms"]) == {"queue", "decode", "infer", "encode"}  # type: ignore[call-overload]
    assert good["sent_bytes"] == len(answer.content)
    assert len(PNG) < good["received_bytes"] < len(PNG) + 500  # type: ignore[operator]
    assert (bad["status"], bad["problem"]) == (422, "Damaged image")
    assert set(many["stages_ms"]) == {"queue", "decode", "infer", "encode"}  # type: ignore[call-overload]


def test_clients_text_is_escaped(log: StringIO, toy_bundle: Path) -> None:
    evil = 'evil\n{"level": "info"}\x1b[31m\u202e\u2028.png'
    with serving(toy_bundle) as client:
        client.post("/segment?evil=%0a", files={"file": (evil, b"?")})
        client.get("/evil\u2028", headers={"X-Request-Id": "evil id", "User-Agent": "evil"})
    ours = [entry for entry in entries(log) if entry["logger"] != "httpx2"]  # the test's client
    assert len(ours) == 3
    assert all("evil" not in json.dumps(entry) for entry in ours)
    logging.getLogger("rooftrace.test").warning("%s", evil)
    assert entries(log)[-1]["message"] == evil


def test_an_exception_is_on_the_same_line(log: StringIO) -> None:
    try:
        raise ZeroDivisionError("no")
    except ZeroDivisionError:
        logging.getLogger("rooftrace.test").exception("failed")
    [entry] = entries(log)
    assert entry["level"] == "error"
    assert "ZeroDivisionError: no" in str(entry["exception"])
