"""Read TIFF and GeoTIFF: whole from memory, or a few rows at a time from a file of any size."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from .bands import alpha_notices, band_notices, choose_bands, palette_notices
from .checks import (
    check_blocks,
    check_pages,
    check_samples,
    is_interleaved,
    translate_errors,
)
from .choices import Decoding
from .gdal import open_in_memory, open_path
from .ifd import orientation, pages
from .image import Image
from .limits import check_pixel_count
from .place import read_place
from .scaling import (
    RULE,
    correct_light,
    format_rescale,
    light_limits,
    percentile_limits,
    sampling_step,
    to_8_bits,
    without_black,
)
from .sharpness import sharpen_rows, sharpening_for, soft_notice

_MAX_BLOCKS, _TILE = 500_000, 2**20  # a small picture may lie in one tile of so many samples
_MAX_BLOCK_SAMPLES = 2**28  # of a file on disk
_PIXELS = 2**21  # converted at a time, so that no second whole picture stands in memory
_COLLAR = 0.01  # share of black pixels that hardly is imagery

Fits = Callable[[int, int], None]
"""Takes height and width of a raster before its rows are read, and raises if it is too large."""


def decode_raster(data: bytes, wanted: Decoding, *, max_pixels: int, grey: bool = False) -> Image:
    """Decode a TIFF file's first page.

    A block that lies beyond the end of the file is damage. One that the directory itself lists as
    never written (no offset or no bytes) is not: sparse files are legal, and such a block says
    "nothing here", so its pixels are invalid.

    Raises:
        DamagedImage, UnsupportedImage, UploadTooLarge: as in `decode_image`.
    """
    check_pages(data)
    with translate_errors(data), open_in_memory(data, "GTiff") as source:
        check_pixel_count(source.height, source.width, max_pixels)
        check_blocks(source, max(4 * max_pixels, _TILE), _MAX_BLOCKS)
        raster = Raster(source, data, wanted, grey=grey)
        pixels = raster.read_pixels(0, raster.height)
        valid = raster.read_valid(0, raster.height)
    image = Image(pixels, valid, raster.georeference, raster.notices, raster.gsd)
    return image if grey or raster.limits else correct_light(image)


@contextmanager
def open_raster(
    path: Path, fits: Fits | None = None, **wanted: Unpack[Decoding]
) -> Iterator["Raster"]:
    """Open the first page of a TIFF file of any size, to be read a few rows at a time.

    Its pixels, its valid ones, its georeference and its notices are those that `decode_raster`
    finds, but for the sidecars that a file on disk may have. Memory grows with its width. Without
    `rescale` and `sharpen`, some rows are read at once, to see which corrections the image needs.

    Raises:
        OSError: the file can't be read.
        DamagedImage, UnsupportedImage: as in `decode_image`.
        Exception: any that `fits` raises.
    """
    with ExitStack() as stack:
        with (
            path.open("rb") as file,
            mmap(file.fileno(), 0, access=ACCESS_READ) as data,
            translate_errors(data),
        ):
            check_pages(data)
            source = stack.enter_context(open_path(path, "GTiff"))
            raster = read_rows(source, data, wanted, fits)
        yield raster  # outside of `translate_errors`: the caller's errors are no fault of the file


def read_rows(
    source: DatasetReader, data: bytes | mmap | None, wanted: Decoding, fits: Fits | None
) -> "Raster":
    """Return a raster of any size, with its light and its sharpness corrected as it is read.

    Raises:
        As `Raster`.
        UnsupportedImage: as `check_blocks`.
        Exception: any that `fits` raises.
    """
    check_blocks(source, _MAX_BLOCK_SAMPLES, None)
    if fits:
        fits(source.height, source.width)
    raster = Raster(source, data, wanted)
    raster.correct(wanted.get("sharpen"))
    return raster


class Raster:
    """The first page of an open TIFF, as 8-bit RGB: a `RowSource`.

    `data` is the file, of which only directories are read; None where these are not at hand.
    Without `rescale`, samples of 8 bits stay as they are until `correct`, and nothing is sharpened.

    Raises:
        InvalidOption: `rgb` names a band that is not there.
        DamagedImage: rows that can't be read, now or later.
        UnsupportedImage: bands or samples that can't be read as 8-bit RGB.
    """

    def __init__(
        self,
        source: DatasetReader,
        data: bytes | mmap | None,
        wanted: Decoding,
        *,
        grey: bool = False,
    ) -> None:
        rescale, rgb = wanted.get("rescale"), wanted.get("rgb")
        check_samples(source)
        self._source = source
        self.height, self.width = int(source.height), int(source.width)
        self._bands, notices = choose_bands(source, grey=grey, rgb=rgb)
        self._palette = _palette(source, self._bands)
        self._inverted = source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        notices += band_notices(source, self._bands, rgb)

        flags = source.mask_flag_enums[self._bands[0] - 1]
        self._masked: tuple[int, ...] = ()
        if MaskFlags.all_valid not in flags:
            self._masked = self._bands[:1] if MaskFlags.per_dataset in flags else self._bands
        # GDAL reports one kind of mask: no alpha if there is nodata, or not 8 or 16 bits.
        alpha = _alpha_band(source, self._bands)
        self._alpha = alpha if MaskFlags.alpha not in flags else None
        if alpha is None and MaskFlags.alpha in flags:  # the client chose it as a colour
            self._masked = ()
        self._unwritten = _unwritten_blocks(source, self._bands)
        if self._unwritten is not None:
            notices.append("The TIFF has blocks that were never written: they are invalid.")

        if alpha is not None:
            notices += alpha_notices(self._sampled(alpha), alpha)
        if self._palette is not None and not grey:
            notices += palette_notices(self._sampled(self._bands[0]))

        self.limits = rescale
        """What becomes 0 and 255; None while samples of 8 bits stay as they are."""
        self._sharpened = 0
        if (dtype := source.dtypes[0]) != "uint8":
            by = "as asked"
            if rescale is None:
                samples, _ = self._sample()
                lit = without_black(samples)
                of = lit if len(lit) else samples
                self.limits, by = percentile_limits(list(of.T)), f"by which {RULE}"
                black = 1 - len(lit) / len(samples) if len(samples) else 0.0
                if black > _COLLAR:
                    notices.append(
                        f"{black:.0%} of the TIFF's pixels are 0 in every band and count as "
                        "imagery: if they are a collar, say so with gdal_edit.py -a_nodata 0."
                    )
            assert self.limits is not None
            notices.append(
                f"The TIFF's {dtype} samples were scaled to 8 bits with "
                f"rescale={format_rescale(self.limits)}, {by}."
            )

        self.georeference, self.gsd, place_notices = read_place(source, "TIFF")
        notices += place_notices
        if data is not None:
            notices += _page_notices(source, data)
        self.notices = tuple(notices)

    def correct(self, sharpen: int | None) -> None:
        """Correct unusual light of 8-bit samples, and sharpen, in all rows that are read later.

        It does what `scaling.correct_light` and `sharpness.sharpen_soft` do with whole images.
        `sharpen` is in per cent; None: as much as a soft image needs.
        """
        if self.limits is None:
            samples, step = self._sample()
            corrected = light_limits(samples.astype(np.uint8, copy=False), step)
            if corrected is not None:
                self.limits, notice = corrected
                self.notices = (*self.notices, notice)
        self._sharpened = sharpening_for(self) if sharpen is None else sharpen
        if sharpen is None and self._sharpened:
            self.notices = (*self.notices, soft_notice(self._sharpened))

    def read_pixels(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return rows `start` to `stop`: uint8 (stop - start, width, 3), RGB."""
        if not self._sharpened:
            return self._read(start, stop)
        size = self.height, self.width
        return sharpen_rows(self._read, size, start, stop, self._sharpened)

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        pixels = np.empty((stop - start, self.width, 3), np.uint8)
        with translate_errors():
            if self.limits is None and len(self._bands) == 3:
                out = np.moveaxis(pixels, 2, 0)
                self._source.read(self._bands, out=out, window=self._window(start, stop))
                return pixels
            for top, end in self._strips(start, stop):
                colours = self._colours(top, end)
                for channel in range(3):
                    values = colours[channel % len(colours)]
                    if self.limits is not None:
                        values = to_8_bits(values, *self.limits[channel])
                    pixels[top - start : end - start, :, channel] = values
        return pixels

    def read_valid(self, start: int, stop: int) -> NDArray[np.bool_] | None:
        """Return which pixels of these rows are valid, bool; None where all of them are.

        A pixel is valid if alpha, mask and nodata of one of the chosen bands say so, if its block
        was written, and if its samples are numbers.

        Source: GDAL RFC 15; `rasterio.DatasetReader.dataset_mask`, which would ask all bands.
        """
        floats = self._source.dtypes[0] == "float32"
        if not (self._masked or self._alpha or floats or self._unwritten is not None):
            return None
        valid = np.ones((stop - start, self.width), np.bool_)
        with translate_errors():
            for top, end in self._strips(start, stop):
                rows, window = valid[top - start : end - start], self._window(top, end)
                if self._masked:
                    rows[:] = False
                    for band in self._masked:
                        rows |= self._source.read_masks(band, window=window) > 0
                if self._alpha:
                    rows &= self._source.read(self._alpha, window=window) > 0
                if floats:
                    rows &= np.isfinite(self._source.read(self._bands, window=window)).all(axis=0)
        if self._unwritten is not None:
            height, width = self._source.block_shapes[0]
            blocks = self._unwritten[np.arange(start, stop) // height]
            valid &= ~blocks.repeat(width, axis=1)[:, : self.width]
        return None if valid.all() else valid

    def _strips(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut rows into strips that may be read whole."""
        height = max(1, _PIXELS // self.width)
        for top in range(start, stop, height):
            yield top, min(top + height, stop)

    def _window(self, start: int, stop: int) -> Window:
        return Window(0, start, self.width, stop - start)

    def _colours(self, start: int, stop: int) -> NDArray[np.generic]:
        """Read rows as (3, h, w) of the stored samples, or (1, h, w) if they are grey."""
        samples: NDArray[np.generic] = self._source.read(
            self._bands, window=self._window(start, stop)
        )
        if self._palette is not None:
            return np.moveaxis(self._palette[samples[0]], 2, 0)
        return 255 - samples if self._inverted else samples

    def _sampled(self, band: int) -> NDArray[np.generic]:
        """Return one band's stored samples in every n-th row and column, (N,), valid or not."""
        step = sampling_step(self.height, self.width)
        with translate_errors():
            rows = [
                self._source.read(band, window=self._window(row, row + 1))[0, ::step]
                for row in range(0, self.height, step)
            ]
        return np.concatenate(rows)

    def _sample(self) -> tuple[NDArray[np.generic], int]:
        """Return stored samples of the valid pixels in every n-th row and column, and n.

        The samples are (N, 1 or 3). No other row is read.
        """
        step = sampling_step(self.height, self.width)
        sampled: list[NDArray[np.generic]] = [np.empty((0, 3), np.uint8)]
        for row in range(0, self.height, step):
            valid = self.read_valid(row, row + 1)
            if valid is None or valid[:, ::step].any():
                samples = self._colours(row, row + 1)[:, 0, ::step].T
                sampled.append(samples if valid is None else samples[valid[0, ::step]])
        return np.concatenate(sampled[1:] or sampled), step


def _alpha_band(source: DatasetReader, bands: tuple[int, ...]) -> int | None:
    """Return the band that is called alpha, unless it is a colour."""
    meanings = source.colorinterp
    alpha = meanings.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in meanings else None
    return None if alpha in bands else alpha


def _page_notices(source: DatasetReader, data: bytes | mmap) -> list[str]:
    """Say which page was used, and how it is stored."""
    notices = []
    if len(source.subdatasets) > 1:
        largest = max(pages(data), key=lambda page: page.height * page.width)
        notices.append(
            f"The TIFF has {len(source.subdatasets)} pages: the first was used."
            if largest.height * largest.width <= source.height * source.width
            else f"The TIFF has {len(source.subdatasets)} pages: the first, of {source.width} x "
            f"{source.height}, was used. Another is of {largest.width} x {largest.height}."
        )
    if (turned := orientation(data)) != 1:
        notices.append(
            f"TIFF orientation {turned} was not applied: "
            "the result lies on the pixels as they are stored."
        )
    return notices


def _palette(source: DatasetReader, bands: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return the colours of a palette image, uint8 (256, 3)."""
    if source.colorinterp[bands[0] - 1] is not ColorInterp.palette:
        return None
    colours = np.zeros((256, 3), np.uint8)
    for index, colour in source.colormap(bands[0]).items():
        colours[index] = colour[:3]
    return colours


def _unwritten_blocks(source: DatasetReader, bands: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Mark the blocks that the file does not hold, bool (down, across); None when it holds all."""
    if source.driver != "GTiff":  # a VRT tells of none
        return None
    asked = bands[:1] if is_interleaved(source) else bands
    height, width = source.block_shapes[0]
    blocks = np.zeros((-(-source.height // height), -(-source.width // width)), np.bool_)
    for row, column in np.ndindex(blocks.shape):
        blocks[row, column] = any(
            source.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is None
            for band in asked
        )
    return blocks if blocks.any() else None
