# SPDX-License-Identifier: GPL-2.0-or-later
"""The algorithm: imagery in, building outlines out."""

from __future__ import annotations

import os
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsFillSymbol,
    QgsGeometry,
    QgsPointXY,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsSettings,
    QgsSingleSymbolRenderer,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QVariant

from .imagery import Imagery, ImageryError
from .service import CancelledError, Service, ServiceError

_AS_JOB = 1_000_000
"""Pixels from which an image is sent as a job: below, one request takes a few seconds."""
_LOCAL = "http://127.0.0.1:8000"
_REMEMBERED = "rooftrace/service"
_KEY_VARIABLE = "ROOFTRACE_API_KEY"
_FIELDS = ("area_m2", "confidence", "agreement")
_NUMBERS = {
    "THRESHOLD": ("threshold", "Threshold (empty: the model's)", None, 1),
    "MIN_CONFIDENCE": ("min_confidence", "Minimum confidence (empty: the model's)", None, 1),
    "MIN_AREA": ("min_area", "Minimum area, m²", 0.0, None),
    "SIMPLIFY": ("simplify", "Simplify outlines by, metres", 0.0, None),
}
"""Parameters that are numbers: the service's name, the label, default and maximum."""


class SegmentBuildings(QgsProcessingAlgorithm):
    """Sends imagery to a Rooftrace service and writes the outlines that it finds."""

    def __init__(self) -> None:
        super().__init__()
        self._imagery: Imagery | None = None

    def name(self) -> str:
        """Return the name in scripts."""
        return "segmentbuildings"

    def displayName(self) -> str:
        """Return the name in the toolbox."""
        return "Segment buildings"

    def shortHelpString(self) -> str:
        """Return the text beside the parameters."""
        return (
            "Finds buildings in satellite or aerial imagery, and writes their outlines in the "
            "project's coordinate reference system.\n\n"
            "The imagery is sent to a Rooftrace service: start one with <i>rooftrace serve</i>, or "
            "give the address of another. A raster file is sent as it is, with its own grid; a web "
            "layer (XYZ, WMS) as QGIS draws it, at the resolution that you choose. Check that its "
            "terms allow that.\n\n"
            "Models know imagery of 0.2 to 1.2 m per pixel, seen from above.\n\n"
            "<b>area_m2</b> is measured on the ellipsoid, <b>confidence</b> is the mean "
            "probability, and <b>agreement</b> is 1 where all networks agree."
        )

    def createInstance(self) -> SegmentBuildings:
        """Return a new one; QGIS asks for one a run."""
        return SegmentBuildings()

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:
        """Declare the parameters."""
        number = QgsProcessingParameterNumber.Double
        self.addParameter(QgsProcessingParameterRasterLayer("INPUT", "Imagery"))
        self.addParameter(
            QgsProcessingParameterExtent("EXTENT", "Extent (empty: all of it)", optional=True)
        )
        for name, (_, label, default, most) in _NUMBERS.items():
            limits = {"minValue": 0} if most is None else {"minValue": 0, "maxValue": most}
            self.addParameter(
                QgsProcessingParameterNumber(name, label, number, default, True, **limits)
            )
        self.addParameter(
            QgsProcessingParameterBoolean("RECTIFY", "Square up the corners", defaultValue=False)
        )
        remembered = QgsSettings().value(_REMEMBERED, _LOCAL)
        self.addParameter(
            QgsProcessingParameterString("SERVICE", "Address of the service", remembered)
        )
        key = QgsProcessingParameterString(
            "API_KEY",
            f"API key (empty: the environment's {_KEY_VARIABLE}; QGIS keeps this in its history)",
            optional=True,
        )
        resolution = QgsProcessingParameterNumber(
            "RESOLUTION", "Metres per pixel of a web layer", number, 0.3, minValue=0.05
        )
        for advanced in (resolution, key):
            advanced.setFlags(advanced.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
            self.addParameter(advanced)
        self.addParameter(
            QgsProcessingParameterFeatureSink(
                "OUTPUT", "Buildings", QgsProcessing.TypeVectorPolygon
            )
        )

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> bool:
        """Take what is needed of the layer, which belongs to the main thread."""
        layer = self.parameterAsRasterLayer(parameters, "INPUT", context)
        if layer is None:
            raise QgsProcessingException(self.invalidRasterError(parameters, "INPUT"))
        extent = self.parameterAsExtent(parameters, "EXTENT", context, layer.crs())
        resolution = self.parameterAsDouble(parameters, "RESOLUTION", context)
        try:
            self._imagery = Imagery(layer, extent, resolution, context.transformContext())
        except ImageryError as error:
            raise QgsProcessingException(str(error)) from None
        project = context.project()
        self._crs = project.crs() if project and project.crs().isValid() else layer.crs()
        return True

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        """Send the imagery, and write what comes back."""
        address = self.parameterAsString(parameters, "SERVICE", context)
        key = self.parameterAsString(parameters, "API_KEY", context)
        try:
            service = Service(address, key or os.environ.get(_KEY_VARIABLE, ""), feedback)
            feedback.pushInfo(f"Reading {self._imagery.pixels / 1e6:.2f} megapixels")
            image = self._imagery.encode(feedback)
            if feedback.isCanceled():
                return {}
            feedback.pushInfo(f"Sending {len(image) / 2**20:.1f} MiB to {address}")
            as_job = self._imagery.pixels >= _AS_JOB
            send = service.segment_as_job if as_job else service.segment
            collection = send(image, self._options(parameters, context))
        except (ImageryError, ServiceError) as error:
            raise QgsProcessingException(str(error)) from None
        except CancelledError:
            return {}
        QgsSettings().setValue(_REMEMBERED, address)
        return {"OUTPUT": self._write(collection, parameters, context, feedback)}

    def _options(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, str]:
        """Return the service's parameters, but for those that are left to its defaults."""
        options = {
            theirs: str(self.parameterAsDouble(parameters, ours, context))
            for ours, (theirs, _, default, _) in _NUMBERS.items()
            if parameters.get(ours) not in (None, "", default)
        }
        if self.parameterAsBool(parameters, "RECTIFY", context):
            options["rectify"] = "orthogonal"
        return options

    def _write(
        self,
        collection: dict[str, Any],
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> str:
        fields = QgsFields()
        for name in _FIELDS:
            fields.append(QgsField(name, QVariant.Double))
        sink, written = self.parameterAsSink(
            parameters, "OUTPUT", context, fields, QgsWkbTypes.MultiPolygon, self._crs
        )
        if sink is None:
            raise QgsProcessingException(self.invalidSinkError(parameters, "OUTPUT"))
        wgs84 = QgsCoordinateReferenceSystem("EPSG:4326")
        transform = QgsCoordinateTransform(wgs84, self._crs, context.transformContext())
        for building in collection["features"]:
            feature = QgsFeature(fields)
            geometry = _geometry(building["geometry"])
            geometry.transform(transform)
            feature.setGeometry(geometry)
            feature.setAttributes([building["properties"].get(name) for name in _FIELDS])
            if not sink.addFeature(feature, QgsFeatureSink.FastInsert):
                raise QgsProcessingException(self.writeFeatureError(sink, parameters, "OUTPUT"))
        count = len(collection["features"])
        feedback.pushInfo(f"{count} building{'' if count == 1 else 's'}")
        if context.willLoadLayerOnCompletion(written):
            self._style = _Style()
            context.layerToLoadOnCompletionDetails(written).setPostProcessor(self._style)
        return str(written)


class _Style(QgsProcessingLayerPostProcessorInterface):
    """Draws the outlines so that the imagery shows beneath."""

    def postProcessLayer(self, layer: Any, context: Any, feedback: Any) -> None:
        symbol = QgsFillSymbol.createSimple(
            {"color": "255,64,32,70", "outline_color": "255,64,32,255", "outline_width": "0.4"}
        )
        layer.setRenderer(QgsSingleSymbolRenderer(symbol))
        layer.triggerRepaint()


def _geometry(geometry: dict[str, Any]) -> QgsGeometry:
    """Read a Polygon or MultiPolygon of GeoJSON, as the latter."""
    polygons = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        polygons = [polygons]
    return QgsGeometry.fromMultiPolygonXY(
        [[[QgsPointXY(*point[:2]) for point in ring] for ring in polygon] for polygon in polygons]
    )
