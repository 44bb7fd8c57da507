"""One image has one mask: the same pixels in every format, over HTTP and on the command line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from rasterio import features
from rasterio.io import MemoryFile
from rasterio.transform import Affine
from starlette.testclient import TestClient

from app.commandline.cli import main
from app.outputs.formats import FORMATS
from app.outputs.rle import decode_rle
from tests.factories import toy_cascade
from tests.maps import geotiff
from tests.serving import THRESHOLD, decoded, exact_bundle, serving

Mask = NDArray[np.bool_]
# Degrees, so that GeoJSON needs no other system: its polygons fall back on the very pixels.
STEP = 2.0**-17
GRID = Affine(STEP, 0, 8, 0, -STEP, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_mask")
    cascade = toy_cascade("blue", 0.2, 0.8, 0.2, red=0.1)
    return exact_bundle(folder, patch_size=32, cascade=cascade, min_confidence=0.6)


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with serving(bundle) as client:
        yield client


def _of_json(of: Any) -> list[shapely.Geometry]:
    return [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in of["features"]]


def _geojson_mask(text: bytes, size: tuple[int, int]) -> Mask:
    drawn = [(shape, 1) for shape in _of_json(json.loads(text))]
    if not drawn:
        return np.zeros(size, np.bool_)
    return features.rasterize(drawn, size, transform=GRID, dtype="uint8") > 0


def _coco_mask(text: bytes, size: tuple[int, int]) -> Mask:
    union = np.zeros(size, np.bool_)
    for annotation in json.loads(text)["annotations"]:
        union |= coco.decode(annotation["segmentation"]).astype(bool)
    return union


def _tinted(overlay: bytes, pixels: NDArray[np.uint8], valid: Mask) -> Mask:
    """Where an overlay is not the image: the images below have no pixel that a tint leaves."""
    drawn = np.asarray(PIL.Image.open(io.BytesIO(overlay)).convert("RGBA"))
    return (drawn[..., :3] != pixels).any(axis=2) & valid


def _tiff_mask(data: bytes) -> Mask:
    with MemoryFile(data) as file, file.open() as dataset:
        return dataset.read(1) == 1


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    seed=st.integers(0, 999),
    options=st.fixed_dictionaries(
        {},
        optional={
            "threshold": st.sampled_from(["0.3", "0.5", "0.77"]),
            "overlap": st.sampled_from(["0", "0.5"]),
            "min_area": st.sampled_from(["1", "3.7"]),
            "min_confidence": st.sampled_from(["0", "0.55", "0.9"]),
            "cascade": st.sampled_from(["on", "off"]),
            "combine": st.just("vote"),
            "models": st.sampled_from(["red", "red,blue"]),
            "gsd": st.sampled_from(["0.25", "0.7"]),
            "tta": st.just("flips"),
        },
    ),
)
def test_every_format_shows_the_same_pixels(
    client: TestClient,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    seed: int,
    options: dict[str, str],
) -> None:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 250, (shape[0] // 5 + 1, shape[1] // 5 + 1, 3))
    pixels = np.kron(blocks, np.ones((5, 5, 1)))[: shape[0], : shape[1]].astype(np.uint8)
    valid = random.random(shape) < 0.97
    data = geotiff(pixels, "EPSG:4326", GRID, valid)

    def posted(format: str, **more: str) -> bytes:
        files = {"file": ("a.tif", data)}
        params = {**options, "format": format, **more}
        answer = client.post("/segment", params=params, files=files)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-building-fraction"] == fraction or not fraction
        return answer.content

    def batched(format: str) -> str:
        files = {"files": ("a.tif", data)}
        answer = client.post("/segment/rle", params={**options, "format": format}, files=files)
        assert answer.status_code == 200, answer.text
        return answer.text

    fraction = ""
    mask = decoded(posted("png")) == 255
    fraction = f"{mask.sum() / max(1, valid.sum()):.6f}"
    [csv_row] = csv.DictReader(io.StringIO(batched("csv")))
    masks = {
        "rle": decode_rle(json.loads(posted("rle"))["rle"], *shape, "row"),
        "rle, by columns": decode_rle(
            json.loads(posted("rle", order="column"))["rle"], *shape, "column"
        ),
        "csv": decode_rle(csv_row["mask_rle"], *shape, "row"),
        "ndjson": decode_rle(json.loads(batched("ndjson"))["rle"], *shape, "row"),
        "overlay": _tinted(posted("overlay"), pixels, valid),
        "probability": decoded(posted("probability"))
        >= (128 if "combine" in options else 255 * float(options.get("threshold", THRESHOLD))),
        "coco": _coco_mask(posted("coco"), shape),
        "geojson": _geojson_mask(posted("geojson"), shape),
        "geotiff": _tiff_mask(posted("geotiff")),
        "geotiff of three bands": _tiff_mask(
            posted("geotiff", bands="mask,probability,disagreement")
        ),
    }

    with monkeypatch.context() as patch:
        patch.setenv("ROOFTRACE_BUNDLE", str(bundle))
        patch.setenv("ROOFTRACE_DEVICE", "cpu")
        source = tmp_path / "a.tif"
        source.write_bytes(data)
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        for name in ("png", "rle", "coco", "geojson", "geotiff"):
            target = tmp_path / f"out{FORMATS[name].extension}"
            assert (
                main(["segment", str(source), "-o", str(target), *flags, "--quiet", "--overwrite"])
                == 0
            )
            assert target.read_bytes() == posted(name), f"{name}, written to a file"

    for name, other in masks.items():
        np.testing.assert_array_equal(other, mask, err_msg=name)
