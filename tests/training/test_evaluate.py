"""Scores belong to the masks that the service returns, to the last bit."""

import json
from collections.abc import Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.errors import InvalidOption
from app.imaging.image import Image
from app.runtime.predictor import Predictor
from app.segmentation.blending import MemberBand
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.stream import collect
from app.segmentation.windows import plan_windows
from tests.factories import EXACTLY, ramp_graph, scene, toy_cascade, write_toy_bundle
from tests.serving import serving
from training.__main__ import main
from training.data import Tile, list_tiles
from training.evaluate import evaluate, examine, from_members
from training.metrics import compare, count, summarise

OPTIONS = (
    Options(),
    Options(threshold=0.4, overlap=0.5, tta="flips"),
    Options(threshold=0.6, combine="vote"),
    Options(models="blue,red", overlap=0.0),
    Options(min_confidence=0.7, min_area=3, rescale="20,180", sharpen=100, rgb="2,1,3"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two sources: noise, labelled where red shines, one without any building."""
    folder = tmp_path_factory.mktemp("tiles")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for i, name in enumerate(("mass_1", "mass_2", "accra_1")):
        pixels = scene(70 + 20 * i, 110 - 30 * i, seed=i)
        label = (pixels[..., 0] > 128) & (name != "accra_1")
        cv2.imwrite(str(folder / "images" / f"{name}.png"), pixels[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label.astype(np.uint8) * 255)
    return folder


@pytest.fixture(scope="module")
def tiles(folder: Path) -> list[Tile]:
    return list_tiles(folder)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scores_are_those_of_the_served_masks(
    small_toy: Segmenter, tiles: list[Tile], options: Options
) -> None:
    counts = {}
    for tile in tiles:
        image, label = tile.read(**options.decoding)
        found = small_toy.segment_image(image, options)
        counts[tile.name] = compare(found.mask, found.probability, label)

    report = evaluate(small_toy, tiles, options)

    assert report.ensemble == summarise(counts.values())
    assert report.dice == {name: found.pixels.dice for name, found in counts.items()}
    assert report.sources == {
        "accra": summarise([counts["accra_1"]]),
        "mass": summarise([counts["mass_1"], counts["mass_2"]]),
    }
    for member in report.members:
        alone = options.model_copy(update={"models": member})
        assert report.members[member] == evaluate(small_toy, tiles, alone).ensemble
    assert set(report.members) == set(options.members or ("red", "green", "blue"))


def test_a_cascade_is_scored_as_it_is_served(tiles: list[Tile], tmp_path: Path) -> None:
    """Blue decides alone where it is never in doubt, by default; each member alone is itself."""
    bundle = write_toy_bundle(
        tmp_path / "toy", patch_size=32, cascade=toy_cascade("blue", 0.5, 0.5)
    )
    with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
        served, everyone, blue = (
            evaluate(segmenter, tiles, options)
            for options in (Options(), Options(cascade="off"), Options(models="blue"))
        )
    assert served.dice == blue.dice != everyone.dice
    assert served.members == everyone.members
    assert served.members["blue"] == blue.ensemble


def test_objects_are_counted_as_for_a_client_who_posts_the_same_tiles(
    tiles: list[Tile], tmp_path: Path
) -> None:
    """Noise, of which many pixels touch at a corner alone."""
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
        images = examine(segmenter, tiles).images
    with serving(bundle) as client:
        counts = {
            tile.name: int(
                client.post("/segment", files={"file": tile.image.read_bytes()}).headers[
                    "X-Building-Count"
                ]
            )
            for tile in tiles
        }
    found = {name: compared.objects for name, compared in images.items()}
    assert counts == {name: o.true_positives + o.false_positives for name, o in found.items()}
    assert min(counts.values()) > 20


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_member_cut_from_the_bands_is_bit_identical_to_being_served_alone(
    small_toy: Segmenter, options: Options
) -> None:
    image = Image(scene(75, 90), None, None)
    together = small_toy.plan(image, options)
    bands = list(small_toy.member_bands(together, image))
    for i, member in enumerate(together.members):
        alone = small_toy.plan(image, options.model_copy(update={"models": member}))
        cut = [MemberBand(band.row, band.members[i : i + 1]) for band in bands]

        found = from_members(alone, image, cut)

        served = collect(small_toy.segment(alone, image))
        assert found.probability.tobytes() == served.probability.tobytes()
        assert found.mask.tobytes() == served.mask.tobytes()
        assert (alone.members, alone.threshold) == ((member,), together.threshold)


def test_report_says_what_was_scored_and_how(small_toy: Segmenter, tiles: list[Tile]) -> None:
    report = evaluate(small_toy, tiles, Options(overlap=0.5))

    assert report.bundle == small_toy.manifest.version
    assert (report.threshold, report.options["overlap"]) == (
        small_toy.manifest.threshold.value,
        0.5,
    )
    assert report.images == 3
    assert report.dice["accra_1"] == 0  # the toy finds bright noise where there is no building


def test_two_tiles_of_one_name_are_refused(small_toy: Segmenter, tiles: list[Tile]) -> None:
    with pytest.raises(ValueError, match="two tiles are called accra_1"):
        evaluate(small_toy, [*tiles, *tiles])


def test_no_tiles_are_refused(small_toy: Segmenter) -> None:
    with pytest.raises(ValueError, match="no tiles"):
        evaluate(small_toy, [])


def test_unknown_member_is_refused(small_toy: Segmenter, tiles: list[Tile]) -> None:
    with pytest.raises(InvalidOption, match="pink"):
        evaluate(small_toy, tiles, Options(models="pink"))


def test_command_prints_a_table_and_writes_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    out = tmp_path / "reports" / "toy.json"
    arguments = ["--models", "red,blue", "--threshold", "0.45", "--json", str(out), "--quiet"]

    assert main(["evaluate", str(bundle), str(folder), *arguments]) == 0

    document = json.loads(out.read_text())
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == list(document["ensemble"])
    assert [row.split("  ")[0].strip() for row in rows] == [
        "ensemble",
        "member red",
        "member blue",
        "source accra",
        "source mass",
    ]
    assert f"{document['ensemble']['dice_micro']:.4f}" in rows[0]
    assert set(document["dice"]) == {"mass_1", "mass_2", "accra_1"}
    assert (document["threshold"], document["images"]) == (0.45, 3)


def test_flags_are_those_of_a_client_who_posts_the_same_tiles(
    tiles: list[Tile], folder: Path, tmp_path: Path
) -> None:
    bundle = write_toy_bundle(
        tmp_path / "toy", patch_size=32, cascade=toy_cascade("blue", 0.5, 0.5)
    )
    options = {"cascade": "off", "min_confidence": "0.7", "min_area": "3", "rescale": "20,180"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    out = tmp_path / "scores.json"

    assert main(["evaluate", str(bundle), str(folder), "--json", str(out), "--quiet", *flags]) == 0

    document = json.loads(out.read_text())
    assert document["options"] == Options().model_dump(
        include={"overlap", "tta", "combine", "resample"}
    ) | {"cascade": "off", "min_confidence": 0.7, "min_area": 3, "rescale": "20,180"}
    with serving(bundle) as client:
        for tile in tiles:
            posted = {"file": tile.image.read_bytes()}
            answer = client.post("/segment", files=posted, params=options)
            mask = np.asarray(PIL.Image.open(BytesIO(answer.content))) > 0
            assert document["dice"][tile.name] == count(mask, tile.read()[1]).dice


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["evaluate", "bundle", "tiles", "--tta", "all"],
            "tta must be 'none', 'flips' or 'd4', got 'all'",
        ),
        (["evaluate", "bundle"], "the following arguments are required: data"),
        (["evalute"], "command must be 'train', 'evaluate', "),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_usage_error_says_what_is_wrong_and_where_help_is(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error, usage = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert usage.startswith("usage: python -m training ")


@pytest.mark.parametrize(
    ("gates", "status", "said"),
    [
        (["dice_micro>=0.1", "empty_false_positives <= 1"], 0, ""),
        (["dice_micro>=0.99"], 1, "must be at least 0.99"),
        (["dice_micro>=0.1", "dice_micro<=0.2"], 1, "must be at most 0.2"),
        (["dice>=0.1"], 2, "there is no score 'dice' to gate; there are dice_micro, "),
        (["dice_micro>0.1"], 2, "gate 'dice_micro>0.1' is neither NAME>=BOUND nor NAME<=BOUND"),
    ],
)
def test_a_gate_fails_the_command_when_a_bound_is_broken(
    folder: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    gates: list[str],
    status: int,
    said: str,
) -> None:
    flags = [flag for gate in gates for flag in ("--gate", gate)]

    assert main(["evaluate", str(toy_bundle), str(folder), "--quiet", *flags]) == status

    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "{folder}"], "manifest.json can't be read"),
        (["{bundle}", "nowhere"], "holds no tiles"),
        (["{bundle}", "{folder}", "--threshold", "2"], "threshold must be less than 1, got '2'"),
        (
            ["{bundle}", "{folder}", "--models", "red,red"],
            "models must name each member once",
        ),
        (
            ["{bundle}", "{folder}", "--gsd", "0.3", "--tell-gsd"],
            "--gsd tells every tile's GSD, --tell-gsd each its own",
        ),
        (["{folder}/images/mass_1.png", "{folder}"], "can't be loaded as a checkpoint"),
        (["{bundle}", "{folder}", "--at-gsd", "0.5"], "there is no tile of known GSD"),
        (
            ["{bundle}", "{folder}", "--under", "rain", "dark"],
            "no condition 'rain'; there are dark,",
        ),
        (["{bundle}", "{surveyed}", "--at-gsd", "0.1"], "to 0.1 m: the finest has 0.2 m"),
        (["{bundle}", "{surveyed}", "--at-gsd", "1", "-2"], "more than 0 metres per pixel"),
        (["{bundle}", "{folder}", "--seams", "-1"], "seams must be at least 0, got -1"),
        (["{bundle}", "{folder}", "--html", "{folder}"], "directory"),
    ],
)
def test_command_says_mistakes_in_one_line(
    folder: Path,
    surveyed: Path,
    toy_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    filled = [
        argument.format(folder=folder, surveyed=surveyed, bundle=toy_bundle)
        for argument in arguments
    ]

    assert main(["evaluate", *filled]) == 2

    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


RED = Options(models="red")


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles at 0.2, 0.5 and 1 m and of no known GSD; red is the label, and half of that in blue."""
    folder = tmp_path_factory.mktemp("surveyed") / "tiles"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i, name in enumerate(("fine", "middle", "coarse", "unknown")):
        label = np.zeros((80, 100 + 2 * i), np.uint8)
        label[20:60, 30 : 50 + i] = 255
        blue = label * (np.arange(80) < 40)[:, np.newaxis]
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.dstack([blue, label * 0, label]))
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), label)
    (folder.parent / "SOURCES.csv").write_text("name,gsd_m\nfine,0.2\nmiddle,~0.5\ncoarse,1.0\n")
    return folder


