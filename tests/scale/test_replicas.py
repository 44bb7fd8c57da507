"""`rooftrace serve --engine ray`: the same answers as without Ray, whatever becomes of replicas.

Each server is a process of its own; the Ray cluster of the first ends with it.
"""

import base64
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest

from app.bundle.manifest import load_manifest
from app.settings import load_settings
from tests.e2e.conftest import Server, running_server
from tests.factories import nan_graph, scene, slow_graph, write_toy_bundle
from tests.hostile.wire import POST, exchange
from tests.maps import geotiff
from tests.scale.load import Load, wait_for
from tests.serving import END, FORM, RAW, encoded, part

PATCH = 32
PATIENCE = 400
"""Seconds that a cluster may take to begin, on a machine with much else to do."""
SETTINGS: dict[str, Any] = {
    "backend": "onnxruntime",
    "workers": 1,
    "max_waiting": 2,
    "max_upload_bytes": 2**20,
    "memory_budget": 2**30,
    "max_pixels": 1_000_000,
}
IMAGE = encoded(scene(70, 90))
GREY = encoded(scene(70, 90)[..., 0])
MAP = geotiff(scene(64, 64))
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Members that answer at once, late and with a fault."""
    graphs = {
        "slow": slow_graph("red", PATCH, rounds=3000),
        "late": slow_graph("red", PATCH, rounds=300),
        "nan": nan_graph(PATCH, "green"),
    }
    weights = {"red": 0.5, "blue": 0.2, "slow": 0.1, "late": 0.1, "nan": 0.1}
    folder = tmp_path_factory.mktemp("bundles") / "engines"
    return write_toy_bundle(folder, weights, patch_size=PATCH, graphs=graphs)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("local"), bundle, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Server]:
    """Two replicas on a cluster that begins and ends with it."""
    folder = tmp_path_factory.mktemp("ray")
    settings = {**SETTINGS, "engine": "ray", "replicas": 2}
    with running_server(folder, bundle, patience=PATIENCE, **settings) as server:
        yield server
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop() == 0, server.log.read_text()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "the cluster must end with the service"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, bundle: Path, ray: Server) -> Iterator[Server]:
    """Another service before the same replicas, with less patience."""
    found = re.search(r"a Ray cluster was begun: (\S+)", ray.log.read_text())
    assert found
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        folder = tmp_path_factory.mktemp("second")
        settings = {**SETTINGS, "engine": "ray", "ray_address": found[1], "deadline": 8}
        with running_server(folder, bundle, patience=PATIENCE, **settings) as server:
            yield server
            assert server.stop() == 0, server.log.read_text()
    finally:
        del os.environ["RAY_AUTH_MODE"]


FORM_OF_ONE = part(data=IMAGE) + END
FORM_OF_MANY = b"".join(
    part("files", data, name)
    for data, name in ((IMAGE, "a.png"), (b"no image", "b.png"), (GREY, "c.png"))
)
DOCUMENT = json.dumps(
    {
        "inputs": {"image": {"value": base64.b64encode(IMAGE).decode()}, "models": "red"},
        "response": "document",
    }
).encode()
JSON = {"Content-Type": "application/json"}
TIFF = {"Content-Type": "image/tiff"}
TIFF_FIRST = {"Accept": "image/tiff, image/*;q=0.5"}
LARGEST = encoded(scene(700, 700) // 64 * 64)
LARGE = encoded(np.zeros((1001, 1001, 3), np.uint8))
CASES = {
    "png": ("/segment?models=red", RAW, IMAGE),
    "two members": ("/segment?models=red,blue&format=probability", RAW, IMAGE),
    "overlay": ("/segment?models=red&format=overlay&tta=flips", RAW, IMAGE),
    "form": ("/segment?models=red&format=rle", FORM, FORM_OF_ONE),
    "coco": ("/segment?models=red&format=coco&min_area=4", RAW, IMAGE),
    "geojson": ("/segment?models=red&format=geojson&simplify=1", TIFF, MAP),
    "geotiff": ("/segment?models=red&format=geotiff", TIFF, MAP),
    "a notice": ("/segment?models=red", RAW, GREY),
    "a format it can't have": ("/segment?models=red&format=geotiff", RAW, IMAGE),
    "a format instead": ("/segment?models=red", {**RAW, **TIFF_FIRST}, IMAGE),
    "many": ("/segment/rle?models=red", FORM, FORM_OF_MANY + END),
    "a submission": ("/segment/rle?models=red&format=csv", FORM, FORM_OF_MANY + END),
    "a process": ("/processes/segment-buildings/execution", JSON, DOCUMENT),
    "no image": ("/segment?models=red", RAW, b"no image"),
    "nothing": ("/segment?models=red", RAW, b""),
    "cut short": ("/segment?models=red", RAW, IMAGE[:-400]),
    "too many pixels": ("/segment?models=red", RAW, LARGE),
    "no such member": ("/segment?models=green", RAW, IMAGE),
    "no such parameter": ("/segment?colour=red", RAW, IMAGE),
    "an encoded part": (
        "/segment?models=red",
        FORM,
        FORM_OF_ONE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n"),
    ),
    "a member that fails": ("/segment?models=nan", RAW, IMAGE),
}  # fmt: skip


def sent(server: Server, case: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body, without what differs from one request to the next."""
    path, headers, body = CASES[case]
    response = httpx2.post(server.url + path, headers=headers, content=body, timeout=120)
    told = {name: value for name, value in response.headers.items() if name not in ("date",)}
    id = told.pop("x-request-id")
    timing = told.pop("server-timing", "")
    stages = ",".join(sorted(stage.partition(";")[0].strip() for stage in timing.split(",")))
    return (
        response.status_code,
        {**told, "stages": stages},
        response.content.replace(id.encode(), b""),
    )


