"""The shipped bundle in tables and sentences, from its manifest."""

import textwrap
from collections.abc import Mapping, Sequence

from app.bundle.manifest import Evaluation, Manifest, Negatives, load_manifest
from app.settings import Settings
from training.metrics import FEW_PIXELS

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
    "dice_micro", "object_f1", "boundary_f1", "calibration_error", "empty_false_positives",
)  # fmt: skip


def row() -> str:
    """Return the scores of the README: all members on each split, then each member alone."""
    header = ["bundle", *(_COLUMNS[key] for key in _SHORT[:-1]), "empty patches with a building"]
    _, evaluation = _shipped()
    unbuilt = _unbuilt(evaluation)
    below = (
        f"{_measured_on(evaluation)} On {unbuilt.found} of {unbuilt.tiles} hard negatives, tiles\n"
        f"of car parks, runways and fields, a building of {FEW_PIXELS} pixels or more is found (in "
        "fp32).\n\nMicro Dice on both splits: all together "
        f"{evaluation.ensemble['dice_micro']:.3f}; alone, "
    )
    return _row(header, "`{}` on {}", below)


def korean_row() -> str:
    """Return the same for the Korean README."""
    header = ["번들", "micro Dice", "객체 F1", "경계 F1", "보정 오차", "건물이 검출된 빈 패치"]
    _, evaluation = _shipped()
    unbuilt = _unbuilt(evaluation)
    below = (
        f"{evaluation.date}에 타일 {evaluation.images}장({evaluation.split})으로 측정했습니다. "
        "가중치와 임계값도\n이 타일에 맞추었으므로, 점수는 실제보다 조금 높습니다. "
        f"주차장·활주로·밭처럼 건물이 없는 어려운 타일 {unbuilt.tiles}장\n"
        f"가운데 {unbuilt.found}장에서 {FEW_PIXELS}픽셀 이상의 건물이 검출되었습니다(fp32).\n\n"
        f"두 묶음 전체의 micro Dice: 앙상블 {evaluation.ensemble['dice_micro']:.3f}, 단독 "
    )
    return _row(header, "`{}`, {}", below)


def _row(header: Sequence[str], name: str, below: str) -> str:
    """Return a table for the READMEs, the text `below` it, and the Dice of each member alone."""
    manifest, evaluation = _shipped()
    cells = [
        [name.format(manifest.name, split), *(_cell(scores, key) for key in _SHORT)]
        for split, scores in evaluation.splits.items()
    ]
    alone = {name: scores["dice_micro"] for name, scores in evaluation.members.items()}
    best_first = sorted(alone, key=alone.__getitem__, reverse=True)
    members = ", ".join(f"`{name}` {alone[name]:.3f}" for name in best_first)
    return f"{_table(header, cells)}\n\n{below}{members}."


def table() -> str:
    """Return the scores of the ensemble and of each member alone."""
    _, evaluation = _shipped()
    rows = {"**ensemble**": evaluation.ensemble}
    rows |= {f"**ensemble on {name}**": scores for name, scores in evaluation.splits.items()}
    rows |= {f"`{name}` alone": scores for name, scores in evaluation.members.items()}
    return f"{_measured_on(evaluation)}\n\n{_scores(rows)}"


def sources() -> str:
    """Return the scores of the ensemble on each source."""
    _, evaluation = _shipped()
    return _scores(dict(evaluation.sources))


def members() -> str:
    """Return the members with their weights, and the rule that makes buildings of them."""
    manifest, _ = _shipped()
    rows = [
        [
            f"`{member.name}`",
            member.architecture,
            member.encoder,
            f"{member.weight:g}",
            f"{member.bytes / 1e6:.1f}",
        ]
        for member in manifest.members
    ]
    threshold = manifest.threshold
    rule = f"A pixel is building where the weighted mean is at least {threshold.value:g}."
    if threshold.min_confidence:
        rule += (
            f" A connected component with a mean below {threshold.min_confidence:g} is no building."
        )
    header = ["member", "network", "encoder", "weight", "MB"]
    return f"{_table(header, rows)}\n\n{rule}"


def cascade() -> str:
    """Say when some of the members decide a patch, and the cost of that."""
    manifest, _ = _shipped()
    if manifest.cascade is None:
        return "This bundle has no cascade: all members decide every patch."
    return textwrap.fill(str(manifest.cascade), 100)


def _shipped() -> tuple[Manifest, Evaluation]:
    manifest = load_manifest(Settings(_env_file=None).bundle)
    assert manifest.evaluation is not None, "a bundle that is shipped was scored"
    return manifest, manifest.evaluation


def _unbuilt(evaluation: Evaluation) -> Negatives:
    assert evaluation.negatives is not None, "a bundle that is shipped saw hard negatives"
    return evaluation.negatives


def _measured_on(evaluation: Evaluation) -> str:
    return (
        f"Measured on {evaluation.date} on {evaluation.images} tiles ({evaluation.split}). Weights "
        "and threshold were fitted\non these tiles, so the scores are a little too good."
    )


def _scores(rows: Mapping[str, Mapping[str, float]]) -> str:
    cells = [[name, *(_cell(scores, key) for key in _COLUMNS)] for name, scores in rows.items()]
    return _table(["", *_COLUMNS.values()], cells)


def _cell(scores: Mapping[str, float], key: str) -> str:
    value = scores[key]
    return f"{100 * value:.0f} %" if key == "empty_false_positives" else f"{value:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
