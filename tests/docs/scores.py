"""The scores of the shipped bundle as tables, from its manifest."""

import json
from collections.abc import Mapping
from pathlib import Path

from app.settings import Settings

_COLUMNS = {
    "dice_micro": "micro Dice",
    "iou_micro": "micro IoU",
    "precision_micro": "precision",
    "recall_micro": "recall",
    "dice_imagewise": "image-wise Dice",
    "dice_built": "Dice of built tiles",
    "object_f1": "object F1",
    "boundary_f1": "boundary F1",
    "empty_false_positives": "empty patches",
    "calibration_error": "calibration error",
}
_SHORT = (
    "dice_micro", "iou_micro", "precision_micro", "recall_micro", "object_f1",
    "empty_false_positives",
)  # fmt: skip


def row() -> str:
    """Return the one row of scores of the README."""
    bundle, evaluation = _evaluation()
    header = ["bundle", *(_COLUMNS[key] for key in _SHORT[:-1]), "empty patches with a building"]
    cells = [f"`{bundle}`", *(_cell(evaluation["ensemble"], key) for key in _SHORT)]
    return _table(header, cells)


def table() -> str:
    """Return the scores of the ensemble and of each member alone."""
    _, evaluation = _evaluation()
    rows = {"**ensemble**": evaluation["ensemble"]} | {
        f"`{name}` alone": scores for name, scores in evaluation["members"].items()
    }
    return _table(
        ["", *_COLUMNS.values()],
        *([name, *(_cell(scores, key) for key in _COLUMNS)] for name, scores in rows.items()),
    )


def _evaluation() -> tuple[str, Mapping[str, Mapping[str, Mapping[str, float]]]]:
    bundle: Path = Settings(_env_file=None).bundle
    manifest = json.loads((bundle / "manifest.json").read_text())
    return manifest["name"], manifest["evaluation"]


def _cell(scores: Mapping[str, float], key: str) -> str:
    value = scores[key]
    return f"{value:.0%}".replace("%", " %") if key == "empty_false_positives" else f"{value:.3f}"


def _table(header: list[str], *rows: list[str]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
