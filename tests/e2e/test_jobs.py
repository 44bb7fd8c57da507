"""Jobs of a real server: killed, stopped, reloaded, out of room, and with a client of OGC API."""

import base64
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from owslib.ogcapi.processes import Processes

from tests.e2e.conftest import Serve, Server, running_server
from tests.e2e.following import (
    BANDS,
    MAP,
    PIXELS,
    bands,
    create,
    direct_results,
    is_finished,
    results,
    state_of,
    try_to_create,
    wait_for_end,
    wait_until,
    write_bundle,
    write_other_bundle,
)
from tests.e2e.gated import GATED, Gate
from tests.factories import scene
from tests.serving import encoded


@dataclass(frozen=True)
class Site:
    """Servers whose jobs wait at a gate, and the folder of these jobs."""

    serve: Callable[..., Server]
    gate: Gate
    bundle: Path
    folder: Path


@contextmanager
def opened(folder: Path) -> Iterator[Site]:
    bundle, jobs = write_bundle(folder / "bundle"), folder / "jobs"
    with ExitStack() as servers:

        def serve(bundle: Path = bundle, **settings: Any) -> Server:
            running = running_server(folder, bundle, module=GATED, jobs=jobs, **settings)
            return servers.enter_context(running)

        yield Site(serve, Gate(folder), bundle, jobs)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A place for servers of a test's own."""
    with opened(tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def _one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Server]]:
    with opened(tmp_path_factory.mktemp("one")) as site:
        yield site, site.serve(workers=1)


@pytest.fixture
def one(_one_server: tuple[Site, Server]) -> Iterator[tuple[Site, Server]]:
    """A place with one server, for tests that leave it as it is."""
    yield _one_server
    _one_server[0].gate.open()


def test_progress_rises_and_results_are_those_of_a_request(one: tuple[Site, Server]) -> None:
    site, server = one
    steps = [0]
    site.gate.shut(after=0)
    job = create(server)
    for after in range(4, BANDS, 8):
        site.gate.shut(after)
        wait_until(lambda: state_of(server, job)["progress"] > steps[-1])
        wait_until(lambda after=after: len(bands(site.folder, job)) == after)  # type: ignore[misc]
        steps.append(state_of(server, job)["progress"])
    assert steps == sorted(steps)
    assert 0 < steps[1] < steps[-1] < 100
    site.gate.open()
    assert wait_for_end(server, job)["progress"] == 100
    assert results(server, job) == direct_results(server)


def test_a_dismissed_job_stops_and_leaves_no_file(one: tuple[Site, Server]) -> None:
    site, server = one
    site.gate.shut(after=2)
    job, following = create(server), create(server, encoded(PIXELS[:40]))
    wait_until(lambda: len(bands(site.folder, job)) == 2)
    answer = httpx2.delete(f"{server.url}/{job}")
    assert answer.json()["status"] == "dismissed"
    site.gate.open()
    assert wait_for_end(server, following)["status"] == "successful"
    left = {path.name for path in (site.folder / "files").iterdir()}
    assert job.removeprefix("jobs/") not in left
    assert following.removeprefix("jobs/") in left
    assert not list((site.folder / "scratch").iterdir())


def test_requests_are_served_beside_a_job(one: tuple[Site, Server]) -> None:
    site, server = one
    site.gate.shut(after=400)  # of 450: it works on, and does not end
    job = create(server, encoded(np.tile(PIXELS, (10, 1, 1))))
    wait_until(lambda: state_of(server, job)["status"] == "running")
    small = {"file": encoded(PIXELS[:32, :32])}
    for _ in range(3):
        answer = httpx2.post(f"{server.url}/segment", files=small, timeout=20)
        assert answer.status_code == 200
    assert not is_finished(state_of(server, job))
    httpx2.delete(f"{server.url}/{job}")


def test_killed_or_stopped_a_job_goes_on_at_its_last_band_and_ends_byte_identical(
    site: Site,
) -> None:
    site.gate.shut(after=3)
    first = site.serve()
    job, waiting = create(first), create(first, encoded(PIXELS[:50]))
    wait_until(lambda: len(bands(site.folder, job)) == 3)
    first.process.kill()
    first.process.wait(60)
    second = site.serve(drain_delay=0)
    wait_until(lambda: len(bands(site.folder, job)) == 6)
    assert second.stop() == 0
    before = bands(site.folder, job)
    assert len(before) == 6
    kept = site.folder / "files" / job.removeprefix("jobs/") / "bands"
    times = {name: (kept / name).stat().st_mtime_ns for name in before}

    site.gate.open()
    third = site.serve()
    assert "anew" not in wait_for_end(third, job)["message"]
    assert results(third, job) == direct_results(third)
    after = bands(site.folder, job)
    assert len(after) >= BANDS
    assert before.items() <= after.items()
    assert {name: (kept / name).stat().st_mtime_ns for name in times} == times
    assert wait_for_end(third, waiting)["status"] == "successful"


