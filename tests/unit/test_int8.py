"""Members in int8: the same ONNX files, rounded where the manifest has ranges for it."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("openvino", reason="the `openvino` extra is not installed")

from app.bundle.manifest import load_manifest
from app.errors import BundleError, DeviceError
from app.imaging.image import Image
from app.runtime.capabilities import float_precision, native_precisions
from app.runtime.choices import CpuPrecision
from app.runtime.openvino import OpenvinoPredictor
from app.runtime.predictor import Predictor
from app.runtime.quantization import convolution_types
from app.segmentation.options import Options
from app.segmentation.segmenter import load_segmenter
from tests import factories
from tests.cpus import pretend
from tests.factories import write_toy_bundle
from training.ranges import measure_ranges

PATCH = 32
ROOT = Path(__file__).parents[2]
ROUNDING = 2**-7  # what is not int8 is in bf16 where the CPU has it: eight bits of mantissa

Ranges = Mapping[str, tuple[float, float]]


@pytest.fixture(params=[("int8",), ("bf16", "int8")], ids=["without bf16", "with bf16"])
def int8(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with int8, without bf16 and with it."""
    pretend(monkeypatch, *request.param)


def patches(n: int) -> NDArray[np.uint8]:
    return factories.scene(n * PATCH, PATCH).reshape(n, PATCH, PATCH, 3)


def write(folder: Path, ranges: Ranges, shift: float = 0) -> Path:
    """Write a bundle of a member that convolves, and of one that does not."""
    return write_toy_bundle(
        folder,
        {"convolved": 0.5, "blue": 0.5},
        patch_size=PATCH,
        graphs={"convolved": factories.convolution_graph(PATCH, shift)},
        ranges={"convolved": ranges} if ranges else {},
    )


def load(bundle: Path, precision: CpuPrecision = "int8") -> Predictor:
    return OpenvinoPredictor(bundle, load_manifest(bundle), precision=precision, workers=1)


def red(bundle: Path) -> NDArray[np.float32]:
    """Load a bundle in int8, and return what its convolution makes of every value of red."""
    batch = np.zeros((1, PATCH, PATCH, 3), np.uint8)
    batch[0, :8, :, 0] = np.arange(256).reshape(8, 32)
    with closing(load(bundle)) as predictor:
        found: NDArray[np.float32] = predictor.predict(batch, ("convolved",))[0, 0, :8].ravel()
    return found


@pytest.mark.usefixtures("int8")
@pytest.mark.parametrize(
    ("shift", "ends", "expected"),
    [
        pytest.param(0, (0, 255), np.arange(256), id="a level for each value"),
        pytest.param(0, (0, 127.5), np.arange(256).clip(0, 127.5), id="above the range"),
        pytest.param(128, (-128, 127), np.arange(256), id="about 0"),
        pytest.param(128, (-64, 3), np.arange(256).clip(64, 191.5), id="about 0, beyond the range"),
        pytest.param(0, (0, 17 * 255), 17 * (np.arange(256) / 17).round(), id="coarse"),
    ],
)
def test_what_convolutions_take_is_rounded_to_the_range(
    tmp_path: Path,
    shift: float,
    ends: tuple[float, float],
    expected: NDArray[np.float64],
) -> None:
    found = red(write(tmp_path / "toy", {"taken": ends}, shift))
    np.testing.assert_allclose(found, expected / 255, rtol=0, atol=ROUNDING)


def test_convolutions_compute_in_what_is_said(tmp_path: Path) -> None:
    """What this CPU is said to have is what its convolutions do, whichever CPU it is."""
    bundle = write(tmp_path / "toy", {"taken": (0, 255)})
    native = native_precisions()
    types: dict[CpuPrecision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "u8"}
    for precision, type in types.items():
        if precision in native:
            with closing(load(bundle, precision)) as predictor:
                compiled = vars(predictor)["_compiled"]["convolved"]
                assert convolution_types(compiled) == {type}
        else:
            with pytest.raises(DeviceError, match=f"this CPU can't compute in {precision}"):
                load(bundle, precision)


