"""`rooftrace bulk` whose workers stop at a gate once so many files are whole.

The gate is in the folder of the bundle, and the files are those of `out` beside it: workers are
processes of their own. It is run in place of the command line.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.loading import load_models
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import Band
from app.settings import Settings
from tests.e2e.gated import Gate

GATED = "tests.scale.gated"


def whole(folder: Path) -> int:
    """Count the files of a run that are whole."""
    return len(list((folder / "out" / ".work").glob("*/record.json")))


class GatedSegmenter(Segmenter):
    """A segmenter that waits at the gate before each file."""

    folder: Path

    def bands(self, *arguments: Any, **options: Any) -> Iterator[Band]:
        """Wait, then give the bands."""
        while not Gate(self.folder).lets_pass(whole(self.folder)):
            time.sleep(0.05)
        return super().bands(*arguments, **options)


def load(settings: Settings) -> Segmenter:
    """Load the models as the command line does."""
    loaded = load_models(settings)
    segmenter = GatedSegmenter(loaded.manifest, loaded.predictor)
    segmenter.folder = settings.bundle.parent
    return segmenter


if __name__ == "__main__":
    from app.commandline import cli, commands
    from tests.scale import gated

    commands.load_models = gated.load  # type: ignore[attr-defined]  # workers find it by this name
    sys.exit(cli.main())
