"""From checkpoint to bundle: faithful, whole or not at all, and described truthfully."""

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import PIL.Image
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from app.bundle.manifest import Manifest, load_manifest
from app.bundle.verification import verify_files
from app.imaging.image import Image
from app.segmentation.options import Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from training import export as exporting
from training.__main__ import main
from training.card import model_card
from training.cascade import fit_cascade
from training.config import PATCH_SIZE, load_config
from training.data import list_tiles
from training.evaluate import evaluate
from training.export import Trained, export, load_trained, refit, served
from training.fit import fit, tally_sources
from training.graph import _averages
from training.min_confidence import fit_min_confidence
from training.network import SegmentationNetwork
from training.parity import TOLERANCE, check_parity, parity_patches
from training.provenance import data_sources, git_commit
from training.scenes import generate_scene
from training.train import TrainingRun

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture(scope="module")
def bundle(tiny: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tiny network and of an untrained one, made on the command line."""
    folder = tmp_path_factory.mktemp("bundles")
    stored = torch.load(checkpoint, weights_only=True)
    untrained = TrainingRun(load_config(tiny, ["trainer.seed=1", "member=untrained"]))
    stored["config"] = untrained.config.model_dump(mode="json")
    stored["state_dict"] = untrained.state_dict()
    torch.save(stored, folder / "untrained.ckpt")
    out = folder / "pair"
    arguments = [str(checkpoint), str(folder / "untrained.ckpt"), "--out", str(out), "--quiet"]
    options = ["--validation", str(tiny.parent / "val"), "--gsd", "0.3", "0.9"]
    notes = ["--note", "Trained by a test.", "--note", "In seconds."]
    assert main(["export", *arguments, *options, *notes]) == 0
    return out


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return load_manifest(bundle)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Iterator[Segmenter]:
    with closing(load_segmenter(bundle, device="cpu", precision="fp32")) as segmenter:
        yield segmenter


def test_bundle_is_whole_and_nothing_lies_beside_it(bundle: Path, manifest: Manifest) -> None:
    assert {path.name for path in bundle.iterdir()} == {
        "tiny.onnx", "untrained.onnx", "manifest.json", "MODEL_CARD.md",
    }  # fmt: skip
    assert {path.name for path in bundle.parent.iterdir()} == {"pair", "untrained.ckpt"}
    verify_files(bundle, manifest)


def test_others_may_read_the_bundle_as_far_as_the_umask_lets_them(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()

    assert bundle.stat().st_mode == (tmp_path / "plain").stat().st_mode
    for path in bundle.iterdir():
        assert path.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode


def test_train_export_serve_gives_what_torch_gives(checkpoint: Path, segmenter: Segmenter) -> None:
    """Along the windows too: what validation sees while training is what is served."""
    network, config = load_trained(checkpoint).network, load_trained(checkpoint).config
    run = TrainingRun(config).eval()
    run.network = network
    pixels = generate_scene(300, 410, seed=5).pixels
    options = Options(overlap=0, models="tiny", threshold=0.5)

    found = segmenter.segment_image(Image(pixels, None, None), options)

    with torch.inference_mode():
        expected = run.predict_tile(pixels)
    # Relative to the map's own range: a nearly flat map would agree with anything.
    assert np.abs(found.probability - expected).max() <= 0.1 * np.ptp(expected)
    assert np.mean(found.mask == (expected >= 0.5)) > 0.999


def test_published_scores_are_the_served_ones(
    tiny: Path, manifest: Manifest, segmenter: Segmenter
) -> None:
    report = evaluate(segmenter, list_tiles(tiny.parent / "val"))

    assert manifest.evaluation is not None
    assert manifest.evaluation.model_dump() == {
        "split": "val",
        "date": manifest.created.date(),
        "images": 2,
        "ensemble": report.ensemble,
        "members": report.members,
        "sources": report.sources,
        "splits": {},  # there is but one
        "threshold_curve": manifest.evaluation.threshold_curve,
        "held_out": {},  # there is but one source
        "negatives": None,  # none were named
    }
    at = f"{manifest.threshold.value:.2f}"
    curve = manifest.evaluation.threshold_curve
    assert (
        curve[at] == max(curve.values()) == pytest.approx(report.ensemble["dice_micro"], abs=0.02)
    )
    assert {member.name: member.metrics for member in manifest.members} == report.members


def test_a_bundle_is_fitted_anew(
    tiny: Path,
    bundle: Path,
    manifest: Manifest,
    segmenter: Segmenter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To labels turned inside out."""
    for part in ("images", "masks"):
        (tmp_path / "other" / part).mkdir(parents=True)
    for tile in list_tiles(tiny.parent / "val"):
        image, label = tile.read()
        for part, pixels in (("images", image.pixels), ("masks", ~label)):
            PIL.Image.fromarray(pixels).save(tmp_path / "other" / part / f"{tile.name}.png")
    out = tmp_path / "again"
    empty = tmp_path / "negatives" / "fields"
    for part in ("images", "masks"):
        (empty / part).mkdir(parents=True)
        PIL.Image.new("RGB" if part == "images" else "1", (80, 60)).save(empty / part / "a_1.png")
    (empty.parent / "SOURCES.csv").write_text("name,labels\na_1,empty\n")

    data = [str(tmp_path / "other"), "--out", str(out), "--note", "Inside out.", "--quiet"]
    data += ["--negatives", str(empty)]
    assert main(["fit", str(bundle), *data]) == 0

    again = load_manifest(out)
    verify_files(out, again)
    assert again.name == "again"
    assert again.gsd == manifest.gsd
    others = tally_sources(segmenter, list_tiles(tmp_path / "other"), Options(cascade="off"))
    expected = fit(list(others.values()))
    assert again.threshold.value == expected.threshold
    assert tuple(member.weight for member in again.members) == expected.weights
    assert "on other (2 images, each source counted alike)" in again.threshold.chosen_by
    assert f"threshold: {again.threshold.value:g}" in capsys.readouterr().out
    assert [m.sha256 for m in again.members] == [m.sha256 for m in manifest.members]
    card = (out / "MODEL_CARD.md").read_text()
    assert "- Inside out." in card
    assert "export runs/tiny/best.ckpt runs/untrained/untrained.ckpt --out models/pair " in card
    assert (
        f"training fit models/pair {tmp_path / 'other'} --negatives {empty} --out models/again"
        in card
    )
    assert again.evaluation is not None
    assert again.evaluation.negatives is not None
    assert again.evaluation.negatives.tiles == 1
    assert f"On {again.evaluation.negatives.found} of 1 tiles that surely have no building" in card
    assert main(["fit", str(bundle), *data]) == 2
    assert "exists already" in capsys.readouterr().err


def fit_with(
    checkpoint: Path, member: str, added: Path, bundle: Path, data: Path, out: Path
) -> Manifest:
    """Save a network as a member's in `added`, fit a bundle with it, and return the manifest."""
    stored = torch.load(checkpoint, weights_only=True)
    stored["config"]["member"] = member
    torch.save(stored, added)
    command = ["fit", str(bundle), str(data), "--add", str(added), "--out", str(out), "--quiet"]
    assert main(command) == 0
    manifest = load_manifest(out)
    verify_files(out, manifest)
    return manifest


def test_a_network_joins_a_bundle(
    tiny: Path, bundle: Path, manifest: Manifest, checkpoint: Path, tmp_path: Path
) -> None:
    """Files of the bundle stay as they are; everything is fitted to all members together."""
    out = tmp_path / "three"
    added, data = tmp_path / "third.ckpt", tiny.parent / "val"
    joined = fit_with(checkpoint, "third", added, bundle, data, out)
    assert [member.name for member in joined.members] == ["tiny", "untrained", "third"]
    assert [m.sha256 for m in joined.members[:2]] == [m.sha256 for m in manifest.members]
    assert joined.joined == ("third",)
    assert joined.evaluation is not None
    assert joined.evaluation.members["third"] == joined.evaluation.members["tiny"]
    assert joined.training["third"]["member"] == "third"
    card = (out / "MODEL_CARD.md").read_text()
    assert "training export runs/tiny/best.ckpt runs/untrained/untrained.ckpt --out" in card
    assert "--add runs/third/third.ckpt" in card


def test_a_network_takes_the_place_of_a_member_of_its_name(
    tiny: Path, bundle: Path, manifest: Manifest, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two"
    added, data = tmp_path / "new.ckpt", tiny.parent / "val"
    replaced = fit_with(checkpoint, "untrained", added, bundle, data, out)
    before, after = ([m.sha256 for m in each.members] for each in (manifest, replaced))
    assert [member.name for member in replaced.members] == ["tiny", "untrained"]
    assert after[0] == before[0] != before[1] != after[1]
    assert replaced.joined == ("untrained",)
    assert replaced.checkpoints["untrained"] == "new.ckpt"

    first = tmp_path / "first"
    whole = fit_with(checkpoint, "tiny", tmp_path / "tiny.ckpt", out, data, first)
    assert [member.name for member in whole.members] == ["tiny", "untrained"]
    assert (whole.joined, whole.refitted_from) == ((), None)
    card = (first / "MODEL_CARD.md").read_text()
    assert "training export runs/tiny/tiny.ckpt runs/untrained/new.ckpt --out models/first" in card


def test_what_precisions_do_to_the_masks_is_measured(bundle: Path, manifest: Manifest) -> None:
    module = pytest.importorskip("app.runtime.capabilities")
    card = (bundle / "MODEL_CARD.md").read_text()
    assert ("bf16" in manifest.precisions) == ("bf16" in module.native_precisions())
    for precision, cost in manifest.precisions.items():
        assert cost.measured_on == "val (2 images)"
        assert f"In {precision}" in card
        assert f"{cost.agreement:.3%} of the pixels of val (2 images)" in card
    if not manifest.precisions:
        assert "bf16 or int8 would do to the masks was not measured" in card


def test_the_cascade_is_fitted_or_said_not_to_be(
    tiny: Path, bundle: Path, manifest: Manifest, segmenter: Segmenter
) -> None:
    cascade, card = manifest.cascade, (bundle / "MODEL_CARD.md").read_text()
    times = dict.fromkeys(segmenter.predictor.members, 1.0)
    fitted = fit_cascade(segmenter, {"val": list_tiles(tiny.parent / "val")}, times)
    if cascade is None or fitted is None:
        assert cascade is fitted
        assert "There is no cascade: all members decide every pixel." in card
        return
    # It is measured which member is faster, and both are the same network.
    assert cascade == fitted or cascade.members != fitted.members
    assert f"{cascade} With `cascade=off` all members decide every patch." in card


def test_the_minimum_confidence_is_fitted(
    tiny: Path, bundle: Path, manifest: Manifest, segmenter: Segmenter
) -> None:
    bound, card = manifest.threshold.min_confidence, (bundle / "MODEL_CARD.md").read_text()
    assert bound == fit_min_confidence(segmenter, list_tiles(tiny.parent / "val"))
    assert (f"if its component's mean is {bound:.2f} or more" in card) == (bound > 0)
    assert ("min_confidence: the highest" in manifest.threshold.chosen_by) == (bound > 0)


def test_figures_are_fitted_before_the_manifest_is_written(
    tiny: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and once: the service would refuse a folder that no manifest was written to."""
    written: list[Path] = []
    write = exporting._write_manifest

    def recorded(folder: Path, manifest: Manifest) -> None:
        assert not (folder / "manifest.json").exists()
        assert manifest.evaluation is not None
        written.append(folder)
        write(folder, manifest)

    monkeypatch.setattr(exporting, "_write_manifest", recorded)
    out = tmp_path / "one"
    manifest = export([load_trained(checkpoint)], out, validation=[tiny.parent / "val"])
    assert len(written) == 1
    assert load_manifest(out) == manifest


def test_two_folders_of_one_name_are_one_split(tiny: Path, bundle: Path, tmp_path: Path) -> None:
    """`home/val` and `away/val`: weights are fitted to the tiles of both, by today's commit."""
    for place, tile in zip(("home", "away"), list_tiles(tiny.parent / "val"), strict=True):
        image, label = tile.read()
        for part, pixels in (("images", image.pixels), ("masks", label)):
            folder = tmp_path / place / "val" / part
            folder.mkdir(parents=True)
            PIL.Image.fromarray(pixels).save(folder / f"{tile.name}.png")
    validation = [tmp_path / place / "val" for place in ("home", "away")]

    path = Path(shutil.copytree(bundle, tmp_path / "before")) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "git_commit": "an earlier one"}))

    fitted = refit(path.parent, tmp_path / "fitted", validation=validation)

    assert fitted.evaluation is not None
    assert (fitted.evaluation.split, fitted.evaluation.images) == ("val", 2)
    assert fitted.git_commit == git_commit()


