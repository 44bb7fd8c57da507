"""Missing or foreign PROJ data stop the start with their name."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import rasterio

from app.imaging.proj import check_proj


def test_the_wheels_own_data_fit() -> None:
    check_proj()


def foreign(folder: Path) -> Path:
    """Make a database of another version, as GDAL and PROJ tell it."""
    shutil.copy(Path(rasterio.__file__).parent / "proj_data" / "proj.db", folder)
    with sqlite3.connect(folder / "proj.db") as database:
        database.execute(
            "update metadata set value = 2 where key = 'DATABASE.LAYOUT.VERSION.MINOR'"
        )
    database.close()
    return folder


@pytest.mark.parametrize(
    ("variable", "has_database", "command"),
    [
        ("PROJ_DATA", False, ["segment", "--quiet", "none.png", "-o", "out.png"]),
        ("PROJ_LIB", True, ["segment", "--quiet", "none.png", "-o", "out.png"]),
        ("PROJ_DATA", True, ["serve", "--port", "0"]),
    ],
)
def test_data_that_do_not_fit_stop_the_run(
    toy_bundle: Path, tmp_path: Path, variable: str, has_database: bool, command: list[str]
) -> None:
    data = foreign(tmp_path) if has_database else tmp_path
    run = subprocess.run(
        [sys.executable, "-m", "app", *command],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("PROJ_")},
            variable: str(data),
            "ROOFTRACE_BUNDLE": str(toy_bundle),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    *_, error = run.stderr.splitlines()
    assert error.startswith("error: PROJ's data can't be used")
    assert f"{variable}={data}" in error
    assert f"unset {variable}" in error
    assert "Traceback" not in run.stderr
