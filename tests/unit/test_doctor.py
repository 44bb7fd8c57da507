"""`rooftrace doctor` finds real faults, says what to do, and ends with the right status."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app import __version__
from app.api.listening import bound
from app.commandline.cli import main
from app.doctor import installation, machine
from app.doctor.models import built_in_image
from app.errors import StartupError
from tests.e2e.conftest import ROOT, free_port, running_server
from tests.postgresql import running_postgresql
from tests.serving import settings_of
from tests.tilehost import city_cog, hosting

Rows = dict[str, dict[str, str]]


@pytest.fixture(autouse=True)
def _others_hear_the_log() -> Iterator[None]:
    """Undo what the command does to the whole process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def port(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, which the settings name."""
    port = free_port()
    monkeypatch.setenv("ROOFTRACE_PORT", str(port))
    monkeypatch.setenv("ROOFTRACE_BACKEND", "onnxruntime")
    for name, number in {
        "MEMORY_BUDGET": 2**20,
        "MAX_PIXELS": 1000,
        "MAX_UPLOAD_BYTES": 1000,
    }.items():
        monkeypatch.setenv(f"ROOFTRACE_{name}", str(number))  # less than any machine has
    return port


def rows(text: str) -> Rows:
    """Return the findings of `--json` by name, each with all its parts."""
    answer = json.loads(text)
    found: list[dict[str, str]] = answer["findings"]
    assert all(set(row) == {"name", "state", "found", "advice"} for row in found)
    assert answer["ok"] == all(row["state"] != "problem" for row in found)
    assert all(row["advice"] for row in found if row["state"] != "ok"), "says what to do"
    return {row["name"]: row for row in found}


def doctor(capsys: pytest.CaptureFixture[str], status: int) -> Rows:
    """Run it here, and return its findings."""
    assert main(["doctor", "--json"]) == status
    return rows(capsys.readouterr().out)


def elsewhere(status: int, *, wrapper: tuple[str, ...] = (), **environment: str) -> Rows:
    """Run it as a process of its own, in another environment, and return its findings."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("PROJ_")}
    paths = [environment.pop("path", ""), str(ROOT)]
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "app", "doctor", "--json"],
        env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    return rows(done.stdout)


