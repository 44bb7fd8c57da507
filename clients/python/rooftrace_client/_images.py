"""What may be sent as an image."""

import os
from pathlib import Path
from typing import IO, TypeAlias

Image: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]
"""A path, the bytes of a file, or a file that is open for reading in binary mode."""


def read_image(image: Image) -> tuple[str, bytes]:
    """Return the name of an image's file and its bytes.

    Raises:
        OSError: it can't be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return "image", bytes(image)
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return path.name, path.read_bytes()
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError(f"expected a file that is open in binary mode, got text from {image!r}")
    name = getattr(image, "name", None)
    return (Path(name).name if isinstance(name, str) else "image"), data
