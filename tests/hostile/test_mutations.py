"""Whole images with something changed: each is segmented or refused, soon, and never a 500.

100 of each kind by default; `make hostile` tries 1,500 of each, 10,500 in all.
"""

import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.problems import STATUS
from app.api.stages import Stages
from app.api.uploads import Upload
from app.api.work import Work
from app.errors import InputError
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import collect, never
from tests.factories import scene
from tests.hostile.corpus import tiff
from tests.serving import encoded

MAX_PIXELS = 50_000
SECONDS = 5.0

_PIXELS = scene(37, 53)
WHOLE = {
    "png": encoded(_PIXELS),
    "png palette": encoded(_PIXELS // 64 * 64, "PNG", optimize=True),
    "jpeg": encoded(_PIXELS, "JPEG"),
    "jpeg progressive": encoded(_PIXELS, "JPEG", progressive=True),
    "webp": encoded(_PIXELS, "WEBP"),
    "tiff": tiff(crs="EPSG:32650", compress="lzw"),
    "tiff tiled": tiff(4, tiled=True, blockxsize=16, blockysize=16, compress="deflate"),
}


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Change a file in a few places; headers, which decide most, as often as all the rest."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([min(len(out), 300), len(out)]))
        at = draw(st.integers(0, max(0, end - 1)))
        match draw(st.sampled_from(["set", "number", "cut", "drop", "repeat", "end"])):
            case "set":
                out[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "number":
                edge = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                order = draw(st.sampled_from("<>"))
                out[at : at + 4] = struct.pack(order + "I", edge)
            case "cut":
                del out[at : at + draw(st.integers(1, 64))]
            case "drop":
                out[at : at + 32] = bytes(32)
            case "repeat":
                out[at:at] = out[at : at + draw(st.integers(1, 200))]
            case "end":
                del out[max(12, at) :]
    return mended(bytes(out)) if draw(st.booleans()) else bytes(out)


def mended(data: bytes) -> bytes:
    """Correct the checksums of a PNG, without which a change would go no further than they."""
    if not data.startswith(b"\x89PNG"):
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4])
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(out)


@pytest.mark.parametrize("kind", WHOLE)
def test_it_is_segmented_or_refused(small_toy: Segmenter, kind: str) -> None:
    work = Work(Options(overlap=0), ["overlay"])
    met: set[str] = set()

    @settings(suppress_health_check=list(HealthCheck))
    @given(mutations(WHOLE[kind]))
    def holds(data: bytes) -> None:
        began = time.thread_time()
        try:
            _, stream = work.begin(small_toy, Upload("x", data), MAX_PIXELS, Stages(), never)
            found = collect(stream)
            assert found.mask.shape == (stream.image.height, stream.image.width)
            assert np.isfinite(found.probability).all()
            chosen, again = work.begin(small_toy, Upload("x", data), MAX_PIXELS, Stages(), never)
            assert chosen.encode(again)
            met.add("segmented")
        except InputError as error:
            status, _ = STATUS[type(error)]
            assert 400 <= status < 500
            met.add(type(error).__name__)
        assert time.thread_time() - began < SECONDS

    holds()
    assert "DamagedImage" in met, "the mutations change nothing"
