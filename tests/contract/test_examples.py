"""Every example of a parameter in the interface document, sent to the application."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.contract.test_openapi import OPERATIONS
from tests.factories import channel_graph, scene, write_toy_bundle
from tests.geotiff import tiff
from tests.maps import NORTH_UP, UTM
from tests.serving import serving

IMAGE = tiff(np.moveaxis(scene(20, 30), 2, 0), crs=UTM, transform=NORTH_UP)
ONLY_OF = {"bands": "geotiff", "simplify": "geojson", "rectify": "geojson"}
"""Formats without which a parameter has nothing to do."""


def examples(operation: str) -> list[tuple[str, Any]]:
    return [
        (parameter["name"], example)
        for parameter in OPERATIONS[operation].get("parameters", [])
        for example in parameter["schema"]["examples"]
    ]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application with a bundle that has the members which the examples name."""
    names = dict(examples("POST /segment"))["models"].split(",")
    graphs = dict.fromkeys(names, channel_graph("red", 32))
    folder = tmp_path_factory.mktemp("examples")
    bundle = write_toy_bundle(
        folder, dict.fromkeys(names, 1 / len(names)), graphs=graphs, patch_size=32
    )
    with serving(bundle) as client:
        yield client


@pytest.mark.parametrize(("name", "example"), examples("POST /segment"))
def test_of_an_image(client: TestClient, name: str, example: Any) -> None:
    params = {"format": ONLY_OF.get(name, "png"), name: example}
    response = client.post("/segment", params=params, files={"file": ("a.tif", IMAGE)})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(("name", "example"), examples("POST /segment/rle"))
def test_of_a_batch(client: TestClient, name: str, example: Any) -> None:
    files = [("files", ("a.tif", IMAGE))]
    response = client.post("/segment/rle", params={name: example}, files=files)
    assert response.status_code == 200, response.text
    if name != "format":
        assert "error" not in response.json()["results"][0]
