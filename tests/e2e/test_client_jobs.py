"""Jobs with the Python client and a real server."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rooftrace_client
from rooftrace_client import AsyncClient, Client, JobStatus
from tests.e2e.conftest import Serve, Server, running_server
from tests.e2e.cutting import cutting_proxy
from tests.e2e.gated import GATED, Gate
from tests.factories import nan_graph, scene, write_toy_bundle
from tests.maps import BUILDINGS, UTM, geotiff, picture, plan
from tests.serving import decoded, encoded, toy_mask

MAP = geotiff(picture(plan()))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, exact: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("jobs")
    with running_server(folder, exact, module=GATED, backend="onnxruntime", workers=1) as server:
        yield server


@pytest.fixture
def gate(server: Server) -> Iterator[Gate]:
    """The gate of the server's jobs, which a test may shut."""
    gate = Gate(server.log.parent)
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def test_one_inference_gives_every_format(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    path.write_bytes(MAP)
    seen: list[JobStatus] = []
    job = client.submit(path, resample="off")
    status = job.wait(progress=seen.append)

    assert seen[-1] == status
    assert [now.progress for now in seen] == sorted(now.progress for now in seen)
    assert (status.id, status.status, status.progress) == (job.id, "successful", 100)
    assert status.ended
    assert status.created is not None
    assert status.finished is not None
    assert status.created <= status.finished <= datetime.now(UTC)
    assert status.building_count == BUILDINGS
    assert status.image is not None
    assert (status.image.filename, status.image.crs) == ("map.tif", UTM)
    assert (status.image.height, status.image.width) == plan().shape
    assert status.image.corners is not None
    assert len(status.image.corners) == 4
    assert status.image.formats["geotiff"] is None

    mask = client.segment(path, resample="off")
    assert job.result().content == mask.content
    assert job.result("rle").building_area_m2 == mask.building_area_m2
    assert job.result("png", min_area=1e6).building_count == 0
    np.testing.assert_array_equal(job.result("rle", order="column").mask(), mask.mask())
    frames = [job.result("geojson").geodataframe()]
    frames += [job.result(f).geodataframe() for f in ("gpkg", "flatgeobuf", "geoparquet")]
    assert [len(frame) for frame in frames] == [BUILDINGS] * 4
    assert [frame.crs for frame in frames] == ["EPSG:4326", UTM, UTM, UTM]
    areas = [frame.to_crs(UTM).area.sum() for frame in frames]
    assert areas == pytest.approx([plan().sum() / 4] * 4, rel=1e-3)
    np.testing.assert_array_equal(decoded(job.preview())[..., :3], picture(plan()))


def test_a_job_is_found_again_and_dismissed(client: Client, gate: Gate) -> None:
    gate.shut(after=0)
    job = client.submit(MAP)
    assert job.id in [status.id for status in client.jobs()]
    assert client.jobs(limit=1)[0].id == job.id
    again = client.job(job.id)
    assert not again.status().ended
    with pytest.raises(rooftrace_client.ResultNotReady):
        again.result()
    assert again.cancel().status == "dismissed"
    with pytest.raises(rooftrace_client.NoSuchJob):
        job.status()
    with pytest.raises(rooftrace_client.JobCancelled):
        job.wait()


def test_a_bar(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.submit(MAP).wait(progress=True)
    drawn = capsys.readouterr().err
    assert "█" * 30 + " 100 %" in drawn
    assert drawn.startswith("\r")
    assert drawn.endswith("\n")


def test_what_decides_probabilities_is_fixed(client: Client) -> None:
    job = client.submit(MAP)
    job.wait()
    with pytest.raises(rooftrace_client.InvalidOption, match="overlap"):
        job.result("png", overlap=0.5)  # type: ignore[call-arg]


def test_a_bad_image_is_told_at_once(client: Client) -> None:
    with pytest.raises(rooftrace_client.UnsupportedFormat):
        client.submit(b"no image")


def test_a_job_that_fails_raises_its_problem(serve: Serve, tmp_path: Path) -> None:
    bundle = write_toy_bundle(
        tmp_path / "nan", {"red": 1.0}, graphs={"red": nan_graph(224)}, patch_size=224
    )
    server = serve(bundle, backend="onnxruntime")
    with Client(server.url) as client, pytest.raises(rooftrace_client.ServiceError) as caught:
        client.submit(encoded(scene(300, 300))).wait()
    assert caught.value.status == 500


def test_a_job_is_not_sent_twice(server: Server, client: Client) -> None:
    before = len(client.jobs(limit=1000))
    with (
        cutting_proxy(server.url, breaks=1, after=0) as proxy,
        Client(proxy.url) as cut,
        pytest.raises(rooftrace_client.ConnectionFailed),
    ):
        cut.submit(MAP)
    assert len(client.jobs(limit=1000)) <= before + 1
    assert (proxy.broken, proxy.passed) == (1, 0)


def test_asyncio(server: Server) -> None:
    async def all_of_it() -> tuple[Any, ...]:
        async with AsyncClient(server.url) as client:
            seen: list[JobStatus] = []
            job = await client.submit(MAP)
            status = await job.wait(progress=seen.append)
            mask, polygons = await asyncio.gather(job.result(), job.result("geojson"))
            assert (await client.job(job.id).status()) == status == seen[-1]
            assert job.id in [listed.id for listed in await client.jobs()]
            assert (await job.preview()).startswith(b"\x89PNG")
            await job.cancel()
            with pytest.raises(rooftrace_client.JobCancelled):
                await job.wait()
            return mask, polygons

    mask, polygons = asyncio.run(all_of_it())
    np.testing.assert_array_equal(mask.mask(), toy_mask(picture(plan())))
    assert len(polygons.polygons()) == BUILDINGS
