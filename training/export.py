"""Turn checkpoints into a bundle: the only writer of ONNX files and manifests.

Nothing is left behind unless everything held: the bundle grows in a hidden folder beside its place
and moves there at the very end.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import (
    FILE_NAME,
    DataSource,
    Evaluation,
    GsdRange,
    Manifest,
    Member,
    Parity,
    Threshold,
    load_manifest,
)
from app.bundle.verification import verify_files
from app.runtime.onnxruntime import OnnxPredictor
from app.runtime.predictor import Predictor
from app.runtime.select import DICE_TOLERANCE, load_predictor
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from training.card import model_card
from training.cascade import fit_cascade
from training.checkpoints import load_network
from training.config import PATCH_SIZE, RunConfig
from training.data import Tile, list_tiles
from training.evaluate import examine
from training.fit import WEIGHT_STEPS, Fit, fit, held_out, tally_sources
from training.graph import to_onnx
from training.metrics import summarise
from training.min_confidence import COST, fit_min_confidence
from training.negatives import count_false, unseen_negatives
from training.network import SegmentationNetwork
from training.parity import TOLERANCE, check_parity, parity_patches
from training.patches import milliseconds
from training.precision import costs, fastest
from training.provenance import git_commit, tool_versions
from training.quantize import calibrate
from training.remembered import Remembered

logger = logging.getLogger(__name__)

CARD = "MODEL_CARD.md"


@dataclass(frozen=True, eq=False)
class Trained:
    """What a checkpoint holds: a network on the CPU, and how it was made."""

    network: SegmentationNetwork
    config: RunConfig
    checkpoint: str
    """The name of its file."""


def load_trained(path: Path) -> Trained:
    """Load a checkpoint, strictly.

    Raises:
        ValueError: it is no checkpoint of `training`, or its weights do not fit its network.
        OSError: the file can't be read.
    """
    try:
        return Trained(*load_network(path), path.name)
    except RuntimeError as error:  # torch's, of weights that do not fit
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} can't be loaded as a checkpoint: {reason}") from error


def export(
    trained: Sequence[Trained],
    out: Path,
    *,
    name: str | None = None,
    validation: Sequence[Path] = (),
    negatives: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
    gsd: tuple[float, float] = (0.2, 1.2),
    sources: tuple[DataSource, ...] = (),
    notes: Sequence[str] = (),
    progress: bool = False,
) -> Manifest:
    """Write the bundle `out` with one member per trained network.

    With `validation` (folders or CSV files), weights and threshold are fitted there and the bundle
    is scored there; without, members weigh the same and the threshold is 0.5. With `negatives` too,
    false buildings are counted on those of their tiles that are `empty` and that no network trained
    on. With `calibration` too, tiles of the training, members compute in int8 where that is worth
    it. `gsd` is the range in metres per pixel that the networks were trained at. `notes` go into
    the card as they are.

    Raises:
        FileExistsError: `out` exists.
        ValueError: ONNX Runtime does not reproduce torch, two members of one name, or data that
            can't be read.
    """
    tiles = [tile for path in validation for tile in list_tiles(path)]
    with _staged(out) as folder:
        manifest = Manifest(
            schema_version=1,
            name=name or out.name,
            created=_now(),
            patch_size=PATCH_SIZE,
            members=tuple(_write_member(folder, one, 1 / len(trained)) for one in trained),
            threshold=Threshold(value=0.5, chosen_by="nobody: there was nothing to fit it to"),
            gsd=GsdRange(
                min=gsd[0],
                max=gsd[1],
                reference=_reference_gsd(trained),
            ),
            sources=sources,
            evaluation=None,
            training={one.config.member: one.config.model_dump(mode="json") for one in trained},
            checkpoints={one.config.member: one.checkpoint for one in trained},
            git_commit=git_commit(),
            exporter=tool_versions(),
        )
        with closing(OnnxPredictor(folder, manifest)) as predictor:
            manifest = _with_parity(manifest, trained, predictor, parity_patches(tiles))
        manifest = _fitted_and_scored(
            folder, manifest, validation, negatives, calibration, progress=progress
        )
        _write_manifest(folder, manifest)
        card = model_card(manifest, notes=notes, validation=validation, negatives=negatives)
        (folder / CARD).write_text(card)
    return manifest


def refit(
    bundle: Path,
    out: Path,
    *,
    validation: Sequence[Path],
    add: Sequence[Trained] = (),
    negatives: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
    sources: tuple[DataSource, ...] = (),
    notes: Sequence[str] = (),
    progress: bool = False,
) -> Manifest:
    """Write a copy of `bundle` to `out`, with everything that is fitted fitted to other tiles.

    The networks of `add` join its members, one of a member's name in that member's place; `sources`
    describe their training data.
    `negatives` and `calibration` are as in `export`; without the latter, members keep the ranges
    that they have.

    Raises:
        FileExistsError: `out` exists.
        ValueError: data that can't be read, or a network that can't join.
        BundleError: the bundle is broken.
    """
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    with _staged(out) as folder:
        for member in manifest.members:
            shutil.copyfile(bundle / member.file, folder / member.file)
        manifest = manifest.model_copy(
            update={
                "name": out.name,
                "created": _now(),
                "refitted_from": manifest.refitted_from or manifest.name,
                "git_commit": git_commit(),
            }
        )
        if add:
            manifest = _joined(folder, manifest, add, sources, validation)
        manifest = _fitted_and_scored(
            folder, manifest, validation, negatives, calibration, progress=progress
        )
        _write_manifest(folder, manifest)
        card = model_card(
            manifest,
            notes=notes,
            validation=validation,
            negatives=negatives,
            calibration=calibration,
        )
        (folder / CARD).write_text(card)
    return manifest


def _joined(
    folder: Path,
    manifest: Manifest,
    add: Sequence[Trained],
    sources: tuple[DataSource, ...],
    validation: Sequence[Path],
) -> Manifest:
    """Write the files of new members, and return the manifest with them; weights are to be fitted.

    Raises:
        ValueError: another GSD, or ONNX Runtime does not reproduce torch.
    """
    if (gsd := _reference_gsd(add)) != manifest.gsd.reference:
        raise ValueError(
            f"members must be trained at one data.gsd: the bundle has {manifest.gsd.reference}, "
            f"got {gsd}"
        )
    new = tuple(_write_member(folder, one, 1.0) for one in add)
    tiles = [tile for path in validation for tile in list_tiles(path)]
    alone = manifest.model_copy(update={"members": new})
    with closing(OnnxPredictor(folder, alone)) as predictor:
        new = _with_parity(alone, add, predictor, parity_patches(tiles)).members
    replaced = {member.name: member for member in new}
    kept = [replaced.pop(member.name, member) for member in manifest.members]
    members = (*kept, *replaced.values())
    joined = sorted({*manifest.joined, *(member.name for member in new)})
    known = {source.name for source in manifest.sources}
    document = manifest.model_dump()
    document |= {
        "members": [m.model_copy(update={"weight": 1 / len(members)}) for m in members],
        "cascade": None,
        "precisions": {},
        "sources": (*manifest.sources, *(s for s in sources if s.name not in known)),
        "training": manifest.training
        | {one.config.member: one.config.model_dump(mode="json") for one in add},
        # Where every member has joined, nothing is left of the first export.
        "joined": joined if len(joined) < len(members) else (),
        "refitted_from": manifest.refitted_from if len(joined) < len(members) else None,
        "checkpoints": manifest.checkpoints | {one.config.member: one.checkpoint for one in add},
        "exporter": tool_versions(),
    }
    return Manifest.model_validate(document)


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` if nothing was raised and the service can read it."""
    if out.exists():
        raise FileExistsError(f"{out} exists already: remove it, or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "bundle"  # not the scratch folder itself: only we may read that
        folder.mkdir()
        yield folder
        load_manifest(folder)  # as the service will
        folder.rename(out)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@contextmanager
def served(path: Path, *more: Path) -> Iterator[Segmenter]:
    """Open a bundle as the service does; a checkpoint, or several, become a bundle first.

    Raises:
        As `load_trained`, `export` and `app.segmentation.segmenter.load_segmenter`.
    """
    with TemporaryDirectory() as scratch:
        if path.is_file():
            bundle = Path(scratch) / "checkpoint"
            export([load_trained(one) for one in (path, *more)], bundle)
        else:
            bundle = path
        with closing(load_segmenter(bundle)) as segmenter:
            yield segmenter


def _write_member(folder: Path, trained: Trained, weight: float) -> Member:
    """Write a member's file, and describe it; its parity and metrics are still to be measured."""
    config = trained.config
    logger.info("exporting %s", config.member)
    model = to_onnx(trained.network)
    path = folder / f"{config.member}.onnx"
    path.write_bytes(model)
    return Member(
        name=config.member,
        architecture=config.network.architecture,
        encoder=config.network.encoder,
        file=path.name,
        sha256=hashlib.sha256(model).hexdigest(),
        bytes=len(model),
        weight=weight,
        parity=Parity(max_abs_difference=0, patches=1, tolerance=TOLERANCE),
        metrics={},
    )


def _reference_gsd(trained: Sequence[Trained]) -> float | None:
    """Return the GSD that imagery is brought to.

    Raises:
        ValueError: the members were trained at different ones, but see the same pixels.
    """
    references = {one.config.member: one.config.data.gsd for one in trained}
    if len(set(references.values())) > 1:
        raise ValueError(f"members must be trained at one data.gsd, got {references}")
    return trained[0].config.data.gsd


def _with_parity(
    manifest: Manifest,
    trained: Sequence[Trained],
    predictor: Predictor,
    patches: NDArray[np.uint8],
) -> Manifest:
    members = []
    for member, one in zip(manifest.members, trained, strict=True):
        parity = check_parity(predictor, member.name, one.network, patches)
        logger.info("%s: within %.2g of torch", member.name, parity.max_abs_difference)
        members.append(member.model_copy(update={"parity": parity}))
    return manifest.model_copy(update={"members": tuple(members)})


def _fitted_and_scored(
    folder: Path,
    manifest: Manifest,
    validation: Sequence[Path],
    negatives: Sequence[Path],
    calibration: Sequence[Path],
    *,
    progress: bool,
) -> Manifest:
    """Return the manifest with everything that is fitted to, and measured on, labelled tiles."""
    splits: dict[str, list[Tile]] = {}
    for path in validation:
        splits.setdefault(path.stem, []).extend(list_tiles(path))
    tiles = [tile for of in splits.values() for tile in of]
    if not tiles:
        return manifest
    runs = (RunConfig.model_validate(run) for run in manifest.training.values())
    empty = unseen_negatives(negatives, runs)
    described = " + ".join(splits)
    exact = load_predictor(folder, manifest, device="cpu", precision="fp32")
    with closing(exact):
        remembered = cast(Predictor, Remembered(exact))

        def segmenter() -> Segmenter:
            return Segmenter(manifest, remembered)

        sources = tally_sources(segmenter(), tiles, Options(cascade="off"), progress=progress)
        manifest = _with_weights(manifest, fitted := fit(list(sources.values())), described, tiles)
        if calibration:
            seen = [tile for path in calibration for tile in list_tiles(path)]
            seen_in = " + ".join(path.stem for path in calibration)
            manifest = calibrate(folder, manifest, seen, tiles, described=seen_in)
        precision = fastest(manifest)
        logger.info("for the cascade, members are timed in %s", precision)
        with closing(
            load_predictor(folder, manifest, device="cpu", precision=precision)
        ) as as_served:
            size = manifest.patch_size
            times = {name: milliseconds(as_served, name, size) for name in as_served.members}
        # The cascade comes last, as its limits are to hold for the masks that are served. A bundle
        # that is fitted anew must not keep its old cascade until then.
        manifest = manifest.model_copy(update={"cascade": None})
        manifest = _with_min_confidence(manifest, segmenter(), tiles, progress=progress)
        cascade = fit_cascade(segmenter(), splits, times, negatives=empty, progress=progress)
        manifest = manifest.model_copy(update={"cascade": cascade})
        if cascade is None:
            logger.info("no cascade: no rule spares a member a patch within the limits")
        evaluated = examine(segmenter(), tiles, progress=progress)
        found = count_false(segmenter(), empty)
        precisions = costs(folder, segmenter(), tiles, described, progress=progress)
    cost = None if precision == "fp32" else precisions.get(precision)
    if cost and abs(cost.dice_micro_change) > DICE_TOLERANCE:
        logger.warning(
            "the cascade's members were timed in %s, and are not served in it", precision
        )
    report = evaluated.report
    by_split = {
        name: summarise(evaluated.images[tile.name] for tile in of) for name, of in splits.items()
    }
    evaluation = Evaluation(
        split=described,
        date=manifest.created.date(),
        images=report.images,
        ensemble=dict(report.ensemble),
        members={name: dict(scores) for name, scores in report.members.items()},
        sources={name: dict(scores) for name, scores in report.sources.items()},
        splits=by_split if len(by_split) > 1 else {},
        threshold_curve={f"{t:.2f}": dice for t, dice in fitted.curve.items()},
        held_out=held_out(sources),
        negatives=found,
    )
    members = tuple(
        member.model_copy(update={"metrics": evaluation.members[member.name]})
        for member in manifest.members
    )
    return manifest.model_copy(
        update={"members": members, "evaluation": evaluation, "precisions": precisions}
    )


def _with_weights(
    manifest: Manifest, fitted: Fit, described: str, tiles: Sequence[Tile]
) -> Manifest:
    members = tuple(
        member.model_copy(update={"weight": weight})
        for member, weight in zip(manifest.members, fitted.weights, strict=True)
    )
    threshold = Threshold(
        value=fitted.threshold,
        chosen_by=f"highest dice_micro on {described} ({len(tiles)} images, each source counted "
        f"alike), over weights in steps of {1 / WEIGHT_STEPS} and thresholds in steps of 0.01",
    )
    return manifest.model_copy(update={"members": members, "threshold": threshold})


def _with_min_confidence(
    manifest: Manifest, segmenter: Segmenter, tiles: Sequence[Tile], *, progress: bool
) -> Manifest:
    """Return the manifest with the minimum confidence that suits its threshold."""
    bound = fit_min_confidence(segmenter, tiles, progress=progress)
    chosen_by = manifest.threshold.chosen_by.partition("; min_confidence")[0]
    if bound:
        chosen_by += f"; min_confidence: the highest that costs at most {COST}"
    threshold = Threshold(value=manifest.threshold.value, min_confidence=bound, chosen_by=chosen_by)
    return manifest.model_copy(update={"threshold": threshold})


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
