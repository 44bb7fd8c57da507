"""An image in, a mask out: windows, predictor and blending in one straight line."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Manifest, load_manifest
from app.errors import BundleError, InferenceError, InvalidOption
from app.imaging.georeference import Gsd
from app.imaging.image import Image, RowSource
from app.imaging.resample import resample_rows
from app.runtime.constant_patches import OneColour
from app.runtime.onnxruntime import Device, Gpu, Predictor
from app.runtime.select import Backend, Precision, load_predictor
from app.runtime.workers import one_ahead
from app.segmentation.blending import Band, blend, drop_above
from app.segmentation.cascade import Gating, predict_gated
from app.segmentation.components import drop_small_components
from app.segmentation.early_exit import Vote, bytes_held, predict_until_settled
from app.segmentation.options import SegmentOptions
from app.segmentation.resampling import Size, first_needed, resample_bands, seen_size
from app.segmentation.stream import Segmentation, SegmentedBand
from app.segmentation.tta import ORIENTATIONS, upright
from app.segmentation.unsure import find_unsure
from app.segmentation.windows import WindowGrid, plan_windows, read_patch

Checkpoint = Callable[[], None]
"""Called before every batch of patches; stops the work by raising."""

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Item = TypeVar("_Item")

_GSD_MARGIN = 1.01

_BELOW = 1 / 255
"""How far below the threshold what is not sure is held: it shows in 8 bits."""

_EARLY_EXIT_ROOM = 16 << 20, 512 << 20
_EARLY_EXIT_BYTES_PER_PIXEL = 40
"""Early exit holds patches and answers until their neighbours' are in. Where that would take more
than so much a pixel, as for an image of one row or at a large overlap, or more than the larger
room, as for an image of 15,000 columns, patches go through one by one. The smaller room is free."""


def keep_going() -> None:
    """Never stop the work."""


class Segmenter:
    """Segment images of any size with the members of one bundle."""

    def __init__(self, manifest: Manifest, predictor: Predictor) -> None:
        self.manifest = manifest
        self.predictor = predictor
        self._weights = {member.name: member.weight for member in manifest.members}
        self._one_colour = OneColour(predictor)

    def close(self) -> None:
        """Let go of the predictor's threads."""
        self.predictor.close()

    def segment(
        self,
        image: Image,
        options: SegmentOptions = SegmentOptions(),
        *,
        disagreement: bool = False,
        mask_only: bool = False,
        checkpoint: Checkpoint = keep_going,
    ) -> Segmentation:
        """Find the buildings of an image, and where the members disagree, if that is asked for.

        With `mask_only`, members are not asked where their answer could not change the mask, nor
        where the gate clears a patch, if the bundle has one and `options` let it: `gating`. Without
        a gate the mask is the same bit for bit. `probability` and `disagreement` are of no use.

        Raises:
            InvalidOption: an option that this bundle can't honour.
            InferenceError: a member failed, or gave something that is no probability.
            Exception: whatever `checkpoint` raises.
        """
        gating = self.gating(options) if mask_only else None
        bands = self.bands(
            image, options, mask_only=mask_only, gating=gating, checkpoint=checkpoint
        )
        found = self.combine(image, bands, options, disagreement=disagreement)
        return replace(found, gating=gating)

    def gating(self, options: SegmentOptions = SegmentOptions()) -> Gating | None:
        """Return the gate for one image of which a mask is all that is asked for.

        None if the bundle has none, or where `options` ask for other masks than those it was fitted
        to: those of the mean of all members on patches as they are, at the manifest's threshold or
        a higher one.

        Raises:
            InvalidOption: a member that this bundle does not have.
        """
        gate = self.manifest.gate
        fitted = (
            self.chosen_members(options) == tuple(self._weights)
            and (options.combine, options.tta) == ("average", "none")
            and self._threshold(options) >= self.manifest.threshold.value
        )
        if gate is None or not fitted or options.gate == "off":
            return None
        return Gating(gate.member, gate.threshold)

    def combine(
        self,
        image: RowSource,
        bands: Iterable[Band],
        options: SegmentOptions = SegmentOptions(),
        *,
        disagreement: bool = False,
    ) -> Segmentation:
        """Combine the bands of an image, of exactly the members that `options` choose.

        `segment` is this after `bands`. Apart, they let one pass over the image be combined in
        many ways, each to the very bits that are served.

        Raises:
            InvalidOption: an option that this bundle can't honour.
        """
        size = image.height, image.width
        probability, mask = np.empty(size, np.float32), np.empty(size, np.bool_)
        spread = np.empty(size, np.float32) if disagreement else None
        for band in self.hold_unsure(self.combine_bands(image, bands, options), options):
            probability[band.rows], mask[band.rows] = band.probability, band.mask
            if spread is not None:
                spread[band.rows] = band.disagreement
        if options.min_area > 0:
            mask = drop_small_components(mask, options.min_area / self.unit_area(image, options))
        return Segmentation(
            probability,
            mask,
            self._threshold(options),
            self.chosen_members(options),
            self.notices(image, options),
            spread,
        )

    def combine_bands(
        self, image: RowSource, bands: Iterable[Band], options: SegmentOptions = SegmentOptions()
    ) -> Iterator[SegmentedBand]:
        """Combine the bands of an image one by one.

        `hold_unsure` and `min_area` are left to who sees them together.

        Raises:
            InvalidOption: an option that this bundle can't honour.
        """
        members = self.chosen_members(options)
        threshold = self._threshold(options)
        for band in bands:
            probability = self._mean(band.members, members, options)
            yield SegmentedBand(
                band.row,
                probability,
                disagreement=np.ptp(band.members, axis=0),
                # A strict majority: of two members, both must agree.
                mask=probability > 0.5 if options.combine == "vote" else probability >= threshold,
                valid=image.read_valid(band.rows.start, band.rows.stop),
            )

    def hold_unsure(
        self, bands: Iterable[SegmentedBand], options: SegmentOptions = SegmentOptions()
    ) -> Iterator[SegmentedBand]:
        """Hold components that are not sure on the whole just below the manifest's threshold.

        So they are no building at that threshold and above. These are all of an image's bands, of
        `combine_bands`; they leave when their components are known.

        Raises:
            InvalidOption: a member that this bundle does not have.
        """
        threshold, sure = self.manifest.threshold.value, self.sure(options)
        if sure is None:
            yield from bands
            return
        waiting: deque[SegmentedBand] = deque()

        def maps() -> Iterator[NDArray[np.float32]]:
            for band in bands:
                waiting.append(band)
                yield band.probability

        for held in find_unsure(maps(), threshold, sure):
            band = waiting.popleft()
            probability = band.probability
            if held.any():
                below = np.minimum(probability, np.float32(max(0.0, threshold - _BELOW)))
                probability = np.where(held, below, probability)
            mask = probability >= self._threshold(options)
            yield replace(band, probability=probability, mask=mask)

    def sure(self, options: SegmentOptions) -> float | None:
        """Return the mean probability that a component must have to be a building.

        None if the bundle has none, or where `options` ask for other masks than those it was fitted
        to: those of the mean of all members.

        Raises:
            InvalidOption: a member that this bundle does not have.
        """
        fitted = (
            self.chosen_members(options) == tuple(self._weights) and options.combine == "average"
        )
        return self.manifest.threshold.sure if fitted and options.unsure == "drop" else None

    def unit_area(self, image: RowSource, options: SegmentOptions) -> float:
        """Return the area of a pixel: in m² where the GSD is known, else 1."""
        gsd = used_gsd(image, options)
        return math.prod(gsd) if gsd else 1.0

    def bands(
        self,
        image: RowSource,
        options: SegmentOptions = SegmentOptions(),
        *,
        mask_only: bool = False,
        gating: Gating | None = None,
        first: int = 0,
        checkpoint: Checkpoint = keep_going,
    ) -> Iterator[Band]:
        """Stream the blended probabilities of each chosen member, in the manifest's order.

        Members stay apart until here, so that a vote counts whole maps rather than patches; a
        weighted mean comes out the same either way. Invalid pixels are 0. With `mask_only`, a
        member's probability is 0 where it was not asked, and with `gating` too, for masks alone,
        every member's is where the gate clears a patch. Rows above `first` are left out, and only
        what the others need is predicted; the rows, or the masks that are made of them, have the
        very bits that they have without it.

        Raises:
            As `segment`.
        """
        members = self.chosen_members(options)
        grid = self.plan(image, options)
        seen, size = (grid.height, grid.width), (image.height, image.width)
        needed = first_needed(grid.row_offsets, seen, size, first)
        patches = read_patches(image, grid, needed)
        at_least = 4 * self.predictor.batch_size

        def ask(few: Sequence[NDArray[np.uint8]], m: int) -> Iterator[NDArray[np.float32]]:
            return (p[0] for p in self._predict(few, members[m : m + 1], options, checkpoint))

        smaller, larger = _EARLY_EXIT_ROOM
        room = min(max(smaller, _EARLY_EXIT_BYTES_PER_PIXEL * math.prod(size)), larger)
        spares = mask_only and options.combine == "average" and seen == size
        if spares and bytes_held(grid, len(members), at_least) <= room:
            predictions = predict_until_settled(
                grid,
                patches,
                ask,
                self._vote(members, options, gating),
                image.read_valid,
                at_least=at_least,
                first=needed,
                gating=gating,
            )
        elif gating:
            predictions = predict_gated(patches, ask, members, gating, at_once=at_least)
        else:
            predictions = self._predict(patches, members, options, checkpoint)
        return stitch(image, grid, predictions, first=first)

    def plan(self, image: RowSource, options: SegmentOptions = SegmentOptions()) -> WindowGrid:
        """Lay windows over an image as the members see it, which may be of another size."""
        seen = seen_size(image.height, image.width, self._scale(image, options))
        return plan_windows(*seen, self.manifest.patch_size, options.overlap)

    def _vote(
        self, members: tuple[str, ...], options: SegmentOptions, gating: Gating | None
    ) -> Vote:
        total = sum(self._weights[name] for name in members)
        weights = [self._weights[name] / total for name in members]
        asked = self.manifest.early_exit.order if self.manifest.early_exit else members
        if gating:
            asked = (gating.member, *(name for name in asked if name != gating.member))
        order = [members.index(name) for name in asked if name in members]
        threshold = self._threshold(options)
        if self.sure(options) is None:
            return Vote(weights, order, threshold, threshold)
        # A component's mean needs every answer about each of its pixels.
        return Vote(weights, order, min(threshold, self.manifest.threshold.value), math.inf)

    def _scale(self, image: RowSource, options: SegmentOptions) -> tuple[float, float]:
        """Return how many pixels the members see per pixel of the image, down and across."""
        gsd, trained = used_gsd(image, options), self.manifest.gsd
        if gsd is None or options.resample == "off" or trained.reference is None:
            return 1.0, 1.0
        shown = trained.shown(math.sqrt(math.prod(gsd)))
        return gsd[0] / shown, gsd[1] / shown

    def notices(self, image: RowSource, options: SegmentOptions) -> tuple[str, ...]:
        """Return what the client should know of an image before these models see it."""
        gsd, trained = used_gsd(image, options), self.manifest.gsd
        if gsd is None:
            return ()
        mean = math.sqrt(math.prod(gsd))
        # A grid of 0.6 m in its projection may be 0.6002 m on the ground.
        if trained.min / _GSD_MARGIN <= mean <= trained.max * _GSD_MARGIN:
            return ()
        return (
            f"The GSD of {mean:.3g} m lies outside the {trained.min:g} to {trained.max:g} m "
            "that the models were trained at: expect a poorer mask.",
        )

    def _predict(
        self,
        patches: Iterable[NDArray[np.uint8]],
        members: tuple[str, ...],
        options: SegmentOptions,
        checkpoint: Checkpoint,
    ) -> Iterator[NDArray[np.float32]]:
        """Predict patches one after the other, batch by batch: float32 (M, S, S) each."""
        orientations = ORIENTATIONS[options.tta]
        oriented = (o.apply(patch) for patch in patches for o in orientations)
        ask = partial(self._one_colour.predict, members=members)
        batches = self._batches(oriented, checkpoint)
        answers = one_ahead(ask, batches) if self.predictor.ahead else map(ask, batches)
        views = (view for answer in answers for view in answer.swapaxes(0, 1))
        return (upright(of_patch, orientations) for of_patch in _batched(views, len(orientations)))

    def _batches(
        self, patches: Iterable[NDArray[np.uint8]], checkpoint: Checkpoint
    ) -> Iterator[NDArray[np.uint8]]:
        for batch in _batched(patches, self.predictor.batch_size):
            checkpoint()
            yield np.stack(batch)

    def _mean(
        self, probabilities: NDArray[np.float32], members: tuple[str, ...], options: SegmentOptions
    ) -> NDArray[np.float32]:
        """Reduce float32 (M, h, W) to (h, W), by weighted mean or share of votes."""
        weights = np.array([self._weights[name] for name in members], np.float32)
        if options.combine == "vote":
            probabilities = (probabilities >= self._threshold(options)).astype(np.float32)
            weights = np.ones_like(weights)
        mean: NDArray[np.float32] = np.average(probabilities, axis=0, weights=weights)
        return mean

    def _threshold(self, options: SegmentOptions) -> float:
        return self.manifest.threshold.value if options.threshold is None else options.threshold

    def chosen_members(self, options: SegmentOptions) -> tuple[str, ...]:
        """Return the members that vote, in the manifest's order whatever the client's.

        Sums then run in one order, and equal choices give equal bits.

        Raises:
            InvalidOption: a member that this bundle does not have.
        """
        known = tuple(self._weights)
        chosen = known if options.members is None else options.members
        if unknown := [name for name in chosen if name not in known]:
            raise InvalidOption(
                f"models must be among {', '.join(known)}, got {', '.join(unknown)}"
            )
        return tuple(name for name in known if name in chosen)


