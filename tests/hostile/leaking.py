"""A service that never lets go of a decoded image: what the soak must fail."""

import sys
from typing import Any

import app.api.work
from app.commandline.cli import main
from app.imaging.decode import decode_image
from app.imaging.image import Image

_KEPT: list[bytes] = []


def _leak(data: bytes, **options: Any) -> Image:
    image = decode_image(data, **options)
    _KEPT.append(image.pixels.tobytes())
    return image


if __name__ == "__main__":
    app.api.work.decode_image = _leak  # type: ignore[attr-defined]  # the name that is called
    sys.exit(main())
