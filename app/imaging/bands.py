"""Which bands of a TIFF make the picture, by what the file says of them."""

from collections.abc import Sequence

from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from app.errors import UnsupportedImage

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_UNSAID = {ColorInterp.gray, ColorInterp.undefined}


def choose_bands(source: DatasetReader, *, grey: bool) -> tuple[int, ...]:
    """Choose the bands, counted from 1, that make the picture: three, or one grey or palette.

    `grey`: accept a single band of a georeferenced raster. It may be anything, of panchromatic
    light to heights, and to the models it would look like a picture all the same.

    Raises:
        UnsupportedImage: bands that can't be told apart, or a single one that is no picture.
    """
    meanings: Sequence[ColorInterp] = source.colorinterp
    if all(meanings.count(colour) == 1 for colour in _RGB):
        return tuple(meanings.index(colour) + 1 for colour in _RGB)
    eight_bits = source.dtypes[0] == "uint8"
    if meanings[0] is ColorInterp.palette and eight_bits:
        return (1,)
    unsaid = tuple(band for band, meaning in enumerate(meanings, 1) if meaning in _UNSAID)
    if len(unsaid) + meanings.count(ColorInterp.alpha) == len(meanings):
        if len(unsaid) in (3, 4):
            return unsaid[:3]
        if len(unsaid) == 1:
            placed = source.crs is not None or not source.transform.is_identity
            if eight_bits and (grey or not placed):
                return unsaid
            raise UnsupportedImage(
                f"The {'GeoTIFF' if placed else 'TIFF'} has a single band, of {source.dtypes[0]}: "
                "the models look at colour. "
                "Send red, green and blue, such as the pan-sharpened product. "
                "If its grey is meant all the same, save it as 8-bit RGB of three equal bands."
            )
    raise UnsupportedImage(
        f"The TIFF's bands are {', '.join(meaning.name for meaning in meanings)}. "
        "Expected are RGB, or bands that say which of them are red, green and blue."
    )


def band_notices(source: DatasetReader, bands: tuple[int, ...]) -> list[str]:
    """Say what was made of bands that were not plainly red, green, blue or alpha."""
    notices = []
    meanings = source.colorinterp
    if meanings[bands[0] - 1] in _UNSAID:
        notices.append(
            "The image is greyscale: its band was used as red, green and blue."
            if len(bands) == 1
            else "The TIFF does not name its bands: the first three were used as RGB."
        )
    space = source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE")
    if space in ("CMYK", "CIELAB"):
        notices.append(f"The image is {space}: it was converted to RGB without a colour profile.")
    notices += [
        f"Band {band} ({meaning.name}) is neither red, green, blue nor alpha: it was ignored."
        for band, meaning in enumerate(meanings, 1)
        if band not in bands and meaning is not ColorInterp.alpha
    ]
    return notices
