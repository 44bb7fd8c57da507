# SPDX-License-Identifier: GPL-2.0-or-later
"""A raster layer, or a part of it, as the GeoTIFF that the service is sent."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from osgeo import gdal
from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsDistanceArea,
    QgsFeedback,
    QgsPointXY,
    QgsRasterBlockFeedback,
    QgsRasterFileWriter,
    QgsRasterLayer,
    QgsRasterPipe,
    QgsRectangle,
)

_ALONE = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO"}
"""What makes GDAL take a file without the ones beside it."""
_MASK_INSIDE = {"GDAL_TIFF_INTERNAL_MASK": "YES"}
"""What makes any version of GDAL write a mask into the file, and not beside it."""
_LAYOUT = ["COMPRESS=DEFLATE", "BIGTIFF=IF_SAFER"]


@contextmanager
def _configured(options: Mapping[str, str]) -> Iterator[None]:
    """Set options of GDAL for this thread alone."""
    for option, value in options.items():
        gdal.SetThreadLocalConfigOption(option, value)
    try:
        yield
    finally:
        for option in options:
            gdal.SetThreadLocalConfigOption(option, None)


def _holes(dataset: gdal.Dataset) -> list[tuple[int, str]]:
    """Return how each band says which pixels are nothing: as text, as NaN equals nothing."""
    bands = map(dataset.GetRasterBand, range(1, dataset.RasterCount + 1))
    return [(band.GetMaskFlags(), str(band.GetNoDataValue())) for band in bands]


class ImageryError(Exception):
    """The layer can't be sent; the message is for the user."""


