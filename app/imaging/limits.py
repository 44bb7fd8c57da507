"""Shared by the checks of all containers: the limit of pixels, and the part that holds them."""

from typing import NamedTuple

from ..errors import DamagedImage, UploadTooLarge

BYTES_PER_PIXEL = 60
"""Most memory that an image takes from decoding to its written result, or a block of map tiles.
tests/hostile/test_memory.py measures every format on noise, the worst image."""

ANY_SIZE = "the command `rooftrace segment` takes a GeoTIFF of any size."
"""Ends the message that refuses an upload which is too large."""


class Stored(NamedTuple):
    """The part of a file that holds its pixels, and what the other parts say about them.

    `orientation`: EXIF's, 1 to 8, where 1 is upright. `frames`: more than 1 for an animation.
    """

    data: bytes
    orientation: int = 1
    frames: int = 1


def check_pixel_count(height: int, width: int, max_pixels: int) -> None:
    """Refuse a size that a header announces, before memory is taken for its pixels.

    Raises:
        DamagedImage: no pixels at all.
        UploadTooLarge: more than `max_pixels`.
    """
    if height < 1 or width < 1:
        raise DamagedImage(f"The image is {width} x {height}: it has no pixels.")
    if height * width > max_pixels:
        raise UploadTooLarge(
            f"The image is {width} x {height} = {_mega(height * width)} megapixels; "
            f"the limit is {_mega(max_pixels)} megapixels. Cut it into smaller pieces; {ANY_SIZE}"
        )


def _mega(pixels: int) -> str:
    return f"{pixels / 1e6:.6f}".rstrip("0").rstrip(".")
