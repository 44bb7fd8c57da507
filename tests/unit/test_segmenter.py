import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from rasterio.transform import Affine

from app.errors import BundleError, DeadlineExceeded, InferenceError, InvalidOption
from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.segmentation.options import Combine, Options, Tta
from app.segmentation.plan import Plan
from app.segmentation.segmenter import Segmenter, load_segmenter, stream
from app.segmentation.stream import collect
from tests import factories
from tests.factories import EXACTLY, TOY_WEIGHTS, scene, without_small, write_toy_bundle
from tests.maps import geotiff


def image_of(pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None = None) -> Image:
    return Image(pixels=pixels, valid=valid, georeference=None)


def load(folder: Path, weights: dict[str, float], **graphs: bytes) -> Segmenter:
    bundle = write_toy_bundle(folder, weights, patch_size=32, graphs=graphs)
    return load_segmenter(bundle, **EXACTLY)


def channels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.moveaxis(pixels, 2, 0).astype(np.float32) / np.float32(255)


class TestOptions:
    @pytest.mark.parametrize(
        ("values", "complaint"),
        [
            ({"threshold": 0.0}, r"threshold must be more than 0, got 0\.0"),
            ({"threshold": 1.0}, "threshold"),
            ({"threshold": float("nan")}, "threshold"),
            ({"overlap": -0.1}, "overlap"),
            ({"overlap": 0.76}, r"overlap must be at most 0\.75, got 0\.76"),
            ({"overlap": float("nan")}, "overlap"),
            ({"min_area": -1.0}, "min_area"),
            ({"min_area": float("inf")}, "min_area"),
            ({"min_area": float("nan")}, "min_area"),
            ({"min_confidence": 1.1}, "min_confidence"),
            ({"min_confidence": -0.1}, "min_confidence"),
            ({"gsd": 0.0}, "gsd"),
            ({"gsd": 5e-324}, "gsd"),  # its square is 0, and no area can be divided by it
            ({"gsd": float("inf")}, "gsd"),
            ({"gsd": float("nan")}, "gsd"),
            ({"resample": "on"}, "resample must be 'auto' or 'off', got 'on'"),
            ({"tta": "all"}, "tta must be 'none', 'flips' or 'd4', got 'all'"),
            ({"combine": "sum"}, "combine must be 'average' or 'vote', got 'sum'"),
            ({"cascade": "wide"}, "cascade must be 'on' or 'off', got 'wide'"),
            ({"models": ""}, "models must name each member once and at least one, got ''"),
            ({"models": "red,red"}, "models must name each member once.*got 'red,red'"),
            ({"rescale": "5"}, "rescale must be LOW,HIGH"),
            ({"sharpen": 501}, "sharpen"),
            ({"simplify": -1}, "simplify"),
            ({"rectify": "round"}, "rectify"),
            ({"order": "spiral"}, "order"),
            ({"bands": "nir"}, "bands must be among mask, probability, disagreement, got nir"),
            ({"bands": "probability,mask"}, "bands must begin with mask"),
            ({"bands": "mask,mask"}, "bands must begin with mask and name each once"),
            ({"thresh": 0.5}, "thresh is not an option; there are threshold, min_confidence"),
        ],
    )
    def test_a_value_out_of_range_is_named(self, values: dict[str, Any], complaint: str) -> None:
        with pytest.raises(InvalidOption, match=complaint):
            Options.parse(values)

    def test_the_ends_of_each_range_are_allowed(self) -> None:
        Options(threshold=1e-9, overlap=0.0, min_area=0.0, min_confidence=0, models="a")
        Options(threshold=1 - 1e-9, overlap=0.75, min_confidence=1, tta="d4", combine="vote")

    def test_names_may_have_spaces_around_them(self) -> None:
        assert Options(models="red, blue").members == ("red", "blue")
        assert Options(bands="mask, probability").raster_bands == ("mask", "probability")

    def test_a_member_that_is_not_there_is_named_with_those_that_are(self, toy: Segmenter) -> None:
        options = Options(models="red,pink")
        with pytest.raises(InvalidOption, match="among red, green, blue, got pink"):
            toy.plan(image_of(scene(8, 8)), options)
        with pytest.raises(InvalidOption, match="among red, green, blue, got pink"):
            Plan.check(toy.manifest, options)


