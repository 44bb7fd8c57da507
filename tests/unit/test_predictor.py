import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from app.bundle.manifest import load_manifest
from app.errors import BundleError, DeviceError, InferenceError
from app.runtime import gpu as module
from app.runtime.choices import Device
from app.runtime.cores import control_groups, cpu_quota, usable_cores
from app.runtime.gpu import CUDA, TENSORRT, Gpu, GpuPredictor, to_fp16
from app.runtime.onnxruntime import CPU
from app.runtime.predictor import Predictor
from app.runtime.select import load_predictor
from tests import factories
from tests.cpus import pretend
from tests.factories import write_toy_bundle

PATCH = 32
ROOT = Path(__file__).parents[2]


Load = Callable[..., Predictor]


def load_onnx(bundle: Path, *, device: Device = "cpu", workers: int | None = None) -> Predictor:
    return load_predictor(
        bundle, load_manifest(bundle), device=device, backend="onnxruntime", workers=workers
    )


def load_openvino(
    bundle: Path, *, precision: str = "fp32", workers: int | None = None
) -> Predictor:
    module = pytest.importorskip(
        "app.runtime.openvino", reason="the `openvino` extra is not installed"
    )
    predictor: Predictor = module.OpenvinoPredictor(
        bundle, load_manifest(bundle), precision=precision, workers=workers
    )
    return predictor


LOADERS: dict[str, Load] = {"onnxruntime": load_onnx, "openvino": load_openvino}

# OpenVINO multiplies by 1 / 255 where the graph divides.
ROUNDING = {"onnxruntime": 0.0, "openvino": 6e-8}


def bundle_of(folder: Path, graph: bytes) -> Path:
    return write_toy_bundle(folder, {"toy": 1.0}, patch_size=PATCH, graphs={"toy": graph})


