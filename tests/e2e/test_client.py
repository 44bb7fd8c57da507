"""The Python client (clients/python) with a real server."""

import ast
import asyncio
import io
import json
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints
from zipfile import ZipFile

import numpy as np
import pytest
from shapely.geometry import box

import app
import rooftrace_client
from rooftrace_client import AsyncClient, Client, Image, Outcome, Result
from tests.e2e.conftest import ROOT, Serve, Server
from tests.factories import scene
from tests.maps import BUILDINGS, geotiff, picture, plan
from tests.serving import encoded, toy_mask, toy_probability

PIXELS = scene(120, 90)
PNG = encoded(PIXELS)
MAP = geotiff(picture(plan()))
DAMAGED = PNG[:1000]
PACKAGE = ROOT / "clients" / "python"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


class TestOneImage:
    def test_a_path_bytes_and_a_file_give_one_mask(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "scène.png"
        path.write_bytes(PNG)
        with path.open("rb") as file:
            for image in (path, str(path), PNG, file, io.BytesIO(PNG)):
                mask = client.segment(image).mask()
                assert mask.dtype == np.bool_
                np.testing.assert_array_equal(mask, toy_mask(PIXELS))
        assert client.segment(path, format="rle").json()["filename"] == path.name

    @pytest.mark.parametrize("order", ["row", "column"])
    def test_a_mask_from_rle(self, client: Client, order: str) -> None:
        result = client.segment(PNG, format="rle", order=order)  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.mask(), toy_mask(PIXELS))

    def test_an_empty_mask(self, client: Client) -> None:
        black = encoded(np.zeros((30, 40, 3), np.uint8))
        for result in (client.segment(black), client.segment(black, format="rle")):
            assert result.mask().shape == (30, 40)
            assert not result.mask().any()
        frame = client.segment(black, format="geojson").geodataframe()
        assert (len(frame), frame.crs) == (0, None)

    def test_probabilities(self, client: Client) -> None:
        probability = client.segment(PNG, format="probability").probability()
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability, toy_probability(PIXELS), atol=0.5001 / 255)

    def test_headers_are_fields(self, client: Client) -> None:
        result = client.segment(MAP, resample="off")
        mask = toy_mask(picture(plan()))
        assert result.building_fraction == pytest.approx(mask.mean(), abs=1e-6)
        assert result.building_count == BUILDINGS
        assert result.building_area_m2 == pytest.approx(mask.sum() / 4, rel=0.01)
        assert result.model_version.startswith("toy-")
        assert "CPU" in str(result.execution_provider)
        assert set(result.server_timing) == {"queue", "decode", "infer", "encode"}
        assert result.media_type == "image/png"
        assert client.segment(PNG).building_area_m2 is None

    def test_polygons_in_degrees(self, client: Client) -> None:
        result = client.segment(MAP, format="geojson", resample="off")
        polygons, frame = result.polygons(), result.geodataframe()
        assert len(polygons) == len(frame) == BUILDINGS
        assert frame.crs == "EPSG:4326"
        assert all(a.equals(b) for a, b in zip(frame.geometry, polygons, strict=True))
        assert set(frame.columns) >= {"geometry", "area_m2", "confidence"}
        # A block of 20 × 30 pixels of 0.5 m is among them.
        metres = frame.to_crs("EPSG:32633").geometry
        block = box(500_003, 3_999_987.5, 500_018, 3_999_997.5)
        assert max(polygon.intersection(block).area for polygon in metres) > 0.999 * block.area

    def test_polygons_in_pixels_have_no_system_and_a_notice(self, client: Client) -> None:
        result = client.segment(encoded(picture(plan())), format="geojson")
        assert result.geodataframe().crs is None
        assert result.geodataframe().geometry.area.sum() == plan().sum()
        assert any("pixel" in notice for notice in result.notices)

    def test_options_are_the_parameters(self) -> None:
        paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
        segment, result = paths["/segment"]["post"], paths["/jobs/{jobID}/results"]["get"]
        for known, operation in (("Options", segment), ("ResultOptions", result)):
            options = get_type_hints(getattr(rooftrace_client, known))
            names = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
            assert set(options) == names - {"format"}, f"change {known} of clients/python"

    def test_options_are_sent(self, client: Client) -> None:
        result = client.segment(PNG, threshold=0.3, models=["red", "green"], rgb=(3, 2, 1))
        swapped = PIXELS[..., ::-1].astype(float)
        mask = (0.5 * swapped[..., 0] + 0.3 * swapped[..., 1]) / 0.8 / 255 >= 0.3
        assert np.mean(result.mask() == mask) > 0.999  # rounding decides a few

    def test_any_format_can_be_saved(self, client: Client, tmp_path: Path) -> None:
        saved = client.segment(MAP, format="geotiff").save(tmp_path / "mask.tif")
        assert saved.read_bytes()[:4] == b"II*\0"

    def test_a_format_without_it_says_which_has_it(self, client: Client) -> None:
        result = client.segment(PNG)
        with pytest.raises(rooftrace_client.FormatError, match=r"'png'.*format='geojson'"):
            result.polygons()
        with pytest.raises(TypeError, match=r"'png'.*'rle'"):
            result.json()

    def test_models(self, client: Client) -> None:
        assert client.models()["name"] == "toy"

    def test_text_is_no_image(self, client: Client) -> None:
        with pytest.raises(TypeError, match="binary"):
            client.segment(io.StringIO("text"))  # type: ignore[arg-type]