class TestCombining:
    def test_the_average_is_weighted_as_the_manifest_says(self, toy: Segmenter) -> None:
        pixels = scene(40, 300)
        found = toy.segment_image(image_of(pixels))
        expected = np.tensordot(list(TOY_WEIGHTS.values()), channels(pixels), axes=1)
        assert found.plan.members == ("red", "green", "blue")
        assert found.plan.threshold == 0.5
        assert found.probability.dtype == np.float32
        np.testing.assert_allclose(found.probability, expected, atol=1e-6)
        np.testing.assert_array_equal(found.mask, found.probability >= 0.5)

    def test_weights_of_the_chosen_are_renormalised(self, toy: Segmenter) -> None:
        pixels = scene(40, 30)
        found = toy.segment_image(image_of(pixels), Options(models="red,blue"))
        red, _, blue = channels(pixels)
        np.testing.assert_allclose(found.probability, (0.5 * red + 0.2 * blue) / 0.7, atol=1e-6)

    def test_the_order_of_the_names_does_not_matter(self, toy: Segmenter) -> None:
        image = image_of(scene(40, 30))
        one = toy.segment_image(image, Options(models="blue,red"))
        other = toy.segment_image(image, Options(models="red,blue"))
        assert one.plan.members == other.plan.members == ("red", "blue")
        np.testing.assert_array_equal(one.probability, other.probability)

    @pytest.mark.parametrize("models", ["red", "red,green", "red,green,blue"])
    def test_a_vote_counts_members_whatever_their_weight(self, toy: Segmenter, models: str) -> None:
        pixels = scene(50, 60)
        members = models.split(",")
        options = Options(threshold=0.4, models=models, combine="vote")
        found = toy.segment_image(image_of(pixels), options)
        votes = (channels(pixels)[: len(members)] >= 0.4).sum(axis=0)
        np.testing.assert_allclose(found.probability, votes / len(members), atol=1e-6)
        np.testing.assert_array_equal(found.mask, 2 * votes > len(members))
        assert 0 < found.mask.mean() < 1

    def test_the_threshold_itself_is_building(self, toy: Segmenter) -> None:
        pixels = np.array([[[50, 0, 0], [51, 0, 0], [52, 0, 0]]], np.uint8)
        options = Options(threshold=51 / 255, models="red")
        assert toy.segment_image(image_of(pixels), options).mask.tolist() == [[False, True, True]]


class TestInvalidPixels:
    @pytest.mark.parametrize("combine", ["average", "vote"])
    @pytest.mark.parametrize("threshold", [1e-6, 1e-300])  # which float32 does not hold
    def test_they_are_never_building(
        self, small_toy: Segmenter, combine: Combine, threshold: float
    ) -> None:
        pixels = np.full((70, 50, 3), 255, np.uint8)
        valid = np.random.default_rng(1).random((70, 50)) < 0.5
        options = Options(threshold=threshold, combine=combine)
        assert small_toy.segment_image(image_of(pixels), options).mask.all()
        found = small_toy.segment_image(image_of(pixels, valid), options)
        np.testing.assert_array_equal(found.mask, valid)
        np.testing.assert_allclose(found.probability, valid, atol=1e-6)
        assert (found.probability[~valid] == 0).all()

    def test_they_do_not_count_towards_an_area(self, small_toy: Segmenter) -> None:
        pixels = np.full((10, 10, 3), 255, np.uint8)
        valid = np.zeros((10, 10), np.bool_)
        valid[:2, :3] = True
        for min_area, expected in ((6.0, 6), (7.0, 0)):
            found = small_toy.segment_image(image_of(pixels, valid), Options(min_area=min_area))
            assert found.mask.sum() == expected


def test_small_components_are_held_below_the_threshold(small_toy: Segmenter) -> None:
    image = image_of(scene(70, 50))
    whole = small_toy.segment_image(image)
    found = small_toy.segment_image(image, Options(min_area=20.0))
    np.testing.assert_array_equal(found.mask, without_small(whole.mask, 20))
    np.testing.assert_array_equal(found.mask, found.probability >= 0.5)
    same = whole.mask == found.mask
    np.testing.assert_array_equal(found.probability[same], whole.probability[same])
    assert 0 < found.mask.sum() < whole.mask.sum()