def test_a_perfect_member_is_perfect_at_every_gsd(small_toy: Segmenter, surveyed: Path) -> None:
    options = RED.model_copy(update={"resample": "off"})

    report = examine(
        small_toy, list_tiles(surveyed), options, at_gsd=[2, 0.45, 0.2, 0.33, 2, 0.83]
    ).report

    # A tile goes down to 0.8 of its own GSD, so the one of 1 m is in at 0.83 m.
    assert [(at.gsd, at.tiles) for at in report.by_gsd] == [
        (0.2, 1),
        (0.33, 1),
        (0.45, 2),
        (0.83, 3),
        (2, 3),
    ]
    for at in report.by_gsd:
        assert at.scores["dice_micro"] == at.scores["object_f1"] == at.native["dice_micro"] == 1.0


def test_scores_at_a_gsd_are_those_of_the_tiles_as_they_are_there(
    small_toy: Segmenter, surveyed: Path
) -> None:
    tiles = list_tiles(surveyed)
    blue = Options(models="blue")

    report = examine(small_toy, tiles, blue, at_gsd=[0.4]).report

    # At 0.4 m, the members' own GSD, half of each building is found, whatever the kernel.
    (at,) = report.by_gsd
    assert (at.tiles, at.scores["precision_micro"]) == (2, 1.0)
    assert at.scores["recall_micro"] == pytest.approx(0.5, abs=0.02)
    known = [tile for tile in tiles if tile.name in ("fine", "middle")]
    assert at.native == evaluate(small_toy, known, blue).ensemble


