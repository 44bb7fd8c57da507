"""The gate as a client meets it: what it clears, how it says so, and how it is turned off."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from starlette.testclient import TestClient

from app.commandline.cli import main
from app.outputs.rle import decode_rle
from tests.factories import scene, toy_gate
from tests.maps import geotiff
from tests.serving import assert_problem, decoded, encoded, exact_bundle, serving, toy_mask

PIXELS = scene(64, 96)
PIXELS[:, :32, 2] //= 8  # blue sees less than 0.13 there, where red and green find buildings
WITHOUT = toy_mask(PIXELS)
WITH = WITHOUT.copy()
WITH[:, :32] = False
OPTIONS = {"overlap": "0", "resample": "off"}
SAID = "blue<0.2; cleared 2 of 6 patches"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    return exact_bundle(folder, patch_size=32, gate=("blue", 0.2))


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with serving(bundle) as client:
        yield client


def post(client: TestClient, data: bytes | None = None, **params: str) -> Any:
    files = {"file": ("tile.png", data or encoded(PIXELS))}
    response = client.post("/segment", files=files, params={**OPTIONS, **params})
    assert response.status_code == 200, response.text
    return response


def mask_of(png: bytes) -> NDArray[np.bool_]:
    return decoded(png) == 255


def tags_of(png: bytes) -> dict[str, str]:
    with PIL.Image.open(BytesIO(png)) as picture:
        picture.load()
        return picture.text  # type: ignore[attr-defined]


class TestHttp:
    def test_it_is_on_and_says_so(self, client: TestClient) -> None:
        response = post(client)
        np.testing.assert_array_equal(mask_of(response.content), WITH)
        assert response.headers["x-gate"] == SAID
        assert tags_of(response.content)["rooftrace_gate"] == "blue<0.2"

    @pytest.mark.parametrize(
        "params",
        [{"gate": "off"}, {"threshold": "0.5001"}, {"models": "red,green,blue", "gate": "off"}],
    )
    def test_off_is_the_exact_mask(self, client: TestClient, params: dict[str, str]) -> None:
        response = post(client, **params)
        np.testing.assert_array_equal(mask_of(response.content), WITHOUT)
        assert "x-gate" not in response.headers
        assert tags_of(response.content)["rooftrace_gate"] == "off"

    def test_all_models_by_name_and_a_higher_threshold_keep_it(self, client: TestClient) -> None:
        response = post(client, models="blue,green,red", threshold="0.7001")
        expected = toy_mask(PIXELS, 0.7001)
        expected[:, :32] = False
        np.testing.assert_array_equal(mask_of(response.content), expected)
        assert response.headers["x-gate"] == SAID

    def test_neither_probabilities_nor_what_shows_them(self, client: TestClient) -> None:
        exact = post(client, format="probability")
        assert decoded(exact.content)[:, :32].max() > 150
        for params in (
            {"format": "geojson"},
            {"format": "coco"},
            {"format": "geotiff", "bands": "mask,probability"},
        ):
            data = geotiff(PIXELS)
            response = post(client, data, **params)
            assert "x-gate" not in response.headers
            assert response.headers["x-building-fraction"] == f"{WITHOUT.mean():.6f}"

    def test_a_geotiff_of_the_mask_alone(self, client: TestClient) -> None:
        for gate, mask, said in (("on", WITH, "blue<0.2"), ("off", WITHOUT, "off")):
            response = post(client, geotiff(PIXELS), format="geotiff", gate=gate)
            assert response.headers.get("x-gate") == (SAID if gate == "on" else None)
            with MemoryFile(response.content) as file, file.open() as result:
                np.testing.assert_array_equal(result.read(1) == 1, mask)
                assert result.tags()["rooftrace_gate"] == said

    def test_run_lengths_say_it_in_their_json(self, client: TestClient) -> None:
        one = post(client, format="rle").json()
        files = [("files", ("a.png", encoded(PIXELS))), ("files", ("b.png", encoded(PIXELS)))]
        for gate, mask, said in (("on", WITH, SAID), ("off", WITHOUT, None)):
            batch = client.post("/segment/rle", files=files, params={**OPTIONS, "gate": gate})
            for result in batch.json()["results"]:
                assert result["gate"] == said
                np.testing.assert_array_equal(decode_rle(result["rle"], 64, 96, "row"), mask)
        assert one["gate"] == SAID

    def test_there_is_no_other_choice(self, client: TestClient) -> None:
        files = {"file": ("tile.png", encoded(PIXELS))}
        response = client.post("/segment", files=files, params={"gate": "wide"})
        assert_problem(response, 422, "Invalid option", "gate='wide'", "on", "off")

    def test_it_is_listed_with_the_models(self, client: TestClient) -> None:
        assert client.get("/models").json()["gate"] == toy_gate("blue", 0.2)


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def environment(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
        monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
        Path("in.tif").write_bytes(geotiff(PIXELS))

    @pytest.mark.parametrize("output", ["out.png", "out.tif"])
    def test_on_and_off(self, output: str) -> None:
        options = ["--overlap", "0", "--resample", "off", "--quiet"]
        for gate, mask, said in ((["--gate", "off"], WITHOUT, "off"), ([], WITH, "blue<0.2")):
            assert main(["segment", "in.tif", "-o", output, *options, *gate]) == 0
            with rasterio.open(output) as result:
                np.testing.assert_array_equal(result.read(1) > 0, mask)
                assert result.tags()["rooftrace_gate"] == said

    def test_a_map_with_probabilities_is_not_gated(self) -> None:
        arguments = ["segment", "in.tif", "-o", "out.geojson", "--resample", "off", "--quiet"]
        assert main(arguments) == 0
        assert json.loads(Path("out.geojson").read_text())["provenance"]["gate"] is None

    def test_models_tells_of_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models"]) == 0
        assert "gate blue<0.2: clears 40% of the empty patches" in capsys.readouterr().out
