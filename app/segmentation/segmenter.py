"""An image in, a stream of its buildings out: windows, predictor, blending, components."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest, load_manifest
from ..errors import BundleError, InferenceError
from ..imaging.image import RowSource
from ..imaging.resample import resample_rows
from ..runtime.predictor import Predictor, one_ahead
from ..runtime.select import Choices, load_predictor
from .blending import MemberBand, blend
from .cascade import CascadeCount, Patch, predict_cascade, predict_valid
from .components import Rule, find_buildings
from .options import Options
from .plan import Plan
from .resampling import first_needed, resample_bands, rows_reached
from .stream import Advanced, Band, Cancelled, Segmentation, SegmentedStream, collect, never
from .tta import upright
from .windows import read_patch

_Item = TypeVar("_Item")

_BELOW = 1 / 255
"""How far below the threshold a component that is no building is held: a step of 8 bits."""


class Segmenter:
    """Segment images of any size with the members of one bundle."""

    def __init__(self, manifest: Manifest, predictor: Predictor) -> None:
        self.manifest = manifest
        self.predictor = predictor

    def close(self) -> None:
        """Stop the predictor's threads."""
        self.predictor.close()

    def plan(
        self,
        image: RowSource,
        options: Options = Options(),
        *,
        buildings: bool = False,
        notices: tuple[str, ...] = (),
    ) -> Plan:
        """Decide everything about one image: `Plan.resolve` with this bundle's manifest."""
        return Plan.resolve(self.manifest, options, image, buildings=buildings, notices=notices)

    def segment(
        self, plan: Plan, image: RowSource, cancelled: Cancelled = never, *, name: str = ""
    ) -> SegmentedStream:
        """Return the stream of an image; its members predict as the stream is read.

        `cancelled` is called before every batch of patches, and stops the work by raising. `name`
        is that of the image in results.

        Raises, as the stream is read:
            InferenceError: a member failed, or returned values that are no probabilities.
            Exception: any that `cancelled` raises.
        """
        count = plan.count()
        bands = self.bands(plan, image, cancelled, count=count)
        return stream(plan, image, bands, cancelled, name=name, cascade_count=count)

    def segment_image(
        self, image: RowSource, options: Options = Options(), *, buildings: bool = False
    ) -> Segmentation:
        """Segment a whole image into arrays, for notebooks and scores.

        Raises:
            InvalidOption: options that this bundle can't honour.
            InferenceError: as `segment`.
        """
        plan = self.plan(image, options, buildings=buildings)
        return collect(self.segment(plan, image))

    def bands(
        self,
        plan: Plan,
        image: RowSource,
        cancelled: Cancelled = never,
        *,
        first: int = 0,
        count: CascadeCount | None = None,
        advanced: Advanced = never,
    ) -> Iterator[Band]:
        """Return the bands of an image with its members combined, before components are found.

        The arguments are those of `member_bands`.
        """
        members = self.member_bands(
            plan, image, cancelled, first=first, count=count, advanced=advanced
        )
        return combine(plan, image, members)

    def member_bands(
        self,
        plan: Plan,
        image: RowSource,
        cancelled: Cancelled = never,
        *,
        first: int = 0,
        count: CascadeCount | None = None,
        advanced: Advanced = never,
    ) -> Iterator[MemberBand]:
        """Return the blended probabilities of each member, from the image's row `first` on.

        Rows above `first` are left out, and only the patches that the other rows need are
        predicted. These rows have the same bits as without `first`. `advanced` is called after
        each window.

        Members stay apart until here, so that a vote counts whole maps rather than patches; a
        weighted mean comes out the same either way.
        """
        needed = first_needed(plan.grid.row_offsets, plan.seen, plan.size, first)
        patches = read_patches(plan, image, needed)
        ask = partial(self._ask, plan, cancelled)
        predict = partial(ask, members=plan.members)
        if plan.cascade:
            count = count or CascadeCount(plan.cascade.members)
            patches = count.reading(plan.grid.windows_from(needed), patches)
            predict = partial(
                predict_cascade,
                ask=ask,
                weights=plan.weight_of,
                rule=plan.cascade,
                count=count,
                at_once=4 * self.predictor.batch_size,
            )
        shape = len(plan.members), plan.grid.patch, plan.grid.patch
        predictions = _announced(predict_valid(patches, predict, shape), advanced)
        return stitch(plan, predictions, first=first)

    def _ask(
        self, plan: Plan, cancelled: Cancelled, patches: Iterable[Patch], members: Sequence[str]
    ) -> Iterator[NDArray[np.float32]]:
        """Predict patches one after the other, batch by batch: float32 (M, S, S) each."""
        oriented = (o.apply(patch) for patch in patches for o in plan.orientations)
        ask = partial(self.predictor.predict, members=members)
        batches = self._batches(oriented, cancelled)
        answers = one_ahead(ask, batches) if self.predictor.ahead else map(ask, batches)
        views = (view for answer in answers for view in answer.swapaxes(0, 1))
        per_patch = _batched(views, len(plan.orientations))
        return (upright(of_patch, plan.orientations) for of_patch in per_patch)

    def _batches(
        self, patches: Iterable[Patch], cancelled: Cancelled
    ) -> Iterator[NDArray[np.uint8]]:
        for batch in _batched(patches, self.predictor.batch_size):
            cancelled()
            yield np.stack(batch)


