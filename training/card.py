"""The model card of a bundle: its manifest, told to a person."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from app.bundle.manifest import Evaluation, Manifest
from training.config import PATCH_SIZE, RunConfig, load_config
from training.metrics import BOUNDARY_PIXELS, FEW_PIXELS, OBJECT_IOU
from training.parity import AGREEMENT
from training.provenance import trained_on

_CONFIGS = Path(__file__).parent / "configs"


def model_card(
    manifest: Manifest,
    *,
    notes: Sequence[str],
    validation: Sequence[Path],
    negatives: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
) -> str:
    """Write the card in Markdown: from the manifest and the notes, and nothing besides."""
    runs = [RunConfig.model_validate(run) for run in manifest.training.values()]
    sections = {
        "Members": _members(manifest),
        "Cascade": _cascade(manifest),
        "Training data": _data(manifest),
        "Recipe": _recipe(runs),
        "Scores": _scores(manifest.evaluation),
        "Use and limits": _limits(manifest),
        "Reproduce": _commands(manifest, runs, validation, negatives, calibration),
        "Notes": "\n".join(f"- {note}" for note in notes),
        "Tools": _tools(manifest),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items() if body)
    return f"# {manifest.name}\n\n{_summary(manifest, runs)}\n\n{text}\n"


def _summary(manifest: Manifest, runs: Iterable[RunConfig]) -> str:
    networks = " and ".join(
        f"{member.architecture} ({member.encoder})" for member in manifest.members
    )
    begun = {run.network.encoder_weights for run in runs}
    continued = sorted({run.network.weights for run in runs} - {"none"})
    start = (
        "Trained from scratch: no pretrained weights."
        if begun == {"none"}
        else f"Encoders started from: {', '.join(sorted(begun))}."
    )
    if continued:
        start += f" This run went on from: {', '.join(continued)}."
    size = manifest.patch_size
    return (
        f"Finds buildings in RGB images taken from above: for each {size} x {size} patch, the "
        f"probability of building per pixel. {networks}. {start}\n\n"
        f"Version `{manifest.version}`, made {manifest.created:%Y-%m-%d} from commit "
        f"`{manifest.git_commit}`. Written by `python -m training export`; every figure is also in "
        "`manifest.json`."
    )


def _members(manifest: Manifest) -> str:
    """List the members; parity is said once, below."""
    rows = [
        (
            member.name,
            member.architecture,
            member.encoder,
            f"{member.weight:.4g}",
            f"{member.bytes / 1e6:.1f}",
            f"{member.parity.max_abs_difference:.1e}",
        )
        for member in manifest.members
    ]
    header = ("member", "architecture", "encoder", "weight", "MB", "max. difference")
    parity = manifest.members[0].parity
    bound = manifest.threshold.min_confidence
    certainty = f", if its component's mean is {bound:.2f} or more" if bound else ""
    return (
        f"{_table(header, rows)}\n\n"
        f"A pixel is building at a weighted mean probability of {manifest.threshold.value:.2f} or "
        f"more{certainty}. Chosen by: {manifest.threshold.chosen_by}. The difference is the "
        "largest between the probabilities of torch and of ONNX Runtime as it serves, on "
        f"{parity.patches} patches (noise, black, white, a procedural scene, real ones where there "
        f"were any); more than {parity.tolerance:g}, or masks that agree on less than "
        f"{AGREEMENT:.1%} of the pixels, would have stopped the export. Large weights are stored "
        "as fp16, all arithmetic is fp32.\n\n" + "\n".join(_precisions(manifest))
    )


def _precisions(manifest: Manifest) -> Iterator[str]:
    if not manifest.precisions:
        yield "What computing in bf16 or int8 would do to the masks was not measured."
    calibrated = {member.name: member.int8 for member in manifest.members if member.int8}
    for precision, cost in manifest.precisions.items():
        of = (
            f" ({' and '.join(calibrated)}; the rest in bf16 where the CPU has it)"
            if precision == "int8"
            else ""
        )
        yield (
            f"In {precision}{of}, {cost.agreement:.3%} of the pixels of {cost.measured_on} are as "
            f"in fp32, the IoU of both masks is {cost.iou:.4f}, and micro Dice changes by "
            f"{cost.dice_micro_change:+.4f}."
        )
    for on in sorted({calibration.calibrated_on for calibration in calibrated.values()}):
        yield f"The ranges for int8 were measured on {on}."


def _cascade(manifest: Manifest) -> str:
    cascade = manifest.cascade
    if cascade is None:
        return "There is no cascade: all members decide every pixel."
    return f"{cascade} With `cascade=off` all members decide every patch."


def _data(manifest: Manifest) -> str:
    if not manifest.sources:
        return "Not recorded."
    rows = [(s.name, str(s.images), s.gsd, s.licence) for s in manifest.sources]
    return (
        _table(("source", "images", "GSD in m", "licence of the data"), rows)
        + "\n\nThe images are not part of this bundle."
    )


def _recipe(runs: Iterable[RunConfig]) -> str:
    rows = []
    for run in runs:
        optimizer, trainer = run.optimizer, run.trainer
        samples = trainer.steps_per_epoch * trainer.batch_size
        rows.append(
            (
                run.member,
                ", ".join(trained_on(run.data)),
                f"{run.data.scenes:.0%}",
                run.augment.recipe,
                _target(run),
                f"{optimizer.name}, lr {optimizer.lr:g}, {optimizer.schedule}",
                f"at most {trainer.epochs} x {samples} patches, {trainer.precision}",
            )
        )
    header = ("member", "from", "scenes", "augmentation", "loss", "optimiser", "length")
    return _table(header, rows) + "\n\n`training` in `manifest.json` has every setting."


def _target(run: RunConfig) -> str:
    """Say what a run's answers were compared with, and how."""
    optimizer, teacher = run.optimizer, run.teacher
    parts: list[str] = [optimizer.loss]
    if optimizer.deep_supervision:
        parts.append(f"deepest features x {optimizer.deep_supervision:g}")
    if teacher.checkpoints:
        parts.append(f"{teacher.share:.0%} from {len(teacher.checkpoints)} trained network(s)")
    parts += [f"labels of {source} as {labels}" for source, labels in run.data.labels.items()]
    return ", ".join(parts)


