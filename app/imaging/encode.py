"""Turn results into PNG files, whose text chunks hold `tags`.

Nothing here takes more than a few bytes a pixel.
"""

from collections.abc import Mapping
from typing import IO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

ACCENT = (255, 64, 32)
"""The colour of buildings in every picture and map: red, green, blue."""
_TINT = 0.4
# Photographs hardly shrink further at higher levels, and take several times as long.
_OVERLAY_LEVEL = 1


def write_grey_png(file: IO[bytes], pixels: NDArray[np.uint8], tags: Mapping[str, str]) -> None:
    """Write uint8 (height, width) as an 8-bit single-channel PNG."""
    _write_png(file, PIL.Image.fromarray(pixels), tags)


def write_overlay_png(
    file: IO[bytes],
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_] | None,
    mask: NDArray[np.bool_],
    tags: Mapping[str, str],
) -> None:
    """Write an image, uint8 (height, width, 3), with the buildings of `mask` tinted and outlined.

    The outline is the outermost pixel of each building, so nothing outside of the mask changes.
    RGB, or RGBA with alpha 0 where `valid`, bool (height, width), is False.
    """
    picture = PIL.Image.fromarray(pixels)
    # 256 entries a channel: the colour that each value becomes under the tint.
    tint = [
        round((1 - _TINT) * value + _TINT * accent) for accent in ACCENT for value in range(256)
    ]
    picture.paste(picture.point(tint), mask=PIL.Image.fromarray(mask))
    picture.paste(ACCENT, mask=PIL.Image.fromarray(_outline(mask)))
    _hide(picture, valid)
    _write_png(file, picture, tags, level=_OVERLAY_LEVEL)


def write_preview_png(
    file: IO[bytes], pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None, longest: int
) -> None:
    """Write an image, uint8 (height, width, 3), with its longest side at most `longest` pixels.

    RGB, or RGBA with alpha 0 where `valid`, bool (height, width), is False.
    """
    picture = PIL.Image.fromarray(pixels)
    _hide(picture, valid)
    picture.thumbnail((longest, longest), PIL.Image.Resampling.BICUBIC)
    _write_png(file, picture, {}, level=_OVERLAY_LEVEL)


def write_tile_png(file: IO[bytes], mask: NDArray[np.bool_], rows: slice, cols: slice) -> None:
    """Write a part of a mask as an overlay: tinted and outlined buildings on nothing.

    Outlines are those of the whole mask, so they end at no edge of the part.
    """
    levels = mask[rows, cols].astype(np.uint8) + _outline(mask)[rows, cols]
    picture = PIL.Image.fromarray(levels)
    picture.putpalette(ACCENT * 3)
    opacity = bytes([0, round(255 * _TINT), 255])
    picture.save(file, "PNG", bits=2, transparency=opacity, optimize=True)


def _hide(picture: PIL.Image.Image, valid: NDArray[np.bool_] | None) -> None:
    """Make the pixels that are not valid transparent."""
    if valid is not None:
        picture.putalpha(PIL.Image.fromarray(np.multiply(valid, 255, dtype=np.uint8)))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the mask's pixels beside one that is not in it; the image's edge does not count."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _write_png(
    file: IO[bytes], picture: PIL.Image.Image, tags: Mapping[str, str], *, level: int = 6
) -> None:
    text = PngInfo()
    for name, value in tags.items():
        text.add_text(name, value)
    picture.save(file, "PNG", compress_level=level, pnginfo=text)
