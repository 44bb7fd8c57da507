"""What tests of jobs share: an image, and a client that follows a job over HTTP."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from tests.e2e.conftest import Server
from tests.factories import channel_graph, scene, toy_cascade, write_toy_bundle
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM

EXECUTION = "processes/segment-buildings/execution"
ASYNC = {"Prefer": "respond-async"}
PATCH = 32
BANDS = 45
"""How many bands `MAP` comes in, or a few more."""

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


def write_bundle(folder: Path) -> Path:
    """Write two members with a cascade."""
    return write_toy_bundle(
        folder,
        {"red": 0.6, "green": 0.4},
        patch_size=PATCH,
        cascade=toy_cascade("red", 0.3, 0.7, 0.2),
    )


def write_other_bundle(folder: Path) -> Path:
    """Write another bundle, of one member."""
    graphs = {"blue": channel_graph("blue", PATCH)}
    return write_toy_bundle(folder, {"blue": 1.0}, graphs=graphs, patch_size=PATCH)


def create(server: Server, image: bytes = MAP, **query: Any) -> str:
    """Create a job, and return its address."""
    response = try_to_create(server, image, **query)
    assert response.status_code == 201, response.text
    return f"jobs/{response.json()['jobID']}"


def try_to_create(server: Server, image: bytes = MAP, **query: Any) -> httpx2.Response:
    """Ask for a job."""
    files = {"file": ("a.tif", image)}
    url = f"{server.url}/{EXECUTION}"
    return httpx2.post(url, params=query, files=files, headers=ASYNC, timeout=60)


def state_of(server: Server, job: str) -> dict[str, Any]:
    """Ask for the state of a job."""
    response = httpx2.get(f"{server.url}/{job}", timeout=60, verify=False)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until a condition holds; fail after `seconds`."""
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def wait_for_end(server: Server, job: str) -> dict[str, Any]:
    """Follow a job to its end, and return its last state."""
    wait_until(lambda: is_finished(state_of(server, job)))
    return state_of(server, job)


def is_finished(state: dict[str, Any]) -> bool:
    """Tell whether a job has ended."""
    return state["status"] in ("successful", "failed")


def results(server: Server, job: str) -> list[bytes]:
    """Fetch `RESULTS` of a job."""
    assert state_of(server, job)["status"] == "successful"
    return _fetch("GET", f"{server.url}/{job}/results")


def direct_results(server: Server) -> list[bytes]:
    """Fetch `RESULTS` of `MAP` without a job."""
    return _fetch("POST", f"{server.url}/segment", files={"file": ("a.tif", MAP)})


def _fetch(method: str, url: str, **body: Any) -> list[bytes]:
    answers = [httpx2.request(method, url, params=query, timeout=120, **body) for query in RESULTS]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


def bands(folder: Path, job: str) -> dict[str, bytes]:
    """Read the bands of a job that are kept in a folder."""
    kept = (folder / "files" / job.removeprefix("jobs/") / "bands").glob("*.band")
    return {path.name: path.read_bytes() for path in sorted(kept)}
