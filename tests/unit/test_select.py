"""Which backend is taken, in which precision, and what is said of it.

What int8 itself does is in `test_int8.py`.
"""

import json
import logging
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.manifest import load_manifest
from app.errors import DeviceError
from app.runtime import gpu as gpu_module
from app.runtime import select as backends
from app.runtime.gpu import CUDA
from app.runtime.onnxruntime import CPU
from app.runtime.predictor import Predictor
from tests import factories
from tests.cpus import pretend
from tests.factories import write_toy_bundle
from tests.serving import encoded, serving

PATCH = 32
COST = {"dice_micro_change": -0.0004, "agreement": 0.9999, "iou": 0.999, "measured_on": "val"}
UNKNOWN = "the manifest does not say what it does to this bundle's masks"


def load(bundle: Path, **options: Any) -> Predictor:
    return backends.load_predictor(bundle, load_manifest(bundle), **options)


def provider(bundle: Path, **options: Any) -> str:
    """Load a bundle, and return what its members run on."""
    return chosen(bundle, **options)[0]


def chosen(bundle: Path, **options: Any) -> tuple[str, str]:
    """Load a bundle, and return what its members run on, and the reason that is given."""
    with closing(load(bundle, **options)) as predictor:
        (name,) = set(predictor.providers.values())
        return name, predictor.choice


def write_bundle(folder: Path, **costs: dict[str, Any]) -> Path:
    """Write a bundle of a member that has ranges for int8, and of one that has none."""
    bundle = write_toy_bundle(
        folder / "toy",
        {"convolved": 0.5, "red": 0.5},
        patch_size=PATCH,
        graphs={"convolved": factories.convolution_graph(PATCH)},
        ranges={"convolved": {"taken": (0, 255)}},
    )
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["precisions"] = costs
    path.write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of which nobody knows what bf16 or int8 do to it."""
    return write_bundle(tmp_path)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A bundle whose masks stay in bf16, by its manifest."""
    return write_bundle(tmp_path, bf16=COST)


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with bf16 and without int8, and no GPU."""
    pretend(monkeypatch, "bf16")
    monkeypatch.setattr(backends, "gpu_expected", lambda: False)


@pytest.fixture
def int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with int8 too."""
    pretend(monkeypatch, "bf16", "int8")


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino", reason="the `openvino` extra is not installed")


@pytest.mark.usefixtures("bf16")
class TestAuto:
    @pytest.mark.parametrize("device", ["auto", "cpu"])
    def test_bf16_is_taken_where_masks_keep(self, known: Path, device: str) -> None:
        name, why = chosen(known, device=device)
        assert name == "OpenVINO CPU bf16"
        assert why == f"bf16: it changes micro Dice by -0.0004 on val; not int8: {UNKNOWN}"

    def test_not_where_nobody_knows(self, bundle: Path) -> None:
        name, why = chosen(bundle, device="cpu")
        assert name == "OpenVINO CPU fp32"
        assert why == f"fp32: not int8: {UNKNOWN}; not bf16: {UNKNOWN}"

    @pytest.mark.parametrize("change", [-0.0031, 0.0031])
    def test_not_where_masks_suffer(self, tmp_path: Path, change: float) -> None:
        bundle = write_bundle(tmp_path, bf16=COST | {"dice_micro_change": change})
        name, why = chosen(bundle, device="cpu")
        assert name == "OpenVINO CPU fp32"
        assert why.endswith(f"not bf16: it changes micro Dice by {change:+.4f} on val")

    def test_not_where_the_operator_wants_fp32(self, known: Path) -> None:
        assert provider(known, precision="fp32") == "OpenVINO CPU fp32"

    def test_not_where_the_operator_wants_onnx_runtime(self, known: Path) -> None:
        assert provider(known, device="cpu", backend="onnxruntime") == CPU

    def test_not_where_a_gpu_is_expected(
        self, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = tmp_path / "nvidia0"
        gpu.touch()
        monkeypatch.setattr(gpu_module, "GPU_FILES", (gpu,))
        monkeypatch.setattr(backends, "gpu_expected", gpu_module.gpu_expected)
        for precision in ("auto", "fp32"):
            with closing(load(known, device="auto", precision=precision)) as predictor:
                (provider,) = set(predictor.providers.values())
                assert (provider, predictor.fallback is None) in {(CPU, False), (CUDA, True)}

    def test_openvino_that_was_asked_for_takes_it_too(self, known: Path) -> None:
        assert provider(known, backend="openvino") == "OpenVINO CPU bf16"

    def test_the_service_says_what_it_runs_on(
        self, known: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with serving(known, backend="auto") as client:
            ready = client.get("/health/ready").json()
            models = client.get("/models").json()
            file = encoded(factories.scene(40, 40))
            response = client.post("/segment", files={"file": file})
        assert ready["execution_providers"] == ["OpenVINO CPU bf16"]
        assert {m["execution_provider"] for m in models["members"]} == {"OpenVINO CPU bf16"}
        assert response.headers["x-execution-provider"] == "OpenVINO CPU bf16"
        assert "on OpenVINO CPU bf16 (bf16: it changes micro Dice by -0.0004 on val;" in caplog.text


@pytest.mark.usefixtures("bf16", "int8")
class TestAutoWithInt8:
    def test_int8_is_taken_where_masks_keep(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST | {"dice_micro_change": 0.003})
        with closing(load(bundle, device="cpu")) as predictor:
            assert predictor.choice == "int8: it changes micro Dice by +0.0030 on val"
            assert dict(predictor.providers) == {
                "convolved": "OpenVINO CPU int8",
                "red": "OpenVINO CPU bf16",
            }

    def test_bf16_where_masks_keep_in_that_alone(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST | {"dice_micro_change": -0.0031})
        name, why = chosen(bundle, device="cpu")
        assert name == "OpenVINO CPU bf16"
        assert why.endswith("; not int8: it changes micro Dice by -0.0031 on val")

    def test_bf16_where_the_cpu_has_no_int8(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend(monkeypatch, "bf16")
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST)
        name, why = chosen(bundle, device="cpu")
        assert name == "OpenVINO CPU bf16"
        assert why.endswith("; not int8: this CPU has none")

    @pytest.mark.parametrize(
        ("lower", "name", "why"),
        [
            (
                (),
                "OpenVINO CPU fp32",
                "fp32: not int8: this CPU has none; not bf16: this CPU has none",
            ),
            (("int8",), "OpenVINO CPU int8", "int8: it changes micro Dice by -0.0004 on val"),
        ],
        ids=["AVX2 alone", "VNNI without bf16"],
    )
    def test_other_cpus(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        lower: tuple[str, ...],
        name: str,
        why: str,
    ) -> None:
        """Without bf16, the members that have no ranges are in fp32, and said to be."""
        pretend(monkeypatch, *lower)
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST)
        with closing(load(bundle, device="cpu")) as predictor:
            assert predictor.choice == why
            assert predictor.providers == {"convolved": name, "red": "OpenVINO CPU fp32"}

    @pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
    def test_what_is_asked_for_is_taken(self, tmp_path: Path, precision: str) -> None:
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST)
        with closing(load(bundle, backend="openvino", precision=precision)) as predictor:
            assert predictor.providers["convolved"] == f"OpenVINO CPU {precision}"
            assert predictor.choice == f"{precision}: as asked"

    def test_the_service_names_both(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path, bf16=COST, int8=COST)
        with serving(bundle, backend="auto") as client:
            ready = client.get("/health/ready").json()
            file = encoded(factories.scene(40, 40))
            response = client.post("/segment", files={"file": file})
        assert ready["execution_providers"] == ["OpenVINO CPU bf16", "OpenVINO CPU int8"]
        assert response.headers["x-execution-provider"] == "OpenVINO CPU bf16, OpenVINO CPU int8"