def test_with_another_bundle_it_is_begun_anew_and_says_so(site: Site, tmp_path: Path) -> None:
    site.gate.shut(after=2)
    first = site.serve()
    job = create(first)
    wait_until(lambda: len(bands(site.folder, job)) == 2)
    first.process.kill()
    first.process.wait()
    site.gate.open()
    second = site.serve(write_other_bundle(tmp_path / "other"))
    assert "begun anew: its model was toy-" in wait_for_end(second, job)["message"]
    assert results(second, job) == direct_results(second)


def test_after_a_reload_it_goes_on_with_the_models_that_it_began_with(site: Site) -> None:
    server = site.serve()
    expected, models = direct_results(server), f"{server.url}/models"
    old = httpx2.get(models).json()["version"]
    site.gate.shut(after=3)
    job, waiting = create(server), create(server)
    wait_until(lambda: len(bands(site.folder, job)) == 3)
    write_other_bundle(site.bundle)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: httpx2.get(models).json()["version"] != old)
    site.gate.open()
    assert "anew" not in wait_for_end(server, job)["message"]
    assert results(server, job) == expected
    answer = httpx2.get(f"{server.url}/{job}/results?format=png")
    assert answer.headers["x-model-version"] == old
    # The one behind it begins with the new models.
    wait_for_end(server, waiting)
    assert results(server, waiting) == direct_results(server) != expected


def test_a_full_disk_is_a_507_and_costs_nothing_else(serve: Serve, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    bundle, folder = write_bundle(tmp_path / "bundle"), tmp_path / "jobs"
    folder.mkdir()
    script = f'mount -t tmpfs -o size=300k none {folder} && exec "$@"'
    server = serve(bundle, jobs=folder, wrapper=["unshare", "--mount", "sh", "-c", script, "sh"])
    small = encoded(PIXELS[:32, :32])
    # The upload does not fit; then one that does, and whose bands don't.
    refused = try_to_create(server, encoded(scene(400, 400), compress_level=0))
    assert (refused.status_code, refused.json()["title"]) == (507, "Storage full")
    job = create(server, encoded(np.full((1500, 300, 3), 90, np.uint8)))
    assert wait_for_end(server, job)["status"] == "failed"
    answer = httpx2.get(f"{server.url}/{job}/results")
    assert (answer.status_code, answer.json()["title"]) == (507, "Storage full")
    fits = create(server, small)
    assert wait_for_end(server, fits)["status"] == "successful"
    assert httpx2.post(f"{server.url}/segment", files={"file": small}).status_code == 200


def test_on_a_full_disk_jobs_can_be_dismissed(serve: Serve, tmp_path: Path) -> None:
    """To note in the database that a job is gone takes room, which its own files make."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    bundle, folder = write_bundle(tmp_path / "bundle"), tmp_path / "jobs"
    folder.mkdir()
    script = f'mount -t tmpfs -o size=600k none {folder} && exec "$@"'
    server = serve(bundle, jobs=folder, wrapper=["unshare", "--mount", "sh", "-c", script, "sh"])
    small = encoded(PIXELS[:32, :32])
    job = create(server, encoded(scene(100, 100)))
    assert wait_for_end(server, job)["status"] == "successful"
    inside = Path(f"/proc/{server.process.pid}/root{folder}")
    with pytest.raises(OSError, match="No space left"):
        (inside / "other").write_bytes(bytes(2**20))
    assert try_to_create(server, small).status_code == 507
    answer = httpx2.delete(f"{server.url}/{job}")
    assert (answer.status_code, answer.json()["status"]) == (200, "dismissed")
    fits = create(server, small)
    assert wait_for_end(server, fits)["status"] == "successful"


def test_owslib_finds_runs_and_follows(server: Server) -> None:
    """A client that knows OGC API alone."""
    client = Processes(server.url)
    assert {link["rel"].rpartition("/")[2] for link in client.links} >= {
        "self",
        "service-desc",
        "conformance",
        "processes",
    }
    assert [process["id"] for process in client.processes()] == ["segment-buildings"]
    described = client.process("segment-buildings")
    assert described["inputs"]["threshold"]["schema"]
    assert "result" in described["outputs"]
    image = {"value": base64.b64encode(MAP).decode(), "mediaType": "image/tiff"}
    inputs = {"image": image, "format": "rle", "threshold": 0.45}
    found = client.execute("segment-buildings", inputs)
    direct = httpx2.post(
        f"{server.url}/segment?format=rle&threshold=0.45",
        files={"file": ("body", MAP)},
        timeout=60,
    ).json()
    assert found["result"]["value"] == direct

    job = client.execute("segment-buildings", inputs, async_=True)
    where = client.response_headers["Location"]
    assert where == f"../../jobs/{job['jobID']}"
    wait_for_end(server, f"jobs/{job['jobID']}")
    kept = client._request(path=f"jobs/{job['jobID']}/results")
    assert kept["result"]["value"] == direct
