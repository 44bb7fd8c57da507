"""The distribution as a user gets it: built, installed, and run from another folder."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGE = "rooftrace"
LEFT_OUT = (".*", "__pycache__", "build", "dist", "*.egg-info", "runs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Settings.model_fields["bundle"].default.is_dir(), reason="no bundle is shipped"
    ),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree, for builds to leave their traces in."""
    folder = tmp_path_factory.mktemp("install") / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return folder


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    return build(checkout, "sdist", checkout.parent / "sdist")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build(checkout, "wheel", checkout.parent / "wheel")


def build(source: Path, kind: str, folder: Path) -> Path:
    folder.mkdir()
    code = f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=source)
    [built] = folder.iterdir()
    return built


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Environment:
    """A virtual environment with our dependencies, and without Rooftrace."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        self.bin = folder / "venv" / "bin"
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        # Of a path in a .pth file Python reads no further .pth, so no editable install comes along.
        [packages] = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *arguments: str | Path, cwd: Path) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet")
        run(*pip, "--no-index", "--no-deps", "--no-build-isolation", *arguments, cwd=cwd)

    def python(self, code: str) -> str:
        return run(self.bin / "python", "-c", code, cwd=self.elsewhere).strip()

    def check(self) -> None:
        """Check that the command finds its models from a folder of its own."""
        assert "verified" in run(self.bin / "rooftrace", "models", cwd=self.elsewhere)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("ROOFTRACE_BACKEND", "onnxruntime")  # OpenVINO compiles for seconds
    monkeypatch.setenv("ROOFTRACE_DEVICE", "cpu")
    return Environment(tmp_path)


def test_the_wheel_has_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    here = {
        f"{PACKAGE}/{file.relative_to(ROOT / 'app')}"
        for file in (ROOT / "app").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    bundle = Settings.model_fields["bundle"].default
    models = {f"{PACKAGE}/models/{bundle.name}/{file.name}" for file in bundle.iterdir()}
    assert names == here | models


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    with ZipFile(wheel) as first, ZipFile(again) as second:
        files = {entry.filename: entry.CRC for entry in first.infolist()}
        assert files == {entry.filename: entry.CRC for entry in second.infolist()}


def test_an_installed_wheel_works_from_another_folder(
    wheel: Path, environment: Environment
) -> None:
    environment.install(wheel, cwd=environment.elsewhere)
    environment.check()
    for name in ("app", "training"):  # too common for others' names to be taken
        code = f"import importlib.util as u; print(u.find_spec({name!r}))"
        assert environment.python(code) == "None"
    assert run(environment.bin / "python", "-m", PACKAGE, "--version", cwd=environment.elsewhere)
    picture, mask = ROOT / "docs" / "sample_label.png", environment.elsewhere / "mask.png"
    run(environment.bin / "rooftrace", "segment", picture, "-o", mask, cwd=environment.elsewhere)
    assert mask.read_bytes().startswith(b"\x89PNG")
    assert environment.python(f"import {PACKAGE}; print({PACKAGE}.__file__)").startswith(
        str(environment.bin.parent)
    )


def test_the_extra_geo_leaves_an_editable_install_at_work(
    checkout: Path, environment: Environment
) -> None:
    environment.install("--editable", ".", cwd=checkout)
    environment.check()
    environment.install(".[geo]", cwd=checkout)
    environment.check()
    environment.install("--editable", ".[geo]", cwd=checkout)
    environment.check()
    assert environment.python(f"import {PACKAGE}; print({PACKAGE}.__file__)").startswith(
        str(checkout)
    )
