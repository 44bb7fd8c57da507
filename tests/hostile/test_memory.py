"""No way through the line takes more memory for a pixel than is set aside for it."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from app.api.stages import Stages
from app.api.uploads import Upload
from app.api.work import Work
from app.imaging.limits import BYTES_PER_PIXEL
from app.segmentation.options import Options
from app.segmentation.segmenter import load_segmenter
from app.segmentation.stream import never
from tests.factories import scene
from tests.maps import geotiff

SIDE = 2500
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {"compress_level": 1}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


# GeoJSON of noise is text without end, 20 bytes a pixel; at a millisecond of work a polygon, the
# request's deadline cuts it at some tens of megabytes.
WAYS = [
    *((kind, format) for kind in KINDS for format in ("png", "probability", "overlay", "rle")),
    *(("geotiff", format) for format in ("coco", "geotiff", "geojson")),
]


def _file(kind: str) -> bytes:
    """Encode noise, the worst that a mask or an encoder can get; with alpha where there may be."""
    pixels = scene(SIDE, SIDE)
    if kind == "geotiff":
        return geotiff(pixels, valid=pixels[..., 0] > 20)
    if kind != "progressive":
        alpha = (pixels[..., :1] > 20) * np.uint8(255)
        pixels = np.concatenate([pixels, alpha], axis=2)
    name, options = KINDS[kind]
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(bundle: Path, kind: str, format: str) -> float:
    """Segment and encode, and return the growth of this process at its peak, in bytes a pixel."""
    segmenter = load_segmenter(bundle, device="cpu", workers=1)
    data = _file(kind)
    # All buildings of two pixels or more; one of the GeoTIFF is a quarter of a square metre.
    options = Options(
        overlap=0,
        min_area=0.3 if kind == "geotiff" else 1.5,
        resample="off",
        bands="mask,probability,disagreement",
    )
    work = Work(options, [format])
    before = most = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _resident())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    chosen, stream = work.begin(segmenter, Upload("x", data), 10**8, Stages(), never)
    assert chosen.encode(stream)
    assert stream.building_count
    done.set()
    watching.join()
    return (most - before) / SIDE**2


@pytest.mark.slow
@pytest.mark.timeout(3600)  # GeoJSON of noise takes six minutes of one core, which others may want
@pytest.mark.parametrize(("kind", "format"), WAYS)
def test_a_pixel_takes_no_more_than_is_set_aside(toy_bundle: Path, kind: str, format: str) -> None:
    # In a process of its own: an allocator that has been busy hides what is taken anew.
    line = [sys.executable, "-m", "tests.hostile.test_memory", str(toy_bundle), kind, format]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = float(done.stdout)
    print(f"{kind} {format}: {taken:.1f} bytes a pixel")
    assert 5 < taken <= BYTES_PER_PIXEL


if __name__ == "__main__":
    print(measure(Path(sys.argv[1]), *sys.argv[2:]))
