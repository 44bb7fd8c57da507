"""Traces for OpenTelemetry, where the operator wants them: a span for a request and for each stage.

FastAPI makes the request's own span, and goes on with the trace of a client that sends
`traceparent`. OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, say
where spans go. Without traces the SDK is not imported, and need not be installed.
"""

import time
from typing import TYPE_CHECKING

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from .. import __version__
from ..extras import check_extra
from .stages import Stages

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_PROBES = ("/health/", "/metrics")


class Traces:
    """Sends spans to OpenTelemetry's exporter if it is `on`, else does nothing."""

    def __init__(self, on: bool) -> None:
        """Start the exporter.

        Raises:
            SettingsError: OpenTelemetry's SDK is not installed.
        """
        self._provider = _provider() if on else None

    @property
    def fastapi_config(self) -> TelemetryConfig:
        """Return FastAPI's configuration: a span for each request that is no probe."""
        return {
            "tracing": self._provider is not None,
            "tracer_provider": self._provider,
            "operation_spans": False,
            "metrics": False,  # Prometheus has them
            "logs": False,
            "exclude": lambda scope: scope.get("path", "").startswith(_PROBES),
        }

    def add(self, stages: Stages) -> None:
        """Add a span for each stage under the current request's span.

        Threads have measured the stages; they know nothing of the request's span.
        """
        if self._provider is None:
            return
        tracer = self._provider.get_tracer("rooftrace", __version__)
        since_1970 = time.time() - time.perf_counter()
        for stage, began, ended in stages.spans:
            span = tracer.start_span(stage, start_time=_nanoseconds(since_1970 + began))
            span.end(_nanoseconds(since_1970 + ended))

    def close(self) -> None:
        """Send the remaining spans."""
        if self._provider is not None:
            self._provider.shutdown()


def name_request(request_id: str) -> None:
    """Write a request's id into its span, if it has one."""
    trace.get_current_span().set_attribute("rooftrace.request_id", request_id)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _provider() -> "TracerProvider":
    exporter = "opentelemetry.exporter.otlp.proto.http"
    check_extra("ROOFTRACE_TRACES", "otel", "opentelemetry.sdk", exporter)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": __version__})
    name = str(resource.attributes["service.name"])
    if name.startswith("unknown_service"):  # nobody set OTEL_SERVICE_NAME
        resource = resource.merge(Resource({"service.name": "rooftrace"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