class TestSound:
    def test_a_sound_installation(self, port: int, capsys: pytest.CaptureFixture[str]) -> None:
        found = doctor(capsys, 0)
        assert __version__ in found["packages"]["found"]
        assert "toy-" in found["models"]["found"]
        assert "CPUExecutionProvider" in found["runtime"]["found"]
        assert "ms a patch" in found["self-test"]["found"]
        assert "GDAL 3" in found["GDAL and PROJ"]["found"]
        assert "ROOFTRACE_PORT" in found["settings"]["found"]
        assert found["port"]["state"] == found["temporary folder"]["state"] == "ok"

    def test_for_a_person(self, port: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("ok       Python            3.")
        assert lines[-1].startswith("0 problems, ")

    def test_the_built_in_image_is_always_the_same(self) -> None:
        one, other = built_in_image(64), built_in_image(64)
        assert one.pixels.tobytes() == other.pixels.tobytes()


class TestModels:
    def test_a_flipped_byte(
        self, port: int, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = bundle / "green.onnx"
        model = bytearray(file.read_bytes())
        model[len(model) // 2] ^= 1
        file.write_bytes(model)
        found = doctor(capsys, 1)
        assert found["models"]["state"] == "problem"
        assert "green.onnx has SHA-256" in found["models"]["found"]
        assert "bundle" in found["models"]["advice"]
        assert not found.keys() & {"runtime", "self-test"}, "one fault is one problem"
        assert found["GDAL and PROJ"]["state"] == "ok", "the rest is looked at all the same"

    def test_no_bundle(self, port: int, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.rmtree(bundle)
        assert "manifest.json can't be read" in doctor(capsys, 1)["models"]["found"]

    def test_a_device_that_is_not_there(
        self, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_DEVICE", "cuda")
        found = doctor(capsys, 1)
        assert "CUDA" in found["runtime"]["found"]
        assert "ROOFTRACE_DEVICE" in found["runtime"]["advice"]


class TestSettings:
    def test_one_that_is_not_there(
        self, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_WORKER", "2")
        found = doctor(capsys, 1)
        assert "ROOFTRACE_WORKERS" in found["settings"]["found"]
        assert "models" not in found


class TestLiveTiles:
    def name(self, monkeypatch: pytest.MonkeyPatch, **sources: Any) -> None:
        monkeypatch.setenv("ROOFTRACE_TILE_SOURCES", json.dumps(sources))

    def test_sources_that_can_be_read(
        self, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("city.tif").write_bytes(city_cog(18, 2**17, 2**17))
        with hosting() as host:
            self.name(monkeypatch, city="city.tif", tiles=host.template)
            assert main(["doctor"]) == 0
        found = capsys.readouterr().out
        assert "ok       live tiles        the source 'city' can be read" in found
        assert "ok       live tiles        the source 'tiles' can be read" in found

    def test_a_file_that_is_no_map(
        self, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("city.tif").write_bytes(b"not a TIFF")
        self.name(monkeypatch, city="city.tif")
        found = doctor(capsys, 1)["live tiles"]
        assert (found["state"], "'city' can't be read" in found["found"]) == ("problem", True)

    def test_a_host_that_fails_or_has_nothing_there(
        self, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with hosting() as host:
            self.name(monkeypatch, city=host.template)
            host.status = 500
            assert "answered with status 500" in doctor(capsys, 1)["live tiles"]["found"]
            host.status = 404
            found = doctor(capsys, 0)["live tiles"]
            assert (found["state"], "no imagery" in found["found"]) == ("warning", True)


class TestInstallation:
    def test_a_second_build_of_the_runtime(self, port: int, tmp_path: Path) -> None:
        """As pip leaves it where both extras were installed."""
        described = tmp_path / "onnxruntime_gpu-1.31.1.dist-info" / "METADATA"
        described.parent.mkdir()
        described.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
        found = elsewhere(1, path=str(tmp_path))["ONNX Runtime"]
        assert found["state"] == "problem"
        assert "onnxruntime-gpu 1.31.1" in found["found"]
        assert "pip uninstall onnxruntime onnxruntime-gpu" in found["advice"]

    def test_a_library_that_does_not_load(self, port: int, tmp_path: Path) -> None:
        (tmp_path / "rasterio.py").write_text("raise ImportError('libexpat.so.1: not there')")
        found = elsewhere(1, path=str(tmp_path))
        assert "libexpat.so.1" in found["GDAL and PROJ"]["found"]
        assert found["cores"]["state"] == "ok"

    def test_a_package_that_is_too_old(self, port: int, tmp_path: Path) -> None:
        described = tmp_path / "numpy-1.26.4.dist-info" / "METADATA"
        described.parent.mkdir()
        described.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
        found = elsewhere(1, path=str(tmp_path))["packages"]
        assert found["found"] == "numpy 1.26.4 is installed, 2.0 or newer is needed"

    def test_proj_data_of_another_installation(self, port: int, tmp_path: Path) -> None:
        found = elsewhere(1, PROJ_DATA=str(tmp_path))["GDAL and PROJ"]
        assert f"PROJ_DATA={tmp_path}" in found["found"]

    def test_each_optional_part_has_a_row(self) -> None:
        names = {finding.name for finding in installation.packages()}
        assert {"extra openvino", "extra geo", "extra otel"} <= names

    def test_an_extra_needs_what_the_extras_in_it_need(self) -> None:
        [found] = [row for row in installation.packages() if row.name == "extra bulk"]
        assert all(package in found.found for package in ("pyarrow", "pyogrio", "pystac"))
        assert "rooftrace" not in found.found


class TestMachine:
    def test_a_full_folder(self, port: int, tmp_path: Path) -> None:
        if not _can_mount():
            pytest.skip("mounting needs root and unshare")
        full = tmp_path / "full"
        full.mkdir()
        script = 'mount -t tmpfs -o size=16k none "$TMPDIR"; exec "$@"'
        wrapper = ("unshare", "--mount", "sh", "-euc", script, "-")
        found = elsewhere(1, wrapper=wrapper, TMPDIR=str(full))["temporary folder"]
        assert "No space left on device" in found["found"]
        assert "TMPDIR" in found["advice"]

    def test_the_folder_of_jobs_is_tried_where_it_will_be_made(
        self, toy_bundle: Path, tmp_path: Path
    ) -> None:
        [found] = machine.jobs(settings_of(toy_bundle, jobs=tmp_path / "a" / "jobs"))
        assert (found.state, found.found.split()[0]) == ("ok", str(tmp_path))
        (tmp_path / "file").touch()
        [found] = machine.jobs(settings_of(toy_bundle, jobs=tmp_path / "file"))
        assert found.state == "problem"
        assert found.found == f"{tmp_path / 'file'} is no folder"
        assert found.advice == "Name one in ROOFTRACE_JOBS."

    def test_the_bucket_of_jobs_is_asked(
        self, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "what")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        store, table = machine.jobs(settings_of(toy_bundle, jobs="s3://city/jobs"))
        assert (store.state, store.name) == ("problem", "job store")
        assert store.found.startswith("s3://city/jobs can't be used: ")
        assert "127.0.0.1:9" in store.found
        assert "AWS_" in store.advice
        assert (table.state, table.name) == ("problem", "job database")
        assert "Name one in ROOFTRACE_DATABASE" in table.found, "the service would not start"

    def test_the_database_of_jobs_is_asked(self, toy_bundle: Path, tmp_path: Path) -> None:
        def found(address: str) -> tuple[str, str]:
            settings = settings_of(toy_bundle, jobs=tmp_path, database=address)
            folder, table = machine.jobs(settings)
            assert (folder.name, folder.state, table.name) == ("job folder", "ok", "job database")
            assert table.state == "ok" or "ROOFTRACE_DATABASE" in table.advice
            assert "secret" not in str(table)
            return table.state, table.found

        with running_postgresql() as server:
            host = f"127.0.0.1:{server.port}"
            server.execute("ALTER USER jobs PASSWORD 'secret-1'")
            server.ask_for_passwords()
            address = f"postgresql://jobs:secret-1@{host}/postgres"
            assert found(address) == ("ok", f"{host}/postgres answers")
            with psycopg.connect(address) as connection:
                tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'rooftrace%'"
                assert connection.execute(tables).fetchone() == (0,), "nothing is left there"
            for wrong, reason in (
                (f"postgresql://jobs:secret-2@{host}/postgres", "password authentication failed"),
                (f"postgresql://jobs:secret-1@{host}/other", 'database "other" does not exist'),
                ("postgresql://jobs:secret-1@127.0.0.1:9/postgres", "refused"),
                ("postgresql://jobs:secret-1@db.invalid/postgres", "db.invalid"),
            ):
                state, text = found(wrong)
                assert state == "problem"
                assert " can't be used: " in text
                assert reason in text

    def test_a_database_that_does_not_answer_is_given_up(self, toy_bundle: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"postgresql://jobs@127.0.0.1:{silent.getsockname()[1]}/jobs"
            began = time.monotonic()
            *_, table = machine.jobs(settings_of(toy_bundle, database=address))
        assert (table.state, "timeout" in table.found) == ("problem", True)
        assert time.monotonic() - began < 30

    def test_a_database_without_its_extra(
        self, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        *_, table = machine.jobs(settings_of(toy_bundle, database="postgresql://jobs@db/jobs"))
        assert (table.state, "the extra `postgres`" in table.found) == ("problem", True)

    def test_a_port_that_another_program_has(
        self, port: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with socket.create_server(("127.0.0.1", port)) as other:
            other.settimeout(0)
            began = time.monotonic()
            found = doctor(capsys, 1)["port"]
        assert time.monotonic() - began < 30
        assert found["found"] == f"another program listens on 127.0.0.1:{port}"
        assert found["advice"].startswith("Stop the program")

    def test_it_tries_the_address_as_the_service_does(self, toy_bundle: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            every = settings_of(toy_bundle, host="::", port=other.getsockname()[1])
            try:
                with bound(every):
                    free = True
            except StartupError:
                free = False  # such as a machine without IPv6
            [found] = machine.port(every)
        assert (found.state == "ok") == free
        assert f"[::]:{every.port}" in found.found

    def test_an_address_of_another_machine(self, toy_bundle: Path) -> None:
        [found] = machine.port(settings_of(toy_bundle, host="203.0.113.5"))
        assert (found.state, "can't be listened on: " in found.found) == ("problem", True)
        assert found.advice.startswith("Set ROOFTRACE_HOST to an address of this machine")

    @pytest.mark.parametrize(
        ("name", "value"), [("MEMORY_BUDGET", "1000"), ("API_KEYS", "/nowhere/keys")]
    )
    def test_a_setting_that_the_service_would_refuse(
        self,
        port: int,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        value: str,
    ) -> None:
        monkeypatch.setenv(f"ROOFTRACE_{name}", value)
        found = doctor(capsys, 1)
        assert found["limits"]["state"] == "problem"
        assert f"ROOFTRACE_{name}" in found["limits"]["found"]
        assert found["runtime"]["state"] == "ok"

    def test_a_port_that_the_service_itself_has(self, toy_bundle: Path, tmp_path: Path) -> None:
        with running_server(tmp_path, toy_bundle, backend="onnxruntime") as server:
            used = settings_of(toy_bundle, port=int(server.url.rpartition(":")[2]))
            [found] = machine.port(used)
            assert (found.state, "is ready" in found.found) == ("ok", True)

    def test_more_workers_than_cores(self, toy_bundle: Path) -> None:
        [found] = machine.cores(settings_of(toy_bundle, workers=1000))
        assert found.state == "warning"
        assert "ROOFTRACE_WORKERS=" in found.advice

    def test_a_budget_that_the_memory_does_not_hold(self, toy_bundle: Path) -> None:
        [found] = machine.memory(settings_of(toy_bundle, memory_budget=2**60))
        assert found.state == "warning"
        assert "ROOFTRACE_MEMORY_BUDGET" in found.advice

    def test_a_limit_of_the_control_group_counts(self, tmp_path: Path) -> None:
        table = tmp_path / "meminfo"
        table.write_text("MemTotal: 8 kB\nMemAvailable:    3000 kB\n")
        assert machine.available_memory(table, tmp_path) == 3_072_000
        (tmp_path / "memory.max").write_text("1000000\n")
        (tmp_path / "memory.current").write_text("400000\n")
        assert machine.available_memory(table, tmp_path) == 600_000
        (tmp_path / "memory.max").write_text("max\n")
        assert machine.available_memory(table, tmp_path) == 3_072_000


def test_the_command_line_imports_no_server() -> None:
    code = "import sys, app.commandline.commands; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def _can_mount() -> bool:
    tried: Any = shutil.which("unshare") and subprocess.run(
        ["unshare", "--mount", "true"], capture_output=True
    )
    return bool(tried) and tried.returncode == 0
