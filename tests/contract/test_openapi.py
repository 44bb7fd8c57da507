"""The interface document: committed, complete, with an example for everything a client meets."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from app.api.cors import EXPOSED
from app.api.problems import MEDIA_TYPE, STATUS
from tests.contract.write_openapi import PATH, text

DOCUMENT: dict[str, Any] = json.loads(text())


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


OPERATIONS = dict(operations())
EACH = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))


def inlined(schema: Any) -> Any:
    """Replace references by what they refer to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return inlined(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return {key: inlined(value) for key, value in schema.items()}
    return [inlined(item) for item in schema] if isinstance(schema, list) else schema


def test_the_committed_document_is_the_services() -> None:
    assert PATH.read_text() == text(), (
        "openapi.json is not what the code says. See that the change is meant, then run "
        "`python -m tests.contract.write_openapi` and commit the file."
    )


def test_every_endpoint_of_the_contract_is_there() -> None:
    assert set(OPERATIONS) == {
        "POST /segment",
        "POST /segment/rle",
        "GET /conformance",
        "GET /processes",
        "GET /processes/{processID}",
        "POST /processes/{processID}/execution",
        "GET /jobs",
        "GET /jobs/{jobID}",
        "DELETE /jobs/{jobID}",
        "GET /jobs/{jobID}/results",
        "GET /jobs/{jobID}/preview",
        "GET /models",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
        "GET /tiles",
        "GET /tiles/{source}",
        "GET /tiles/{source}/{z}/{x}/{y}.png",
    }


@EACH
def test_every_parameter_has_a_description_and_a_valid_example(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        assert parameter["description"], parameter["name"]
        schema = inlined(parameter["schema"])
        assert schema["examples"], parameter["name"]
        for example in schema["examples"]:
            jsonschema_rs.validate(schema, example)


@EACH
def test_every_error_has_valid_examples(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if status in ("200", "201", "304"):
            continue
        content = response["content"][MEDIA_TYPE]
        assert set(response["content"]) == {MEDIA_TYPE}
        assert content["examples"], status
        for title, example in content["examples"].items():
            jsonschema_rs.validate(inlined(content["schema"]), example["value"])
            assert (example["value"]["status"], example["value"]["title"]) == (int(status), title)
            assert example["value"]["detail"].endswith(".")


def test_every_error_that_a_client_can_meet_is_documented() -> None:
    shown = {
        (int(status), title)
        for operation in OPERATIONS.values()
        for status, response in operation["responses"].items()
        for title in response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    }
    assert shown == set(STATUS.values()) - {(499, "Client gone")}  # which nobody is there to meet


@pytest.mark.parametrize(
    "name",
    [
        *("POST /segment", "POST /segment/rle", "GET /models"),
        *("GET /tiles", "GET /tiles/{source}", "GET /tiles/{source}/{z}/{x}/{y}.png"),
    ],
)
def test_a_key_may_be_asked_for_and_need_not(name: str) -> None:
    assert OPERATIONS[name]["security"] == [{"key": []}, {}]
    assert {"401", "403", "429"} <= OPERATIONS[name]["responses"].keys()


@EACH
def test_names_are_fit_for_generated_clients(operation: dict[str, Any]) -> None:
    assert operation["operationId"].isidentifier()
    assert "__" not in operation["operationId"]
    assert operation["summary"]
    assert operation["description"]


def test_every_header_of_a_result_is_documented() -> None:
    headers = OPERATIONS["POST /segment"]["responses"]["200"]["headers"]
    assert set(headers) == {
        "Server-Timing",
        "X-Request-Id",
        "X-Model-Version",
        "X-Execution-Provider",
        "X-Building-Fraction",
        "X-Building-Count",
        "X-Building-Area-M2",
        "X-Cascade",
        "X-Notice",
    }
    assert all(h["description"] and h["schema"]["examples"] for h in headers.values())
    ready = OPERATIONS["GET /health/ready"]["responses"]["503"]
    limited = OPERATIONS["GET /models"]["responses"]["429"]
    assert set(ready["headers"]) == set(limited["headers"]) == {"Retry-After"}


def test_a_page_of_another_origin_may_read_every_documented_header() -> None:
    documented = {
        header
        for operation in OPERATIONS.values()
        for response in operation["responses"].values()
        for header in response.get("headers", {})
    }
    assert documented <= set(EXPOSED)


@pytest.mark.parametrize(
    ("name", "first"),
    [("POST /segment", "application/octet-stream"), ("POST /segment/rle", "text/csv")],
)
def test_what_generated_clients_take_a_result_for(name: str, first: str) -> None:
    """They parse every answer as the first type that they know, which may not be JSON."""
    assert next(iter(OPERATIONS[name]["responses"]["200"]["content"])) == first
