"""No way through the line takes more memory for a pixel than is set aside for it."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.formats import FORMATS
from app.inference.segmenter import SegmentOptions, load_segmenter
from app.pipeline import BYTES_PER_PIXEL, Pipeline, Stages
from tests.factories import scene

SIDE = 2500
KINDS = {
    "png": ("PNG", {"compress_level": 1}),
    "progressive": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
}


def _file(kind: str) -> bytes:
    """Encode noise, the worst that a mask or an encoder can get; with alpha where there may be."""
    pixels = scene(SIDE, SIDE)
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
    segmenter = load_segmenter(bundle, device="cpu", lanes=1)
    data = _file(kind)
    options = SegmentOptions(overlap=0, min_area=1.5)
    pipeline, stages = Pipeline(segmenter, options, max_pixels=10**8), Stages()
    before = most = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _resident())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    pipeline.encode(pipeline.segment("x", data, stages), FORMATS[format], stages)
    done.set()
    watching.join()
    return (most - before) / SIDE**2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FORMATS)
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
