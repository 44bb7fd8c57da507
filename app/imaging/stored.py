"""What a container check hands to a decoder."""

from typing import NamedTuple


class Stored(NamedTuple):
    """Hold the part of a file that makes its pixels, and what the rest said about them.

    `orientation`: EXIF's, 1 to 8, where 1 is upright. `frames`: more than 1 for an animation.
    """

    data: bytes
    orientation: int = 1
    frames: int = 1
