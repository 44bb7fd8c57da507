# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin and its Processing provider."""

from __future__ import annotations

from pathlib import Path

from qgis.core import QgsApplication, QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import SegmentBuildings

ICON = Path(__file__).with_name("icon.svg")


class Provider(QgsProcessingProvider):
    """Rooftrace's algorithms in the Processing toolbox."""

    def id(self) -> str:
        """Return what begins the names of its algorithms."""
        return "rooftrace"

    def name(self) -> str:
        """Return the name in the toolbox."""
        return "Rooftrace"

    def icon(self) -> QIcon:
        """Return the icon in the toolbox."""
        return QIcon(str(ICON))

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        self.addAlgorithm(SegmentBuildings())


class Plugin:
    """What QGIS loads and unloads."""

    def __init__(self) -> None:
        self._provider: Provider | None = None

    def initProcessing(self) -> None:
        """Register the provider; `qgis_process` calls this alone."""
        self._provider = Provider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Register the provider in QGIS's window."""
        self.initProcessing()

    def unload(self) -> None:
        """Take the provider away."""
        QgsApplication.processingRegistry().removeProvider(self._provider)
