"""Which bands of a TIFF make the picture, by what the client or the file says of them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader

from ..errors import InvalidOption, UnsupportedImage
from .choices import Rgb

GREY_NOTICE = "The image is greyscale: its band was used as red, green and blue."

_COLOURS = ("red", "green", "blue")
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_UNSAID = {ColorInterp.gray, ColorInterp.undefined}
_OTHER_BANDS = {
    *("near", "infra", "infrared", "nir", "swir", "mwir", "lwir", "tir", "thermal"),
    *("edge", "rededge", "coastal", "aerosol", "cirrus", "yellow", "pan", "panchromatic"),
}
"""Words of band descriptions that name a band other than red, green and blue."""
_CLASSES = 64
"""Colours below which a palette is more likely to be one of classes than of a photograph."""
_ENOUGH = 4096
"""Samples that it takes to judge a palette."""


def check_rgb(rgb: Rgb, count: int) -> None:
    """Check that an image has the bands that the client names.

    Raises:
        InvalidOption: it has fewer.
    """
    if max(rgb) > count:
        raise InvalidOption(f"rgb names band {max(rgb)}; the image has bands 1 to {count}.")


def choose_bands(
    source: DatasetReader, *, grey: bool, rgb: Rgb | None = None
) -> tuple[tuple[int, ...], list[str]]:
    """Choose the bands that make the picture, counted from 1, with notices about the choice.

    They are those that the client names, else those with the colour interpretation, else those
    whose descriptions name red, green and blue, else the first three of three or four. A palette or
    a grey band is one band alone. Notices tell where the file is unclear or contradicts itself.
    `grey`: accept a single band of a georeferenced raster, which may hold anything from
    panchromatic light to heights.

    Raises:
        InvalidOption: the client names a band that is not there.
        UnsupportedImage: bands that can't be told apart, or a single one that is not a picture.
    """
    if rgb is not None:
        check_rgb(rgb, source.count)
        return rgb, []
    meanings: Sequence[ColorInterp] = source.colorinterp
    texts = descriptions(source)
    shown = ", ".join(_quoted(text or "") for text in texts[:8])
    described = _described(texts)
    named = tuple(described[colour] for colour in _COLOURS) if len(described) == 3 else ()
    if all(meanings.count(colour) == 1 for colour in _RGB):
        bands = tuple(meanings.index(colour) + 1 for colour in _RGB)
        if named and named != bands:
            return bands, [
                f"The TIFF's colour interpretation and its band descriptions ({shown}) differ: the "
                f"interpretation was used. rgb={','.join(map(str, named))} takes the bands that "
                "are described as red, green and blue."
            ]
        return bands, _described_notices(named)
    eight_bits = source.dtypes[0] == "uint8"
    if meanings[0] is ColorInterp.palette and eight_bits:
        return (1,), []
    if named:
        return named, _described_notices(named)
    unsaid = tuple(band for band, meaning in enumerate(meanings, 1) if meaning in _UNSAID)
    if len(unsaid) + meanings.count(ColorInterp.alpha) == len(meanings):
        others = any(_words(text) & _OTHER_BANDS for text in texts[:3])
        if len(unsaid) in (3, 4) and not described and not others:
            notice = "The TIFF does not name its bands: the first three were used as RGB."
            if any(texts):
                notice = (
                    f"The TIFF's band descriptions ({shown}) do not name red, green and blue: the "
                    "first three were used as RGB. rgb=3,2,1 takes them the other way round."
                )
            return unsaid[:3], [notice]
        if len(unsaid) == 1:
            placed = source.crs is not None or not source.transform.is_identity
            if eight_bits and (grey or not placed):
                return unsaid, [GREY_NOTICE]
            raise UnsupportedImage(
                f"The {'GeoTIFF' if placed else 'TIFF'} has a single band, of {source.dtypes[0]}: "
                "the models look at colour. "
                "Give red, green and blue, such as the pan-sharpened product. "
                "To segment the grey band all the same, give rgb=1,1,1."
            )
    names = [label(source, band) for band in range(1, source.count + 1)]
    raise UnsupportedImage(
        f"The TIFF's bands are {', '.join(names)}. Expected are red, green and blue, or "
        "descriptions that name them. Choose them, such as with rgb=3,2,1."
    )


def descriptions(source: DatasetReader) -> tuple[str | None, ...]:
    """Return the description of each band; None for all if one is not UTF-8."""
    try:
        return tuple(source.descriptions)
    except UnicodeDecodeError:
        return (None,) * int(source.count)


def label(source: DatasetReader, band: int) -> str:
    """Return a file's name for a band: its description, else its colour interpretation."""
    description = descriptions(source)[band - 1]
    return _quoted(description) if description else str(source.colorinterp[band - 1].name)