class TestProblems:
    @pytest.mark.parametrize(
        ("data", "options", "kind", "status"),
        [
            (DAMAGED, {}, rooftrace_client.DamagedImage, 422),
            (b"", {}, rooftrace_client.EmptyUpload, 400),
            (b"GIF89a", {}, rooftrace_client.UnsupportedFormat, 415),
            (PNG, {"threshold": 2}, rooftrace_client.InvalidOption, 422),
            (PNG, {"nonsense": 1}, rooftrace_client.InvalidOption, 422),
            (PNG, {"format": "geotiff"}, rooftrace_client.ImpossibleOutput, 422),
        ],
    )
    def test_each_has_its_class(
        self,
        client: Client,
        data: bytes,
        options: dict[str, Any],
        kind: type[Exception],
        status: int,
    ) -> None:
        with pytest.raises(kind) as caught:
            client.segment(data, **options)
        problem = caught.value
        assert isinstance(problem, rooftrace_client.InputError)
        assert problem.status == status
        assert problem.detail in str(problem)
        assert problem.type.startswith("urn:rooftrace:")
        assert len(problem.request_id or "") >= 8

    def test_keys(self, serve: Serve, exact: Path, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text("0123456789abcdef\n")
        server = serve(exact, api_keys=keys, backend="onnxruntime")
        with Client(server.url) as client, pytest.raises(rooftrace_client.KeyMissing):
            client.segment(PNG)
        with (
            Client(server.url, api_key="wrong") as client,
            pytest.raises(rooftrace_client.KeyRefused),
        ):
            client.segment(PNG)
        with Client(server.url, api_key="0123456789abcdef") as client:
            assert client.segment(PNG).building_count > 0
            assert "0123456789abcdef" not in repr(client)

    def test_an_address_of_another_service(self, client: Client, server: Server) -> None:
        with Client(f"{server.url}/elsewhere") as lost, pytest.raises(rooftrace_client.NotFound):
            lost.segment(PNG)


class TestMany:
    def test_a_fault_is_a_value(self, client: Client, tmp_path: Path) -> None:
        good = tmp_path / "good.png"
        good.write_bytes(PNG)
        images: list[Image] = [PNG, DAMAGED, good, tmp_path / "missing.png", b"text", PNG]
        outcomes = sorted(client.segment_many(images, concurrency=3), key=lambda o: o.index)
        assert [outcome.image for outcome in outcomes] == images
        kinds = [type(outcome.result) for outcome in outcomes]
        damaged, strange = rooftrace_client.DamagedImage, rooftrace_client.UnsupportedFormat
        assert kinds == [Result, damaged, Result, FileNotFoundError, strange, Result]

    def test_500_images_in_bounded_memory(self, client: Client) -> None:
        size, count, concurrency = 500_000, 500, 4
        read = taken = 0

        def images() -> Iterator[bytes]:
            nonlocal read
            for _ in range(count):
                read += 1
                assert read - taken <= concurrency
                yield padded(size)

        tracemalloc.start()
        try:
            for outcome in client.segment_many(images(), concurrency=concurrency, format="rle"):
                assert isinstance(outcome.result, Result), outcome.result
                taken += 1
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken == count
        assert peak < 4 * concurrency * size  # and not 500 of them

    def test_thousands_of_files_are_opened_as_they_are_needed(
        self, client: Client, tmp_path: Path
    ) -> None:
        (tmp_path / "tile.png").write_bytes(PNG)
        endless = iter(lambda: tmp_path / "tile.png", None)
        outcomes = client.segment_many(endless, concurrency=2)
        assert isinstance(next(outcomes).result, Result)
        outcomes.close()  # type: ignore[attr-defined]

    def test_it_needs_one_at_a_time_at_least(self, client: Client) -> None:
        with pytest.raises(ValueError, match="at least 1, got 0"):
            next(client.segment_many([PNG], concurrency=0))


class TestAsync:
    def test_it_does_the_same(self, server: Server, tmp_path: Path) -> None:
        path = tmp_path / "tile.png"
        path.write_bytes(PNG)

        async def all_of_it() -> list[Outcome]:
            async with AsyncClient(server.url) as client:
                one = await client.segment(path)
                np.testing.assert_array_equal(one.mask(), toy_mask(PIXELS))
                assert (await client.models())["name"] == "toy"
                with pytest.raises(rooftrace_client.DamagedImage):
                    await client.segment(DAMAGED)
                images: list[Image] = [path, DAMAGED, tmp_path / "missing.png", *[PNG] * 20]
                outcomes = [o async for o in client.segment_many(images, concurrency=3)]
                async for _ in client.segment_many(iter(lambda: PNG, None)):
                    break  # what is under way is cancelled
                return outcomes

        outcomes = sorted(asyncio.run(all_of_it()), key=lambda outcome: outcome.index)
        assert [outcome.index for outcome in outcomes] == list(range(23))
        assert isinstance(outcomes[1].result, rooftrace_client.DamagedImage)
        assert isinstance(outcomes[2].result, FileNotFoundError)
        assert all(isinstance(o.result, Result) for o in [outcomes[0], *outcomes[3:]])


class TestPackage:
    def test_it_knows_the_contract_alone(self) -> None:
        files = sorted((PACKAGE / "rooftrace_client").glob("*.py"))
        known = sys.stdlib_module_names | {"httpx"}
        for file in files:
            tree = ast.parse(file.read_text())
            at_the_top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
            for node in ast.walk(tree):
                names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = {node.module or ""}
                names = {name.split(".")[0] for name in names}
                assert not names & {"app", "rooftrace", "training", "tests"}, file
                assert names <= known or node not in at_the_top, f"{file}: {names} is optional"
            assert len(file.read_text().splitlines()) <= 350, file

    def test_what_is_optional_is_not_loaded(self) -> None:
        code = "import sys, rooftrace_client; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=PACKAGE, capture_output=True, text=True, check=True
        )
        assert not set(done.stdout.split()) & {"numpy", "PIL", "shapely", "geopandas", "app"}

    def test_it_has_the_version_of_the_service(self) -> None:
        assert rooftrace_client.__version__ == app.__version__

    @pytest.mark.parametrize("kind", ["wheel", "sdist"])
    def test_the_distribution_is_whole(self, kind: str, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", PACKAGE, copy], check=True)
        code = f"import setuptools.build_meta as b; b.build_{kind}({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
        [built] = tmp_path.glob("rooftrace_client-*")
        if kind == "wheel":
            names = ZipFile(built).namelist()
        else:
            with tarfile.open(built) as archive:
                names = archive.getnames()
        for name in ("py.typed", "_client.py", "LICENSE"):
            assert any(found.endswith(name) for found in names), names


def padded(size: int) -> bytes:
    """Return a small PNG with a private chunk of `size` bytes that no reader looks at."""
    chunk = b"roOf" + bytes(size)
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    small = encoded(scene(32, 32))
    end = small.index(b"IEND") - 4
    return small[:end] + size.to_bytes(4, "big") + chunk + crc + small[end:]
