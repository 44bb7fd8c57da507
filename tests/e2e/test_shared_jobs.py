"""Jobs that several servers share: a real PostgreSQL, and a real S3 server for their files."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import boto3
import httpx2
import pytest

from tests.e2e.conftest import Serve, Server
from tests.e2e.cutting import Line, line_to
from tests.e2e.following import (
    ASYNC,
    BANDS,
    EXECUTION,
    PIXELS,
    bands,
    create,
    direct_results,
    results,
    state_of,
    try_to_create,
    wait_for_end,
    wait_until,
    write_bundle,
)
from tests.e2e.gated import GATED, Gate
from tests.postgresql import Postgresql, running_postgresql
from tests.s3 import KEYS, running_s3
from tests.serving import assert_problem, encoded, serving

SMALL = {"file": encoded(PIXELS[:32, :32])}
Shared = Callable[[], Server]


@pytest.fixture(scope="module")
def _database() -> Iterator[Postgresql]:
    with running_postgresql() as database:
        yield database


@pytest.fixture
def postgresql(_database: Postgresql) -> Postgresql:
    """A PostgreSQL without a job."""
    _database.execute("DROP TABLE IF EXISTS rooftrace_jobs")
    return _database


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """The gate of all servers of a test."""
    return Gate(tmp_path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "two")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def shared(serve: Serve, bundle: Path, postgresql: Postgresql, folder: Path) -> Shared:
    """Start servers that share a database and a folder."""
    return lambda: serve(bundle, module=GATED, jobs=folder, database=postgresql.url)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The line to an S3 server with the bucket `work`."""
    with running_s3(tmp_path_factory.mktemp("s3")) as address, line_to(address) as line:
        client_of(address).create_bucket(Bucket="long")
        yield line


def client_of(address: str) -> Any:
    keys = {"aws_access_key_id": "who", "aws_secret_access_key": "what"}
    return boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)


