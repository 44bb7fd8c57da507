"""Fixtures that every test may ask for."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

from app.segmentation.segmenter import Segmenter, load_segmenter
from tests.factories import EXACTLY, write_toy_bundle

# How long an example takes says more about the machine than about the code.
settings.register_profile("rooftrace", deadline=None)
settings.register_profile("hostile", deadline=None, max_examples=1500)  # for `make hostile`
settings.load_profile("rooftrace")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose probability is 0.5 red + 0.3 green + 0.2 blue, each / 255."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="session")
def toy(toy_bundle: Path) -> Iterator[Segmenter]:
    """The toy bundle, loaded on the CPU."""
    with closing(load_segmenter(toy_bundle, **EXACTLY)) as segmenter:
        yield segmenter


@pytest.fixture(scope="session")
def small_toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    """The same with patches of 32 pixels, for many windows in little time."""
    bundle = write_toy_bundle(tmp_path_factory.mktemp("bundles") / "small", patch_size=32)
    with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
        yield segmenter
