"""Jobs of real servers: killed, stopped, out of room, and with a real client of OGC API."""

import base64
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import pytest
from owslib.ogcapi.processes import Processes

from tests.e2e.conftest import Serve, Server, free_port, running_server
from tests.factories import channel_graph, scene, slow_graph, toy_cascade, write_toy_bundle
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM
from tests.serving import encoded

EXECUTION = "processes/segment-buildings/execution"
ASYNC = {"Prefer": "respond-async"}
PATCH = 32

_ROWS, _COLS = np.mgrid[:1200, :96]
PIXELS = np.where(
    ((_ROWS // 30 + _COLS // 24) % 2 == 0)[..., None],
    scene(1200, 96) // 8 + 150,
    scene(1200, 96) // 8,
).astype(np.uint8)
MAP = tiff(np.moveaxis(PIXELS, 2, 0), crs=UTM, transform=NORTH_UP)
RESULTS: tuple[dict[str, str | float], ...] = (
    {"format": "rle"},  # tells how many patches the cascade spared
    {"format": "geotiff", "bands": "mask,probability,disagreement"},
    {"format": "coco", "threshold": 0.45},
)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for which `MAP` is some seconds of work."""
    return write_toy_bundle(
        tmp_path_factory.mktemp("bundles") / "slow",
        {"red": 0.6, "green": 0.4},
        graphs={name: slow_graph(name, PATCH) for name in ("red", "green")},
        patch_size=PATCH,
        cascade=toy_cascade("red", 0.3, 0.7, 0.2),
    )


def create(server: Server, image: bytes = MAP, **query: Any) -> str:
    """Create a job, and return its address."""
    files = {"file": ("a.tif", image)}
    url = f"{server.url}/{EXECUTION}"
    response = httpx2.post(url, params=query, files=files, headers=ASYNC, timeout=60)
    assert response.status_code == 201, response.text
    return f"jobs/{response.json()['jobID']}"


def state_of(server: Server, job: str) -> dict[str, Any]:
    response = httpx2.get(f"{server.url}/{job}", timeout=60)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


def wait_for(
    server: Server, job: str, is_so: Callable[[dict[str, Any]], bool], seconds: float = 120
) -> list[dict[str, Any]]:
    """Ask for the state of a job until something is so, and return all states."""
    give_up, states = time.monotonic() + seconds, list[dict[str, Any]]()
    while not states or not is_so(states[-1]):
        assert time.monotonic() < give_up, states[-1:]
        states.append(state_of(server, job))
        time.sleep(0.02)
    return states


def is_finished(state: dict[str, Any]) -> bool:
    return state["status"] in ("successful", "failed")


def results(server: Server, job: str) -> list[bytes]:
    assert state_of(server, job)["status"] == "successful"
    answers = [
        httpx2.get(f"{server.url}/{job}/results", params=query, timeout=60) for query in RESULTS
    ]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


def bands(folder: Path, job: str) -> dict[str, bytes]:
    kept = (folder / "files" / job.removeprefix("jobs/") / "bands").glob("*.band")
    return {path.name: path.read_bytes() for path in sorted(kept)}


@pytest.fixture(scope="module")
def expected(slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """What `RESULTS` are without an interruption."""
    folder = tmp_path_factory.mktemp("expected")
    with running_server(folder, slow, jobs=folder / "jobs") as server:
        job = create(server)
        states = wait_for(server, job, is_finished)
        steps = {state["progress"] for state in states}
        assert len(steps) >= 5, steps  # one each 0.1 s at most, and a fast machine needs few
        assert [state["progress"] for state in states] == sorted(
            state["progress"] for state in states
        )
        direct = [
            httpx2.post(
                f"{server.url}/segment", params=query, files={"file": ("a.tif", MAP)}, timeout=120
            ).content
            for query in RESULTS
        ]
        assert results(server, job) == direct
        yield direct


class TestInterruptions:
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
    def test_a_job_goes_on_at_its_last_band_and_ends_byte_identical(
        self,
        serve: Serve,
        slow: Path,
        tmp_path: Path,
        expected: list[bytes],
        how: signal.Signals,
    ) -> None:
        folder = tmp_path / "jobs"
        first = serve(slow, jobs=folder, drain_delay=0)
        job, waiting = create(first), create(first, encoded(PIXELS[:50]))
        wait_for(first, job, lambda state: len(bands(folder, job)) >= 3)
        first.process.send_signal(how)
        assert first.process.wait(60) == (-9 if how == signal.SIGKILL else 0)
        before = bands(folder, job)
        assert 3 <= len(before) < 45
        times = {
            path.name: path.stat().st_mtime_ns
            for path in (folder / "files" / job.removeprefix("jobs/") / "bands").iterdir()
            if path.name in before
        }

        second = serve(slow, jobs=folder)
        states = wait_for(second, job, is_finished)
        assert "anew" not in states[-1]["message"]
        assert results(second, job) == expected
        after = bands(folder, job)
        assert before.items() <= after.items()
        kept = folder / "files" / job.removeprefix("jobs/") / "bands"
        assert {name: (kept / name).stat().st_mtime_ns for name in times} == times
        assert is_finished(wait_for(second, waiting, is_finished)[-1])

    def test_with_another_bundle_it_is_begun_anew_and_says_so(
        self, serve: Serve, slow: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "jobs"
        first = serve(slow, jobs=folder)
        job = create(first)
        wait_for(first, job, lambda state: len(bands(folder, job)) >= 2)
        first.process.kill()
        first.process.wait()
        other = write_toy_bundle(
            tmp_path / "other",
            {"blue": 1.0},
            graphs={"blue": channel_graph("blue", PATCH)},
            patch_size=PATCH,
        )
        second = serve(other, jobs=folder)
        state = wait_for(second, job, is_finished)[-1]
        assert "begun anew: its model was toy-" in state["message"]
        asked = httpx2.get(f"{second.url}/{job}/results?format=png", timeout=60).content
        files = {"file": ("a.tif", MAP)}
        assert asked == httpx2.post(f"{second.url}/segment", files=files, timeout=60).content

    def test_a_dismissed_job_stops_and_leaves_no_file(
        self, serve: Serve, slow: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "jobs"
        server = serve(slow, jobs=folder)
        job, following = create(server), create(server, encoded(PIXELS[:40]))
        wait_for(server, job, lambda state: len(bands(folder, job)) >= 2)
        answer = httpx2.delete(f"{server.url}/{job}")
        assert answer.json()["status"] == "dismissed"
        assert wait_for(server, following, is_finished)[-1]["status"] == "successful"
        time.sleep(0.2)
        assert [path.name for path in (folder / "files").iterdir()] == [
            following.removeprefix("jobs/")
        ]
        assert not list((folder / "scratch").iterdir())

    def test_requests_are_served_beside_a_job(
        self, serve: Serve, slow: Path, tmp_path: Path
    ) -> None:
        server = serve(slow, jobs=tmp_path / "jobs", workers=1)
        job = create(server)
        wait_for(server, job, lambda state: state["status"] == "running")
        small = {"file": encoded(PIXELS[:32, :32])}
        for _ in range(3):
            answer = httpx2.post(f"{server.url}/segment", files=small, timeout=20)
            assert answer.status_code == 200
        assert not is_finished(state_of(server, job))
        assert wait_for(server, job, is_finished)[-1]["status"] == "successful"


class TestNoRoom:
    def test_a_full_disk_is_a_507_and_costs_nothing_else(
        self, serve: Serve, slow: Path, tmp_path: Path
    ) -> None:
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            pytest.skip("this user may not mount a small file system")
        folder = tmp_path / "jobs"
        folder.mkdir()
        script = f'mount -t tmpfs -o size=300k none {folder} && exec "$@"'
        server = serve(slow, jobs=folder, wrapper=["unshare", "--mount", "sh", "-c", script, "sh"])
        small = encoded(PIXELS[:32, :32])
        # The upload does not fit; then one that does, and whose bands don't.
        large = encoded(scene(400, 400), compress_level=0)
        refused = httpx2.post(
            f"{server.url}/{EXECUTION}", files={"file": large}, headers=ASYNC, timeout=60
        )
        assert (refused.status_code, refused.json()["title"]) == (507, "Storage full")
        job = create(server, encoded(np.full((1500, 300, 3), 90, np.uint8)))
        assert wait_for(server, job, is_finished)[-1]["status"] == "failed"
        answer = httpx2.get(f"{server.url}/{job}/results")
        assert (answer.status_code, answer.json()["title"]) == (507, "Storage full")
        fits = create(server, small)
        assert wait_for(server, fits, is_finished)[-1]["status"] == "successful"
        assert httpx2.post(f"{server.url}/segment", files={"file": small}).status_code == 200


class TestOwslib:
    """A client that knows OGC API alone."""

    def test_it_finds_runs_and_follows(self, server: Server) -> None:
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
        wait_for(server, f"jobs/{job['jobID']}", is_finished)
        kept = client._request(path=f"jobs/{job['jobID']}/results")
        assert kept["result"]["value"] == direct


@pytest.fixture
def postgresql() -> Iterator["Postgresql"]:
    """A PostgreSQL of this test's own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(found).resolve().parent
    # Not in pytest's folder, which is closed to the user that the database runs as.
    with TemporaryDirectory() as data:
        database = Postgresql(folder, Path(data), free_port())
        with database.running():
            yield database


@dataclass(frozen=True)
class Postgresql:
    """A database server, run by nobody in particular: PostgreSQL refuses root."""

    programs: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://jobs@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        subprocess.run(
            command,
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_nobody,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        if os.geteuid() == 0:
            shutil.chown(self.data, "nobody", "nogroup")
        self._run("initdb", "-D", str(self.data), "-U", "jobs", "-A", "trust", "--no-sync")
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self.data / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")


class TestPostgresql:
    def test_a_killed_servers_job_is_taken_over_and_ends_byte_identical(
        self,
        serve: Serve,
        slow: Path,
        tmp_path: Path,
        postgresql: Postgresql,
        expected: list[bytes],
    ) -> None:
        folder = tmp_path / "jobs"
        first, second = (serve(slow, jobs=folder, database=postgresql.url) for _ in range(2))
        second.process.send_signal(signal.SIGSTOP)  # so that the first takes the job
        job = create(first)
        wait_for(first, job, lambda state: len(bands(folder, job)) >= 3)
        first.process.kill()
        second.process.send_signal(signal.SIGCONT)
        assert state_of(second, job)["status"] == "running"
        before = bands(folder, job)
        assert len(before) < 45
        wait_for(second, job, is_finished)
        assert results(second, job) == expected
        assert before.items() <= bands(folder, job).items()

    def test_two_servers_never_work_on_one_job(
        self, serve: Serve, slow: Path, tmp_path: Path, postgresql: Postgresql
    ) -> None:
        both = [serve(slow, jobs=tmp_path / "jobs", database=postgresql.url) for _ in range(2)]
        created = [create(both[n % 2], encoded(PIXELS[: 60 + n])) for n in range(6)]
        for job in created:
            assert wait_for(both[0], job, is_finished)[-1]["status"] == "successful"
        ends = [
            httpx2.get(f"{server.url}/metrics").text.partition(
                'rooftrace_jobs_ended_total{outcome="successful"} '
            )[2]
            for server in both
        ]
        counts = [float(text.partition("\n")[0] or 0) for text in ends]
        assert math.fsum(counts) == len(created)

    def test_the_database_away_loses_nothing_and_is_said(
        self,
        serve: Serve,
        slow: Path,
        tmp_path: Path,
        postgresql: Postgresql,
        expected: list[bytes],
    ) -> None:
        folder = tmp_path / "jobs"
        server = serve(slow, jobs=folder, database=postgresql.url)
        ready = f"{server.url}/health/ready"
        assert httpx2.get(ready).json()["jobs"] == "ready"
        job = create(server)
        wait_for(server, job, lambda state: len(bands(folder, job)) >= 2)
        postgresql.stop()
        try:
            answer = httpx2.get(f"{server.url}/{job}", timeout=60)
            assert (answer.status_code, answer.json()["title"]) == (503, "Jobs away")
            assert "Retry-After" in answer.headers
            give_up = time.monotonic() + 60
            while httpx2.get(ready).json()["jobs"] != "away":
                assert time.monotonic() < give_up
                time.sleep(0.1)
            small = {"file": encoded(PIXELS[:32, :32])}
            answer = httpx2.post(f"{server.url}/segment", files=small, timeout=60)
            assert answer.status_code == 200
        finally:
            postgresql.start()
        wait_for(server, job, is_finished)
        assert results(server, job) == expected
        assert httpx2.get(ready).json()["jobs"] == "ready"
