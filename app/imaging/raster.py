"""Read TIFF and GeoTIFF."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.io import DatasetReader

from app.errors import DamagedImage, UnsupportedImage
from app.imaging.gdal import GDAL_ERRORS, open_in_memory
from app.imaging.georeference import GeoReference, Gsd
from app.imaging.ifd import directory_offsets, orientation
from app.imaging.image import Image
from app.imaging.limits import check_pixel_count

_MAX_BANDS = 16
_MAX_BLOCKS = 500_000
_MAX_DIRECTORIES = 1_000  # pages, overviews and masks; GDAL takes seconds to list 65,535
_ROWS = 512  # of a palette image turned to colours at a time
_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_UNSAID = {ColorInterp.gray, ColorInterp.undefined}


def decode_raster(data: bytes, *, max_pixels: int) -> Image:
    """Decode a TIFF file's first page.

    A block that lies beyond the end of the file is damage. One that the directory itself lists as
    never written (no offset or no bytes) is not: sparse files are legal, and such a block says
    "nothing here", so its pixels are invalid.

    Raises:
        DamagedImage, UnsupportedImage, UploadTooLarge: as in `decode_image`.
    """
    directories = sum(1 for _ in islice(directory_offsets(data), _MAX_DIRECTORIES + 1))
    if directories > _MAX_DIRECTORIES:
        raise UnsupportedImage(
            f"The TIFF has more than {_MAX_DIRECTORIES} pages. Send the page that is meant."
        )
    try:
        with open_in_memory(data, "GTiff") as source:
            check_pixel_count(source.height, source.width, max_pixels)
            _check_layout(source, max_pixels)
            bands = _choose_bands(source.colorinterp)
            notices = _band_notices(source, bands)
            pixels = _read_pixels(source, bands)
            masks = [_read_mask(source, bands), written := _written(source, bands)]
            if written is not None:
                notices.append("The TIFF has blocks that were never written: they are invalid.")
            georeference = _read_georeference(source, notices)
            gsd = _ground_gsd(source, georeference, notices)
            if len(source.subdatasets) > 1:
                notices.append(f"The TIFF has {len(source.subdatasets)} pages: the first was used.")
    except GDAL_ERRORS as error:
        raise DamagedImage(
            "The TIFF is damaged: its directory or image data can't be read. It may be cut short."
        ) from error
    if (turned := orientation(data)) != 1:
        notices.append(
            f"TIFF orientation {turned} was not applied: "
            "the result lies on the pixels as they are stored."
        )
    return Image(pixels, _all_of(masks), georeference, tuple(notices), gsd)


def _check_layout(source: DatasetReader, max_pixels: int) -> None:
    """Refuse what is not 8-bit, and what could only be read with memory or time out of measure."""
    if source.count > _MAX_BANDS:
        raise UnsupportedImage(
            f"The TIFF has {source.count} bands; at most {_MAX_BANDS} are read. "
            "Send red, green and blue."
        )
    if set(source.dtypes) != {"uint8"}:
        raise UnsupportedImage(
            f"The TIFF's samples are {', '.join(sorted(set(source.dtypes)))}; uint8 is expected. "
            "Rescale it to 8 bits, so that its darkest and brightest ground lie near 0 and 255."
        )
    bits = source.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8")
    if bits != "8" and source.colorinterp[0] is not ColorInterp.palette:
        raise UnsupportedImage(
            f"The TIFF has {bits} bits a sample; 8 are expected. Save it with 8 bits."
        )
    height, width = source.block_shapes[0]
    interleaved = source.count if _is_interleaved(source) else 1
    if height * width * interleaved > 4 * max_pixels:
        raise UnsupportedImage(
            f"The TIFF is stored in blocks of {width} x {height} pixels, too large to be read. "
            "Rewrite it with tiles of 256 x 256."
        )
    blocks = -(-source.height // height) * -(-source.width // width)
    if blocks > _MAX_BLOCKS:
        raise UnsupportedImage(
            f"The TIFF is stored in {blocks} blocks, too many to be read. "
            "Rewrite it with tiles of 256 x 256."
        )


def _is_interleaved(source: DatasetReader) -> bool:
    """Tell whether a block holds all bands."""
    return source.interleaving is Interleaving.pixel


def _choose_bands(meanings: Sequence[ColorInterp]) -> tuple[int, ...]:
    """Choose the bands, counted from 1, that make the picture: three, or one grey or palette."""
    if all(meanings.count(colour) == 1 for colour in _RGB):
        return tuple(meanings.index(colour) + 1 for colour in _RGB)
    if meanings[0] is ColorInterp.palette:
        return (1,)
    unsaid = tuple(band for band, meaning in enumerate(meanings, 1) if meaning in _UNSAID)
    if len(unsaid) + meanings.count(ColorInterp.alpha) == len(meanings):
        if len(unsaid) == 1:
            return unsaid
        if len(unsaid) in (3, 4):
            return unsaid[:3]
    raise UnsupportedImage(
        f"The TIFF's bands are {', '.join(meaning.name for meaning in meanings)}. "
        "Expected are grey, RGB, or bands that say which of them are red, green and blue."
    )


def _band_notices(source: DatasetReader, bands: tuple[int, ...]) -> list[str]:
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


def _read_pixels(source: DatasetReader, bands: tuple[int, ...]) -> NDArray[np.uint8]:
    pixels = np.empty((source.height, source.width, 3), np.uint8)
    if len(bands) == 3:
        source.read(bands, out=np.moveaxis(pixels, 2, 0))
        return pixels
    band: NDArray[np.uint8] = source.read(bands[0])
    if source.colorinterp[bands[0] - 1] is ColorInterp.palette:
        colours = np.zeros((256, 3), np.uint8)
        for index, colour in source.colormap(bands[0]).items():
            colours[index] = colour[:3]
        for top in range(0, source.height, _ROWS):
            pixels[top : top + _ROWS] = colours[band[top : top + _ROWS]]
        return pixels
    if source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        np.subtract(255, band, out=band)
    pixels[:] = band[..., np.newaxis]
    return pixels


def _read_mask(source: DatasetReader, bands: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Read alpha, mask or nodata of the chosen bands; a pixel is valid if one of them is.

    Source: GDAL RFC 15; `rasterio.DatasetReader.dataset_mask`, which would ask all bands.
    """
    flags = source.mask_flag_enums[bands[0] - 1]
    if MaskFlags.all_valid in flags:
        return None
    asked = bands[:1] if MaskFlags.per_dataset in flags else bands
    valid = np.zeros((source.height, source.width), np.bool_)
    for band in asked:
        valid |= source.read_masks(band) > 0
    return valid