def test_the_segmenter_is_told_the_gsd_that_a_tile_was_brought_to(
    small_toy: Segmenter, surveyed: Path
) -> None:
    fine = [tile for tile in list_tiles(surveyed) if tile.name == "fine"]
    image, label = fine[0].read()
    halved = np.ascontiguousarray(image.pixels[::2, ::2])  # its edges lie at even pixels
    found = small_toy.segment_image(Image(halved), RED.model_copy(update={"gsd": 0.4}))

    report = examine(small_toy, fine, RED, at_gsd=[0.4]).report

    assert (found.mask == label[::2, ::2]).all()
    assert report.by_gsd[0].scores["dice_micro"] == 1.0


def test_a_condition_is_scored_on_the_tiles_changed_so(
    small_toy: Segmenter, surveyed: Path
) -> None:
    """Buildings are 255 in the band that the member reads: at half the light, 0.5."""
    tiles = list_tiles(surveyed)

    at_04, at_06 = (
        examine(
            small_toy,
            tiles,
            RED.model_copy(update={"threshold": t}),
            conditions=["grey", "dark", "grey"],
        )
        for t in (0.4, 0.6)
    )

    assert [one.condition for one in at_04.report.by_condition] == ["grey", "dark"]
    assert at_04.report.by_condition[1].scores["dice_micro"] == 1.0
    assert at_06.report.by_condition[1].scores["recall_micro"] == 0.0
    assert at_06.report.ensemble["dice_micro"] == 1.0