@pytest.mark.usefixtures("openvino")
def test_openvino_that_was_asked_for_is_used(bundle: Path) -> None:
    assert provider(bundle, backend="openvino") == "OpenVINO CPU fp32"
    asked = chosen(bundle, backend="openvino", precision="fp32")
    assert asked == ("OpenVINO CPU fp32", "fp32: as asked")


@pytest.mark.usefixtures("openvino")
def test_backends_agree(bundle: Path) -> None:
    batch = factories.scene(5 * PATCH, PATCH).reshape(5, PATCH, PATCH, 3)
    with closing(load(bundle, device="cpu")) as one, closing(load(bundle, backend="openvino")) as b:
        answers = one.predict(batch, one.members), b.predict(batch, b.members)
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": "openvino", "device": "cuda"}, "OpenVINO runs on CPUs"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "ONNX Runtime has no"),
        (
            {"backend": "onnxruntime", "precision": "int8"},
            "has no int8 here; set backend to openvino",
        ),
        ({"device": "cuda", "precision": "bf16"}, "ONNX Runtime has no"),
    ],
)
def test_what_does_not_go_together_is_refused(
    bundle: Path, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(DeviceError, match=complaint):
        load(bundle, **options)


class TestNotInstalled:
    @pytest.fixture(autouse=True)
    def _hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "find_spec", lambda name: None)
        monkeypatch.setattr(gpu_module, "GPU_FILES", ())

    @pytest.mark.parametrize(
        "options", [{"backend": "openvino"}, {"precision": "bf16"}, {"precision": "int8"}]
    )
    def test_what_was_asked_for_is_refused(self, known: Path, options: dict[str, str]) -> None:
        with pytest.raises(DeviceError, match="install the `openvino` extra"):
            load(known, **options)

    def test_auto_says_what_is_missing(self, known: Path) -> None:
        name, why = chosen(known, device="cpu")
        assert name == CPU
        assert why == "fp32: OpenVINO is not installed; install the `openvino` extra"


class TestDoesNotLoad:
    """OpenVINO is installed, and a library that it needs is missing."""

    @pytest.fixture(autouse=True)
    def _broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backends, "find_spec", lambda name: name)
        monkeypatch.delattr("app.runtime.capabilities", raising=False)
        monkeypatch.setitem(sys.modules, "app.runtime.capabilities", None)
        monkeypatch.setattr(backends, "gpu_expected", lambda: False)

    def test_auto_says_so(self, known: Path) -> None:
        name, why = chosen(known)
        assert name == CPU
        assert why.startswith("fp32: OpenVINO is installed but does not load (")

    @pytest.mark.parametrize("options", [{"backend": "openvino"}, {"precision": "bf16"}])
    def test_what_was_asked_for_is_refused(self, known: Path, options: dict[str, str]) -> None:
        with pytest.raises(DeviceError, match=r"installed but does not load .* install it again"):
            load(known, **options)