@pytest.mark.parametrize("case", CASES)
def test_engines_answer_alike(case: str, local: Server, ray: Server) -> None:
    expected = sent(local, case)
    assert sent(ray, case) == expected
    if case in ("png", "many", "a process", "geojson", "geotiff", "a format instead"):
        assert expected[0] == 200


def test_a_second_service_asks_the_same_replicas(local: Server, second: Server) -> None:
    assert sent(second, "png") == sent(local, "png")
    for path in ("/models", "/health/ready"):
        assert httpx2.get(second.url + path).json() == httpx2.get(local.url + path).json()


def test_a_job_ends_with_the_same_bytes(local: Server, ray: Server) -> None:
    assert job(ray) == job(local)


def job(server: Server) -> bytes:
    """Create a job, and return its result."""
    path = f"{server.url}/processes/segment-buildings/execution?models=red"
    headers = {**RAW, "Prefer": "respond-async"}
    created = httpx2.post(path, headers=headers, content=IMAGE, timeout=60)
    assert created.status_code == 201, created.text
    address = f"{server.url}/jobs/{created.json()['jobID']}"
    while (status := httpx2.get(address).json())["status"] in ("accepted", "running"):
        time.sleep(0.1)
    assert status["status"] == "successful", status
    return httpx2.get(f"{address}/results?format=probability").content


def test_a_body_over_the_limit_is_refused_before_it_comes(ray: Server) -> None:
    status, problem = exchange(ray, POST + b"Content-Length: 300000000\r\n\r\n")
    assert status == 413, problem


def test_a_deadline_holds_in_the_replicas(second: Server) -> None:
    """Replicas let go of images whose time is up: as many others are answered in time."""
    with ThreadPoolExecutor(4) as clients:  # all that two replicas have room for
        late = [clients.submit(post, second, "slow&overlap=0.75", LARGEST) for _ in range(4)]
    for answer in (future.result() for future in late):
        assert answer.status_code == 504, answer.text
        assert "within 8 seconds" in answer.json()["detail"]
    with ThreadPoolExecutor(4) as clients:
        wait_for(
            lambda: (
                {
                    answer.status_code
                    for answer in clients.map(lambda _: post(second, "red", IMAGE), range(4))
                }
                == {200}
            ),
            seconds=60,
        )


def test_a_burst_is_shed_and_nothing_else(ray: Server) -> None:
    """There is room for 4 at work and 2 more; the others are told to come again."""
    with ThreadPoolExecutor(40) as clients:
        futures = [clients.submit(post, ray, "late", IMAGE) for _ in range(40)]
    answers = [future.result() for future in futures]
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}, statuses
    for answer in answers:
        assert answer.status_code == 200 or int(answer.headers["Retry-After"]) > 0


def test_no_file_of_an_accepted_batch_finds_the_queue_full(ray: Server) -> None:
    """The replicas have room for 4 at work and 2 more; batches at once bring up to 48 files."""
    body = part("files", IMAGE) * 8 + END
    path = f"{ray.url}/segment/rle?models=late"

    def batch(_: int) -> list[str]:
        answer = httpx2.post(path, headers=FORM, content=body, timeout=300)
        if answer.status_code == 503:  # at the door
            assert int(answer.headers["Retry-After"]) > 0
            return []
        results = answer.json()["results"]
        return [result.get("error", {}).get("title", "") for result in results]

    with ThreadPoolExecutor(6) as clients:
        titles = [title for titles in clients.map(batch, range(6)) for title in titles]
    assert set(titles) == {""}
    assert len(titles) >= 4 * 8


def post(server: Server, member: str, image: bytes) -> httpx2.Response:
    path = f"{server.url}/segment?models={member}"
    return httpx2.post(path, headers=RAW, content=image, timeout=300)


def test_a_killed_replica_costs_no_request(ray: Server) -> None:
    # A member so slow, and so many clients, that a replica is at work whenever it is killed.
    with Load(ray, "/segment?models=slow", IMAGE, clients=4) as load:
        load.kill_replicas(2)
    assert set(load.ends) == {"right"}, load.ends
    assert "a model replica ended in the middle of an image" in ray.log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_models_lose_nothing_over_six_kills(tmp_path: Path) -> None:
    bundle = load_settings().bundle
    manifest = load_manifest(bundle)
    member = manifest.cascade.members[0] if manifest.cascade else manifest.members[0].name
    settings: dict[str, Any] = {"engine": "ray", "replicas": 2, "workers": 1}
    with running_server(tmp_path, bundle, patience=PATIENCE, **settings) as server:
        path = f"/segment?models={member}"
        with Load(server, path, encoded(scene(224, 224)), clients=4) as load:
            load.kill_replicas(6, requests=1400)
        assert server.stop() == 0
    assert set(load.ends) == {"right"}, load.ends
    assert load.ends["right"] >= 1400
    assert "a model replica ended in the middle of an image" in server.log.read_text()