def test_a_tile_that_a_condition_makes_flat_is_stretched_as_a_file_would_be(
    small_toy: Segmenter, tmp_path: Path
) -> None:
    """Half of 250 is 0.49 of the light, and where it is all there is, 205 / 255."""
    label = np.zeros((500, 500), np.uint8)
    label[100:200, 50:300] = 255
    image = np.full((500, 500, 3), 4, np.uint8)  # from black, no light is judged
    image[label > 0, 2] = 250
    for part, pixels in (("images", image), ("masks", label)):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "one.png"), pixels)
    tiles = list_tiles(tmp_path)

    def recall(threshold: float) -> float:
        options = RED.model_copy(update={"threshold": threshold})
        report = examine(small_toy, tiles, options, conditions=["dark"]).report
        return report.by_condition[0].scores["recall_micro"]

    assert recall(0.80) == 1.0
    assert recall(0.81) == 0.0


def test_a_member_that_looks_at_pixels_alone_has_no_seams(
    small_toy: Segmenter, surveyed: Path
) -> None:
    report = examine(small_toy, list_tiles(surveyed), RED, seam_tiles=2).report

    assert report.seam_difference == 0


def test_seam_difference_is_the_building_that_only_one_cut_has(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "tiles" / part).mkdir(parents=True)
    for name, size in (("large", (90, 80)), ("long", (40, 500)), ("small", (60, 70))):
        for part in ("images", "masks"):
            cv2.imwrite(str(tmp_path / "tiles" / part / f"{name}.png"), scene(*size))
    tiles = list_tiles(tmp_path / "tiles")
    patch = 32
    bundle = write_toy_bundle(
        tmp_path / "toy", {"ramp": 1.0}, patch_size=patch, graphs={"ramp": ramp_graph(patch)}
    )
    shift, options = 11, Options(overlap=0.5, threshold=0.4)
    with closing(load_segmenter(bundle, device="cpu")) as segmenter:

        def expected(*names: str) -> float:
            differ = either = 0
            for tile in tiles:
                if tile.name in names:
                    pixels = tile.read()[0].pixels
                    one = segmenter.segment_image(Image(pixels[:-shift, :-shift]), options).mask
                    other = segmenter.segment_image(Image(pixels[shift:, shift:]), options).mask
                    one, other = one[shift:, shift:], other[:-shift, :-shift]
                    differ += int(np.count_nonzero(one ^ other))
                    either += int(np.count_nonzero(one | other))
            return differ / either

        def measured(count: int, tiles: Sequence[Tile] = tiles) -> float | None:
            return examine(segmenter, tiles, options, seam_tiles=count).report.seam_difference

        assert measured(0) is None
        # The long one has the most pixels, but fits into one patch from top to bottom.
        assert measured(1) == pytest.approx(expected("large"))
        assert measured(9) == pytest.approx(expected("large", "small"))
        assert expected("large") != expected("large", "small")
        assert 0.1 < expected("large") < 1
        assert measured(3, [tile for tile in tiles if tile.name == "long"]) is None


