"""The shipped bundle on real imagery: what a client gets is what was scored."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import FILE_NAME, load_manifest
from app.imaging.decode import decode_image
from app.runtime.choices import Backend, Precision
from app.segmentation.segmenter import load_segmenter
from app.settings import Settings
from tests.cpus import pretend
from tests.data import DATA, needs_data
from tests.e2e.conftest import Server, running_server
from tests.serving import decoded

ROOT = Path(__file__).parents[2]
BUNDLE = Settings(_env_file=None).bundle
VALIDATION = DATA / "val"
TILES = 3
pytestmark = [
    pytest.mark.skipif(
        not (BUNDLE / FILE_NAME).exists(),
        reason=f"no bundle is shipped in {BUNDLE.parent.name}/{BUNDLE.name}",
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the shipped bundle."""
    with running_server(tmp_path_factory.mktemp("real"), BUNDLE) as server:
        yield server


def uploaded(server: Server, image: Path, **params: str) -> NDArray[np.bool_]:
    """Upload an image file as `curl -F file=@IMAGE` does, and return the mask that comes back."""
    url = f"{server.url}/segment"
    with image.open("rb") as file:
        response = httpx2.post(url, files={"file": file}, params=params, timeout=120)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-model-version"] == load_manifest(BUNDLE).version
    mask = decoded(response.content)
    assert set(np.unique(mask)) <= {0, 255}
    return mask == 255


def dice(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> float:
    """Return 2 |A ∩ B| / (|A| + |B|), and 1 for two empty ones; written out here on purpose."""
    total = int(mask.sum()) + int(label.sum())
    return 2 * int((mask & label).sum()) / total if total else 1.0


def test_the_sample_picture_is_found(server: Server) -> None:
    mask = uploaded(server, ROOT / "docs" / "sample.jpg")
    label = decoded((ROOT / "docs" / "sample_label.png").read_bytes()) > 0
    assert mask.shape == label.shape
    assert dice(mask, label) >= 0.8


@needs_data
def test_served_masks_are_the_scored_ones(server: Server) -> None:
    pytest.importorskip("torch", reason="training needs torch")
    from training.data import list_tiles
    from training.evaluate import evaluate

    by_source = {tile.source: tile for tile in list_tiles(VALIDATION)}
    # One tile of a source, and the smaller ones: the networks take their time.
    tiles = sorted(by_source.values(), key=lambda tile: tile.image.stat().st_size)[:TILES]
    segmenter = load_segmenter(BUNDLE, device="cpu")
    try:
        report = evaluate(segmenter, tiles)
    finally:
        segmenter.close()
    for tile in tiles:
        image, label = tile.read()
        mask = uploaded(server, tile.image)
        assert mask.shape == (image.height, image.width)
        assert dice(mask, label) == pytest.approx(report.dice[tile.name], abs=1e-9)


@needs_data
@pytest.mark.parametrize(
    ("precision", "agreement"), [("fp32", 0.99999), ("bf16", 0.998), ("int8", 0.995)]
)
def test_backends_agree_on_real_imagery(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, agreement: float
) -> None:
    """Below fp32, the share of pixels that differ is about that of outlines' stray pixels."""
    pretend(monkeypatch, "bf16", "int8")
    paths = sorted(VALIDATION.glob("images/*"), key=lambda path: path.stat().st_size)[:TILES]
    images = [decode_image(path.read_bytes(), max_pixels=10**8) for path in paths]
    masks = []
    runs: list[tuple[Backend, Precision]] = [("onnxruntime", "fp32"), ("openvino", precision)]
    for backend, computed_in in runs:
        with closing(
            load_segmenter(BUNDLE, device="cpu", backend=backend, precision=computed_in)
        ) as segmenter:
            masks.append([segmenter.segment_image(image).mask for image in images])
    for exact, other in zip(*masks, strict=True):
        assert np.mean(exact == other) >= agreement


@needs_data
def test_the_shipped_bundle_keeps_its_floors(capsys: pytest.CaptureFixture[str]) -> None:
    """A little below the card's figures: without overlap, in whatever precision is chosen."""
    pytest.importorskip("torch", reason="training needs torch")
    from training.__main__ import main

    floors = [
        "dice_micro>=0.74",
        "dice_built>=0.73",
        "object_f1>=0.45",
        "empty_false_positives<=0.08",
    ]
    command = ["evaluate", str(BUNDLE), str(VALIDATION), "--overlap", "0", "--quiet"]
    gates = [part for floor in floors for part in ("--gate", floor)]

    status = main([*command, *gates])

    said = capsys.readouterr()
    assert status == 0, said.err
    assert said.out.splitlines()[1].startswith("ensemble")