def load_segmenter(
    bundle: Path,
    *,
    device: Device = "auto",
    workers: int | None = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    gpu: Gpu = Gpu(),
) -> Segmenter:
    """Load the bundle in the folder `bundle`, and predict one patch so that the first is not slow.

    Raises:
        BundleError: manifest, files or graphs are missing, disagree or don't run.
        DeviceError: what was asked for to run on is not really in use.
    """
    manifest = load_manifest(bundle)
    predictor = load_predictor(
        bundle,
        manifest,
        device=device,
        workers=workers,
        backend=backend,
        precision=precision,
        gpu=gpu,
    )
    black = np.zeros((1, manifest.patch_size, manifest.patch_size, 3), np.uint8)
    try:
        predictor.predict(black, predictor.members)
    except InferenceError as error:
        predictor.close()
        raise BundleError(f"{bundle} can't predict a black patch: {error}") from error
    return Segmenter(manifest, predictor)


def used_gsd(image: RowSource, options: SegmentOptions) -> Gsd | None:
    """Return what the client said of the GSD, else what the image says itself."""
    return image.gsd if options.gsd is None else (options.gsd, options.gsd)


def read_patches(image: RowSource, grid: WindowGrid, first: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Cut the patches of `grid.windows_from(first)`, resampling a row of windows at a time."""
    size: Size = (grid.height, grid.width)
    for window in grid.windows_from(first):
        if window.col == 0:
            rows = resample_rows(image, size, window.row, window.row + window.height)
        yield read_patch(rows, replace(window, row=0), grid.patch)


def stitch(
    image: RowSource,
    grid: WindowGrid,
    predictions: Iterable[NDArray[np.float32]],
    *,
    first: int = 0,
) -> Iterator[Band]:
    """Make the bands of an image, from its row `first` on, of what was said of its patches.

    There is one float32 (M, S, S) prediction for each of the windows that these rows need.
    """
    seen, size = (grid.height, grid.width), (image.height, image.width)
    needed = first_needed(grid.row_offsets, seen, size, first)
    bands = resample_bands(blend(grid, predictions, needed), seen, size)
    return _hide_invalid(drop_above(bands, first), image)


def _hide_invalid(bands: Iterable[Band], image: RowSource) -> Iterator[Band]:
    """Set the probabilities of invalid pixels to 0, below any threshold, in place."""
    for band in bands:
        valid = image.read_valid(band.rows.start, band.rows.stop)
        if valid is not None:
            band.members[:, ~valid] = 0
        yield band


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Cut into lists of `size`, the last perhaps shorter (itertools.batched, from Python 3.12)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