class Imagery:
    """The part of a raster layer that lies in an extent; all of it where the extent is empty.

    A layer of GDAL is sent with its own bands, samples and grid; a whole TIFF as the very file,
    which may be compressed better than we could. Any other layer, such as XYZ or WMS, is sent as
    QGIS draws it, at `resolution` metres per pixel. Make it in the main thread.

    Raises:
        ImageryError: the layer has no coordinate reference system, or needs an extent.
    """

    def __init__(
        self,
        layer: QgsRasterLayer,
        extent: QgsRectangle,
        resolution: float,
        transforms: QgsCoordinateTransformContext,
    ) -> None:
        if not layer.crs().isValid():
            raise ImageryError(
                f"The layer {layer.name()} has no coordinate reference system. Set one in its "
                "properties, under Source."
            )
        self._name = layer.name()
        self._crs = QgsCoordinateReferenceSystem(layer.crs())
        self._extent = extent
        self._source = layer.source() if layer.providerType() == "gdal" else None
        self._transforms = transforms
        if self._source is not None:
            self._size = self._window()[2:]
            return
        if extent.isEmpty():
            raise ImageryError(
                f"The layer {layer.name()} comes from the web and has no end: choose an extent."
            )
        self._pipe = QgsRasterPipe()
        self._pipe.set(layer.dataProvider().clone())
        self._pipe.set(layer.renderer().clone())
        self._size = self._drawn_size(resolution)

    @property
    def pixels(self) -> int:
        """How many pixels are sent."""
        width, height = self._size
        return width * height

    def encode(self, feedback: QgsFeedback) -> bytes:
        """Return the GeoTIFF; nothing of use if the user cancels.

        Raises:
            ImageryError: it can't be read.
        """
        if self._source is not None and self._is_whole_file():
            return Path(self._source).read_bytes()
        with tempfile.TemporaryDirectory(prefix="rooftrace") as folder:
            path = Path(folder, "imagery.tif")
            if self._source is None:
                self._draw(path, feedback)
            else:
                self._copy(path, feedback)
            if feedback.isCanceled():
                return b""
            return path.read_bytes()

    def _is_whole_file(self) -> bool:
        """Tell whether the layer is all of a TIFF, which says of itself where it lies."""
        dataset = self._open()
        whole = (0, 0, dataset.RasterXSize, dataset.RasterYSize)
        if self._window() != whole or not Path(self._source).is_file():
            return False
        with _configured(_ALONE):
            alone = gdal.OpenEx(self._source, allowed_drivers=["GTiff"])
        return (
            alone is not None
            and alone.GetGeoTransform() == dataset.GetGeoTransform()
            and QgsCoordinateReferenceSystem.fromWkt(alone.GetProjection()) == self._crs
            and _holes(alone) == _holes(dataset)
        )

    def _copy(self, path: Path, feedback: QgsFeedback) -> None:
        with _configured(_MASK_INSIDE):
            made = gdal.Translate(
                str(path),
                self._open(),
                format="GTiff",
                srcWin=self._window(),
                outputSRS=self._crs.toWkt(QgsCoordinateReferenceSystem.WKT_PREFERRED_GDAL),
                creationOptions=_LAYOUT,
                callback=lambda *_: 0 if feedback.isCanceled() else 1,
            )
        if made is None and not feedback.isCanceled():
            raise ImageryError(f"{self._name} can't be read: {gdal.GetLastErrorMsg()}")

    def _draw(self, path: Path, feedback: QgsFeedback) -> None:
        stopping = QgsRasterBlockFeedback()
        feedback.canceled.connect(stopping.cancel)
        writer = QgsRasterFileWriter(str(path))
        writer.setOutputFormat("GTiff")
        writer.setCreateOptions(_LAYOUT)
        width, height = self._size
        error = writer.writeRaster(
            self._pipe, width, height, self._extent, self._crs, self._transforms, stopping
        )
        if error != QgsRasterFileWriter.NoError and not feedback.isCanceled():
            reason = "; ".join(stopping.errors()) or f"QGIS's error {error}"
            raise ImageryError(f"{self._name} can't be drawn: {reason}")

    def _open(self) -> gdal.Dataset:
        dataset = gdal.Open(self._source)
        if dataset is None:
            raise ImageryError(f"{self._name} can't be opened: {gdal.GetLastErrorMsg()}")
        return dataset

    def _window(self) -> tuple[int, int, int, int]:
        """Return column, row, width and height of the pixels that the extent touches."""
        dataset = self._open()
        width, height = dataset.RasterXSize, dataset.RasterYSize
        if self._extent.isEmpty():
            return 0, 0, width, height
        inverse = gdal.InvGeoTransform(dataset.GetGeoTransform())
        corners = [
            gdal.ApplyGeoTransform(inverse, x, y)
            for x in (self._extent.xMinimum(), self._extent.xMaximum())
            for y in (self._extent.yMinimum(), self._extent.yMaximum())
        ]
        # An extent that was read off the grid may miss it by a rounding.
        columns, rows = ([round(value, 3) for value in of] for of in zip(*corners))
        left, right = max(0, math.floor(min(columns))), min(width, math.ceil(max(columns)))
        top, bottom = max(0, math.floor(min(rows))), min(height, math.ceil(max(rows)))
        if left >= right or top >= bottom:
            raise ImageryError(f"The extent lies outside the layer {self._name}.")
        return left, top, right - left, bottom - top

    def _drawn_size(self, resolution: float) -> tuple[int, int]:
        """Return the width and height at which a pixel is `resolution` metres on the ground."""
        ruler = QgsDistanceArea()
        ruler.setSourceCrs(self._crs, self._transforms)
        ruler.setEllipsoid("EPSG:7030")  # WGS 84's
        middle, extent = self._extent.center(), self._extent
        across = ruler.measureLine(
            QgsPointXY(extent.xMinimum(), middle.y()), QgsPointXY(extent.xMaximum(), middle.y())
        )
        down = ruler.measureLine(
            QgsPointXY(middle.x(), extent.yMinimum()), QgsPointXY(middle.x(), extent.yMaximum())
        )
        return max(1, round(across / resolution)), max(1, round(down / resolution))