def band_notices(source: DatasetReader, bands: tuple[int, ...], rgb: Rgb | None) -> list[str]:
    """Return notices about converted colours and ignored bands."""
    notices = []
    space = source.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE")
    if space in ("CMYK", "CIELAB"):
        notices.append(f"The image is {space}: it was converted to RGB without a colour profile.")
    notices += [
        f"Band {band} ({label(source, band)}) is neither red, green, blue nor alpha: it was "
        "ignored."
        for band, meaning in enumerate(source.colorinterp, 1)
        if band not in bands and meaning is not ColorInterp.alpha and rgb is None
    ]
    return notices


def _described_notices(bands: tuple[int, ...]) -> list[str]:
    """Return a notice of bands that were used by their descriptions, unless they are 1, 2, 3."""
    if bands in ((), (1, 2, 3)):
        return []
    return [
        "Bands {}, {} and {} were used as red, green and blue, as they are described.".format(
            *bands
        )
    ]


def _quoted(description: str) -> str:
    """Quote the first 24 characters of a file's text in ASCII, on one line."""
    return ascii(description[:24])


def _described(descriptions: Sequence[str | None]) -> dict[str, int]:
    """Match bands to colours by their descriptions; a colour that two bands claim is left out.

    A band that has the colour's bare name comes first: `green` before `green_i`.
    """
    found = {}
    words_of = dict(enumerate(map(_words, descriptions), 1))
    for colour in _COLOURS:
        alone = [band for band, words in words_of.items() if words in ({colour}, {colour[0]})]
        among = [
            band
            for band, words in words_of.items()
            if words & {*_COLOURS} == {colour} and not words & _OTHER_BANDS
        ]
        for bands in (alone, among):
            if len(bands) == 1:
                found[colour] = bands[0]
                break
    return found


def _words(description: str | None) -> set[str]:
    return set(re.findall(r"[a-z]+", (description or "").lower()))


def alpha_notices(alpha: NDArray[Any], band: int) -> list[str]:
    """Warn of an alpha band that hides pixels although it looks like a picture of its own.

    `alpha` are samples of it. Where an image is not transparent, alpha has one value nearly
    everywhere, its greatest; near infrared, which some publishers flag as alpha, has many.
    """
    shown = alpha[alpha > 0]
    if shown.size in (0, alpha.size):
        return []
    _, counts = np.unique(shown, return_counts=True)
    if counts.max() * 2 >= shown.size:
        return []
    return [
        f"Band {band} is called alpha, and is 0 in {1 - shown.size / alpha.size:.2%} of the "
        "pixels: they are invalid, and hold no building. Elsewhere it has many values, as a "
        "picture has: if it is near infrared, give red, green and blue alone, or a TIFF after "
        f"gdal_edit.py -colorinterp_{band} undefined."
    ]


def palette_notices(indices: NDArray[Any]) -> list[str]:
    """Warn of a palette with as few colours as a map of classes has. `indices` are samples."""
    used = np.unique(indices).size
    if used >= _CLASSES or indices.size < _ENOUGH:
        return []
    return [
        f"The image has a palette, of which it uses {used} colours: if they are classes, such as "
        "land cover, it is not a picture, and its buildings mean nothing."
    ]
