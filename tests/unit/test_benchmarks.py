"""The benchmarks measure what they say: small runs on toys, and a page of made-up figures."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from app.bundle.manifest import load_manifest
from app.errors import DeviceError
from app.imaging.image import Image
from app.runtime.gpu import CUDA
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from app.tiles.cache import Cache
from app.tiles.maps import open_maps
from tests.factories import ramp_graph, scene, toy_cascade, write_toy_bundle
from tests.serving import THRESHOLD, decoded, encoded, exact_bundle

pytest.importorskip("torch", reason="the benchmarks read tiles as training does")
pytest.importorskip("psutil", reason="the `bench` extra is not installed")

from benchmarks import (
    cascade,
    ceiling,
    engine,
    gpu,
    gsd,
    linear,
    plots,
    report,
    seams,
    service,
    steady,
    tiles,
)
from benchmarks.imagery import CELL, Imagery
from benchmarks.peers import ensemble
from training.data import Tile
from training.metrics import Counts

NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def imagery() -> Imagery:
    """Procedural scenes, as where there are no tiles."""
    return Imagery(NOWHERE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three toys, of which the first decides most."""
    return write_toy_bundle(tmp_path_factory.mktemp("benchmarks") / "toy", threshold=0.6)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ceiling from small matrices: the large ones keep a core busy for half a minute."""
    monkeypatch.setitem(ceiling._SIDES, "cpu", (256,))


def test_patches_have_their_labels(imagery: Imagery) -> None:
    patches, labels = imagery.patches(6, 224)
    assert patches.shape == (6, 224, 224, 3)
    assert labels.shape == (6, 224, 224)
    assert labels.any()
    assert not labels.all()


def test_a_scene_is_as_empty_as_it_was_asked_for(
    imagery: Imagery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ground where labels can be read off the pixels."""
    ground = scene(3 * CELL, CELL) // 2
    ground[:CELL] += 128
    ground[2 * CELL :] = 0  # a black margin
    monkeypatch.setattr(imagery, "_tiles", lambda _: iter([(ground, ground[..., 0] >= 128)] * 8))
    laid = imagery.scene(4 * CELL, empty=0.75)
    assert laid.shape == (4 * CELL, 4 * CELL, 3)
    assert (laid[:CELL] >= 128).all()  # what is built hangs together
    assert (laid[CELL:] < 128).all()
    assert laid[-CELL:].any()


def test_a_gpu_is_rehearsed_on_the_cpu(bundle: Path, imagery: Imagery) -> None:
    cells = [service.Cell(224, 2, 0.3)]
    some = [gpu.Arrangement("fp32", batches=(1, 4))]
    found = gpu.measure(bundle, imagery, device="cpu", some=some, patches=8, cells=cells)
    assert [(row["arrangement"], row["batch"]) for row in found["engine"]] == [
        ("fp32", 1),
        ("fp32", 4),
    ]
    for row in found["engine"]:
        assert row["providers"] == ["CPUExecutionProvider"]
        assert row["patches_per_second"] > 0
        assert (row["largest_difference"], row["masks_agree"]) == (0, 1)
    [answered] = found["service"]["services"]["Rooftrace cpu fp32"]
    assert (answered["requests"] > 0, answered["failed"]) == (True, 0)
    page = gpu.table(found)
    assert "| fp32 | 4 |" in page
    assert "| 0% | 0.0e+00 | 100.0000% |" in page  # toys sum no products
    assert "TFLOP/s in fp32." in page
    assert "224², 2 clients" in page


def test_what_a_gpu_can_not_do_is_named(bundle: Path, imagery: Imagery, tmp_path: Path) -> None:
    """The first arrangement is that of the service as it is; without it, nothing is measured."""
    if CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    everything = gpu.arrangements(tmp_path)
    assert [str(each) for each in everything] == [
        "fp32",
        "fp16",
        "fp32, CUDA graphs",
        "fp16, CUDA graphs",
        "TensorRT fp16",
    ]
    with pytest.raises(DeviceError, match="has no CUDA"):
        gpu.measure(bundle, imagery, some=everything, patches=1, cells=[])


