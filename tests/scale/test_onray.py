"""`rooftrace bulk` on a real Ray cluster, of one driver's own, in processes of its own.

`ray stop` would end every Ray of the machine; each run here begins its own and ends that.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from rasterio.transform import Affine

from tests.e2e.gated import Gate
from tests.maps import NORTH_UP, geotiff, picture
from tests.scale.gated import GATED, whole
from tests.scale.test_bulk import SIDE, bytes_of, rows
from tests.serving import exact_bundle

ROOT = Path(__file__).parents[2]
ACROSS = 5
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """25 tiles, each of them with buildings that go on in the next."""
    cells = np.random.default_rng(2).random((25, 25)) < 0.45
    mask = np.kron(cells, np.ones((8, 8))) > 0
    (tmp_path / "city").mkdir()
    for number in range(ACROSS**2):
        row, col = (n * SIDE for n in divmod(number, ACROSS))
        place = NORTH_UP @ Affine.translation(col, row)
        pixels = picture(mask[row : row + SIDE, col : col + SIDE])
        path = tmp_path / "city" / f"t{number:02}.tif"
        path.write_bytes(geotiff(pixels, transform=place))
    exact_bundle(tmp_path / "bundle", patch_size=32)
    return tmp_path


def start(folder: Path, *arguments: str, module: str = "app") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ROOFTRACE_BUNDLE": str(folder / "bundle"),
        "ROOFTRACE_DEVICE": "cpu",
        "ROOFTRACE_BACKEND": "onnxruntime",
    }
    command = [sys.executable, "-m", module, "bulk", "city", *arguments, "--resample", "off"]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Find the actors below a driver: Ray puts their class into their command line."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_worker_costs_no_file(city: Path) -> None:
    """All 25 files come whole, and to the same bytes as without Ray and without a kill."""
    alone = start(city, "-o", "alone", "--quiet")
    _, told = alone.communicate(timeout=300)
    assert alone.returncode == 0, told

    gate = Gate(city)
    gate.shut(after=5)
    driver = start(city, "-o", "out", "--engine", "ray", "--workers", "1", module=GATED)
    deadline = time.monotonic() + 600
    while not gate.is_reached:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert whole(city) == 5
    killed = workers(driver)
    assert killed
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
    gate.open()
    _, told = driver.communicate(timeout=600)
    assert driver.returncode == 0, told
    found = rows(city / "out")
    assert len(found) == ACROSS**2
    assert {row["status"] for row in found.values()} == {"segmented"}
    assert bytes_of(city / "out") == bytes_of(city / "alone")
    assert "25 files" in told
    assert "0 failed" in told


def test_there_is_no_cluster_at_an_address(city: Path) -> None:
    driver = start(city, "-o", "out", "--engine", "ray", "--address", "127.0.0.1:1")
    _, told = driver.communicate(timeout=300)
    assert driver.returncode == 2, told
    assert "there is no Ray cluster at 127.0.0.1:1" in told
    assert "Traceback" not in told
