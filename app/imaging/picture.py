"""Read PNG, JPEG and WebP."""

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import DamagedImage, UploadTooLarge
from .bands import GREY_NOTICE, alpha_notices, palette_notices
from .ifd import orientation
from .image import Image
from .jpeg import read_jpeg
from .limits import Stored, check_pixel_count
from .png import read_png
from .scaling import sampling_step
from .sniff import Format

# The reader is called by its class. `PIL.Image.open` would do the same with `formats=[...]`, but
# warn from 89 megapixels and refuse from 179, whatever our own limit is, unless a global of
# Pillow's is changed for the whole process.
_READERS: dict[Format, type[ImageFile]] = {
    Format.PNG: PngImageFile,
    Format.JPEG: JpegImageFile,
    Format.WEBP: WebPImageFile,
}
_CONTAINERS = {Format.PNG: read_png, Format.JPEG: read_jpeg}
# Exceptions that Pillow raises when a file is at fault.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error),
)

_ROWS = 512  # converted at a time, so that no second whole picture stands in memory


def decode_picture(data: bytes, kind: Format, *, max_pixels: int) -> Image:
    """Decode a PNG, JPEG or WebP file.

    Raises:
        DamagedImage, UnsupportedImage, UploadTooLarge: as in `decode_image`.
    """
    read = _CONTAINERS.get(kind)
    stored = Stored(data) if read is None else read(data, max_pixels=max_pixels)
    try:
        with _READERS[kind](BytesIO(stored.data)) as picture:
            check_pixel_count(picture.height, picture.width, max_pixels)
            if kind is Format.WEBP:  # its container is read by the decoder itself
                stored = stored._replace(
                    orientation=orientation(
                        picture.info.get("exif", b"").removeprefix(b"Exif\0\0")
                    ),
                    frames=getattr(picture, "n_frames", 1),
                )
            picture.load()
            pixels, valid = _to_rgb(picture)
            notices = (*_notices(picture.mode, stored), *_sample_notices(picture))
            return Image(pixels, valid, notices=notices)
    except DecompressionBombError as error:  # WebP only, and only with a limit above Pillow's
        raise UploadTooLarge(
            "The WebP image has more pixels than its decoder reads. Cut it into smaller pieces."
        ) from error
    except _DAMAGE as error:
        raise DamagedImage(
            f"The {kind} is damaged: its image data can't be decoded. It may be cut short."
        ) from error


def _to_rgb(picture: ImageFile) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Convert a loaded picture to RGB, and its alpha to a mask if any pixel is transparent."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    valid = np.ones((height, width), np.bool_) if picture.has_transparency_data else None
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        band = picture.crop((0, rows.start, width, rows.stop))
        if valid is None:
            pixels[rows] = np.asarray(band.convert("RGB"))
        else:
            rgba = np.asarray(band.convert("RGBA"))
            pixels[rows] = rgba[..., :3]
            valid[rows] = rgba[..., 3] > 0
    return pixels, None if valid is None or valid.all() else valid


def _sample_notices(picture: ImageFile) -> list[str]:
    """Say what samples tell of a palette and of alpha."""
    step = sampling_step(picture.height, picture.width)
    if picture.mode == "P":
        return palette_notices(np.asarray(picture)[::step, ::step])
    if picture.mode in ("RGBA", "LA"):
        alpha = np.asarray(picture.getchannel("A"))[::step, ::step]
        return alpha_notices(alpha.ravel(), len(picture.mode))
    return []


def _notices(mode: str, stored: Stored) -> list[str]:
    notices = []
    if mode in ("1", "L", "LA"):
        notices.append(GREY_NOTICE)
    if mode == "CMYK":
        notices.append("The image is CMYK: it was converted to RGB without a colour profile.")
    if stored.orientation != 1:
        notices.append(
            f"EXIF orientation {stored.orientation} was not applied: "
            "the result lies on the pixels as they are stored."
        )
    if stored.frames > 1:
        notices.append(f"The image is an animation of {stored.frames} frames: the first was used.")
    return notices
