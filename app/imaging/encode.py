"""Turn results into PNG files, whose text chunks hold `tags`.

Nothing here takes more than a few bytes a pixel.
"""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngInfo

from app.imaging.image import Image

_ACCENT = (255, 64, 32)
_TINT = 0.4
# Photographs hardly shrink further at higher levels, and take several times as long.
_OVERLAY_LEVEL = 1


def mask_png(mask: NDArray[np.bool_], tags: Mapping[str, str]) -> bytes:
    """Encode a mask, bool (height, width), as 8-bit single-channel PNG, 0 or 255."""
    return _png(PIL.Image.fromarray(np.multiply(mask, 255, dtype=np.uint8)), tags)


def probability_png(probability: NDArray[np.float32], tags: Mapping[str, str]) -> bytes:
    """Encode probabilities in [0, 1], (height, width), as 8-bit single-channel PNG, 255·p rounded.

    Exact halves go to the even neighbour.
    """
    scaled = probability * np.float32(255)
    np.rint(scaled, out=scaled)
    return _png(PIL.Image.fromarray(scaled.astype(np.uint8)), tags)


def overlay_png(image: Image, mask: NDArray[np.bool_], tags: Mapping[str, str]) -> bytes:
    """Encode the image with the buildings of `mask`, bool (height, width), tinted and outlined.

    The outline is the outermost pixel of each building, so nothing outside of the mask changes.
    RGB, or RGBA with alpha 0 where the image is not valid.
    """
    picture = PIL.Image.fromarray(image.pixels)
    # 256 entries a channel: the colour that each value becomes under the tint.
    tint = [
        round((1 - _TINT) * value + _TINT * accent) for accent in _ACCENT for value in range(256)
    ]
    picture.paste(picture.point(tint), mask=PIL.Image.fromarray(mask))
    picture.paste(_ACCENT, mask=PIL.Image.fromarray(_outline(mask)))
    if image.valid is not None:
        alpha = np.multiply(image.valid, 255, dtype=np.uint8)
        picture.putalpha(PIL.Image.fromarray(alpha))
    return _png(picture, tags, level=_OVERLAY_LEVEL)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the mask's pixels with a neighbour outside of it; the image's own edge is no outside."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def _png(picture: PIL.Image.Image, tags: Mapping[str, str], *, level: int = 6) -> bytes:
    text = PngInfo()
    for name, value in tags.items():
        text.add_text(name, value)
    buffer = BytesIO()
    picture.save(buffer, "PNG", compress_level=level, pnginfo=text)
    return buffer.getvalue()
