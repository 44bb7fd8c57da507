"""Draw layers as QGIS does when they are opened: QGIS's Python runs this, not ours.

Arguments: the picture to write, its width, then the layers from the uppermost down. The last one
tells extent and coordinate reference system. Prints each layer's renderer.
"""

import os
import sys

from qgis.core import (
    QgsApplication,
    QgsMapLayer,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize

RASTERS = (".tif", ".tiff", ".png")


def draw(picture: str, width: int, names: list[str]) -> None:
    """Write a PNG of the layers."""
    layers = [_layer(name) for name in names]
    for layer in layers:
        assert layer.isValid(), layer.source()
        print(type(layer.renderer()).__name__)
    extent = layers[-1].extent()
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setExtent(extent)
    settings.setDestinationCrs(layers[-1].crs())
    settings.setOutputSize(QSize(width, round(width * extent.height() / extent.width())))
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    assert job.renderedImage().save(picture), picture


def _layer(name: str) -> QgsMapLayer:
    if name.startswith("type=xyz"):
        return QgsRasterLayer(name, "tiles", "wms")
    return QgsRasterLayer(name, name) if name.endswith(RASTERS) else QgsVectorLayer(name, name)


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    draw(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
    sys.stdout.flush()
    os._exit(0)  # tearing QGIS down in order may crash, and the picture is there
