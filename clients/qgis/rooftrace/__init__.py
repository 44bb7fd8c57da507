# SPDX-License-Identifier: GPL-2.0-or-later
"""Rooftrace for QGIS: building outlines from imagery, by way of a Rooftrace service."""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin; QGIS calls this."""
    from .provider import Plugin

    return Plugin()
