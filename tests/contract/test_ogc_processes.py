"""The conformance classes of OGC API - Processes that the service claims, one by one.

Source: OGC 18-062r2, annex A, whose requirements the tests name.
"""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.factories import scene
from tests.serving import encoded, exact_bundle, serving

CLASS = "http://www.opengis.net/spec/ogcapi-processes-1/1.0/conf/"
EXCEPTION = "http://www.opengis.net/def/exceptions/ogcapi-processes-1/1.0/"
REL = "http://www.opengis.net/def/rel/ogc/1.0/"
EXECUTION = "/processes/segment-buildings/execution"
IMAGE = {
    "value": base64.b64encode(encoded(scene(64, 64))).decode(),
    "mediaType": "image/png",
}
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("ogc")
    bundle = exact_bundle(folder / "exact", patch_size=32)
    with serving(bundle, jobs=folder / "jobs") as client:
        client.headers["accept"] = "application/json"
        yield client


def get(client: TestClient, path: str, status: int = 200) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    return document


def rels(document: dict[str, Any]) -> set[str]:
    return {link["rel"] for link in document["links"]}


def execute(client: TestClient, **more: Any) -> Any:
    headers = more.pop("headers", {})
    return client.post(EXECUTION, json={"inputs": {"image": IMAGE}, **more}, headers=headers)


def job(client: TestClient) -> str:
    """Create a job and wait for its end."""
    created = execute(client, response="document", headers=ASYNC)
    assert created.status_code == 201
    id: str = created.json()["jobID"]
    give_up = time.monotonic() + 60
    while get(client, f"/jobs/{id}")["status"] != "successful":
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return id


def core(client: TestClient) -> None:
    # landingpage-success, conformance-success
    landing = get(client, "/")
    assert {"service-desc", f"{REL}conformance", f"{REL}processes"} <= rels(landing)
    assert set(get(client, "/conformance")["conformsTo"]) == {CLASS + name for name in CLAIMED}
    # process-list-success, pl-limit-definition
    [summary] = get(client, "/processes?limit=1")["processes"]
    assert {"id", "version", "jobControlOptions", "outputTransmission"} <= summary.keys()
    parameters = get(client, "/openapi.json")["paths"]["/processes"]["get"]["parameters"]
    limit = next(one for one in parameters if one["name"] == "limit")
    assert (limit["in"], limit["schema"]["type"], limit["schema"]["minimum"]) == (
        "query",
        "integer",
        1,
    )
    # process-exception/no-such-process, job-exception-no-such-job, job-results-exception/…
    for path, kind in (
        ("/processes/nothing", "no-such-process"),
        ("/jobs/nothing", "no-such-job"),
        ("/jobs/nothing/results", "no-such-job"),
    ):
        assert get(client, path, 404)["type"] == EXCEPTION + kind
    # process-execute-default-execution-mode, process-execute-sync-raw-value-one
    now = execute(client, response="raw", headers={"accept": "image/png"})
    assert (now.status_code, now.headers["content-type"]) == (200, "image/png")
    # process-execute-sync-document
    document = execute(client, response="document")
    assert document.status_code == 200
    assert set(document.json()) == {"result"}
    # process-execute-auto-execution-mode, process-execute-success-async, job-success
    created = execute(client, response="document", headers=ASYNC)
    assert created.status_code == 201
    assert created.headers["location"].endswith(created.json()["jobID"])
    state = get(client, f"/jobs/{created.json()['jobID']}")
    assert {"jobID", "status", "type"} <= state.keys()
    # job-results
    results = get(client, f"/jobs/{job(client)}/results")
    assert set(results) == {"result"}


def ogc_process_description(client: TestClient) -> None:
    process = get(client, "/processes/segment-buildings")
    # json-encoding, inputs-def, outputs-def: each has a schema of JSON Schema
    assert process["inputs"].keys() >= {"image", "threshold"}
    for each in (*process["inputs"].values(), *process["outputs"].values()):
        assert isinstance(each["schema"], dict)
    assert process["inputs"]["image"]["minOccurs"] == 1
    assert f"{REL}execute" in rels(process)


def json(client: TestClient) -> None:
    # definition: every answer that is no raw value is JSON
    id = job(client)
    for path in ("/", "/conformance", "/processes", "/processes/segment-buildings", "/jobs"):
        assert client.get(path).headers["content-type"] == "application/json"
    assert client.get(f"/jobs/{id}").headers["content-type"] == "application/json"


def job_list(client: TestClient) -> None:
    id = job(client)
    listed = get(client, "/jobs?status=successful&processID=segment-buildings&type=process")
    assert id in [state["jobID"] for state in listed["jobs"]]
    assert get(client, "/jobs?status=failed")["jobs"] == []
    assert get(client, "/jobs?minDuration=1000")["jobs"] == []
    assert get(client, "/jobs?datetime=../2001-01-01T00:00:00Z")["jobs"] == []
    # limit-response, links: the next page is linked
    first = get(client, "/jobs?limit=1")
    assert len(first["jobs"]) == 1
    assert "next" in rels(first)


def dismiss(client: TestClient) -> None:
    # job-dismiss-success
    id = job(client)
    response = client.delete(f"/jobs/{id}")
    assert (response.status_code, response.json()["status"]) == (200, "dismissed")
    assert get(client, f"/jobs/{id}", 404)["type"] == f"{EXCEPTION}no-such-job"


CLAIMED: dict[str, Callable[[TestClient], None]] = {
    "core": core,
    "ogc-process-description": ogc_process_description,
    "json": json,
    "job-list": job_list,
    "dismiss": dismiss,
}


@pytest.mark.parametrize("name", CLAIMED)
def test_a_class_that_is_claimed_is_kept(client: TestClient, name: str) -> None:
    CLAIMED[name](client)
