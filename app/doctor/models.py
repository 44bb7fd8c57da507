"""Check the bundle, and name what it runs on and how long a patch takes."""

from collections.abc import Iterator
from contextlib import closing
from time import perf_counter

import numpy as np

from ..bundle.manifest import load_manifest
from ..bundle.verification import verify_files
from ..imaging.image import Image
from ..loading import load_models
from ..segmentation.options import Options
from ..segmentation.segmenter import Segmenter
from ..settings import Settings
from .finding import Finding

_PATCHES = 4
"""Patches that the built-in image has: two rows of two."""


def files(settings: Settings) -> Iterator[Finding]:
    """Check the sizes and hashes of the bundle's files."""
    manifest = load_manifest(settings.bundle)
    verify_files(settings.bundle, manifest)
    found = f"{manifest.version}, {len(manifest.members)} files with the right SHA-256"
    yield Finding("models", "ok", f"{found}, in {settings.bundle}")


def running(settings: Settings) -> Iterator[Finding]:
    """Load the models, name what they really run on, and time them."""
    with closing(load_models(settings)) as segmenter:
        predictor = segmenter.predictor
        providers = ", ".join(predictor.providers_in_use)
        if predictor.fallback:
            advice = "ROOFTRACE_DEVICE=cuda refuses to start instead, with the reason."
            found = f"{providers}: {predictor.fallback}"
            yield Finding("runtime", "warning", found, advice)
        else:
            yield Finding("runtime", "ok", f"{providers} ({predictor.choice})")
        yield _self_test(segmenter)


def _self_test(segmenter: Segmenter) -> Finding:
    """Segment the built-in image twice by all members: the results must be equal."""
    image = built_in_image(2 * segmenter.manifest.patch_size)
    options = Options(cascade="off", overlap=0)
    first = segmenter.segment_image(image, options)  # also warms the runtime
    began = perf_counter()
    second = segmenter.segment_image(image, options)
    taken = 1000 * (perf_counter() - began) / _PATCHES
    if not np.array_equal(first.probability, second.probability):
        return Finding(
            "self-test",
            "problem",
            "one image was segmented twice, with two results",
            "Try ROOFTRACE_BACKEND=onnxruntime. If it helps, please report it.",
        )
    return Finding("self-test", "ok", f"{taken:.0f} ms a patch by all members (mean of {_PATCHES})")


def built_in_image(side: int) -> Image:
    """Draw flat roofs on rough ground: uint8 (side, side, 3), always the same."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 110, (side, side, 3), np.uint8)
    for top, left in rng.integers(0, side - 40, (12, 2)):
        pixels[top : top + 40, left : left + 30] = rng.integers(150, 220)
    return Image(pixels)
