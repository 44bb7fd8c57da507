"""Traces, as a collector gets them: over HTTP, in OpenTelemetry's own encoding."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.serving import PNG, RAW, serving

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="the `otel` extra is not installed",
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Collector:
    """What was sent to it."""

    url: str = ""
    service: str = ""
    spans: list[Any] = field(default_factory=list)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector of OTLP over HTTP, to which the environment points."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            for resource in trace_service.ExportTraceServiceRequest.FromString(body).resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                collector.service = attributes["service.name"]
                collector.spans += [s for scope in resource.scope_spans for s in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_with_one_for_each_stage(
    toy_bundle: Path, collector: Collector
) -> None:
    headers = {**RAW, "traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-Id": "mine-12345"}
    with serving(toy_bundle, traces=True) as client:
        assert client.post("/segment", content=PNG, headers=headers).status_code == 200
        files = [("files", PNG)] * 2
        assert client.post("/segment/rle", files=files).status_code == 200
        assert client.get("/health/live").status_code == 200
        assert client.get("/metrics").status_code == 200
    assert collector.service == "rooftrace"
    [request] = collector.named("POST /segment")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    attributes = {a.key: a.value for a in request.attributes}
    assert attributes["rooftrace.request_id"].string_value == "mine-12345"
    assert attributes["http.response.status_code"].int_value == 200
    within = sorted(
        (s for s in collector.spans if s.parent_span_id == request.span_id),
        key=lambda span: span.start_time_unix_nano,
    )
    # The writer takes bands as they are inferred: `infer` lies within `encode`.
    assert list(dict.fromkeys(s.name for s in within)) == ["queue", "decode", "encode", "infer"]
    slack = 1_000_000  # two clocks
    nested = {"encode": "infer"}
    edges = [request.start_time_unix_nano - slack]
    for span in within:
        if span.name in nested.values():
            continue
        edges.append(span.start_time_unix_nano)
        edges += [
            edge
            for inner in within
            if inner.name == nested.get(span.name)
            for edge in (inner.start_time_unix_nano, inner.end_time_unix_nano)
        ]
        edges.append(span.end_time_unix_nano)
    edges.append(request.end_time_unix_nano + slack)
    assert edges == sorted(edges)
    [batch] = collector.named("POST /segment/rle")
    of_batch = [s.name for s in collector.spans if s.parent_span_id == batch.span_id]
    assert sorted(of_batch) == sorted(["queue", "decode", "infer", "encode"] * 2)
    assert not [span for span in collector.spans if "health" in span.name or "metrics" in span.name]


def test_a_refused_image_ends_its_spans(toy_bundle: Path, collector: Collector) -> None:
    with serving(toy_bundle, traces=True) as client:
        assert client.post("/segment", content=PNG[:-20], headers=RAW).status_code == 422
    assert {span.name for span in collector.spans} == {"POST /segment", "queue", "decode"}
    assert len({span.trace_id for span in collector.spans}) == 1


def test_a_collector_that_is_not_there_costs_nothing_but_the_trace(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with serving(toy_bundle, traces=True) as client:
        assert client.post("/segment", content=PNG, headers=RAW).status_code == 200


def test_without_traces_nothing_is_sent_and_no_sdk_imported(
    toy_bundle: Path, collector: Collector
) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.serving import PNG, RAW, serving\n"
        "with serving(Path(sys.argv[1])) as client:\n"
        "    assert client.post('/segment', content=PNG, headers=RAW).status_code == 200\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    line = [sys.executable, "-c", program, str(toy_bundle)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert collector.spans == []


def test_traces_without_the_sdk_are_refused(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.errors import SettingsError
    from app.main import create_app
    from tests.serving import settings_of

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    with pytest.raises(SettingsError, match=r"needs opentelemetry.sdk, the extra `otel`"):
        create_app(settings_of(toy_bundle, traces=True))