def _scores(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "None: the bundle was exported without validation images."
    rows: dict[str, Mapping[str, float]] = {"**ensemble**": evaluation.ensemble}
    rows |= {f"**ensemble on {name}**": scores for name, scores in evaluation.splits.items()}
    rows |= {f"{name} alone": scores for name, scores in evaluation.members.items()}
    rows |= {f"ensemble on {name}": scores for name, scores in evaluation.sources.items()}
    cells = [(row, *(f"{score:.4f}" for score in scores.values())) for row, scores in rows.items()]
    curve = [
        (threshold, f"{dice:.4f}")
        for threshold, dice in evaluation.threshold_curve.items()
        if threshold.endswith(("0", "5"))
    ]
    unbuilt = evaluation.negatives
    negatives = (
        f"On {unbuilt.found} of {unbuilt.tiles} tiles that surely have no building, and that each "
        f"network's last run left out, one of {FEW_PIXELS} pixels or more is found.\n\n"
        if unbuilt
        else ""
    )
    unseen = [(source, f"{dice:.4f}") for source, dice in evaluation.held_out.items()]
    return (
        f"On {evaluation.images} images of {evaluation.split}, through the path that serves, with "
        "its default options; members alone at the ensemble's threshold. `_micro` counts the "
        "pixels of all images together, `_imagewise` is the mean over images, and an image "
        "without buildings in mask and label scores 1; `dice_built` is the mean over the images "
        f"with buildings. `object_f1` counts components as found from an IoU of {OBJECT_IOU} on, "
        f"`boundary_f1` boundaries within {BOUNDARY_PIXELS} px; `empty_false_positives` is the "
        f"share of {PATCH_SIZE} px patches without a building (of {FEW_PIXELS} px) on which one "
        "was found; `calibration_error` says how far, on average, a probability lies from the "
        "share of buildings among pixels of that probability. No GSD was told. Weights and "
        "threshold were chosen on these same images, so the scores are a little too good.\n\n"
        f"{_table(('', *evaluation.ensemble), cells)}\n\n{negatives}"
        "The ensemble's `dice_micro` at other thresholds, with each source counted alike, all "
        "members asked, no minimum confidence, and probabilities rounded to 1/255:\n\n"
        f"{_table(('threshold', 'dice_micro'), curve)}\n\n"
        "The ensemble's `dice_micro` on each source, asked in the same way, with weights and "
        "threshold fitted to the other sources alone:\n\n"
        f"{_table(('source', 'dice_micro'), unseen)}"
    )


def _limits(manifest: Manifest) -> str:
    gsd = manifest.gsd
    lines = [
        "For mapping buildings in nadir aerial and satellite RGB images with a GSD from "
        f"{gsd.min:g} to {gsd.max:g} m; outside that range buildings look unlike those it saw.",
        "Not for decisions about people or property without a person who checks the masks.",
        "Regions, seasons and sensors that the training data lacks are untested. It marks pixels, "
        "so buildings that touch come out as one.",
    ]
    if manifest.evaluation:
        by_dice = manifest.evaluation.sources
        weakest = min(by_dice, key=lambda source: by_dice[source]["dice_micro"])
        lines.append(
            f"Weakest validation source: {weakest}, dice_micro "
            f"{by_dice[weakest]['dice_micro']:.2f}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _commands(
    manifest: Manifest,
    runs: Sequence[RunConfig],
    validation: Sequence[Path],
    negatives: Sequence[Path],
    calibration: Sequence[Path],
) -> str:
    """Say how to come to the bundle again, from the data on."""
    lines = [_train_command(run) for run in runs]
    exported = manifest.refitted_from or manifest.name
    checkpoints = {
        run.member: f"runs/{run.member}/{manifest.checkpoints.get(run.member, 'last.ckpt')}"
        for run in runs
    }
    first = " ".join(path for name, path in checkpoints.items() if name not in manifest.joined)
    tail = "".join(f" {quote(str(path))}" for path in validation)
    empty = " --negatives" * bool(negatives) + "".join(f" {quote(str(p))}" for p in negatives)
    gsd = f" --gsd {manifest.gsd.min:g} {manifest.gsd.max:g}"
    lines.append(
        f"python -m training export {first} --out models/{exported}{gsd}"
        + (f" --validation{tail}{empty}" if validation else "")
    )
    if manifest.refitted_from:
        seen = "".join(f" {quote(str(path))}" for path in calibration)
        int8 = f" --calibration{seen}" if calibration else ""
        added = "".join(f" {checkpoints[name]}" for name in manifest.joined)
        add = f" --add{added}" if added else ""
        out = f"--out models/{manifest.name}"
        lines.append(f"python -m training fit models/{exported}{tail}{add}{empty}{int8} {out}")
    if validation:
        lines.append(f"python -m training evaluate models/{manifest.name}{tail}")
    return "```\n" + "\n".join(lines) + "\n```"


def _train_command(run: RunConfig) -> str:
    """Name the committed configuration, and what of it was overridden."""
    path = _CONFIGS / f"{run.member}.toml"
    if not path.exists():
        return f"# {run.member}: its configuration is in manifest.json under training.{run.member}"
    committed = dict(_leaves(load_config(path).model_dump(mode="json")))
    used = dict(_leaves(run.model_dump(mode="json")))
    changed = {key: value for key, value in used.items() if committed.get(key) != value}
    # A table is given whole, or keys that only the committed file has would stay.
    overrides = "".join(
        f" --set {quote(f'{key}={_toml(value)}')}" for key, value in changed.items()
    )
    return f"python -m training train training/configs/{run.member}.toml{overrides}"


def _leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and key in RunConfig.model_fields:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _toml(value: object) -> str:
    """Write a value as TOML, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _tools(manifest: Manifest) -> str:
    return ", ".join(f"{tool} {version}" for tool, version in manifest.exporter.items()) + "."


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
