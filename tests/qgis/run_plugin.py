"""Run the plugin's algorithm in QGIS, as its toolbox does: QGIS's Python runs this, not ours.

Standard input: JSON with `project` (a coordinate reference system, or null), `cancel_at` (a
progress, or null) and `parameters`. Prints JSON with what the algorithm gave and said.
"""

import importlib
import json
import os
import sys
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProject,
)


class Feedback(QgsProcessingFeedback):  # type: ignore[misc]  # QGIS has no types
    """Remembers what is said, and cancels once progress reaches `cancel_at`."""

    def __init__(self, cancel_at: float | None) -> None:
        super().__init__(False)
        self.progress_seen: list[float] = []
        self._cancel_at = cancel_at
        self.progressChanged.connect(self._see)

    def _see(self, progress: float) -> None:
        self.progress_seen.append(progress)
        if self._cancel_at is not None and progress >= self._cancel_at:
            self.cancel()


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run the algorithm once."""
    plugin = importlib.import_module("rooftrace").classFactory(None)
    plugin.initProcessing()
    project = QgsProject.instance()
    if task["project"]:
        project.setCrs(QgsCoordinateReferenceSystem(task["project"]))
    context = QgsProcessingContext()
    context.setProject(project)
    feedback = Feedback(task["cancel_at"])
    algorithm = QgsApplication.processingRegistry().createAlgorithmById(
        "rooftrace:segmentbuildings"
    )
    problem = None
    results: dict[str, Any] = {}
    ok, why = algorithm.checkParameterValues(task["parameters"], context)
    if ok:
        try:
            results, ok = algorithm.run(task["parameters"], context, feedback, {}, False)
        except Exception as error:
            ok, problem = False, str(error)
    else:
        problem = why
    return {
        "ok": ok,
        "problem": problem,
        "results": results,
        "progress": feedback.progress_seen,
        "log": feedback.textLog(),
    }


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    print(json.dumps(run(json.load(sys.stdin))), flush=True)
    os._exit(0)  # tearing QGIS down in order may crash, and the result is there
