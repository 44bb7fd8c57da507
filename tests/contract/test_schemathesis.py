"""The application against its own document: requests that it allows, and others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_asgi
from schemathesis.python.asgi import shutdown_lifespans
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from tests.factories import scene
from tests.serving import encoded, exact_bundle, settings_of

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 40
OPERATIONS = [
    ("POST", "/segment"),
    ("POST", "/segment/rle"),
    ("GET", "/models"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/tiles"),
    ("GET", "/tiles/{source}"),
    ("GET", "/tiles/{source}/{z}/{x}/{y}.png"),
    ("GET", "/conformance"),
    ("GET", "/processes"),
]
OF_JOBS = [
    ("GET", "/processes/{processID}"),
    ("POST", "/processes/{processID}/execution"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{jobID}"),
    ("DELETE", "/jobs/{jobID}"),
    ("GET", "/jobs/{jobID}/results"),
    ("GET", "/jobs/{jobID}/preview"),
]

_WHOLE = [
    encoded(scene(9, 13)),
    encoded(np.zeros((3, 3, 3), np.uint8)),
    encoded(scene(8, 8), "JPEG"),
]


def files() -> st.SearchStrategy[bytes]:
    """Whole images, images cut short or with a byte changed, and anything."""
    whole = st.sampled_from(_WHOLE)
    cut = st.builds(lambda data, n: data[:-n], whole, st.integers(1, 80))
    changed = st.builds(
        lambda data, at, value: (
            data[: at % len(data)] + bytes([value]) + data[at % len(data) + 1 :]
        ),
        whole,
        st.integers(0, 2000),
        st.integers(0, 255),
    )
    return st.one_of(whole, whole, cut, changed, st.binary(max_size=100))


schemathesis.openapi.format("binary", files())


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    bundle = exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)
    jobs = tmp_path_factory.mktemp("jobs")
    yield from_asgi("/openapi.json", create_app(settings_of(bundle, jobs=jobs)))
    shutdown_lifespans()


def statuses(schema: Any, method: str, path: str, mode: GenerationMode, start: int = 0) -> set[int]:
    """Send generated requests, check every answer, and return the statuses that came."""
    met = set()

    @seed(start)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(mode))
    def conforms(case: Case[Any]) -> None:
        met.add(case.call_and_validate(checks=CHECKS).status_code)

    conforms()
    return met


@pytest.mark.parametrize("path", ["/segment", "/segment/rle"])
def test_requests_that_the_document_allows(schema: Any, path: str) -> None:
    # Most have a parameter that names nothing, and no 40 requests must hold one without.
    assert any(
        200 in statuses(schema, "POST", path, GenerationMode.POSITIVE, start) for start in range(5)
    )


@pytest.mark.parametrize("path", ["/segment", "/segment/rle"])
def test_requests_that_the_document_forbids(schema: Any, path: str) -> None:
    met = statuses(schema, "POST", path, GenerationMode.NEGATIVE)
    assert met & {400, 422}


@pytest.mark.parametrize(
    "path", [path for method, path in OPERATIONS if method == "GET" and "{" not in path]
)
def test_requests_without_anything_to_vary(schema: Any, path: str) -> None:
    assert statuses(schema, "GET", path, GenerationMode.POSITIVE) == {200}


@pytest.mark.parametrize("path", [path for _, path in OPERATIONS if "{" in path])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_tiles_of_no_source(schema: Any, path: str, mode: GenerationMode) -> None:
    """What they answer where there is one is in tests/unit/test_tiles.py."""
    assert statuses(schema, "GET", path, mode) <= {404, 405, 422}


@pytest.mark.parametrize(("method", "path"), OF_JOBS)
def test_requests_about_jobs(schema: Any, method: str, path: str) -> None:
    """No job has the ids that are tried: other tests ask about jobs that are there."""
    assert statuses(schema, method, path, GenerationMode.POSITIVE) <= {200, 201, 400, 404, 415, 422}


def test_the_operations_are_those_of_the_document(schema: Any) -> None:
    named = {(o.ok().method.upper(), o.ok().path) for o in schema.get_all_operations()}
    assert named == {*OPERATIONS, *OF_JOBS}