def test_cost_by_area(bundle: Path, tmp_path: Path) -> None:
    costs = linear.measure(bundle, (256, 512), tmp_path)
    assert list(costs) == [256, 512]
    assert all(cost.peak_bytes > 50 * 2**20 for cost in costs.values())
    assert "| 512² |" in linear.table(costs)
    plots.linear(costs, tmp_path / "linear.png")
    assert (tmp_path / "linear.png").stat().st_size > 1000


def test_memory_is_read_after_each_answer(bundle: Path, imagery: Imagery) -> None:
    resident, peak = steady.measure(bundle, imagery, requests=12, clients=3)
    assert len(resident) == 12
    assert 50 * 2**20 < min(resident) <= max(resident) <= 1.1 * peak


def test_without_a_gpu_nothing_is_measured_in_its_name(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert gpu.main(["--bundle", str(bundle), "--data", str(NOWHERE)]) == 1
    assert "has no CUDA" in capsys.readouterr().err


def test_masks_of_two_gsds_are_compared_pixel_by_pixel(
    small_toy: Segmenter, tmp_path: Path
) -> None:
    found = np.zeros((61, 40), bool)  # of which the last row has no other half
    found[8:20, 12:32] = True
    found[30:50, 4] = True  # too narrow to be seen at half the size
    label = np.zeros_like(found)
    label[8:20, 12:30] = True
    tile = tmp_path / "tile.png", tmp_path / "label.png"
    tile[0].write_bytes(encoded(np.repeat(found[..., None] * np.uint8(250), 3, axis=2)))
    tile[1].write_bytes(encoded(label * np.uint8(255)))
    block, line = 12 * 20, 20
    assert gsd.agreement(small_toy, Tile("tile", *tile), 0.5) == (
        Counts(block, 0, line),
        Counts(block // 4, 0, line // 2),
        Counts(12 * 18, 12 * 2 + line, 0),
        Counts(12 * 18, 12 * 2, 0),
    )


def test_tiles_of_one_gsd_are_taken_evenly() -> None:
    tiles = [
        Tile(f"{source}_{i}", NOWHERE, NOWHERE, of)
        for source, of in (("here", 0.3), ("there", 0.3), ("far", 1.2))
        for i in range(5)
    ]
    taken = [tile.name for tile in gsd.take(tiles, 0.3, 2)]
    assert taken == ["here_0", "here_3", "there_0", "there_3"]


def test_where_nothing_depends_on_patches_there_are_no_seams(tmp_path: Path) -> None:
    image = seams.scene(None, 460)
    assert image.pixels.shape == (448, 448, 3)
    exact = exact_bundle(tmp_path / "exact")
    with closing(load_segmenter(exact, device="cpu")) as segmenter:
        rows = list(seams.measure(exact, segmenter, image, (0.0, 0.5)))
    members = {f"{name}, in a single pass": 0.0 for name in ("red", "green", "blue")}
    assert rows == [(overlap, {"ensemble": 0.0, **members}) for overlap in (0.0, 0.5)]


def test_each_pixel_is_taken_from_the_middle_of_a_patch(tmp_path: Path) -> None:
    size, patch = 320, 32
    ramp = write_toy_bundle(
        tmp_path / "ramp", {"ramp": 1.0}, patch_size=patch, graphs={"ramp": ramp_graph(patch)}
    )
    with closing(load_segmenter(ramp, device="cpu")) as segmenter:
        [found] = seams.centred(segmenter, Image(scene(size, size)))
    assert found[0, 0] == 0
    within = found[patch:-patch, patch:-patch]  # (row + 2 col) / 3, as shares of the patch
    assert within.min() == pytest.approx(3 / 8)
    assert within.max() < 5 / 8


def test_a_scene_that_is_too_small_is_mirrored(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    pixels = scene(40, 70)
    path.write_bytes(encoded(pixels))
    wide = seams.scene(path, 224).pixels
    np.testing.assert_array_equal(wide[:40, :70], pixels)
    np.testing.assert_array_equal(wide[40:80, :70], pixels[::-1])
    np.testing.assert_array_equal(wide[:40, 70:140], pixels[:, ::-1])


def test_arrangements_agree_on_masks(bundle: Path, imagery: Imagery) -> None:
    names = [engine.EXACT, "ONNX Runtime fp32, default sessions"]
    found = engine.measure(bundle, imagery, names=names, rounds=2, per_round=3)
    assert found["left_out"] == {}
    assert list(found["arrangements"]) == names
    assert found["operations_per_patch"] == 0  # toys sum no products
    assert found["ceiling"] > 1e9  # of the slowest processor that has AVX
    for one in found["arrangements"].values():
        assert one["agreement"] == 1
        assert one["dice_micro_change"] == 0
        assert len(one["seconds"]) == 2
        assert one["milliseconds"] == pytest.approx(1000 * np.median(one["seconds"]) / 3)
        assert one["peak_bytes"] > 2**24


def test_operations_are_counted_on_one_patch(tmp_path: Path) -> None:
    """A convolution of two groups, with stride, weights stored in fp16; then a product."""
    n = {"f16": TensorProto.FLOAT16, "f32": TensorProto.FLOAT}
    stored = helper.make_tensor("stored", n["f16"], (8, 2, 3, 3), np.zeros(144, np.float16))
    right = helper.make_tensor("right", n["f32"], (5, 7), np.zeros(35, np.float32))
    nodes = [
        helper.make_node("Cast", ["stored"], ["weight"], to=n["f32"]),
        helper.make_node(
            "Conv", ["x", "weight"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["y"], ["positive"]),
        helper.make_node("MatMul", ["positive", "right"], ["out"]),
    ]
    given = helper.make_tensor_value_info("x", n["f32"], ["batch", 4, 6, 10])
    got = helper.make_tensor_value_info("out", n["f32"], ["batch", 8, 3, 7])
    graph = helper.make_graph(nodes, "small", [given], [got], [stored, right])
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph), path)
    convolution = (8 * 3 * 5) * (2 * 3 * 3)  # outputs, each of so many products
    product = (8 * 3 * 7) * 5
    assert ceiling.operations(path) == 2 * (convolution + product)


def test_a_ceiling_needs_its_device() -> None:
    if CUDA in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    refused = pytest.raises(DeviceError, match="CUDAExecutionProvider is not in use")
    with pytest.warns(UserWarning, match="not in available"), refused:
        ceiling.ceiling("cuda")


def test_what_can_not_be_arranged_is_left_out_with_its_reason(
    bundle: Path, imagery: Imagery
) -> None:
    torch_fp32 = next(name for name in engine.ARRANGEMENTS if name.startswith("torch"))
    names = [engine.EXACT, torch_fp32]
    found = engine.measure(bundle, imagery, names=names, rounds=1, per_round=2)
    assert list(found["arrangements"]) == [engine.EXACT]
    assert found["left_out"][torch_fp32]


def test_services_are_asked_over_http(bundle: Path, imagery: Imagery) -> None:
    cells = [service.Cell(224, 2, 0.5)]
    names = ["Rooftrace fp32", "FastAPI, def"]
    taking_part = [one for one in service.contenders(bundle) if one.name in names]
    found = service.measure(bundle, imagery, cells, taking_part)
    # Weighted before blending rather than after: rounding may decide a pixel at the threshold.
    assert found["agreement"] == pytest.approx({"Rooftrace fp32": 1, "FastAPI, def": 1}, abs=1e-3)
    gsd = load_manifest(bundle).gsd.reference
    assert gsd is not None
    assert found["gsd"] == gsd
    for name, (cell,) in found["services"].items():
        assert cell["failures"] == []
        assert cell["requests"] >= 2
        assert cell["p50"] <= cell["p95"] <= cell["p99"]
        assert cell["patches"] == 1
        area = (224 * gsd / 1000) ** 2
        per_minute = 60 * cell["requests_per_second"] * area
        assert cell["square_km_per_minute"] == pytest.approx(per_minute)
        assert 0 < cell["processor_seconds_per_square_km"] * area * cell["requests"] < 60
        assert cell["peak_bytes"] > 2**25
        assert (set(cell["stages"]) >= {"decode", "infer", "encode"}) == name.startswith(
            "Rooftrace"
        )


def test_there_is_a_fast_lane_and_a_peer_of_the_missions_networks(tmp_path: Path) -> None:
    bundle = exact_bundle(tmp_path / "toy", cascade=toy_cascade("blue", 0.2))
    document = json.loads((bundle / "manifest.json").read_text())
    for member, encoder in zip(document["members"], ("resnet50", "densenet161"), strict=False):
        member["encoder"] = encoder
    (bundle / "manifest.json").write_text(json.dumps(document))
    by_name = {one.name: one for one in service.contenders(bundle)}
    assert by_name["Rooftrace blue"].path == "/segment?models=blue"
    assert by_name["FastAPI, red, green"].command[-2:] == ["red", "green"]
    pixels = scene(300, 250)
    peer = ensemble.DefaultSessions(bundle, ["red", "green"])
    expected = pixels[..., :2].astype(int) @ (5, 3) / (8 * 255) >= THRESHOLD
    assert np.mean((decoded(peer.segment(encoded(pixels))) == 255) == expected) > 0.9999


def test_the_cascade_is_compared_with_all_members(tmp_path: Path, imagery: Imagery) -> None:
    """No probability of blue is 0.5, so it is never in doubt: the mask is blue's own."""
    alone = write_toy_bundle(tmp_path / "toy", cascade=toy_cascade("blue", 0.5, 0.5))
    found = cascade.measure(alone, imagery, size=300, empty=(0.0, 1.0))
    assert [stage["member"] for stage in found["cascade"]["stages"]] == ["blue"]
    in_fp32 = [row for row in found["rows"] if row["precision"] == "fp32"]
    assert [row["empty"] for row in in_fp32] == [0, 1]
    for row in in_fp32:
        image = Image(imagery.scene(300, row["empty"]))
        with closing(load_segmenter(alone, device="cpu", precision="fp32")) as segmenter:
            everyone, blue = (
                segmenter.segment_image(image, Options(**options)).mask
                for options in ({"cascade": "off"}, {"models": "blue"})
            )
        assert row["decided"] == [1]
        assert row["agreement"] == np.mean(everyone == blue) < 1
        assert row["iou"] == np.sum(everyone & blue) / np.sum(everyone | blue)
        assert row["building"] == np.mean(everyone)
        assert row["without"] > 0
        assert row["with"] > 0


def test_where_there_is_no_cascade_nothing_is_compared(bundle: Path, imagery: Imagery) -> None:
    found = cascade.measure(bundle, imagery)
    assert (found["cascade"], found["rows"]) == (None, [])


def cell(label: str, rate: float, **values: Any) -> dict[str, Any]:
    """Make up what a service did in one cell."""
    return {
        "label": label, "size": 1024, "clients": 4, "empty": None, "patches": 36, "requests": 10,
        "failed": 0, "requests_per_second": rate, "p50": 1, "p95": 2, "p99": 3,
        "square_km_per_minute": 4, "processor_seconds_per_square_km": 5, "peak_bytes": 2**30,
        "health_p99": 0.01, "client_share": 0.01, "stages": {"decode": 3.0, "infer": 700.0},
        **values,
    }  # fmt: skip


@pytest.mark.parametrize(("load", "has_cascade"), [(0.0, True), (0.5, False)])
def test_the_page_has_every_figure(tmp_path: Path, load: float, has_cascade: bool) -> None:
    workers = {
        "milliseconds": 50.0, "peak_bytes": 2**29, "load_seconds": 1.5, "agreement": 1.0,
        "dice_micro_change": 0.0,
    }  # fmt: skip
    row = {
        "empty": 0.8, "precision": "fp32", "without": 9.0, "with": 4.0, "decided": [0.7, 0.1],
        "agreement": 0.99876, "iou": 0.9876, "building": 0.1,
    }  # fmt: skip
    slow = workers | {"milliseconds": 125.0, "dice_micro_change": -0.0012}
    found = {
        "machine": {"processor": "A Processor", "cores": "2"},
        "load": load,
        "engine": {
            "bundle": "toy-0123456789ab",
            "imagery": "procedural scenes",
            "patches": 6,
            "rounds": 3,
            "operations_per_patch": 2 * 10**9,
            "ceiling": 50e9,
            "arrangements": {"slow": slow, engine.EXACT: workers},
            "left_out": {"torch": "not installed"},
        },
        "precisions": {
            "bf16": {
                "dice_micro_change": -0.0004,
                "agreement": 0.9999,
                "iou": 0.998,
                "measured_on": "val (52 images)",
            },
        },
        "service": {
            "gsd": 0.5,
            "start_seconds": {"Rooftrace fp32": 4.2, "LitServe": 8.0},
            "agreement": {"Rooftrace fp32": 1.0, "LitServe": 0.99999},
            "services": {
                "Rooftrace fp32": [cell("1024², 4 clients", 0.5)],
                "LitServe": [cell("1024², 4 clients", 0.2, stages={})],
            },
        },
        "cascade": {
            "size": 1344,
            "cascade": toy_cascade("unet_lite", 0.2, 0.7, 0.08) if has_cascade else None,
            "rows": [row] if has_cascade else [],
        },
    }
    report.write(found, tmp_path / "benchmarks.md")
    page = (tmp_path / "benchmarks.md").read_text()
    assert "$" not in page
    assert "| slow | 125 | 8.0 | 0.40 | 16 |" in page
    assert "takes 2.0 GFLOP." in page
    assert "one-thread workers reach 80% of that" in page  # 40 of 50 GFLOP/s
    assert "| 1024², 4 clients | 0.500 (2.50 ×) | 0.200 (1.00 ×) |" in page
    assert "Rooftrace fp32, 1024², 4 clients: 90%" in page  # 0.5 x 36 of 20 patches per second
    line = "| 80% | fp32 | 9.00 | 4.00 | 2.25 | 70% + 10% | 99.876% | 0.9876 | 10.0% |"
    assert (line in page) == has_cascade
    rule = "at most 8.0% of its pixels lie from 0.2 to 0.7"
    assert (f"unet_lite decides a patch alone where {rule}" in page) == has_cascade
    assert ("This bundle has no cascade." in page) == (not has_cascade)
    assert "`/segment?cascade=off&min_confidence=0`" in page
    assert "| bf16 | val (52 images) | 99.9900% | 0.9980 | -0.0004 |" in page
    assert "Not measured: torch (not installed)." in page
    assert ("these figures mean nothing" in page) == (load > report.BUSY)
    pictures = {path.name for path in (tmp_path / "benchmarks").iterdir()}
    assert pictures == {"engine.png", "service.png", *(["cascade.png"] if has_cascade else [])}
    assert all(f"benchmarks/{name}" in page for name in pictures)


def test_tiles_are_compared_with_requests_at_every_alignment(tmp_path: Path) -> None:
    """A toy sees each pixel alone, so that no window matters; all but outlines' pixels agree."""
    squares = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((64, 64)))
    picture = tmp_path / "city.png"
    picture.write_bytes(encoded(np.repeat((230 * squares[..., None]).astype(np.uint8), 3, axis=2)))
    file, zoom = tiles.place(picture, 0.5, tmp_path)
    settings = Settings(_env_file=None, tile_sources={"it": str(file)})
    map = open_maps(settings.tile_sources, settings.tile_timeout, Cache(2**20, 60))["it"]
    [first] = tiles.places(map, zoom)
    assert first.gsd == pytest.approx(0.5, rel=0.02)
    with closing(load_segmenter(exact_bundle(tmp_path / "exact"), device="cpu")) as segmenter:
        shares = list(tiles.measure(map, first, segmenter))
    assert [len(of_one) for of_one in shares] == [3] * 4
    assert max(max(of_one.values()) for of_one in shares) < 0.05
    assert "100% of 4" in list(tiles.table({"tiles and alone": [0.0] * 4}))[-1]