@pytest.mark.usefixtures("int8")
def test_members_without_ranges_stay_as_they_were(tmp_path: Path) -> None:
    bundle = write(tmp_path / "toy", {"taken": (0, 127.5)})
    rest = float_precision()
    batch = patches(3)
    with closing(load(bundle)) as int8, closing(load(bundle, rest)) as other:
        assert int8.providers == {
            "convolved": "OpenVINO CPU int8",
            "blue": f"OpenVINO CPU {rest}",
        }
        blue, convolved = int8.predict(batch, ("blue", "convolved"))
        other_blue, other_convolved = other.predict(batch, ("blue", "convolved"))
    np.testing.assert_array_equal(blue, other_blue)
    assert np.abs(convolved - other_convolved).max() > 0.4


def test_the_rest_is_exact_where_the_cpu_has_no_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "int8")
    batch = patches(2)
    with closing(load(write(tmp_path / "toy", {"taken": (0, 255)}))) as predictor:
        (found,) = predictor.predict(batch, ("convolved",))
    # Exact but for the last bits: a level for each value, and nothing in bf16.
    np.testing.assert_allclose(found, batch[..., 0] / 255, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("int8")
def test_a_network_in_int8_finds_what_it_finds_in_fp32(tmp_path: Path) -> None:
    graph = factories.network_graph(PATCH)
    ranges = measure_ranges("network", graph, patches(8))
    assert set(ranges) == {"pixels", "r1", "sum", "both"}
    bundle = write_toy_bundle(
        tmp_path / "toy",
        {"network": 1.0},
        patch_size=PATCH,
        graphs={"network": graph},
        ranges={"network": ranges},
    )
    image = Image(factories.scene(100, 140, seed=1))
    masks = []
    for precision in ("fp32", "int8"):
        with closing(
            load_segmenter(bundle, device="cpu", backend="openvino", precision=precision)
        ) as segmenter:
            masks.append(segmenter.segment_image(image, Options(overlap=0)).mask)
    assert 0.2 < masks[0].mean() < 0.8
    assert 0.97 < np.mean(masks[0] == masks[1]) < 1


@pytest.mark.usefixtures("int8")
def test_ranges_are_the_mean_of_what_patches_show() -> None:
    batch = np.zeros((2, PATCH, PATCH, 3), np.uint8)
    batch[0, 3, 4], batch[1] = 100, 50
    graph = factories.convolution_graph(PATCH, shift=128)
    assert measure_ranges("toy", graph, batch) == {"taken": (-103, -53)}
    assert measure_ranges("toy", factories.channel_graph("red", PATCH), batch) == {}


@pytest.mark.usefixtures("int8")
def test_ranges_that_are_not_of_this_graph_are_refused(tmp_path: Path) -> None:
    bundle = write(tmp_path / "toy", {"taken": (0, 255), "given": (0, 1)})
    with pytest.raises(BundleError, match=r"1 tensors .* 'convolved', such as given"):
        load(bundle)


@pytest.mark.usefixtures("int8")
def test_int8_without_ranges_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no member of toy-\w+ has the ranges .* --calibration"):
        load(write(tmp_path / "toy", {}))


def test_int8_that_loses_sums_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "bf16")
    with pytest.raises(DeviceError, match="can't compute in int8 without loss"):
        load(write(tmp_path / "toy", {"taken": (0, 255)}))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONEDNN_MAX_CPU_ISA is of x86")
@pytest.mark.parametrize(("largest", "without_loss"), [(63, True), (127, False)])
def test_sums_on_a_cpu_without_vnni(largest: int, without_loss: bool) -> None:
    """OpenVINO is told that this is one. With weights of 8 bits it would lose sums in silence."""
    code = (
        "from app.runtime import capabilities, quantization\n"
        f"quantization._LARGEST_WEIGHT = {largest}\n"
        "print(*sorted(capabilities.native_precisions()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["fp32", *(["int8"] if without_loss else [])]
