"""Decoded pixels on disk instead of in memory, for work that takes long."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..imaging.image import Image

_Scalar = TypeVar("_Scalar", bound=np.generic)


def spool(image: Image, folder: Path) -> Image:
    """Return the image with its pixels in temporary files in `folder`.

    The files have no names, so they vanish with the image or the process, however it ends.

    Raises:
        OSError: no room.
    """
    valid = None if image.valid is None else _on_disk(image.valid, folder)
    return replace(image, pixels=_on_disk(image.pixels, folder), valid=valid)


def _on_disk(array: NDArray[_Scalar], folder: Path) -> NDArray[_Scalar]:
    with TemporaryFile(dir=folder) as file:
        # Written as a file: a full disk is an error then, and ends the process in a memory map.
        for row in array:
            file.write(row.tobytes())
        file.flush()
        return np.memmap(file, array.dtype, "r", shape=array.shape)