def test_fit_prefers_the_trained_member(manifest: Manifest) -> None:
    trained, untrained = manifest.members

    assert trained.weight > untrained.weight
    assert "dice_micro on val (2 images, each source counted alike)" in manifest.threshold.chosen_by


def test_manifest_says_how_the_bundle_came_to_be(tiny: Path, manifest: Manifest) -> None:
    assert manifest.name == "pair"
    assert manifest.gsd.model_dump() == {"min": 0.3, "max": 0.9, "reference": 0.5}
    assert manifest.patch_size == PATCH_SIZE
    assert manifest.training["tiny"] == load_config(tiny, ['data.validation=["val"]']).model_dump(
        mode="json"
    )
    assert manifest.exporter["torch"] == torch.__version__
    for member in manifest.members:
        assert 0 < member.parity.max_abs_difference <= member.parity.tolerance == TOLERANCE
        assert member.parity.patches == 4 + 2


def test_sources_have_licence_images_and_gsd(manifest: Manifest) -> None:
    """Both members saw the same four tiles, of which the CSV describes three."""
    scenes, procedural = manifest.sources

    assert scenes.model_dump() == {
        "name": "scene",
        "licence": "CC0-1.0; not stated",
        "images": 4,
        "gsd": "0.3; 0.4; 0.5; not stated",
    }
    # Two runs of 3 epochs, 8 steps and 2 samples, a quarter of them scenes.
    assert (procedural.name, procedural.images) == ("procedural", 24)


