"""The engine before replicas, with Ray Serve in this process: its own mode for tests, no cluster.

`tests/scale/test_replicas.py` has the cluster.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError
from starlette.testclient import TestClient

from app.bundle.manifest import load_manifest
from app.errors import InferenceError, NotReady, QueueFull, StartupError
from app.main import create_app
from app.replicas import engine as module
from app.replicas.application import APPLICATION, DEPLOYMENT, of_settings, room_of
from app.replicas.engine import RayEngine, RemoteModels
from app.settings import Settings
from tests.factories import scene, write_toy_bundle
from tests.serving import (
    END,
    FORM,
    PNG,
    RAW,
    assert_problem,
    encoded,
    exact_bundle,
    part,
    serving,
    settings_of,
)

GREY = encoded(scene(40, 50)[..., 0])


class Cluster:
    """What `serve.status` tells of an application: the replicas that run."""

    def __init__(self) -> None:
        self.running, self.redeployed = 2, 0

    def status(self) -> Any:
        deployments = {DEPLOYMENT: SimpleNamespace(replica_states={"RUNNING": self.running})}
        application = SimpleNamespace(deployments=deployments)
        return SimpleNamespace(applications={APPLICATION: application})

    def redeploy(self) -> None:
        self.redeployed += 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("bundles") / "small", patch_size=32)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(serve, "status", cluster.status)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    return cluster


@pytest.fixture
def client(bundle: Path, cluster: Cluster, tmp_path: Path) -> Iterator[TestClient]:
    """The application before one replica, which the tests have in this process."""
    settings = settings_of(bundle, jobs=tmp_path / "jobs", workers=1, max_waiting=1)
    models = RemoteModels(deployed(settings), cluster.redeploy)
    segmenter = models.load(settings)
    app = create_app(settings, load=lambda _: segmenter, open_engine=partial(RayEngine, models))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("path", ["/segment", "/segment?format=coco", "/segment?format=geotiff"])
@pytest.mark.parametrize("image", [PNG, GREY, PNG[:-20], b"no image"])
def test_answers_are_those_of_a_service_of_its_own(
    client: TestClient, bundle: Path, path: str, image: bytes
) -> None:
    with serving(bundle) as alone:
        expected = alone.post(path, headers=RAW, content=image)
    answer = client.post(path, headers=RAW, content=image)
    assert answer.status_code == expected.status_code
    if answer.is_success:
        assert answer.content == expected.content
        assert answer.headers["Server-Timing"].startswith("queue;dur=")
    else:
        assert answer.json()["detail"] == expected.json()["detail"]


def test_jobs_have_their_patches_predicted_by_replicas(client: TestClient, bundle: Path) -> None:
    headers = {**RAW, "Prefer": "respond-async"}
    job = client.post("/processes/segment-buildings/execution", headers=headers, content=GREY)
    address = f"/jobs/{job.json()['jobID']}"
    wait_for(lambda: client.get(address).json()["status"] == "successful")
    with serving(bundle) as alone:
        expected = alone.post("/segment?format=png", headers=RAW, content=GREY)
    assert client.get(f"{address}/results?format=png").content == expected.content


def test_readiness_follows_the_replicas(client: TestClient, cluster: Cluster) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    wait_for(lambda: service.admission.concurrency == 4)  # two of two images each
    cluster.running = 0
    wait_for(lambda: client.get("/health/ready").status_code == 503)
    assert_problem(client.get("/health/ready"), 503, "Not ready", "No model replica runs")
    cluster.running = 1
    wait_for(lambda: client.get("/health/ready").is_success)
    assert service.admission.concurrency == 2


@pytest.mark.parametrize(("running", "most"), [(1, 2), (3, 6)])
def test_a_batch_has_the_room_of_the_replicas(
    client: TestClient,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    running: int,
    most: int,
) -> None:
    """This process has two threads, whatever replicas do the work."""
    service = client.app.state.service  # type: ignore[attr-defined]
    cluster.running = running
    wait_for(lambda: service.admission.concurrency == 2 * running)
    segment, inside, seen = service.engine.segment, 0, [0]

    async def counted(*arguments: Any) -> Any:
        nonlocal inside
        inside += 1
        seen.append(inside)
        try:
            return await segment(*arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(service.engine, "segment", counted)
    body = part("files") * 8 + END
    batch = client.post("/segment/rle", headers=FORM, content=body).json()
    assert all("rle" in result for result in batch["results"])
    assert max(seen) == most


def test_a_batch_brings_no_more_images_than_the_queue_of_the_replicas_takes(
    client: TestClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images at work in each of two replicas, and one that waits."""
    service = client.app.state.service  # type: ignore[attr-defined]
    cluster.running = 3  # by which a batch may bring six
    wait_for(lambda: service.admission.concurrency == 6)
    ask, inside, seen = service.engine._models.ask, 0, [0]

    async def counted(*arguments: Any) -> Any:
        nonlocal inside
        inside += 1
        seen.append(inside)
        try:
            return await ask(*arguments)
        finally:
            inside -= 1

    monkeypatch.setattr(service.engine._models, "ask", counted)
    body = part("files") * 8 + END
    batch = client.post("/segment/rle", headers=FORM, content=body).json()
    assert all("rle" in result for result in batch["results"])
    assert max(seen) == room_of(service.settings) == 5
    options = of_settings(service.settings)._bound_deployment._deployment_config
    assert max(seen) < options.max_queued_requests


