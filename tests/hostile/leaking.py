"""A service that never lets go of a decoded image: what the soak must fail."""

import sys

import app.pipeline
from app.cli import main
from app.imaging.decode import decode_image
from app.imaging.image import Image

_KEPT: list[bytes] = []


def _leak(data: bytes, *, max_pixels: int) -> Image:
    image = decode_image(data, max_pixels=max_pixels)
    _KEPT.append(image.pixels.tobytes())
    return image


if __name__ == "__main__":
    app.pipeline.decode_image = _leak
    sys.exit(main())
