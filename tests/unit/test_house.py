"""The house keeps its walls: who imports whom, who reads what, and how large a room may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.docs.import_map import ROOT, imported, modules

MODULES = {**dict(modules("app")), **dict(modules("training"))}
APP = {name: tree for name, tree in MODULES.items() if name.split(".")[0] == "app"}
EDGES = {"api", "main", "commandline", "settings"}


def importers(library: str, folder: str = "app") -> set[str]:
    """Name the modules of a folder that import `library`, or a module below it."""
    return {
        name
        for name, tree in MODULES.items()
        if f"{name}.".startswith(f"{folder}.")
        and any(f"{other}.".startswith(f"{library}.") for other in imported(tree))
    }


def loaded_with(module: str) -> set[str]:
    """Import a module in a fresh process, and name all that it has then."""
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())


def attributes(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the attributes that are read of `name` or of another object's `name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            if (isinstance(owner, ast.Name) and owner.id == name) or (
                isinstance(owner, ast.Attribute) and owner.attr == name
            ):
                yield node.attr


def reads(name: str, *folders: str) -> set[str]:
    """Tell which modules of these folders read which attributes of `name`."""
    return {
        f"{module}: {attribute}"
        for module, tree in APP.items()
        if module.split(".")[1:2] and module.split(".")[1] in folders
        for attribute in attributes(name, tree)
    }


class TestImports:
    def test_a_fresh_process_serves_without_what_training_needs(self) -> None:
        loaded = loaded_with("app.main, app.commandline.cli")
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
        assert not loaded & {"obstore", "pyarrow", "pyogrio", "pystac", "ray", "pandas"}  # extras

    @pytest.mark.parametrize("module", ["app.settings", "app.outputs.formats"])
    def test_settings_and_outputs_load_no_runtime(self, module: str) -> None:
        loaded = loaded_with(module)
        assert not loaded & {"onnxruntime", "openvino", "app.segmentation.segmenter"}
        # The settings name backends and precisions.
        runtime = {name for name in loaded if name.startswith("app.runtime.")}
        assert runtime <= {"app.runtime.choices"}

    @pytest.mark.parametrize("library", ["training", "torch", "albumentations", "cv2", "tests"])
    def test_nobody_in_app_imports(self, library: str) -> None:
        assert importers(library) == set()

    def test_fastapi_is_known_to_main_and_api_only(self) -> None:
        found = importers("fastapi") | importers("starlette")
        assert {name for name in found if not name.startswith("app.api.")} == {"app.main"}
        assert "app.api.routes" in found

    @pytest.mark.parametrize("library", ["onnxruntime", "onnx", "openvino"])
    def test_a_runtime_is_known_to_the_folder_runtime_only(self, library: str) -> None:
        found = importers(library)
        assert found
        assert found == importers(library, "app.runtime")

    @pytest.mark.parametrize("library", ["PIL", "rasterio"])
    def test_image_libraries_are_known_to_imaging_only(self, library: str) -> None:
        found = importers(library)
        assert found
        assert found == importers(library, "app.imaging")

    @pytest.mark.parametrize(
        ("library", "rooms"),
        [
            ("pyarrow", {"app.outputs.tables", "app.outputs.partitions"}),
            ("pyogrio", {"app.outputs.tables", "app.scale.sources"}),  # GDAL lists buckets
            ("pystac", {"app.scale.sources", "app.scale.catalogue"}),
            (
                "ray",
                {
                    "app.scale.cluster",
                    "app.scale.onray",
                    "app.replicas.application",
                    "app.replicas.engine",
                },
            ),
            ("obstore", {"app.jobs.bucket"}),
        ],
    )
    def test_the_libraries_of_extras_are_known_to_few(self, library: str, rooms: set[str]) -> None:
        assert importers(library) == rooms

    @pytest.mark.parametrize("library", ["morecantile", "httpx2"])
    def test_the_libraries_of_the_extra_tiles_are_known_to_tiles_only(self, library: str) -> None:
        assert importers(library)
        assert importers(library) == importers(library, "app.tiles")
        assert library not in loaded_with("app.main")

    @pytest.mark.parametrize(
        ("part", "must_not_know"),
        [
            ("imaging", {*EDGES, "bundle", "runtime", "segmentation", "outputs"}),
            ("bundle", {*EDGES, "imaging", "runtime", "segmentation", "outputs"}),
            ("runtime", {*EDGES, "imaging", "segmentation", "outputs"}),
            ("segmentation", {*EDGES, "outputs"}),
            ("outputs", {*EDGES, "bundle", "runtime"}),
            ("api", {"main", "commandline", "runtime", "scale", "replicas"}),
            ("scale", {*EDGES, "runtime", "bundle"}),
            ("tiles", {*EDGES, "runtime", "outputs"}),
        ],
    )
    def test_the_middle_does_not_know_the_edges(self, part: str, must_not_know: set[str]) -> None:
        for other in must_not_know:
            assert importers(f"app.{other}", f"app.{part}") == set()

    def test_training_knows_nothing_of_http(self) -> None:
        for outside in ("app.api", "app.main", "app.settings", "fastapi", "starlette"):
            assert importers(outside, "training") == set()

    @pytest.mark.parametrize("file", sorted((ROOT / "app").rglob("*.py")), ids=Path.as_posix)
    def test_app_imports_itself_relatively(self, file: Path) -> None:
        """Installed, it is called `rooftrace`."""
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                assert node.module.split(".")[0] != "app"
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.split(".")[0] == "app"]

    def test_no_modules_import_each_other_in_a_circle(self) -> None:
        graph = {
            name: {
                known
                for other in imported(tree)
                for known in (other, other.rpartition(".")[0])
                if known in MODULES and known not in {name, "app"}  # `app` holds the version
            }
            for name, tree in MODULES.items()
        }
        TopologicalSorter(graph).prepare()


class TestReaders:
    def test_the_environment_is_read_by_settings_only(self) -> None:
        assert importers("pydantic_settings") | importers("dotenv") == {"app.settings"}
        found = {
            name
            for name, tree in APP.items()
            if {"environ", "environb", "getenv", "putenv"} & set(attributes("os", tree))
        }
        assert found == {
            "app.imaging.proj",  # names the variable that leads PROJ to other data
            "app.runtime",  # ONNX Runtime reads its telemetry's switch as it is imported
            "app.scale.cluster",  # and so does Ray
        }

    def test_once_there_is_a_plan_nobody_reads_options(self) -> None:
        assert "app.segmentation.plan: threshold" in reads("options", "segmentation")
        assert {
            read
            for read in reads("options", "segmentation", "outputs", "api", "commandline")
            if not read.startswith("app.segmentation.plan:")
        } == {
            # An image is decoded before it has a plan.
            "app.api.work: decoding",
            "app.api.jobs: decoding",
            "app.api.processes: decoding",
            # A job keeps what its client asked for.
            "app.api.processes: model_dump",
            "app.commandline.inputs: decoding",
            # An interrupted run goes on only with the options that it began with.
            "app.commandline.runs: model_dump",
            "app.commandline.runs: items",
        }

    def test_once_there_is_a_plan_nobody_reads_the_manifest(self) -> None:
        assert {
            read
            for read in reads("manifest", "segmentation", "outputs")
            if not read.startswith("app.segmentation.plan:")
        } == {"app.segmentation.segmenter: patch_size"}  # as a bundle is loaded
        assert importers("app.bundle.manifest", "app.segmentation") == {
            "app.segmentation.plan",
            "app.segmentation.segmenter",
        }
        # These describe the bundle to users; no mask depends on them.
        assert {read.partition(":")[0] for read in reads("manifest", "api", "commandline")} <= {
            "app.api.health",
            "app.api.routes",
            "app.api.service",
            "app.commandline.bulk",  # and what a margin is measured in
            "app.api.tiles",
            "app.commandline.commands",
        }


class TestMessages:
    def test_those_of_the_command_line_ask_nobody_to_send_an_image(self) -> None:
        """They go to both: "give" holds for a request and for a file."""
        rooms = ("imaging", "outputs", "segmentation", "scale", "commandline")
        folders = tuple(f"app.{room}." for room in rooms)
        told = {
            f"{name}: {node.value}"
            for name, tree in APP.items()
            for node in ast.walk(tree)
            if name.startswith(folders)
            and isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"\b[Ss]end\b", node.value)
        }
        assert told == set()


class TestSize:
    @pytest.mark.parametrize("file", sorted((ROOT / "app").rglob("*.py")), ids=Path.as_posix)
    def test_a_module_has_350_lines_and_a_class_200_at_most(self, file: Path) -> None:
        text = file.read_text()
        assert len(text.splitlines()) <= 350
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 200, node.name
