"""The cascade: some members decide a patch, or every member does."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.bundle.cascade import Cascade
from app.imaging.image import Image
from app.runtime.predictor import Predictor
from app.segmentation.blending import blend
from app.segmentation.cascade import weighted_mean
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter
from app.segmentation.stream import collect
from app.segmentation.windows import plan_windows, read_patch
from tests.factories import TOY_WEIGHTS, toy_cascade

PATCH = 32
sizes = st.integers(1, 100)
overlaps = st.sampled_from([0.0, 0.25, 0.5])


class Counting:
    """A predictor that counts the patches each member was asked about."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> object:
        return getattr(self._predictor, name)

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        self.asked.update({member: len(patches) for member in members})
        return self._predictor.predict(patches, members)


def cascaded(segmenter: Segmenter, fitted: Mapping[str, object]) -> Segmenter:
    """Give a bundle a cascade; the same networks answer, and are counted."""
    update = {"cascade": Cascade.model_validate(fitted)}
    manifest = segmenter.manifest.model_copy(update=update)
    return Segmenter(manifest, Counting(segmenter.predictor))  # type: ignore[arg-type]


def blobs(height: int, width: int, seed: int, share: float) -> NDArray[np.uint8]:
    """Draw squares of 16 pixels, a share of them of random colours, the others dark."""
    random = np.random.default_rng(seed)
    shape = height // 16 + 1, width // 16 + 1
    colours = random.integers(0, 256, (*shape, 3)) * (random.random(shape) < share)[..., np.newaxis]
    return np.kron(colours, np.ones((16, 16, 1)))[:height, :width].astype(np.uint8)


