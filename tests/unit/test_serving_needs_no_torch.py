"""Who imports whom: what serving must do without, and which module alone may know a library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGES = {"api", "main", "commandline", "settings"}
APP = ROOT / "app"


def imported(source: Path) -> Iterator[str]:
    """Name the modules that a file imports, at whatever depth of it."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} imports relatively"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(library: str, folder: Path = APP) -> set[str]:
    """List the files below `folder` that import `library`, relative to `app`."""
    return {
        source.relative_to(APP).as_posix()
        for source in folder.rglob("*.py")
        if any(f"{name}.".startswith(f"{library}.") for name in imported(source))
    }


def test_a_fresh_process_serves_without_what_training_needs() -> None:
    code = "import sys, app.main, app.commandline.cli; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()}
    assert {"fastapi", "onnxruntime", "rasterio"} <= loaded
    training = {
        "albumentations",
        "cv2",
        "lightning",
        "onnx",
        "openvino",  # where it is not used, nobody waits for it
        "pytorch_lightning",
        "segmentation_models_pytorch",
        "tensorboard",
        "timm",
        "torch",
        "torchvision",
        "training",
    }
    assert not loaded & training
    assert not loaded & {"pyarrow", "pyogrio"}  # the extra `geo`


def test_reading_settings_imports_no_runtime() -> None:
    code = "import sys, app.settings; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines())
    assert "app.runtime.predictor" in loaded
    assert not loaded & {"numpy", "onnxruntime", "openvino", "PIL", "rasterio"}


@pytest.mark.parametrize("library", ["training", "torch", "albumentations", "cv2", "tests"])
def test_nobody_in_app_imports(library: str) -> None:
    assert importers(library) == set()


def test_fastapi_is_known_to_main_and_api_only() -> None:
    found = importers("fastapi") | importers("starlette")
    assert {name for name in found if not name.startswith("api/")} == {"main.py"}
    assert "api/routes.py" in found


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("onnxruntime", {"runtime/gpu.py", "runtime/onnxruntime.py"}),
        (
            "openvino",
            {
                "runtime/capabilities.py",
                "runtime/openvino.py",
                "runtime/quantization.py",
                "runtime/winograd.py",
            },
        ),
    ],
)
def test_a_runtime_is_known_to_its_predictor_only(library: str, modules: set[str]) -> None:
    assert importers(library) == modules


@pytest.mark.parametrize("library", ["PIL", "rasterio"])
def test_image_libraries_are_known_to_imaging_only(library: str) -> None:
    found = importers(library)
    assert found
    assert all(name.startswith("imaging/") for name in found)


@pytest.mark.parametrize("library", ["pyarrow", "pyogrio"])
def test_the_libraries_of_the_extra_geo_are_known_to_tables_only(library: str) -> None:
    assert importers(library) == {"outputs/tables.py"}


def test_the_environment_is_read_by_settings_only() -> None:
    readers = {
        source.relative_to(APP).as_posix()
        for source in APP.rglob("*.py")
        if {"pydantic_settings", "dotenv"} & {name.partition(".")[0] for name in imported(source)}
    }
    assert readers == {"settings.py"}


@pytest.mark.parametrize(
    ("part", "must_not_know"),
    [
        (
            "imaging",
            {*EDGES, "segmentation", "runtime", "outputs"},
        ),
        (
            "bundle",
            {*EDGES, "segmentation", "runtime", "outputs"},
        ),
        ("runtime", {*EDGES, "segmentation", "outputs"}),
        ("segmentation", {*EDGES, "outputs"}),
        ("outputs", {*EDGES}),
        ("api", {"main", "commandline"}),
    ],
)
def test_the_middle_does_not_know_the_edges(part: str, must_not_know: set[str]) -> None:
    for other in must_not_know:
        assert importers(f"app.{other}", APP / part) == set()


def test_training_knows_nothing_of_http() -> None:
    for source in (ROOT / "training").rglob("*.py"):
        names = set(imported(source))
        assert not [n for n in names if n.startswith(("app.api", "app.main", "app.settings"))]
        assert not [n for n in names if n.startswith(("fastapi", "starlette"))]
