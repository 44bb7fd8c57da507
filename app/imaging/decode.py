"""Turn uploaded bytes into an `Image`: one documented rule for each thing that a file can hold.

The pixels of the result are those that the file stores, in its width and height, so that a mask
lies on them.

| the file has              | the image gets                                                    |
| ------------------------- | ----------------------------------------------------------------- |
| EXIF orientation          | nothing: pixels stay as stored; a notice unless upright           |
| a palette                 | its colours                                                       |
| one grey band             | that band three times, and a notice                               |
| alpha, tRNS, mask, nodata | `valid` False where alpha is 0, all bands are nodata, or the mask |
|                           | is 0; any other alpha is valid and does not change the colour     |
| CMYK, CIELAB              | RGB by formula, without a colour profile, and a notice            |
| more than 8 bits a sample | `UnsupportedImage`: how to scale it to 8 is not ours to guess     |
| frames, pages             | the first, and a notice                                           |
| TIFF bands                | red, green and blue by their colour interpretation; else, up to   |
|                           | four bands, the first three; a notice for each band left out      |
| TIFF blocks never written | `valid` False there, and a notice                                 |
| a transform               | `georeference`, with the CRS if it is named; a notice where the   |
|                           | transform is of no use; and the GSD on the ground                 |
"""

from app.imaging.image import Image
from app.imaging.picture import decode_picture
from app.imaging.raster import decode_raster
from app.imaging.sniff import Format, sniff


def decode_image(data: bytes, *, max_pixels: int) -> Image:
    """Decode a whole PNG, JPEG, WebP or TIFF file.

    Memory is bounded by `len(data)` and `max_pixels`; safe in threads.

    Raises:
        EmptyUpload: no bytes.
        UnsupportedFormat: another format, by content; no decoder is called.
        UploadTooLarge: more than `max_pixels`, decided before pixels are decoded.
        DamagedImage: an accepted format, but truncated, corrupt or without pixels.
        UnsupportedImage: whole, but its bands or samples can't be read as 8-bit RGB.
    """
    kind = sniff(data)
    if kind is Format.TIFF:
        return decode_raster(data, max_pixels=max_pixels)
    return decode_picture(data, kind, max_pixels=max_pixels)