def expected(
    pixels: NDArray[np.uint8],
    shares: Mapping[str, float],
    doubt: tuple[float, float],
    overlap: float,
) -> tuple[NDArray[np.bool_], Counter[int]]:
    """Work out the mask of the toy bundle by hand, and how many members decided each patch."""
    height, width, _ = pixels.shape
    grid = plan_windows(height, width, PATCH, overlap)
    deciding: Counter[int] = Counter()

    def predictions() -> Iterator[NDArray[np.float32]]:
        for window in grid:
            patch = read_patch(pixels, window, PATCH).astype(np.float32) / np.float32(255)
            every = dict(zip(TOY_WEIGHTS, np.moveaxis(patch, 2, 0), strict=True))
            asked: dict[str, NDArray[np.float32]] = {}
            for member, share in shares.items():
                asked[member] = every[member]
                mean = weighted_mean(asked, TOY_WEIGHTS)
                if ((mean >= doubt[0]) & (mean <= doubt[1])).sum() <= share * mean.size:
                    every = {name: asked.get(name, mean) for name in every}
                    break
            else:
                asked = every
            deciding[len(asked)] += 1
            yield np.stack(list(every.values()))

    blended = np.concatenate([band.members for band in blend(grid, predictions())], axis=1)
    weights = np.array(list(TOY_WEIGHTS.values()), np.float32)
    return np.average(blended, axis=0, weights=weights) >= 0.5, deciding


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(sizes, sizes),
    overlap=overlaps,
    members=st.permutations(list(TOY_WEIGHTS)),
    stages=st.integers(1, 2),
    doubt=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)),
    rule_shares=st.tuples(*[st.sampled_from([0.0, 0.1, 0.4])] * 2),
    share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_patches_are_decided_by_some_or_by_all(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    members: Sequence[str],
    stages: int,
    doubt: tuple[float, float],
    rule_shares: tuple[float, float],
    share: float,
    seed: int,
) -> None:
    shares = dict(zip(members[:stages], rule_shares, strict=False))
    (first, share_alone), *then = shares.items()
    segmenter = cascaded(small_toy, toy_cascade(first, *doubt, share_alone, **dict(then)))
    pixels = blobs(*shape, seed, share)
    mask, deciding = expected(pixels, shares, doubt, overlap)
    image = Image(pixels)

    plan = segmenter.plan(image, Options(overlap=overlap))
    stream = segmenter.segment(plan, image)
    found = collect(stream)

    np.testing.assert_array_equal(found.mask, mask)
    windows = len(plan_windows(*shape, PATCH, overlap))
    said = f"{first} decided {deciding[1]} of {windows} patches alone"
    assert str(stream.cascade_count) == said + "".join(
        f", {deciding[2]} with {member}" for member, _ in then
    )
    asked, left = segmenter.predictor.asked, windows  # type: ignore[attr-defined]
    for n, name in enumerate(members):
        assert asked[name] <= left  # the predictor may remember a patch that comes again
        left -= deciding[n + 1] if n < stages else 0


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(sizes, sizes),
    overlap=overlaps,
    gsd=st.sampled_from([None, 0.3, 0.47]),
    low=st.floats(0.01, 0.5),
    share=st.floats(0, 0.999),
    cascade=st.sampled_from(["on", "off"]),
    hole=st.booleans(),
)
def test_a_mask_goes_on_at_any_row(
    small_toy: Segmenter,
    shape: tuple[int, int],
    overlap: float,
    gsd: float | None,
    low: float,
    share: float,
    cascade: str,
    hole: bool,
) -> None:
    """As an interrupted run does, with invalid windows too."""
    segmenter = cascaded(small_toy, toy_cascade("green", low))
    valid = np.ones(shape, np.bool_)
    valid[: shape[0] // 2, shape[1] // 3 :] = not hole
    image = Image(blobs(*shape, 3, 0.2), valid)
    options = Options.parse({"overlap": overlap, "gsd": gsd, "cascade": cascade})
    plan = segmenter.plan(image, options)
    row = int(share * shape[0])

    def mask(first: int) -> NDArray[np.bool_]:
        return np.concatenate([b.mask for b in segmenter.bands(plan, image, first=first)])

    np.testing.assert_array_equal(mask(row), mask(0)[row:])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    overlap=overlaps,
    gsd=st.sampled_from([None, 0.13, 0.3, 0.6]),
    seed=st.integers(0, 99),
)
def test_windows_without_a_valid_pixel_need_no_answer(
    small_toy: Segmenter, shape: tuple[int, int], overlap: float, gsd: float | None, seed: int
) -> None:
    """Whether they are predicted or not, every valid pixel has the same bits."""
    random = np.random.default_rng(seed)
    blocks = random.random((shape[0] // 40 + 1, shape[1] // 40 + 1)) < 0.4
    valid = np.kron(blocks, np.ones((40, 40)))[: shape[0], : shape[1]] > 0
    pixels = random.integers(0, 256, (*shape, 3), np.uint8)
    options = Options(overlap=overlap, gsd=gsd)
    whole = small_toy.segment_image(Image(pixels), options)
    holed = small_toy.segment_image(Image(pixels, valid), options)
    np.testing.assert_array_equal(holed.probability[valid], whole.probability[valid])
    assert not holed.probability[~valid].any()


@pytest.mark.parametrize(
    "options",
    [
        {"combine": "vote"},
        {"tta": "flips"},
        {"models": "red,green"},
        {"models": "blue"},
        {"threshold": 0.29},
        {"threshold": 0.71},
        {"cascade": "off"},
    ],
)
def test_it_stands_aside_where_it_was_not_fitted(
    small_toy: Segmenter, options: dict[str, object]
) -> None:
    segmenter = cascaded(small_toy, toy_cascade("blue", 0.3, 0.7, 0.5))
    chosen = Options.parse({"overlap": 0, **options})
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[..., 2] = 0  # blue sees nothing, and the others a building everywhere
    assert segmenter.plan(Image(pixels), chosen).cascade is None
    found = segmenter.segment_image(Image(pixels), chosen)
    np.testing.assert_array_equal(found.mask, small_toy.segment_image(Image(pixels), chosen).mask)


@pytest.mark.parametrize("gsd", [None, 0.3])  # unknown, and one at which the image is enlarged
def test_nobody_else_is_asked_about_a_patch_that_is_decided(
    small_toy: Segmenter, gsd: float | None
) -> None:
    segmenter = cascaded(small_toy, toy_cascade("blue", 0.1))
    pixels = np.random.default_rng(0).integers(0, 20, (320, 320, 3), np.uint8)
    pixels[5:9, 5:9] = 130  # 0.51: in doubt
    image = Image(pixels)
    stream = segmenter.segment(segmenter.plan(image, Options(overlap=0, gsd=gsd)), image)
    collect(stream)
    asked, count = segmenter.predictor.asked, stream.cascade_count  # type: ignore[attr-defined]
    assert count is not None
    assert asked["blue"] == count.asked >= 100
    assert asked["red"] == asked["green"] == count.asked - count.decided[0] == 1


def test_invalid_windows_are_not_even_shown_to_the_first(small_toy: Segmenter) -> None:
    segmenter = cascaded(small_toy, toy_cascade("blue", 0.1))
    valid = np.zeros((320, 320), np.bool_)
    valid[40:60, 300:] = True
    image = Image(blobs(320, 320, 0, 1.0), valid)
    stream = segmenter.segment(segmenter.plan(image, Options(overlap=0)), image)
    collect(stream)
    assert stream.cascade_count is not None
    assert stream.cascade_count.asked == 1