class Counting:
    """A predictor that counts the patches that another one is given."""

    def __init__(self, inner: Predictor) -> None:
        self.patches = 0
        self._inner = inner
        self.members, self.batch_size = inner.members, inner.batch_size
        self.ahead = inner.ahead

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        self.patches += len(patches)
        return self._inner.predict(patches, members)

    def close(self) -> None:
        self._inner.close()


def test_gsd_and_seams_cost_nothing_unless_they_are_asked_for(
    small_toy: Segmenter, tiles: list[Tile]
) -> None:
    counting = Counting(small_toy.predictor)
    segmenter = Segmenter(small_toy.manifest, cast(Predictor, counting))
    sizes = [tile.read()[1].shape for tile in tiles]

    report = examine(segmenter, tiles).report

    windows = sum(len(plan_windows(height, width, 32, 0.25)) for height, width in sizes)
    assert counting.patches == windows
    assert (report.by_gsd, report.by_condition, report.seam_difference) == ([], [], None)
    assert report == evaluate(small_toy, tiles)


def test_command_writes_gsd_conditions_and_seams_into_table_and_json(
    surveyed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_toy_bundle(tmp_path / "toy", patch_size=32)
    out = tmp_path / "toy.json"
    measured = ["--at-gsd", "1", "0.4", "--seams", "1", "--under", "warm"]
    arguments = [*measured, "--json", str(out), "--quiet"]

    assert main(["evaluate", str(bundle), str(surveyed), "--models", "red", *arguments]) == 0

    document = json.loads(out.read_text())
    assert [(at["gsd"], at["tiles"]) for at in document["by_gsd"]] == [(0.4, 2), (1, 3)]
    assert set(document["by_gsd"][0]["scores"]) == set(document["ensemble"])
    assert document["seam_difference"] == 0
    assert [one["condition"] for one in document["by_condition"]] == ["warm"]
    *_, fine, coarse, warm, seams = capsys.readouterr().out.splitlines()
    assert fine.startswith("at 0.4 m (2 tiles)")
    assert coarse.startswith("at 1 m (3 tiles)")
    assert f"{document['by_gsd'][1]['scores']['dice_micro']:.4f}" in coarse
    assert warm.startswith("under warm ")
    assert seams == "seam difference: 0.0000"
