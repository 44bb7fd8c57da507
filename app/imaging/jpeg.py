"""Check that a JPEG is whole, and keep only the segments that make pixels.

Pillow notices a file that merely stops. It does not notice one that was cut and closed again by
an end-of-image marker: the rest comes out grey. The library underneath does say so, in a warning
that Pillow drops and GDAL can turn into an error; so GDAL reads the file once at its smallest
scale, which costs about half of a decode.
EXIF, colour profiles, comments and further pictures behind the first never reach a decoder.

Source: ITU-T T.81, annex B (markers); T.871 (JFIF, APP0); Adobe technical note 5116 (APP14).
"""

import re
import struct
from collections.abc import Iterator

from ..errors import DamagedImage, UnsupportedImage
from .gdal import GDAL_ERRORS, open_in_memory
from .ifd import orientation
from .limits import Stored, check_pixel_count

# Inside a scan, 0xff is data when 0x00 follows, and a restart marker is part of the scan.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOI, _EOI, _SOS, _APP0, _APP1, _APP14, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
_IGNORED = {*range(_APP0, _APP0 + 16), _COMMENT} - {_APP0, _APP14}  # those two fix the colours
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended sequential, progressive
_EXIF = b"Exif\0\0"
_MAX_SEGMENTS = 10_000  # 64 MiB of empty comments would keep a processor busy for half a minute
_MAX_SCANS = 100  # each costs a pass over the whole picture; encoders write about ten


def read_jpeg(data: bytes, *, max_pixels: int) -> Stored:
    """Return the pixel-bearing part of a whole 8-bit JPEG.

    Raises:
        DamagedImage: cut short (the end-of-image marker counts), or not a JPEG inside.
        UploadTooLarge: more than `max_pixels`, decided before anything is decoded.
        UnsupportedImage: 12 bits a sample, or a process other than baseline and progressive.
    """
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    turned, frames, scans = 1, 0, 0
    for marker, segment in _segments(data):
        if marker == _APP1 and segment[4:10] == _EXIF:
            turned = orientation(bytes(segment[10:]))
        if marker in _IGNORED:
            continue
        if marker in _FRAMES:
            frames += 1
            _check_frame(marker, segment, max_pixels)
        elif marker == _SOS:
            scans += 1
        if frames > 1 or scans > _MAX_SCANS:
            raise DamagedImage("The JPEG is damaged: it has more frames or scans than one picture.")
        kept.append(segment)
    if not frames or not scans:
        raise DamagedImage("The JPEG is damaged: it holds no picture.")
    stored = Stored(b"".join([*kept, b"\xff\xd9"]), orientation=turned)
    _check_scans(stored.data)
    return stored


def frame_size(data: bytes) -> tuple[int, int]:
    """Read height and width off the first frame's header, which comes before any pixel.

    Raises:
        DamagedImage: no frame, or no JPEG inside.
        struct.error: its header is too short.
    """
    for marker, segment in _segments(data):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", segment, 5)
            return height, width
    raise DamagedImage("The JPEG is damaged: it holds no picture.")


def _segments(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield each marker and its segment, up to the end of the first image.

    A scan's segment reaches up to the next marker, with all of its compressed data.
    """
    view = memoryview(data)
    found = _MARKER.search(data, 2)
    for _ in range(_MAX_SEGMENTS):
        if found is None:
            break
        start, marker = found.start(), data[found.start() + 1]
        if marker == _EOI:
            return
        if marker <= 0xBF or marker == _SOI:
            raise DamagedImage("The JPEG is damaged: it has a marker where none can stand.")
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if end < start + 4 or end > len(data):
            break
        found = _MARKER.search(data, end)
        if marker == _SOS and found is not None:
            end = found.start()
        yield marker, view[start:end]
    raise DamagedImage("The JPEG is cut short: its end-of-image marker is missing.")


def _check_frame(marker: int, segment: memoryview, max_pixels: int) -> None:
    if len(segment) < 10:
        raise DamagedImage("The JPEG is damaged: its frame header is too short.")
    precision, height, width = struct.unpack_from(">BHH", segment, 4)
    check_pixel_count(height, width, max_pixels)
    if marker not in _DECODED_FRAMES:
        raise UnsupportedImage(
            "The JPEG is lossless, hierarchical or arithmetic-coded. "
            "Save it as a baseline or progressive JPEG, or as PNG."
        )
    if precision != 8:
        raise UnsupportedImage(
            f"The JPEG has {precision} bits a sample; 8 are expected. Save it with 8 bits."
        )


def _check_scans(data: bytes) -> None:
    """Decode once at the smallest scale with every complaint of the decoder as an error."""
    strict = {
        "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
        # GDAL's own limit is 500 MB for progressive files; the pixel count was checked above.
        "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": "YES",
    }
    try:
        with open_in_memory(data, "JPEG", **strict) as source:
            step = max(source.overviews(1), default=1)
            source.read(1, out_shape=(-(-source.height // step), -(-source.width // step)))
    except GDAL_ERRORS as error:
        raise DamagedImage(
            "The JPEG is damaged: part of its image data is missing or corrupt."
        ) from error