def patches(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return factories.scene(n * PATCH, PATCH, seed).reshape(n, PATCH, PATCH, 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("predictor") / "toy", patch_size=PATCH)


@pytest.fixture(scope="module", params=LOADERS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; the tests that ask for it run with each."""
    name: str = request.param
    if name == "openvino":
        pytest.importorskip("openvino", reason="the `openvino` extra is not installed")
    return name


@pytest.fixture(scope="module")
def load(backend: str) -> Load:
    return LOADERS[backend]


@pytest.fixture(scope="module")
def toy(bundle: Path, load: Load) -> Iterator[Predictor]:
    with closing(load(bundle, workers=2)) as predictor:
        yield predictor


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_each_member_answers_each_patch(toy: Predictor, backend: str, n: int) -> None:
    batch = patches(n)
    found = toy.predict(batch, ("blue", "red"))
    expected = np.stack([batch[..., 2], batch[..., 0]]).astype(np.float32) / np.float32(255)
    assert found.dtype == np.float32
    assert found.shape == (2, n, PATCH, PATCH)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING[backend])


def test_callers_share_the_workers_and_not_their_answers(
    bundle: Path, load: Load, backend: str
) -> None:
    batches = [patches(5, seed) for seed in range(24)]
    before = set(threading.enumerate())
    with closing(load(bundle, workers=2)) as toy:
        with ThreadPoolExecutor(8) as callers:
            found = list(callers.map(lambda batch: toy.predict(batch, ("red",)), batches))
        assert len(set(threading.enumerate()) - before) == 2
    for batch, answer in zip(batches, found, strict=True):
        expected = batch[..., 0].astype(np.float32) / 255
        np.testing.assert_allclose(answer[0], expected, rtol=0, atol=ROUNDING[backend])


def test_a_predictor_says_what_it_is(toy: Predictor, backend: str) -> None:
    assert toy.members == ("red", "green", "blue")
    provider = {"onnxruntime": CPU, "openvino": "OpenVINO CPU fp32"}[backend]
    assert toy.providers == dict.fromkeys(toy.members, provider)
    assert toy.fallback is None
    assert toy.batch_size == 4


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
)
def test_a_containers_quota_is_seen(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


def test_a_systemd_units_quota_is_seen(tmp_path: Path) -> None:
    """The unit is a control group below the root, and its slice may have a quota too."""
    root, listing = tmp_path / "cgroup", tmp_path / "listing"
    unit = root / "system.slice" / "rooftrace.service"
    unit.mkdir(parents=True)
    (unit / "cpu.max").write_text("300000 100000\n")
    (unit.parent / "cpu.max").write_text("max 100000\n")
    listing.write_text("1:name=systemd:/elsewhere\n0::/system.slice/rooftrace.service\n")
    groups = control_groups(listing, root)
    assert groups == [root, unit.parent, unit]
    assert min(map(cpu_quota, groups)) == 3
    assert control_groups(tmp_path / "missing", root) == [root]


def test_workers_default_to_the_usable_cores(bundle: Path, load: Load) -> None:
    with closing(load(bundle)) as predictor:
        assert predictor.batch_size == 2 * usable_cores()


def test_no_workers_is_an_error_and_not_the_default(bundle: Path, load: Load) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        load(bundle, workers=0)


def test_a_closed_predictor_leaves_no_thread(bundle: Path, load: Load) -> None:
    before = set(threading.enumerate())
    predictor = load(bundle, workers=3)
    predictor.predict(patches(6), ("red",))
    assert set(threading.enumerate()) - before
    predictor.close()
    assert not set(threading.enumerate()) - before
    with pytest.raises(RuntimeError, match="after shutdown"):
        predictor.predict(patches(1), ("red",))


COUNT_THREADS = """
import sys
from pathlib import Path
import sys
import numpy as np, onnxruntime as ort
from app.bundle.manifest import load_manifest
from app.runtime.onnxruntime import CPU, OnnxPredictor

count = lambda: len(list(Path("/proc/self/task").iterdir()))
bundle = Path(sys.argv[1])
before = count()
predictor = OnnxPredictor(bundle, load_manifest(bundle), workers=1)
predictor.predict(np.zeros((2, 32, 32, 3), np.uint8), predictor.members)
ours = count()
default = ort.InferenceSession(bundle / "red.onnx", providers=[CPU])
print(ours - before, count() - ours)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_sessions_bring_no_threads_of_their_own(bundle: Path) -> None:
    # In a process of its own, where no other test's threads come and go.
    script = [sys.executable, "-c", COUNT_THREADS, str(bundle)]
    output = subprocess.run(script, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    ours, of_a_default_session = map(int, output.split())
    assert ours == 1
    if usable_cores() > 1:
        assert of_a_default_session > 0


def test_what_was_verified_is_what_runs(tmp_path: Path, load: Load) -> None:
    bundle = bundle_of(tmp_path, factories.channel_graph("red", PATCH))
    with closing(load(bundle)) as predictor:
        (bundle / "toy.onnx").write_bytes(b"swapped after the start")
        assert predictor.predict(patches(1), ("toy",)).shape == (1, 1, PATCH, PATCH)


def test_a_file_that_was_tampered_with_does_not_load(tmp_path: Path, load: Load) -> None:
    bundle = bundle_of(tmp_path, factories.channel_graph("red", PATCH))
    load(bundle).close()
    whole = (bundle / "toy.onnx").read_bytes()
    same_size = whole.replace(b"probability", b"possibility")  # which loads, and answers the same
    for tampered, found in (
        (factories.channel_graph("blue", PATCH), "bytes"),
        (same_size, "SHA-256"),
    ):
        (bundle / "toy.onnx").write_bytes(tampered)
        with pytest.raises(BundleError, match=rf"toy\.onnx has .*{found}"):
            load(bundle)


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (factories.float_input_graph, r"takes tensor\(float\) \(N, 32, 32, 3\), expected .*uint8"),
        (factories.channels_first_graph, r"takes tensor\(uint8\) \(N, 3, 32, 32\), expected"),
        (factories.channel_axis_graph, r"gives tensor\(float\) \(N, 32, 32, 1\), expected"),
        (factories.fixed_batch_graph, r"takes tensor\(uint8\) \(1, 32, 32, 3\), expected"),
        (lambda patch: factories.channel_graph("red", 2 * patch), r"takes .* \(N, 64, 64, 3\)"),
        (lambda patch: b"no graph at all", "can't load member 'toy'"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(
    tmp_path: Path, load: Load, graph: Callable[[int], bytes], complaint: str
) -> None:
    bundle = bundle_of(tmp_path, graph(PATCH))
    with pytest.raises(BundleError, match=complaint) as caught:
        load(bundle)
    assert "\n" not in str(caught.value)


def test_weights_outside_the_file_are_refused(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = factories.external_graph(PATCH, tmp_path)
    bundle = bundle_of(tmp_path, graph)
    monkeypatch.chdir(tmp_path)  # the runtimes look here, and here they are
    assert ort.InferenceSession(graph, providers=[CPU]).get_inputs()
    with pytest.raises(BundleError, match=r"can't load member 'toy'.*[Ee]xternal"):
        load(bundle)


@pytest.mark.parametrize(
    ("graph", "complaint"),
    [
        (factories.nan_graph, "values from nan"),
        (factories.bright_graph, "values from 0.0 to 255.0, not probabilities"),
    ],
)
def test_what_is_no_probability_never_leaves(
    tmp_path: Path, load: Load, graph: Callable[[int], bytes], complaint: str
) -> None:
    batch = np.zeros((3, PATCH, PATCH, 3), np.uint8)
    batch[1, 5, 5] = 255
    with (
        closing(load(bundle_of(tmp_path, graph(PATCH)))) as predictor,
        pytest.raises(InferenceError, match=complaint),
    ):
        predictor.predict(batch, ("toy",))


def test_a_shape_other_than_declared_never_leaves(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, factories.lying_graph(PATCH))
    complaint = r"shape \(1, 1, 32\) for patches of shape \(1, 32, 32, 3\)"
    with (
        closing(load_onnx(bundle)) as predictor,
        pytest.raises(InferenceError, match=complaint),
    ):
        predictor.predict(patches(2), ("toy",))


def test_openvino_sees_through_a_declared_shape(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, factories.lying_graph(PATCH))
    with pytest.raises(BundleError, match=r"gives tensor\(float\) \(N, 1, 32\), expected"):
        load_openvino(bundle)


def test_a_run_that_fails_names_its_member(toy: Predictor) -> None:
    said = "[Ii]nvalid dimensions|incompatible"
    with pytest.raises(InferenceError, match=rf"member 'green' failed: .*({said})") as caught:
        toy.predict(np.zeros((1, PATCH, PATCH + 1, 3), np.uint8), ("green",))
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_leaves_the_workers_working(toy: Predictor) -> None:
    with pytest.raises(InferenceError):
        toy.predict(np.zeros((9, PATCH, PATCH + 1, 3), np.uint8), ("green",))
    assert toy.predict(patches(3), ("green",)).shape == (1, 3, PATCH, PATCH)


class TestPrecision:
    """OpenVINO computes in what it was told to, or not at all."""

    def test_bf16_is_bf16(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend(monkeypatch, "bf16")
        with closing(load_openvino(bundle, precision="bf16")) as predictor:
            assert set(predictor.providers.values()) == {"OpenVINO CPU bf16"}
            batch = patches(3)
            (found,) = predictor.predict(batch, ("red",))
        # Eight bits of mantissa, rounded once or twice.
        np.testing.assert_allclose(found, batch[..., 0] / 255, atol=2**-8)

    @pytest.mark.parametrize(
        ("native", "precision", "remedy"),
        [
            (["int8"], "bf16", r"in bf16; set ROOFTRACE_PRECISION to fp32, int8 or auto"),
            ([], "bf16", r"in bf16; set ROOFTRACE_PRECISION to fp32 or auto"),
            (["bf16"], "int8", r"in int8 without loss; set ROOFTRACE_PRECISION to bf16, fp32 or"),
        ],
    )
    def test_a_precision_that_the_cpu_lacks_is_refused_before_anything_is_read(
        self,
        bundle: Path,
        monkeypatch: pytest.MonkeyPatch,
        native: list[str],
        precision: str,
        remedy: str,
    ) -> None:
        """OpenVINO would emulate it, or compute in another, and not say so."""
        pretend(monkeypatch, *native)
        module = pytest.importorskip("app.runtime.openvino")
        monkeypatch.setattr(module, "read_model", None)
        with pytest.raises(DeviceError, match=rf"this CPU can't compute {remedy}"):
            load_openvino(bundle, precision=precision)

    def test_equal_patches_get_equal_bits(self, bundle: Path) -> None:
        with closing(load_openvino(bundle, workers=2)) as predictor:
            (found,) = predictor.predict(patches(9), ("red",))
            again = [predictor.predict(patches(9), ("red",))[0] for _ in range(8)]
        assert all(np.array_equal(found, other) for other in again)


class TestFp16:
    @pytest.fixture(autouse=True)
    def with_onnx(self) -> None:
        pytest.importorskip("onnx", reason="neither the `train` nor the `gpu` extra is installed")

    def test_it_is_fp32_to_the_precision_of_fp16(self, tmp_path: Path) -> None:
        graph = factories.channel_graph("red", PATCH)
        batch = patches(3)
        with (
            closing(load_onnx(bundle_of(tmp_path / "fp32", graph))) as exact,
            closing(load_onnx(bundle_of(tmp_path / "fp16", to_fp16(graph)))) as half,
        ):
            expected = exact.predict(batch, exact.members)
            found = half.predict(batch, exact.members)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2**-10)

    def test_nothing_is_left_in_fp32(self) -> None:
        """A CPU's runtime takes out what it need not round, so the graph is looked at."""
        onnx = pytest.importorskip("onnx")
        half = onnx.load_from_string(to_fp16(factories.channel_graph("red", PATCH)))
        inferred = onnx.shape_inference.infer_shapes(half, check_type=True, strict_mode=True).graph
        onnx.checker.check_model(half)
        inner = {value.type.tensor_type.elem_type for value in inferred.value_info}
        assert onnx.TensorProto.FLOAT16 in inner
        assert onnx.TensorProto.FLOAT not in inner
        assert inferred.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    def test_it_is_for_gpus(self, bundle: Path) -> None:
        manifest = load_manifest(bundle)
        for wrong in ({"device": "cpu"}, {"backend": "openvino"}):
            with pytest.raises(DeviceError, match="fp16 is for GPUs"):
                load_predictor(bundle, manifest, precision="fp16", **wrong)  # type: ignore[arg-type]
        if CUDA not in ort.get_available_providers():
            with pytest.raises(DeviceError, match="no CUDA"):
                load_predictor(bundle, manifest, precision="fp16")


class SmallGpu(ort.InferenceSession):  # type: ignore[misc]
    """A session of the CPU that says it is a GPU's, and shares 2 MB with all others of its kind.

    What it raises when they do not suffice is ONNX Runtime's own.
    """

    runs: ClassVar[list[int]] = []
    """How many patches each run was for, 0 for one that failed."""

    def __init__(self, model: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.use_env_allocators", "1")
        super().__init__(model, options, [CPU])

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run_with_iobinding(self, binding: ort.IOBinding, options: object = None) -> None:
        self.runs.append(0)
        super().run_with_iobinding(binding, options)
        self.runs[-1] = binding.get_outputs()[0].shape()[0]


@pytest.fixture(scope="module")
def small_arena() -> None:
    """Give the process an allocator of little memory; only `SmallGpu` asks for it."""
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    limits = {"max_mem": 2_000_000, "arena_extend_strategy": 1}
    rest = {"initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({**limits, **rest}))


@pytest.fixture
def small_gpu(small_arena: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have a GPU of little memory; return what becomes the log of its runs."""
    monkeypatch.setattr(
        module,
        "_open_on_gpu",
        lambda models, *_: {member: SmallGpu(model) for member, model in models.items()},
    )
    monkeypatch.setattr(module, "_GPU_MEMORY", "cpu")
    SmallGpu.runs.clear()
    return SmallGpu.runs


class TestDevice:
    """These run everywhere: with a CPU build, with a GPU build and no GPU, and with a GPU."""

    def test_cuda_is_cuda_or_a_refusal(self, bundle: Path) -> None:
        with closing(load_onnx(bundle, device="auto")) as predictor:
            loads = CUDA in predictor.providers.values()
        if loads:
            with closing(load_onnx(bundle, device="cuda")) as predictor:
                assert set(predictor.providers.values()) == {CUDA}
            return
        offered = CUDA in ort.get_available_providers()
        found = "ONNX Runtime chose CPUExecutionProvider" if offered else "has no CUDA"
        with pytest.raises(DeviceError, match=f"{found}.*`gpu`") as caught:
            load_onnx(bundle, device="cuda")
        assert "\n" not in str(caught.value)

    def test_auto_says_when_a_gpu_is_left_unused(
        self,
        bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        gpu = tmp_path / "nvidia0"
        gpu.touch()
        monkeypatch.setattr(module, "GPU_FILES", (gpu,))
        with closing(load_onnx(bundle, device="auto")) as predictor:
            if set(predictor.providers.values()) == {CUDA}:
                assert predictor.fallback is None
            else:
                assert predictor.fallback is not None
                assert predictor.fallback.startswith("Running on the CPU: ")
                assert predictor.fallback in caplog.messages
                assert caplog.records[-1].levelno == logging.WARNING

    @pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this build offers CUDA")
    def test_auto_without_a_gpu_falls_back_from_nothing(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "GPU_FILES", ())
        with closing(load_onnx(bundle, device="auto")) as predictor:
            assert predictor.providers["red"] == CPU
            assert predictor.fallback is None
        assert not caplog.records

    def test_the_cpu_was_asked_for(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = tmp_path / "nvidia0"
        gpu.touch()
        monkeypatch.setattr(module, "GPU_FILES", (gpu,))
        with closing(load_onnx(bundle, device="cpu")) as predictor:
            assert set(predictor.providers.values()) == {CPU}
            assert predictor.fallback is None

    def test_without_memory_for_a_batch_batches_get_smaller(
        self,
        tmp_path: Path,
        small_gpu: list[int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        patch, fits = 192, 2  # of 11, then 5, then 2
        bundle = write_toy_bundle(tmp_path / "toy", patch_size=patch)
        given = factories.scene(11 * patch, patch).reshape(11, patch, patch, 3)
        with closing(load_onnx(bundle, device="auto")) as predictor:
            found = predictor.predict(given, predictor.members)
            assert predictor.out_of_memory == small_gpu.count(0) > 0, "the fault did not fire"
            assert predictor.batch_size == fits
            assert predictor.ahead, "a GPU would wait for who uses its answers"
            assert (predictor.fallback, set(predictor.providers.values())) == (None, {CUDA})
            assert f"from now on, it gets {fits} at a time" in caplog.text
            small_gpu.clear()
            again = predictor.predict(given, predictor.members)
            assert set(small_gpu) <= set(range(1, fits + 1)), "more was tried, or failed again"
        np.testing.assert_array_equal(again, found)
        with closing(load_onnx(bundle)) as on_the_cpu:
            assert not on_the_cpu.ahead
            np.testing.assert_array_equal(on_the_cpu.predict(given, predictor.members), found)

    def test_without_memory_for_one_patch_a_member_moves_to_the_cpu_and_says_so(
        self, tmp_path: Path, small_gpu: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        bundle = write_toy_bundle(tmp_path / "toy", patch_size=512)
        given = factories.scene(3 * 512, 512).reshape(3, 512, 512, 3)
        with closing(load_onnx(bundle, device="auto")) as predictor:
            first, *others = predictor.members
            found = predictor.predict(given, [first])
            assert small_gpu == [0, 0], "3 patches, then 1, and no third try"
            assert predictor.providers == {first: CPU, **dict.fromkeys(others, CUDA)}
            assert predictor.fallback is not None
            assert f"Member '{first}' has moved to the CPU" in predictor.fallback
            assert predictor.fallback in caplog.messages
        with closing(load_onnx(bundle)) as on_the_cpu:
            np.testing.assert_array_equal(on_the_cpu.predict(given, [first]), found)

    def test_where_the_gpu_was_asked_for_nothing_moves(
        self, tmp_path: Path, small_gpu: list[int]
    ) -> None:
        bundle = write_toy_bundle(tmp_path / "toy", patch_size=512)
        given = factories.scene(512, 512).reshape(1, 512, 512, 3)
        with closing(load_onnx(bundle, device="cuda")) as predictor:
            with pytest.raises(InferenceError, match="Available memory of"):
                predictor.predict(given, predictor.members)
            assert set(predictor.providers.values()) == {CUDA}
            assert small_gpu == [0]

    def test_a_failure_of_another_kind_is_not_tried_again(
        self, tmp_path: Path, small_gpu: list[int]
    ) -> None:
        bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
        with closing(load_onnx(bundle, device="auto")) as predictor:
            with pytest.raises(InferenceError):
                predictor.predict(np.zeros((1, 33, 33, 3), np.uint8), predictor.members)
            assert (small_gpu, predictor.out_of_memory) == ([0], 0)

    def test_batches_of_any_size_go_through_buffers_of_few(
        self, tmp_path: Path, small_gpu: list[int]
    ) -> None:
        bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
        given = factories.scene(13 * 32, 32).reshape(13, 32, 32, 3)
        with (
            closing(load_onnx(bundle)) as on_the_cpu,
            closing(
                GpuPredictor(bundle, load_manifest(bundle), options=Gpu(batch=12))
            ) as predictor,
        ):
            for number in (13, 1, 2, 3, 7, 12):
                found = predictor.predict(given[:number], predictor.members)
                expected = on_the_cpu.predict(given[:number], predictor.members)
                np.testing.assert_array_equal(found, expected)
        members = len(predictor.members)
        assert small_gpu == [size for size in (12, 1, 1, 2, 4, 8, 12) for _ in range(members)]

    def test_what_a_gpu_is_asked_for(self, tmp_path: Path) -> None:
        [(cuda, options)] = Gpu().providers("fp32")
        assert (cuda, options["enable_cuda_graph"]) == (CUDA, "0")
        [(_, options)] = Gpu(graphs=True).providers("fp32")
        assert options["enable_cuda_graph"] == "1"
        engines, beside = Gpu(tensorrt=tmp_path).providers("fp16")
        assert engines[0] == TENSORRT
        assert engines[1]["trt_engine_cache_path"] == str(tmp_path)
        assert engines[1]["trt_fp16_enable"] == "1"
        assert beside[0] == CUDA

    def test_a_broken_graph_is_blamed_on_the_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="can't load member 'toy'"):
            load_onnx(bundle_of(tmp_path, b"no graph at all"), device="auto")


def test_onnx_runtime_is_told_not_to_report_before_it_is_loaded() -> None:
    """It reads the variable when it is imported, and never again."""
    code = (
        "import os, sys, importlib.abc\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import app.runtime.gpu\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    """Its telemetry writes an identity of the user into the home folder, then sends events."""
    pytest.importorskip("openvino", reason="the `openvino` extra is not installed")
    code = (
        "import sys, app.runtime.openvino\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert not list(tmp_path.iterdir())


def test_openvinos_first_calls_may_come_at_once() -> None:
    """Unless its table of types is filled before, all that ask for one first wait for ever."""
    pytest.importorskip("openvino", reason="the `openvino` extra is not installed")
    code = (
        "import sys, threading, app.runtime.openvino as module\n"
        "sys.setswitchinterval(1e-6)\n"
        "barrier = threading.Barrier(8)\n"
        "def ask():\n"
        "    barrier.wait()\n"
        "    module.ov.Type.u8.to_dtype()\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=30,
        check=True,
    )
