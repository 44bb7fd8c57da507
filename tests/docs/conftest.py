"""A server of the shipped models, and a folder with what the documents' examples name."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import FILE_NAME
from app.settings import Settings
from tests.e2e.conftest import Server, environment, running_server
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM

ROOT = Path(__file__).parents[2]
ADDRESSES = ("127.0.0.1:8000", "localhost:8000")
"""Where the documents say that the service listens."""
BUNDLE = Settings(_env_file=None).bundle
# OpenVINO compiles for seconds at each start of the command line.
ENVIRONMENT = environment(BUNDLE, backend="onnxruntime")
ENVIRONMENT["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'clients' / 'python'}"


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the shipped bundle."""
    if not (BUNDLE / FILE_NAME).exists():
        pytest.skip(f"no bundle is shipped in {BUNDLE}")
    with running_server(tmp_path_factory.mktemp("docs"), BUNDLE) as server:
        yield server


@pytest.fixture(scope="package")
def scene() -> NDArray[np.uint8]:
    """A corner of the sample picture, uint8 (224, 300, 3): small, for the tests to be quick."""
    with PIL.Image.open(ROOT / "docs" / "sample.jpg") as picture:
        return np.asarray(picture.crop((500, 300, 800, 524)))


@pytest.fixture
def checkout(tmp_path: Path, scene: NDArray[np.uint8]) -> Path:
    """A folder with the files that the examples name."""
    files = ("docs/sample.jpg", "a.png", "b.png", "tiles/1.png", "tiles/2.png")
    for name in files:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(scene).save(file)
    raster = tiff(np.moveaxis(scene, 2, 0), crs=UTM, transform=NORTH_UP, photometric="rgb")
    for name in ("scene.tif", "city.tif"):
        (tmp_path / name).write_bytes(raster)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, command in (("python", ""), ("rooftrace", "-m app")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        program.chmod(0o755)
    return tmp_path
