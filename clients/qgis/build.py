"""Zip the plugin as QGIS installs it: `make qgis-plugin`, or `python clients/qgis/build.py`."""

import configparser
import sys
import zipfile
from pathlib import Path

PLUGIN = Path(__file__).with_name("rooftrace")
ENDINGS = {".py", ".svg", ".txt", ""}


def build(folder: Path) -> Path:
    """Write rooftrace-qgis-VERSION.zip into a folder, and return its path."""
    metadata = configparser.ConfigParser()
    metadata.read(PLUGIN / "metadata.txt", encoding="utf-8")
    target = folder / f"rooftrace-qgis-{metadata['general']['version']}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(PLUGIN.iterdir()):
            if path.is_file() and path.suffix in ENDINGS:
                # A date of its own would make equal plugins unequal files.
                entry = zipfile.ZipInfo(f"{PLUGIN.name}/{path.name}", (1980, 1, 1, 0, 0, 0))
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1] if len(sys.argv) > 1 else 'dist'))}\n")
