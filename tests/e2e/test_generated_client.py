"""A client that openapi-python-client makes of the served document, with which every format comes.

It parses each answer as the first media type of the document that it knows.
"""

import csv
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.io import MemoryFile

from app.api.parameters import BatchFormatName
from app.outputs.choices import StreamFormatName
from app.outputs.rle import decode_rle
from tests.e2e.conftest import Server
from tests.factories import scene
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM
from tests.serving import decoded, toy_mask

PACKAGE = "rooftrace_generated"
PIXELS = scene(40, 60)
IMAGE = tiff(np.moveaxis(PIXELS, 2, 0), crs=UTM, transform=NORTH_UP)
MASK = toy_mask(PIXELS)
HEIGHT, WIDTH = MASK.shape


class Client:
    """The generated package, and its client of the server."""

    def __init__(self, url: str) -> None:
        self.http = self.module("client").Client(base_url=url)

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    def call(self, operation: str, **arguments: Any) -> Any:
        """Return status, headers, content and what was parsed."""
        return self.module(f"api.{operation}").sync_detailed(client=self.http, **arguments)

    def file(self, data: bytes, name: str | None = "scene.tif") -> Any:
        return self.module("types").File(io.BytesIO(data), name, "image/tiff")

    def segment(self, format: str | None, data: bytes = IMAGE, **file: Any) -> Any:
        models = self.module("models")
        arguments = {
            "body": models.SegmentFilesBody(file=self.file(data, **file)),
            "resample": models.SegmentResample.OFF,
        }
        if format is not None:
            arguments["format_"] = models.SegmentFormatType0(format)
        return self.call("segmentation.segment", **arguments)

    def batch(self, format: str) -> Any:
        models = self.module("models")
        body = models.SegmentBatchBody(files=[self.file(IMAGE), self.file(b"?", "no.png")])
        return self.call(
            "segmentation.segment_batch",
            body=body,
            resample=models.SegmentBatchResample.OFF,
            format_=models.SegmentBatchFormatType0(format),
        )


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yaml").write_text("post_hooks: []\n")
    options = ["--url", f"{server.url}/openapi.json", "--meta", "none"]
    options += ["--config", f"{folder}/config.yaml", "--output-path", f"{folder}/{PACKAGE}"]
    command = [sys.executable, "-m", "openapi_python_client", "generate", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("Unsupported")]
    # It sends forms, and no images as they are, which POST /segment and an execution take.
    kinds = ("png", "jpeg", "tiff", "webp")
    assert said == 2 * [f"Unsupported content type image/{kind}" for kind in kinds]
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module(PACKAGE)
    finally:
        sys.path.remove(str(folder))
    client = Client(server.url)
    with client.http:
        yield client


def test_nothing_chosen_is_the_mask(client: Client) -> None:
    answer = client.segment(None)
    np.testing.assert_array_equal(decoded(answer.parsed.payload.read()) == 255, MASK)
    assert float(answer.headers["X-Building-Fraction"]) == pytest.approx(MASK.mean(), abs=1e-6)


@pytest.mark.parametrize("format", get_args(StreamFormatName))
def test_every_format(client: Client, format: str) -> None:
    answer = client.segment(format)
    assert answer.status_code == 200
    data = answer.parsed.payload.read()
    np.testing.assert_array_equal(mask_of(format, data), MASK)


def mask_of(format: str, data: bytes) -> NDArray[np.bool_]:
    """Read the mask out of a result; of those that hold none, what is known of it is checked."""
    if format in ("png", "probability", "disagreement", "overlay"):
        picture = decoded(data)
        assert picture.shape[:2] == MASK.shape
        return picture == 255 if format == "png" else MASK
    if format == "geotiff":
        with MemoryFile(data) as file, file.open() as raster:
            return raster.read(1) == 1
    answer = json.loads(data)
    if format == "rle":
        return decode_rle(answer["rle"], HEIGHT, WIDTH, "row")
    buildings = answer["annotations"] if format == "coco" else answer["features"]
    assert len(buildings) > 1
    return MASK


@pytest.mark.parametrize("format", get_args(BatchFormatName))
def test_every_format_of_a_batch(client: Client, format: str) -> None:
    text = client.batch(format).parsed
    if format == "csv":
        rows = dict(csv.reader(io.StringIO(text)))
        assert rows.keys() == {"img_id", "scene"}
        rle = rows["scene"]
    else:
        model = client.module("models").BatchResult
        results = (
            model.from_dict(json.loads(text)).to_dict()["results"]
            if format == "json"
            else sorted(map(json.loads, text.splitlines()), key=lambda one: "error" in one)
        )
        rle, problem = results[0]["rle"], results[1]["error"]
        assert problem["status"] == 415
    np.testing.assert_array_equal(decode_rle(rle, HEIGHT, WIDTH, "row"), MASK)


def test_a_file_needs_no_name(client: Client) -> None:
    assert client.segment("rle", name=None).status_code == 200


def test_a_problem_has_its_type(client: Client) -> None:
    problem = client.segment("png", IMAGE[:-500]).parsed
    assert isinstance(problem, client.module("models").Problem)
    assert (problem.status, problem.title) == (422, "Damaged image")


def test_the_service_describes_itself(client: Client) -> None:
    assert client.call("service.live").parsed.to_dict() == {"status": "live"}
    assert client.call("service.ready").parsed.waiting == 0
    assert {member.name for member in client.call("service.models").parsed.members} == {
        "red",
        "green",
        "blue",
    }
    assert "rooftrace_requests_total" in client.call("service.metrics").parsed