def _written(source: DatasetReader, bands: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Mark the pixels of blocks that the file holds; None when it holds all of them."""
    asked = bands[:1] if _is_interleaved(source) else bands
    missing = [
        window.toslices()
        for (row, column), window in source.block_windows(1)
        for band in asked
        if source.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is None
    ]
    if not missing:
        return None
    valid = np.ones((source.height, source.width), np.bool_)
    for block in missing:
        valid[block] = False
    return valid


def _all_of(masks: list[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
    present = [mask for mask in masks if mask is not None and not mask.all()]
    return np.logical_and.reduce(present) if present else None


def _read_georeference(source: DatasetReader, notices: list[str]) -> GeoReference | None:
    """Return the georeference if there is one; if its transform is of no use, add a notice."""
    transform = source.transform
    control_points, _ = source.gcps
    if transform.is_identity and source.crs is None and not control_points:
        return None
    crs: str | None = source.crs.to_wkt() if source.crs is not None else None
    a, b, c, d, e, f = transform[:6]
    georeference = GeoReference(crs, (a, b, c, d, e, f))
    if not georeference.has_grid:
        notices.append("The TIFF's georeference has no usable transform: it was ignored.")
    return georeference


def _ground_gsd(
    source: DatasetReader, georeference: GeoReference | None, notices: list[str]
) -> Gsd | None:
    """Return the GSD where the georeference tells it; where it should but can't, add a notice."""
    if georeference is None or not georeference.has_grid:
        return None
    gsd = georeference.gsd(source.height, source.width)
    if gsd is None:
        notices.append(
            "The TIFF's georeference does not tell its GSD: give gsd= in metres per pixel."
        )
    return gsd
