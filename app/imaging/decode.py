"""Turn uploaded bytes into an `Image`, with a rule for each thing that a file can hold.

The pixels of the result are those that the file stores, in its width and height, so that a mask
lies on them.

| the file has              | the image gets                                                    |
| ------------------------- | ----------------------------------------------------------------- |
| EXIF orientation          | nothing: pixels stay as stored; a notice unless upright           |
| a palette                 | its colours; a notice where they are fewer than 64                |
| one grey band             | that band three times, and a notice; in a GeoTIFF, or of more     |
|                           | than 8 bits: `UnsupportedImage`, for it may be anything           |
| 16 bits, in a PNG         | `UnsupportedImage`                                                |
| alpha, tRNS, mask, nodata | `valid` False where alpha is 0, all bands are nodata, the mask is |
|                           | 0, or a sample is not finite; any other alpha is valid and does   |
|                           | not change the colour                                             |
| CMYK, CIELAB              | RGB by formula, without a colour profile, and a notice            |
| 8-bit samples             | the samples, unless there is a colour cast or little contrast     |
| - a colour cast           | each band's 98th percentile becomes the mean of the three         |
| - little contrast         | the 2nd percentile of the darkest band becomes 20, and the 98th   |
|                           | of the brightest 205                                              |
| - both                    | as uint16; for all three, a notice tells the limits               |
| uint16, int16 or float32  | (TIFF) each band's 2nd and 98th percentile become 20 and 205; a   |
|                           | notice tells the limits                                           |
| pixels of 0 in all bands  | imagery, from which no light is judged                            |
| a soft image              | sharpened, and a notice tells by how many per cent                |
| frames, pages             | the first, and a notice; `UnsupportedImage` where it is a preview |
| TIFF bands                | red, green and blue by their colour interpretation; else by their |
|                           | descriptions, and a notice; else, of three or four whose          |
|                           | descriptions name no colour, the first three, and a notice; alpha |
|                           | is the band that is called so, with a notice where it hides       |
|                           | pixels but looks like a picture; a notice for each band left out  |
| TIFF blocks never written | `valid` False there, and a notice                                 |
| a transform               | `georeference`, with the CRS if it is named; a notice where the   |
|                           | transform is of no use; and the GSD on the ground                 |

Percentiles are those of the valid pixels, in images of more than 131,072 of every n-th row and
column. A `rescale` of the client takes their place, and spreads 8-bit samples as well.
"""

from dataclasses import replace
from typing import Unpack

from .bands import check_rgb
from .choices import Decoding
from .image import Image
from .picture import decode_picture
from .raster import decode_raster
from .scaling import correct_light, spread
from .sharpness import sharpen_soft
from .sniff import Format, sniff


def decode_image(
    data: bytes, *, max_pixels: int, grey: bool = False, **wanted: Unpack[Decoding]
) -> Image:
    """Decode a whole PNG, JPEG, WebP or TIFF file.

    `rgb` of a PNG, JPEG or WebP counts these three. `grey`: read a label, whose samples stay as
    they are, and may be the single band of a GeoTIFF.
    Memory is bounded by `len(data)` and `max_pixels`; safe in threads.

    Raises:
        EmptyUpload: no bytes.
        UnsupportedFormat: another format, by content; no decoder is called.
        UploadTooLarge: more than `max_pixels`, decided before pixels are decoded.
        DamagedImage: an accepted format, but truncated, corrupt or without pixels.
        UnsupportedImage: whole, but its bands or samples can't be read as 8-bit RGB.
        InvalidOption: `rgb` names a band that is not there.
    """
    kind = sniff(data)
    if kind is Format.TIFF:
        image = decode_raster(data, wanted, max_pixels=max_pixels, grey=grey)
    else:
        image = decode_picture(data, kind, max_pixels=max_pixels)
        rgb, rescale = wanted.get("rgb"), wanted.get("rescale")
        if rgb is not None:
            check_rgb(rgb, 3)
            image = replace(image, pixels=image.pixels[..., [band - 1 for band in rgb]])
        if rescale is not None:
            image = replace(image, pixels=spread(image.pixels, rescale))
        elif not grey:
            image = correct_light(image)
    return image if grey else sharpen_soft(image, wanted.get("sharpen"))