class TestGsd:
    """The toy bundle was trained from 0.3 to 0.6 m, and is shown nothing coarser than 0.4 m."""

    @pytest.mark.parametrize(
        ("gsd", "scale"),
        [(0.15, 0.5), (0.3, 1.0), (0.35, 1.0), (0.4, 1.0), (0.5, 1.25), (0.6, 1.5), (9.0, 1.5)],
    )
    def test_members_see_the_image_at_the_gsd_they_were_trained_at(
        self, tmp_path: Path, gsd: float, scale: float
    ) -> None:
        """A member that answers by position gives away the size of what it was shown."""
        with closing(load(tmp_path, {"ramp": 1.0}, ramp=factories.ramp_graph(32))) as segmenter:
            found = segmenter.segment_image(image_of(scene(20, 20)), Options(gsd=gsd))
        seen = round(20 * scale)
        ramp = PIL.Image.fromarray(np.ascontiguousarray(factories.ramp_of(32)[:seen, :seen]))
        expected = np.asarray(ramp.resize((20, 20), PIL.Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found.probability, expected, atol=1e-5)

    @pytest.mark.parametrize("shape", [(300, 90), (33, 200), (1, 1)])
    def test_the_mask_comes_back_on_the_uploads_grid(
        self, small_toy: Segmenter, shape: tuple[int, int]
    ) -> None:
        height, width = shape
        smooth = np.full((*shape, 3), 40, np.uint8)
        smooth[height // 3 :, width // 2 :] = 200
        expected = small_toy.segment_image(image_of(smooth)).mask
        for gsd in (0.15, 0.3, 0.55, 0.6):
            found = small_toy.segment_image(image_of(smooth), Options(gsd=gsd))
            # The edge itself may move by less than a pixel of the coarser grid, along its length.
            assert np.count_nonzero(found.mask != expected) <= 3 * (height + width)
            assert found.mask.shape == shape

    @pytest.mark.parametrize("options", [Options(gsd=0.2, resample="off"), Options(gsd=0.4)])
    def test_nothing_is_resampled_without_need(
        self, small_toy: Segmenter, options: Options
    ) -> None:
        image = image_of(scene(70, 50))
        plain, found = small_toy.segment_image(image), small_toy.segment_image(image, options)
        np.testing.assert_array_equal(found.probability, plain.probability)

    def test_the_images_own_gsd_counts_unless_the_client_gives_one(self, tmp_path: Path) -> None:
        pixels = scene(20, 20)
        own = Image(pixels, gsd=(0.24, 0.54))  # 0.36 m on average: seen as squares of that
        with closing(load(tmp_path, {"ramp": 1.0}, ramp=factories.ramp_graph(32))) as segmenter:
            found = segmenter.segment_image(own)
            given = segmenter.segment_image(own, Options(gsd=0.2))
            expected = segmenter.segment_image(image_of(pixels), Options(gsd=0.2))
        ramp = np.ascontiguousarray(factories.ramp_of(32)[:13, :30])
        back = PIL.Image.fromarray(ramp).resize((20, 20), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found.probability, np.asarray(back), atol=1e-5)
        np.testing.assert_array_equal(given.probability, expected.probability)

    def test_pixels_that_are_not_square_have_an_area(self, small_toy: Segmenter) -> None:
        pixels = np.zeros((10, 10, 3), np.uint8)
        pixels[2:4, 2:5] = 255  # 6 pixels of 0.4 x 0.5 m: 1.2 m²
        for min_area, expected in ((1.19, 6), (1.21, 0)):
            options = Options(resample="off", min_area=min_area)
            found = small_toy.segment_image(Image(pixels, gsd=(0.4, 0.5)), options)
            assert found.mask.sum() == expected

    def test_invalid_pixels_of_the_upload_stay_invalid(self, small_toy: Segmenter) -> None:
        valid = np.random.default_rng(1).random((70, 50)) < 0.5
        image = image_of(np.full((70, 50, 3), 255, np.uint8), valid)
        found = small_toy.segment_image(image, Options(gsd=0.3))
        np.testing.assert_array_equal(found.mask, valid)

    def test_a_gsd_outside_the_trained_range_is_noticed(self, small_toy: Segmenter) -> None:
        image = image_of(scene(8, 8))
        for gsd in (None, 0.3, 0.6, 0.6002):
            assert small_toy.plan(image, Options(gsd=gsd)).notices == ()
        for gsd in (0.29, 2.5):
            (notice,) = small_toy.plan(image, Options(gsd=gsd)).notices
            assert f"The GSD of {gsd} m lies outside the 0.3 to 0.6 m" in notice

    def test_a_gsd_that_is_not_the_files_is_noticed(self, small_toy: Segmenter) -> None:
        image = Image(scene(8, 8), gsd=(0.5, 0.5))
        for gsd in (None, 0.48, 0.52):
            assert small_toy.plan(image, Options(gsd=gsd)).notices == ()
        (notice,) = small_toy.plan(image, Options(gsd=0.4)).notices
        assert notice.startswith("gsd=0.4 was used, but the georeference says 0.5 m per pixel")

    def test_areas_that_differ_along_a_row_are_noticed_once(self, small_toy: Segmenter) -> None:
        wide = Affine(9000, 0, -3e6, 0, -9000, 8e6)
        image = decode_image(geotiff(scene(100, 100), transform=wide), max_pixels=10_000)
        for gsd, times in ((None, 1), (0.5, 0)):  # with the client's, all areas are the same
            notices = small_toy.plan(image, Options(gsd=gsd)).notices
            assert sum("along a row" in notice for notice in notices) == times

    def test_areas_are_in_square_metres_where_the_gsd_is_known(self, small_toy: Segmenter) -> None:
        pixels = np.zeros((10, 10, 3), np.uint8)
        pixels[2:4, 2:5] = 255  # 6 pixels: 0.96 m² at 0.4 m
        for min_area, expected in ((0.95, 6), (0.97, 0)):
            options = Options(gsd=0.4, min_area=min_area)
            assert small_toy.segment_image(image_of(pixels), options).mask.sum() == expected

    @pytest.mark.parametrize("gsd", [0.1, 0.15, 0.3, 0.5, 0.6, 1.2])
    def test_a_building_of_that_very_area_is_one(self, small_toy: Segmenter, gsd: float) -> None:
        pixels = np.zeros((12, 12, 3), np.uint8)
        pixels[1:11, 1:11] = 255
        options = Options(gsd=gsd, resample="off", min_area=round(100 * gsd**2, 2))
        assert small_toy.segment_image(image_of(pixels), options).mask.sum() == 100


class TestTestTimeAugmentation:
    # The symmetries of a square, spelled out: what `flips` and `d4` have to average.
    VIEWS: dict[Tta, list[Callable[[NDArray[np.float32]], NDArray[np.float32]]]] = {  # noqa: RUF012
        "none": [lambda a: a],
        "flips": [lambda a: a, lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1, ::-1]],
        "d4": [
            lambda a: a,
            lambda a: a[::-1],
            lambda a: a[:, ::-1],
            lambda a: a[::-1, ::-1],
            lambda a: a.T,
            lambda a: a.T[::-1],
            lambda a: a.T[:, ::-1],
            lambda a: a.T[::-1, ::-1],
        ],
    }

    @pytest.mark.parametrize("tta", ["flips", "d4"])
    def test_a_pixelwise_member_sees_no_difference(self, small_toy: Segmenter, tta: Tta) -> None:
        image = image_of(scene(45, 70))
        plain = small_toy.segment_image(image)
        found = small_toy.segment_image(image, Options(tta=tta))
        np.testing.assert_allclose(found.probability, plain.probability, atol=1e-6)

    @pytest.mark.parametrize("tta", ["none", "flips", "d4"])
    def test_a_member_that_looks_at_positions_is_averaged(self, tmp_path: Path, tta: Tta) -> None:
        with closing(load(tmp_path, {"ramp": 1.0}, ramp=factories.ramp_graph(32))) as segmenter:
            found = segmenter.segment_image(image_of(scene(32, 32)), Options(tta=tta))
        views = [view(factories.ramp_of(32)) for view in self.VIEWS[tta]]
        assert len({view.tobytes() for view in views}) == len(views)
        np.testing.assert_allclose(found.probability, np.mean(views, axis=0), atol=1e-6)


class TestAhead:
    """A predictor that computes elsewhere gets a batch before the last one's answer is used."""

    @pytest.fixture
    def ahead(self, small_toy: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
        monkeypatch.setattr(small_toy.predictor, "ahead", True)
        return small_toy

    @pytest.mark.parametrize("gsd", [None, 0.3])
    def test_it_changes_no_bit(
        self, ahead: Segmenter, gsd: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        predict, threads = ahead.predictor.predict, set()

        def watched(patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
            threads.add(threading.current_thread())
            return predict(patches, members)

        monkeypatch.setattr(ahead.predictor, "predict", watched)
        image, options = image_of(scene(190, 230)), Options(gsd=gsd)
        found = ahead.segment_image(image, options)
        assert threads
        assert threading.current_thread() not in threads
        monkeypatch.setattr(ahead.predictor, "ahead", False)
        expected = ahead.segment_image(image, options)
        np.testing.assert_array_equal(found.probability, expected.probability)

    def test_the_work_can_still_be_stopped(self, ahead: Segmenter) -> None:
        def cancelled() -> None:
            raise DeadlineExceeded("too late")

        image = image_of(scene(500, 500))
        with pytest.raises(DeadlineExceeded, match="too late"):
            collect(ahead.segment(ahead.plan(image), image, cancelled))


class TestStopping:
    def test_every_batch_and_band_asks_whether_to_stop(self, small_toy: Segmenter) -> None:
        asked = 0

        def cancelled() -> None:
            nonlocal asked
            asked += 1

        image = image_of(scene(96, 96))
        plan = small_toy.plan(image, Options(overlap=0.0, tta="flips"))
        collect(small_toy.segment(plan, image, cancelled))
        bands = 3
        assert asked == -(-9 * 4 // small_toy.predictor.batch_size) + bands

    def test_it_stops_by_raising(self, small_toy: Segmenter) -> None:
        asked = 0

        def cancelled() -> None:
            nonlocal asked
            asked += 1
            if asked == 3:
                raise DeadlineExceeded("too late")

        image = image_of(scene(500, 500))
        with pytest.raises(DeadlineExceeded, match="too late"):
            collect(small_toy.segment(small_toy.plan(image), image, cancelled))
        assert asked == 3
        assert small_toy.segment_image(image_of(scene(8, 8))).mask.shape == (8, 8)


def test_a_stream_without_its_last_rows_is_no_result(small_toy: Segmenter) -> None:
    """A writer would fill them with what its memory held before."""
    image = image_of(scene(96, 96))
    plan = small_toy.plan(image, Options(overlap=0.0))
    *bands, _ = small_toy.bands(plan, image)
    assert bands
    for some in (bands, []):
        with pytest.raises(InferenceError, match="of 96"):
            collect(stream(plan, image, some))


class TestLoading:
    def test_a_segmenter_knows_its_bundle(self, toy: Segmenter) -> None:
        assert toy.manifest.name == "toy"
        assert toy.predictor.members == ("red", "green", "blue")

    def test_a_member_that_fails_on_the_first_patch_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"can't predict a black patch: .*shape \(1, 1, 32\)"):
            load(tmp_path, {"liar": 1.0}, liar=factories.lying_graph(32))

    def test_no_mask_is_made_of_nan(self, tmp_path: Path) -> None:
        pixels = np.zeros((100, 100, 3), np.uint8)
        weights = {"red": 0.999, "broken": 0.001}
        graph = factories.nan_graph(32)
        with closing(load(tmp_path, weights, broken=graph)) as segmenter:
            assert not segmenter.segment_image(image_of(pixels)).mask.any()
            pixels[99, 99] = 255
            with pytest.raises(InferenceError, match="member 'broken' gave values from nan"):
                segmenter.segment_image(image_of(pixels))

    def test_a_missing_member_stops_the_start(self, tmp_path: Path) -> None:
        bundle = write_toy_bundle(tmp_path, patch_size=32)
        (bundle / "blue.onnx").unlink()
        with pytest.raises(BundleError, match=r"blue\.onnx"):
            load_segmenter(bundle, device="cpu")


class TestDisagreement:
    def test_it_is_the_range_of_the_members(self, small_toy: Segmenter) -> None:
        pixels, valid = scene(70, 90), np.ones((70, 90), np.bool_)
        valid[:9] = False

        image = image_of(pixels, valid)
        options = Options(bands="mask,disagreement")
        found = small_toy.segment_image(image, options).disagreement

        expected = np.where(valid, np.ptp(channels(pixels), axis=0), 0)
        assert found is not None
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert small_toy.segment_image(image).disagreement is None

    def test_bands_hold_the_rows_of_the_whole(self, small_toy: Segmenter) -> None:
        valid = np.ones((70, 90), np.bool_)
        valid[40:, 50:] = False
        image = image_of(scene(70, 90), valid)
        options = Options(overlap=0.5, bands="mask,disagreement")

        bands = list(small_toy.bands(small_toy.plan(image, options), image))

        whole = small_toy.segment_image(image, options)
        assert len(bands) > 2
        for name in ("probability", "mask", "disagreement"):
            found = np.concatenate([getattr(band, name) for band in bands])
            np.testing.assert_array_equal(found, getattr(whole, name))
        for band in bands:
            np.testing.assert_array_equal(band.valid, valid[band.rows])