def test_sources_must_be_where_the_configuration_says(tiny: Path) -> None:
    moved = load_config(tiny, ["data.root=elsewhere"])

    with pytest.raises(ValueError, match="elsewhere"):
        data_sources([moved])


def test_large_weights_are_halves_in_one_file(bundle: Path) -> None:
    graph = onnx.load(bundle / "tiny.onnx", load_external_data=False).graph
    large = [weight for weight in graph.initializer if np.prod(weight.dims) >= 4096]

    assert large
    assert {weight.data_type for weight in large} == {TensorProto.FLOAT16}
    assert all(weight.data_location == TensorProto.DEFAULT for weight in graph.initializer)
    small = {w.data_type for w in graph.initializer if w not in large}
    assert TensorProto.FLOAT16 not in small


def test_a_file_tells_nothing_of_the_machine_it_was_made_on(bundle: Path) -> None:
    for path in bundle.glob("*.onnx"):
        data = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in data
        assert b"site-packages" not in data


def test_casts_of_weights_are_gone_once_the_graph_is_loaded(bundle: Path, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")

    ort.InferenceSession(bundle / "tiny.onnx", options, ["CPUExecutionProvider"])

    def casts(path: Path) -> int:
        return sum(node.op_type == "Cast" for node in onnx.load(path).graph.node)

    assert casts(bundle / "tiny.onnx") > 10
    assert casts(tmp_path / "loaded.onnx") == 1  # that of the pixels


def test_patches_do_not_depend_on_their_batch(segmenter: Segmenter) -> None:
    patches = parity_patches([])
    names = segmenter.predictor.members

    together = segmenter.predictor.predict(patches, names)

    for i in range(len(patches)):
        alone = segmenter.predictor.predict(patches[i : i + 1], names)
        np.testing.assert_array_equal(together[:, i : i + 1], alone)


def test_card_tells_what_the_manifest_holds(bundle: Path, manifest: Manifest) -> None:
    card = (bundle / "MODEL_CARD.md").read_text()

    assert manifest.evaluation is not None
    for fact in (
        manifest.version,
        manifest.git_commit,
        "DeepLabV3Plus (timm-mobilenetv3_small_minimal_100)",
        "from scratch",
        f"{manifest.threshold.value:.2f} or more",
        manifest.threshold.chosen_by,
        f"{manifest.evaluation.ensemble['dice_micro']:.4f}",
        "| scene | 4 | 0.3; 0.4; 0.5; not stated | CC0-1.0; not stated |",
        "GSD from 0.3 to 0.9 m",
        "- Trained by a test.\n- In seconds.",
        "--gsd 0.3 0.9 --validation",
        f"torch {torch.__version__}",
    ):
        assert fact in card


def test_card_reproduces_the_configuration_of_a_run(manifest: Manifest) -> None:
    """Its command, run through our own parser, gives the configuration that was trained."""
    overrides = [
        "trainer.epochs=60",
        'data.folders=["a", "with space"]',
        "data.source_weights={mass = 0.5}",
        "data.cache=false",
        "optimizer.lr=2e-4",
        "network.encoder_weights=imagenet",
        "optimizer.deep_supervision=0.4",
        'teacher.checkpoints=["a.ckpt", "b.ckpt"]',
        "teacher.share=0.3",
        'data.labels={mass="weak"}',
    ]
    run = load_config(CONFIGS / "unet.toml", overrides)
    told = manifest.model_copy(update={"training": {"unet": run.model_dump(mode="json")}})
    card = model_card(told, notes=(), validation=())
    (line,) = [line for line in card.splitlines() if line.startswith("python -m training train")]

    _, _, _, _, path, *options = shlex.split(line)

    assert options[::2] == ["--set"] * len(overrides)
    assert load_config(CONFIGS.parents[1] / path, options[1::2]) == run
    assert "Encoders started from: imagenet" in card
    learnt = "bce+dice, deepest features x 0.4, 30% from 2 trained network(s)"
    assert f"| {learnt}, labels of mass as weak |" in card


class Drifting(SegmentationNetwork):
    """A network that the exporter sees otherwise than torch runs it."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels)
        return logits if torch.compiler.is_compiling() else logits + 0.5


def test_export_that_torch_disowns_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    config = load_config(tiny)
    drifting = Drifting(config.network).eval()

    with pytest.raises(ValueError, match="does not reproduce member 'tiny'"):
        export([Trained(drifting, config, "last.ckpt")], tmp_path / "models" / "bundle")

    assert list((tmp_path / "models").iterdir()) == []


class Undecided(SegmentationNetwork):
    """A network that says about 0.5 everywhere, and a little more where the exporter looks."""

    def forward(self, pixels: Tensor) -> Tensor:
        logits = super().forward(pixels) * 0 + (pixels.float().mean(dim=-1) / 127.5 - 1) / 100
        return logits if torch.compiler.is_compiling() else logits + 0.008


def test_a_network_that_has_learnt_nothing_yet_can_be_exported(tiny: Path, tmp_path: Path) -> None:
    config = load_config(tiny)

    manifest = export(
        [Trained(Undecided(config.network).eval(), config, "last.ckpt")], tmp_path / "b"
    )

    assert manifest.members[0].parity.max_abs_difference == pytest.approx(0.002, abs=1e-4)


def test_tampered_weights_are_noticed(checkpoint: Path, segmenter: Segmenter) -> None:
    network = load_trained(checkpoint).network
    patches = parity_patches([])
    check_parity(segmenter.predictor, "tiny", network, patches)
    with torch.no_grad():
        next(network.parameters()).mul_(1.2)

    with pytest.raises(ValueError, match="does not reproduce member 'tiny'"):
        check_parity(segmenter.predictor, "tiny", network, patches)


def test_existing_bundle_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        export([load_trained(checkpoint)], tmp_path)


def test_checkpoint_is_scored_along_the_served_path(
    tiny: Path, checkpoint: Path, segmenter: Segmenter, tmp_path: Path
) -> None:
    """As a bundle of one: the same bits as the member of the pair, at threshold 0.5."""
    tiles = list_tiles(tiny.parent / "val")
    options = Options(models="tiny", threshold=0.5)

    arguments = ["--json", str(tmp_path / "scores.json"), "--quiet"]
    assert main(["evaluate", str(checkpoint), str(tiny.parent / "val"), *arguments]) == 0

    document = json.loads((tmp_path / "scores.json").read_text())
    expected = evaluate(segmenter, tiles, options)
    assert document["threshold"] == 0.5
    assert document["ensemble"] == pytest.approx(expected.ensemble)
    assert document["dice"] == expected.dice


def test_without_validation_members_weigh_the_same(checkpoint: Path) -> None:
    with served(checkpoint) as segmenter:
        manifest = segmenter.manifest

    assert [member.weight for member in manifest.members] == [1]
    assert manifest.threshold.value == 0.5
    assert manifest.threshold.chosen_by.startswith("nobody")
    assert manifest.evaluation is None
    assert manifest.sources == ()


@pytest.mark.parametrize(("size", "parts"), [(28, 1), (28, 2), (28, 3), (28, 6), (7, 5), (3, 3)])
def test_pools_average_the_windows_that_torch_does(size: int, parts: int) -> None:
    of_each = torch.nn.functional.adaptive_avg_pool1d(torch.eye(size), parts)
    np.testing.assert_allclose(_averages(size, parts), of_each.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("run", "megabytes"), [("pspnet", 9.5), ("deeplabv3plus", 10.2), ("unet_scratch", 65.6)]
)
def test_every_architecture_exports_and_serves(run: str, megabytes: float, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{run}.toml")
    untrained = Trained(TrainingRun(config).network.eval(), config, "last.ckpt")

    manifest = export([untrained], tmp_path / "bundle")

    assert manifest.members[0].bytes < megabytes * 1e6
    operators = {
        n.op_type for n in onnx.load(tmp_path / "bundle" / manifest.members[0].file).graph.node
    }
    assert operators.isdisjoint({"Where", "Gather", "GatherND"})  # pools would be masks
    with closing(load_segmenter(tmp_path / "bundle", device="cpu")) as segmenter:
        found = segmenter.segment_image(Image(generate_scene(230, 225, seed=0).pixels))
    assert found.mask.shape == (230, 225)
    assert np.ptp(found.probability) > 0