def load_segmenter(bundle: Path, **wanted: Unpack[Choices]) -> Segmenter:
    """Load the bundle in the folder `bundle`, and predict one patch so that the first is not slow.

    `wanted` are the choices of `load_predictor`.

    Raises:
        BundleError: manifest, files or graphs are missing, disagree or don't run.
        DeviceError: the device, backend or precision that was asked for can't be used.
    """
    manifest = load_manifest(bundle)
    predictor = load_predictor(bundle, manifest, **wanted)
    black = np.zeros((1, manifest.patch_size, manifest.patch_size, 3), np.uint8)
    try:
        predictor.predict(black, predictor.members)
    except InferenceError as error:
        predictor.close()
        raise BundleError(f"{bundle} can't predict a black patch: {error}") from error
    return Segmenter(manifest, predictor)


def stream(
    plan: Plan,
    image: RowSource,
    bands: Iterable[Band],
    cancelled: Cancelled = never,
    *,
    name: str = "",
    cascade_count: CascadeCount | None = None,
) -> SegmentedStream:
    """Return the stream of an image whose bands are known, such as those of an earlier run."""
    reached = 0.5 if plan.combine == "vote" else plan.threshold
    below = max(0.0, reached - _BELOW)
    rule = Rule(plan.min_confidence, plan.min_area, below, plan.row_areas)
    found = find_buildings(bands, rule, each=plan.buildings)
    return SegmentedStream(plan, image, found, name, cascade_count, cancelled)


def read_patches(plan: Plan, image: RowSource, first: int = 0) -> Iterator[Patch | None]:
    """Cut the patches of `plan.grid.windows_from(first)`, resampling a row of windows at a time.

    A window without a valid pixel has None.
    """
    rows: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None
    for window in plan.grid.windows_from(first):
        if window.col == 0:
            rows = resample_rows(image, plan.seen, window.row, window.row + window.height)
            top, bottom = rows_reached(plan.seen[0], plan.size[0], window.rows)
            valid = image.read_valid(top, bottom)
        left, right = rows_reached(plan.seen[1], plan.size[1], window.cols)
        if valid is not None and not valid[:, left:right].any():
            yield None
        else:
            yield read_patch(rows, replace(window, row=0), plan.grid.patch)


def stitch(
    plan: Plan, predictions: Iterable[NDArray[np.float32]], *, first: int = 0
) -> Iterator[MemberBand]:
    """Make the bands of an image, from its row `first` on, from the predictions of its patches.

    There is one float32 (M, S, S) prediction for each of the windows that these rows need.
    """
    needed = first_needed(plan.grid.row_offsets, plan.seen, plan.size, first)
    bands = resample_bands(blend(plan.grid, predictions, needed), plan.seen, plan.size)
    return (band.below(first) for band in bands if band.rows.stop > first)


def combine(plan: Plan, image: RowSource, bands: Iterable[MemberBand]) -> Iterator[Band]:
    """Reduce the members' maps to one: by weighted mean, or by share of votes.

    Invalid pixels get 0, which is below any threshold.
    """
    probability: NDArray[np.float32]
    for band in bands:
        valid = image.read_valid(band.rows.start, band.rows.stop)
        if plan.combine == "vote":
            probability = np.mean(band.members >= plan.threshold, axis=0, dtype=np.float32)
        else:
            weights = np.array(plan.weights, np.float32)
            probability = np.average(band.members, axis=0, weights=weights)
        disagreement = np.ptp(band.members, axis=0) if plan.disagreement else None
        if valid is not None:
            probability[~valid] = 0
            if disagreement is not None:
                disagreement[~valid] = 0
        mask = _reached(plan, probability)
        yield Band(band.row, probability, mask, valid, disagreement)


def band_of(
    plan: Plan,
    image: RowSource,
    row: int,
    probability: NDArray[np.float32],
    disagreement: NDArray[np.float32] | None,
) -> Band:
    """Return the band of probabilities, float32 (h, W), that are 0 where a pixel is invalid."""
    valid = image.read_valid(row, row + len(probability))
    return Band(row, probability, _reached(plan, probability), valid, disagreement)


def _reached(plan: Plan, probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    # A strict majority: of two members, both must agree.
    return probability > 0.5 if plan.combine == "vote" else probability >= plan.threshold


def _announced(items: Iterable[_Item], advanced: Advanced) -> Iterator[_Item]:
    for item in items:
        yield item
        advanced()


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Cut into lists of `size`, the last perhaps shorter (itertools.batched, from Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
