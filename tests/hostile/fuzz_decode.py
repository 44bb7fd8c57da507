"""Fuzz what meets a stranger's bytes first, guided by coverage: sniffing, headers, decoding.

`python -m tests.hostile.fuzz_decode`, or `make fuzz`: in one process, on files of the corpus
and what libFuzzer makes of them. Arguments are libFuzzer's; without any it runs for a minute. It
stops at whatever is neither an image within its limit nor refused, and at five seconds or 2 GB for
one file. Needs the extra `fuzz`.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app.imaging"]):
    from app.imaging.decode import decode_image
    from app.imaging.header import announced_pixels

from app.errors import InputError
from tests.hostile.corpus import files
from tests.hostile.test_mutations import mended

MAX_PIXELS = 250_000
_LONGEST = 20_000


def decodes_or_refuses(data: bytes) -> None:
    """Decode as the service does, within the pixels that memory would be set aside for."""
    max_pixels = announced_pixels(data, MAX_PIXELS)
    try:
        image = decode_image(data, max_pixels=max_pixels)
    except InputError:
        return
    height, width, bands = image.pixels.shape
    assert bands == 3
    assert image.pixels.dtype == "uint8"
    assert 0 < height * width <= max_pixels, "more than memory was set aside for"


def _mutate(data: bytes, max_size: int, seed: int) -> bytes:
    mutated = bytes(atheris.Mutate(data, max_size))
    return mended(mutated)[:max_size] if seed % 2 else mutated


def main() -> None:
    """Fuzz, and let libFuzzer say what it found."""
    folder = Path(tempfile.mkdtemp(prefix="rooftrace-fuzz-"))
    for number, file in enumerate(files()):
        if len(file.data) <= _LONGEST:
            (folder / f"{number:03}").write_bytes(file.data)
    limits = [f"-max_len={_LONGEST}", "-timeout=5", "-rss_limit_mb=2048"]
    wanted = sys.argv[1:] or ["-max_total_time=60"]
    line = [sys.argv[0], *limits, *wanted, str(folder)]
    atheris.Setup(line, decodes_or_refuses, custom_mutator=_mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