def test_other_models_are_noticed(
    client: TestClient, cluster: Cluster, bundle: Path, tmp_path: Path
) -> None:
    """An answer of others tells of them; it is right, and says whose it is."""
    client.post("/segment", headers=RAW, content=PNG)
    before = cluster.redeployed
    other = write_toy_bundle(tmp_path / "other", {"red": 1.0}, patch_size=32)
    deployed(settings_of(other), into=client.app.state.service.engine._models)  # type: ignore[attr-defined]
    for _ in range(2):
        answer = client.post("/segment", headers=RAW, content=PNG)
        assert answer.headers["X-Model-Version"] == load_manifest(other).version
    assert (before, cluster.redeployed) == (0, 1)
    batch = client.post("/segment/rle", headers=FORM, content=part("files") + END).json()
    assert "The models changed" in batch["results"][0]["error"]["detail"]


def test_other_models_are_told_from_those_that_a_job_began_with(bundle: Path) -> None:
    models = RemoteModels(deployed(settings_of(bundle)), lambda: None)
    with pytest.raises(NotReady, match="The models have changed from old to toy-"):
        models.ask_now("predict", "old", "red", scene(32, 32)[None], seconds=60)


def deployed(settings: Settings, into: RemoteModels | None = None) -> Any:
    handle = serve.run(of_settings(settings), name=APPLICATION, _local_testing_mode=True)
    if into is not None:
        into._handle = handle
    return handle


class Failing:
    """A deployment that fails as often as it is told, in the way that it is told."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left = error, times

    async def segment(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        return "segmented"

    async def describe(self) -> None:
        await self.segment()

    async def wait(self) -> None:
        await asyncio.sleep(60)


def failing(error: Exception, times: int) -> RemoteModels:
    application = serve.deployment(name="failing")(Failing).bind(error, times)
    handle = serve.run(application, name="failing", _local_testing_mode=True)
    return RemoteModels(handle, lambda: None)


class _Died(ActorDiedError):
    """Ray's own, which in one process nobody wraps."""

    def __init__(self) -> None:
        super().__init__()


class TestFailures:
    @pytest.mark.parametrize("times", [0, 1, 3])
    def test_another_replica_takes_what_one_has_left(self, times: int) -> None:
        assert failing(_Died(), times).ask_now("segment", seconds=60) == "segmented"
        assert asyncio.run(failing(_Died(), times).ask("segment")) == "segmented"

    def test_an_image_that_ends_four_replicas_is_let_go(self) -> None:
        with pytest.raises(InferenceError, match="4 model replicas in turn ended"):
            failing(_Died(), 4).ask_now("segment", seconds=60)

    def test_a_full_queue_is_said(self) -> None:
        error = BackPressureError(num_queued_requests=2, max_queued_requests=2)
        with pytest.raises(QueueFull, match="as many requests as may wait"):
            asyncio.run(failing(error, 1).ask("segment"))

    def test_any_other_error_is_itself(self) -> None:
        with pytest.raises(ValueError, match="a fault"):
            asyncio.run(failing(ValueError("a fault"), 1).ask("segment"))

    def test_no_answer_in_time(self) -> None:
        with pytest.raises(TimeoutError):
            failing(_Died(), 0).ask_now("wait", seconds=0.1)

    def test_no_replica_at_the_start(self, bundle: Path) -> None:
        with pytest.raises(StartupError, match="no model replica on the Ray cluster answers"):
            failing(_Died(), 4).load(settings_of(bundle))


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)