@pytest.fixture
def bucket(s3: Line, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in the bucket, and the environment in which servers find it."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3.url}.items():
        monkeypatch.setenv(name, value)
    client_of(s3.url).put_object(Bucket="long", Key="of/ours/another's/file", Body=b"theirs")
    return "s3://long/of/ours"


@pytest.fixture
def far(serve: Serve, bundle: Path, postgresql: Postgresql, bucket: str) -> Shared:
    """Start servers that share a database and a bucket, and no folder."""
    return lambda: serve(bundle, module=GATED, jobs=bucket, database=postgresql.url)


def objects(s3: Line, job: str) -> dict[str, bytes]:
    """Read the bands of a job in the bucket, with another library than the service's."""
    client, prefix = client_of(s3.url), f"of/ours/{job.removeprefix('jobs/')}/bands/"
    listed = client.list_objects_v2(Bucket="long", Prefix=prefix).get("Contents", [])
    return {
        each["Key"]: client.get_object(Bucket="long", Key=each["Key"])["Body"].read()
        for each in listed
    }


def keys(s3: Line) -> list[str]:
    return [each["Key"] for each in client_of(s3.url).list_objects_v2(Bucket="long")["Contents"]]


def jobs_are(server: Server, state: str) -> bool:
    """Ask readiness about jobs; the service is ready in any case."""
    answer = httpx2.get(f"{server.url}/health/ready", timeout=20)
    assert answer.status_code == 200
    return bool(answer.json()["jobs"] == state)


def assert_jobs_are_away_and_nothing_else(server: Server, job: str) -> None:
    """Look at what clients are told while the database or the store is away."""
    asked = httpx2.get(f"{server.url}/{job}/results", timeout=60)
    for answer in (asked, try_to_create(server)):
        assert (answer.status_code, answer.json()["title"]) == (503, "Jobs away")
        assert "Retry-After" in answer.headers
    wait_until(lambda: jobs_are(server, "away"))
    assert httpx2.post(f"{server.url}/segment", files=SMALL, timeout=60).status_code == 200


def take_over(first: Server, second: Server, gate: Gate, kept: Callable[[str], Any]) -> None:
    """Kill the first server at work, and let the second end its job."""
    second.process.send_signal(SIGSTOP)  # so that the first takes the job
    gate.shut(after=3)
    job = create(first)
    wait_until(lambda: len(kept(job)) == 3)
    first.process.kill()
    before = kept(job)
    assert len(before) == 3
    gate.open()
    second.process.send_signal(SIGCONT)
    assert "anew" not in wait_for_end(second, job)["message"]
    assert results(second, job) == direct_results(second)
    after = kept(job)
    assert len(after) >= BANDS
    assert before.items() <= after.items()


class TestPostgresql:
    def test_two_servers_never_work_on_one_job_and_one_takes_over_the_others(
        self, shared: Shared, gate: Gate, folder: Path
    ) -> None:
        both = shared(), shared()
        created = [create(both[n % 2], encoded(PIXELS[: 60 + n])) for n in range(6)]
        for job in created:
            assert wait_for_end(both[0], job)["status"] == "successful"
        ends = [
            httpx2.get(f"{server.url}/metrics").text.partition(
                'rooftrace_jobs_ended_total{outcome="successful"} '
            )[2]
            for server in both
        ]
        counts = [float(text.partition("\n")[0] or 0) for text in ends]
        assert math.fsum(counts) == len(created)
        take_over(*both, gate, lambda job: bands(folder, job))

    def test_the_database_away_loses_nothing_and_is_said(
        self, shared: Shared, gate: Gate, folder: Path, postgresql: Postgresql
    ) -> None:
        gate.shut(after=2)
        server = shared()
        assert jobs_are(server, "ready")
        job = create(server)
        wait_until(lambda: len(bands(folder, job)) == 2)
        with postgresql.away():
            assert_jobs_are_away_and_nothing_else(server, job)
            gate.shut(after=6)
            wait_until(lambda: len(bands(folder, job)) == 6)  # the work does not need it
        gate.open()
        wait_for_end(server, job)
        assert results(server, job) == direct_results(server)
        wait_until(lambda: jobs_are(server, "ready"))

    @pytest.mark.slow
    def test_for_half_a_minute_by_the_clock(
        self,
        serve: Serve,
        bundle: Path,
        gate: Gate,
        folder: Path,
        postgresql: Postgresql,
    ) -> None:
        """The work ends in the meantime, and can't be noted."""
        server = serve(bundle, module=GATED, jobs=folder, database=postgresql.url)
        expected = direct_results(server)
        gate.shut(after=2)
        finished = create(server, encoded(PIXELS[:40]))
        wait_for_end(server, finished)
        job, waiting = create(server), create(server, encoded(PIXELS[:60]))
        wait_until(lambda: len(bands(folder, job)) == 2)
        rounds = 0
        with postgresql.away():
            gone = time.monotonic()
            gate.open()
            while time.monotonic() < gone + 30:
                assert_jobs_are_away_and_nothing_else(server, job)
                rounds += 1
                time.sleep(1)
            assert len(bands(folder, job)) >= BANDS
        assert rounds >= 2
        wait_for_end(server, job)
        assert results(server, job) == expected
        assert wait_for_end(server, waiting)["status"] == "successful"
        assert state_of(server, finished)["status"] == "successful"
        assert httpx2.get(f"{server.url}/{finished}/results").status_code == 200
        wait_until(lambda: jobs_are(server, "ready"))


class TestBucket:
    def test_a_killed_servers_job_is_taken_over_and_ends_byte_identical(
        self, far: Shared, gate: Gate, s3: Line, tmp_path: Path
    ) -> None:
        take_over(far(), far(), gate, lambda job: objects(s3, job))
        assert not (tmp_path / "rooftrace-jobs").exists()

    def test_the_store_away_loses_nothing_and_is_said(
        self, far: Shared, gate: Gate, s3: Line
    ) -> None:
        gate.shut(after=2)
        server = far()
        assert jobs_are(server, "ready")
        done, dismissed = (create(server, encoded(PIXELS[:n])) for n in (30, 40))
        for each in (done, dismissed):
            wait_for_end(server, each)
        job = create(server)
        wait_until(lambda: len(objects(s3, job)) == 2)
        s3.cut()
        try:
            assert_jobs_are_away_and_nothing_else(server, done)
            assert httpx2.delete(f"{server.url}/{dismissed}", timeout=60).status_code == 200
            gate.open()
            wait_until(lambda: "waits: The store of jobs" in server.log.read_text())
        finally:
            s3.mend()
        wait_for_end(server, job)
        assert results(server, job) == direct_results(server)
        assert httpx2.get(f"{server.url}/{done}/results").status_code == 200
        wait_until(lambda: jobs_are(server, "ready"))
        # What was dismissed meanwhile is removed as soon as the store is back, and nothing else.
        id = dismissed.removeprefix("jobs/")
        wait_until(lambda: not any(id in key for key in keys(s3)))
        assert "of/ours/another's/file" in keys(s3)

    def test_a_bucket_that_is_not_there_is_said(
        self,
        bundle: Path,
        postgresql: Postgresql,
        bucket: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with serving(bundle, jobs="s3://elsewhere/jobs", database=postgresql.url) as client:
            wait_until(lambda: client.get("/health/ready").json()["jobs"] == "away")
            assert "NoSuchBucket" in caplog.text
            answer = client.post(f"/{EXECUTION}", files=SMALL, headers=ASYNC)
            assert_problem(answer, 503, "Jobs away", "The store of jobs can't be reached")
