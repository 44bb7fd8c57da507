"""QGIS itself, as Debian packages it: Python bindings and `qgis_process`."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

PYTHON = "/usr/bin/python3"
"""The one that Debian's bindings are for."""


@functools.cache
def qgis_is_missing() -> str | None:
    """Return why there is no QGIS to test with; None where there is one."""
    if not Path(PYTHON).exists():
        return f"there is no {PYTHON}"
    check = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False)
    return "python3-qgis is not installed" if check.returncode else None


def qgis_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which QGIS has no screen, and its profile in `folder`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "QGIS"))}
    return {
        **inherited,
        "QT_QPA_PLATFORM": "offscreen",
        "XDG_RUNTIME_DIR": str(folder),
        "QGIS_CUSTOM_CONFIG_PATH": str(folder),
    }


QGIS_PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
"""Debian's wrapper around the former needs a screen."""
