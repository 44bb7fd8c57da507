"""The cascade as a client meets it: how it says so, in every format, and how it is turned off."""

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
from tests.factories import scene, toy_cascade
from tests.maps import geotiff
from tests.serving import assert_problem, decoded, encoded, exact_bundle, serving, toy_mask

PIXELS = scene(64, 96)
PIXELS[:, :32, 2] //= 8  # blue sees less than 0.13 there, where red and green find buildings
WITHOUT = toy_mask(PIXELS)
WITH = WITHOUT.copy()
WITH[:, :32] = False
OPTIONS = {"overlap": "0", "resample": "off"}
SAID = "blue decided 2 of 6 patches alone"
CASCADE = toy_cascade("blue", 0.2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascaded")
    return exact_bundle(folder, patch_size=32, cascade=CASCADE)


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
        assert response.headers["x-cascade"] == SAID
        assert tags_of(response.content)["rooftrace_cascade"] == "blue"

    def test_off_is_the_mask_of_all_members(self, client: TestClient) -> None:
        response = post(client, cascade="off")
        np.testing.assert_array_equal(mask_of(response.content), WITHOUT)
        assert "x-cascade" not in response.headers
        assert tags_of(response.content)["rooftrace_cascade"] == "off"

    def test_all_models_by_name_and_a_higher_threshold_keep_it(self, client: TestClient) -> None:
        response = post(client, models="blue,green,red", threshold="0.7001")
        expected = toy_mask(PIXELS, 0.7001)
        expected[:, :32] = False
        np.testing.assert_array_equal(mask_of(response.content), expected)
        assert response.headers["x-cascade"] == SAID

    @pytest.mark.parametrize("format", ["png", "probability", "overlay", "rle"])
    def test_it_acts_for_every_format(self, client: TestClient, format: str) -> None:
        response = post(client, format=format)
        assert response.headers["x-cascade"] == SAID
        assert response.headers["x-building-fraction"] == f"{WITH.mean():.6f}"

    @pytest.mark.parametrize("format", ["geojson", "coco", "geotiff"])
    def test_it_acts_for_every_map(self, client: TestClient, format: str) -> None:
        for cascade, mask, said in (("on", WITH, SAID), ("off", WITHOUT, None)):
            response = post(client, geotiff(PIXELS), format=format, cascade=cascade)
            assert response.headers.get("x-cascade") == said
            assert response.headers["x-building-fraction"] == f"{mask.mean():.6f}"
            if format == "geotiff":
                with MemoryFile(response.content) as file, file.open() as result:
                    np.testing.assert_array_equal(result.read(1) == 1, mask)
                    assert result.tags()["rooftrace_cascade"] == ("blue" if said else "off")

    def test_run_lengths_say_it_in_their_json(self, client: TestClient) -> None:
        files = [("files", ("a.png", encoded(PIXELS))), ("files", ("b.png", encoded(PIXELS)))]
        for cascade, mask, said in (("on", WITH, SAID), ("off", WITHOUT, None)):
            params = {**OPTIONS, "cascade": cascade}
            batch = client.post("/segment/rle", files=files, params=params)
            for result in batch.json()["results"]:
                assert result["cascade"] == said
                np.testing.assert_array_equal(decode_rle(result["rle"], 64, 96, "row"), mask)

    def test_a_second_stage_says_how_many_it_decided(self, tmp_path: Path) -> None:
        cascade = toy_cascade("blue", 0.2, red=0.99)
        with serving(exact_bundle(tmp_path / "bundle", patch_size=32, cascade=cascade)) as client:
            response = post(client)
        assert response.headers["x-cascade"] == f"{SAID}, 4 with red"
        assert tags_of(response.content)["rooftrace_cascade"] == "blue, red"

    def test_there_is_no_other_choice(self, client: TestClient) -> None:
        files = {"file": ("tile.png", encoded(PIXELS))}
        response = client.post("/segment", files=files, params={"cascade": "wide"})
        assert_problem(response, 422, "Invalid option", "cascade must be 'on' or 'off', got 'wide'")

    def test_it_is_listed_with_the_models(self, client: TestClient) -> None:
        assert client.get("/models").json()["cascade"] == CASCADE


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def environment(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("ROOFTRACE_BUNDLE", str(bundle))
        monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
        Path("in.tif").write_bytes(geotiff(PIXELS))

    @pytest.mark.parametrize("output", ["out.png", "out.tif"])
    def test_on_and_off(self, output: str) -> None:
        options = ["--overlap", "0", "--resample", "off", "--quiet", "--overwrite"]
        for cascade, mask, said in ((["--cascade", "off"], WITHOUT, "off"), ([], WITH, "blue")):
            assert main(["segment", "in.tif", "-o", output, *options, *cascade]) == 0
            with rasterio.open(output) as result:
                np.testing.assert_array_equal(result.read(1) > 0, mask)
                assert result.tags()["rooftrace_cascade"] == said

    def test_a_map_says_so(self) -> None:
        arguments = ["segment", "in.tif", "-o", "out.geojson", "--resample", "off", "--quiet"]
        assert main(arguments) == 0
        assert json.loads(Path("out.geojson").read_text())["provenance"]["cascade"] == "blue"

    def test_models_tells_of_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models"]) == 0
        said = capsys.readouterr().out
        assert "cascade: blue decides a patch alone where none of its pixels lie" in said
