import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.manifest import GsdRange, load_manifest
from app.bundle.verification import read_model, verify_files
from app.errors import BundleError
from tests.factories import toy_cascade, toy_manifest, write_toy_bundle

COST = {"dice_micro_change": 0, "agreement": 1, "iou": 1, "measured_on": "val"}

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy_bundle(tmp_path / "bundle", patch_size=32)


def edit(bundle: Path, change: Change) -> None:
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_written_bundle_loads_and_verifies(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    assert [member.name for member in manifest.members] == ["red", "green", "blue"]
    assert manifest.threshold.value == 0.5
    assert manifest.created.tzinfo is not None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param(lambda m: m.update(schema_version=2), "schema_version", id="future schema"),
        pytest.param(lambda m: m.update(colour="red"), "colour", id="unknown field"),
        pytest.param(lambda m: m.pop("git_commit"), "git_commit", id="missing field"),
        pytest.param(lambda m: m.pop("evaluation"), "evaluation", id="evaluation left out"),
        pytest.param(lambda m: m.update(created="2026-01-01T00:00:00"), "created", id="no zone"),
        pytest.param(lambda m: m.update(name="Roofs & co"), "name", id="name"),
        pytest.param(lambda m: m.update(patch_size=0), "patch_size", id="patch of no size"),
        pytest.param(lambda m: m.update(members=[]), "members", id="no members"),
        pytest.param(lambda m: m["members"][1].update(name="red"), "unique", id="twice a name"),
        pytest.param(lambda m: m["members"][0].update(weight=0.6), "sum to 1", id="weights"),
        pytest.param(lambda m: m["members"][0].update(weight=0), "weight", id="no weight"),
        pytest.param(lambda m: m["members"][0].update(sha256="abc"), "sha256", id="short digest"),
        pytest.param(lambda m: m["members"][0].update(bytes=0), "bytes", id="empty file"),
        pytest.param(
            lambda m: m["members"][0]["parity"].update(max_abs_difference=0.5),
            "tolerance",
            id="no parity",
        ),
        pytest.param(
            lambda m: m["members"][0]["metrics"].update(dice=float("nan")), "dice", id="NaN"
        ),
        pytest.param(lambda m: m["threshold"].update(value=1), "threshold", id="threshold 1"),
        pytest.param(lambda m: m["threshold"].update(value=0), "threshold", id="threshold 0"),
        *(
            pytest.param(
                lambda m, asked=asked: m.update(cascade=toy_cascade(asked[0], 0.2, **asked[1])),
                "cascade.stages must ask some of red, green, blue, but not all, and each once, got",
                id=f"stages {asked}",
            )
            for asked in (("pink", {}), ("red", {"pink": 0.0}), ("red", {"green": 0, "blue": 0}))
        ),
        pytest.param(
            lambda m: m.update(cascade=toy_cascade("red", 0.6)),
            "cascade.doubt must hold the threshold, 0.5, got 0.6 to 1.0",
            id="doubt beside the threshold",
        ),
        pytest.param(lambda m: m["gsd"].update(min=0.7), "min 0.7 exceeds max 0.6", id="GSD"),
        pytest.param(lambda m: m["gsd"].update(min=0), "gsd.min", id="GSD 0"),
        pytest.param(
            lambda m: m["gsd"].update(reference=0.7), "0.7 lies outside 0.3 to 0.6", id="reference"
        ),
        pytest.param(
            lambda m: m["members"][0].update(int8={"ranges": {}, "calibrated_on": "val"}),
            "int8.ranges",
            id="no ranges",
        ),
        pytest.param(
            lambda m: m["members"][0].update(int8={"ranges": {"x": [1, 1]}, "calibrated_on": "v"}),
            "the range of x is empty: 1.0 to 1.0",
            id="empty range",
        ),
        pytest.param(
            lambda m: m.update(precisions={"int8": COST}),
            "precisions has int8, but no member has the ranges for it",
            id="int8 of no member",
        ),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(bundle: Path, change: Change, where: str) -> None:
    load_manifest(bundle)
    edit(bundle, change)
    with pytest.raises(BundleError, match=where) as caught:
        load_manifest(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(schema_version=2), "schema_version must be 1, got 2"),
        (lambda m: m.update(patch_size="big"), "patch_size must be a whole number, got 'big'"),
        (lambda m: m.update(patch_size=0), "patch_size must be more than 0, got 0"),
        (lambda m: m.update(colour="red"), "colour is unknown"),
        (lambda m: m.pop("git_commit"), "git_commit is missing"),
        (lambda m: m.update(git_commit=1), "git_commit must be text, got 1"),
        (lambda m: m.update(members=[]), "members must have 1 or more, got []"),
        (lambda m: m.update(members=3), "members must be a list, got 3"),
        (lambda m: m["members"][0].update(sha256="abc"), "sha256 must match ^[0-9a-f]{64}$, got"),
        (lambda m: m["threshold"].update(value=1), "threshold.value must be less than 1, got 1"),
        (lambda m: m["gsd"].update(min=0.7), "manifest: gsd: min 0.7 exceeds max 0.6"),
        (lambda m: m["members"][0].update(weight=0.6), "manifest: the weights of the members must"),
    ],
)
def test_a_wrong_field_is_told_as_every_refused_value(
    bundle: Path, change: Change, told: str
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=re.escape(told)):
        load_manifest(bundle)


@pytest.mark.parametrize(
    "name",
    ["../red.onnx", "/etc/red.onnx", "a/b.onnx", "a\\b.onnx", "..", ".onnx", "", "red.onnx\n", "x"],
)
def test_a_file_name_is_never_a_path(bundle: Path, name: str) -> None:
    edit(bundle, lambda m: m["members"][0].update(file=name))
    with pytest.raises(BundleError, match=r"members\.0\.file"):
        load_manifest(bundle)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[]", r"must be an object, got \[\]"),
        (b"null", "must be an object, got None"),
    ],
)
def test_what_is_no_manifest_is_refused(bundle: Path, text: bytes, told: str) -> None:
    (bundle / "manifest.json").write_bytes(text)
    with pytest.raises(BundleError, match=f"not a valid manifest: the document {told}"):
        load_manifest(bundle)


def test_a_missing_manifest_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"can't be read.*--bundle or ROOFTRACE_BUNDLE"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("how", ["streamed", "read"])
class TestFiles:
    def check(self, bundle: Path, how: str) -> None:
        manifest = load_manifest(bundle)
        if how == "streamed":
            verify_files(bundle, manifest)
        else:
            for member in manifest.members:
                read_model(bundle, member)

    def test_a_flipped_bit_is_found(self, bundle: Path, how: str) -> None:
        self.check(bundle, how)
        path = bundle / "green.onnx"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"green\.onnx has SHA-256"):
            self.check(bundle, how)

    def test_a_truncated_file_is_found(self, bundle: Path, how: str) -> None:
        path = bundle / "blue.onnx"
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(BundleError, match=rf"blue\.onnx has {size - 1} bytes.*says {size}"):
            self.check(bundle, how)

    def test_a_missing_file_is_named_with_its_member(self, bundle: Path, how: str) -> None:
        (bundle / "red.onnx").unlink()
        with pytest.raises(BundleError, match=r"red\.onnx, the file of member 'red'"):
            self.check(bundle, how)


def test_the_version_ignores_layout(bundle: Path) -> None:
    def reverse(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs[::-1])

    before = load_manifest(bundle).version
    path = bundle / "manifest.json"
    document = json.loads(path.read_text(), object_pairs_hook=reverse)
    path.write_text(json.dumps(document, indent=7))
    assert load_manifest(bundle).version == before
    assert before.startswith("toy-")
    assert len(before) == len("toy-") + 12


def test_the_version_ignores_fields_that_hold_their_default(bundle: Path) -> None:
    before = load_manifest(bundle).version
    edit(bundle, lambda m: m.update(cascade=None, precisions={}))
    assert load_manifest(bundle).version == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["threshold"].update(value=0.51),
        lambda m: m["members"][0].update(sha256="0" * 64),
        lambda m: m["training"]["red"].update(epochs=2),
    ],
)
def test_the_version_follows_the_contents(bundle: Path, change: Change) -> None:
    before = load_manifest(bundle).version
    edit(bundle, change)
    assert load_manifest(bundle).version != before


def test_a_manifest_is_frozen(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    with pytest.raises(ValueError, match="frozen"):
        manifest.patch_size = 64  # type: ignore[misc]


def test_a_bundle_need_not_be_evaluated(bundle: Path) -> None:
    edit(bundle, lambda m: m.update(evaluation=None))
    assert load_manifest(bundle).evaluation is None


def test_the_toy_describes_itself_truly() -> None:
    assert toy_manifest({"red": b"12345"}, {"red": 1.0})["members"][0]["bytes"] == 5


class TestShown:
    """Which GSD members see of imagery that was taken at another."""

    def test_finer_is_shrunk_and_coarser_enlarged(self) -> None:
        seen = GsdRange(min=0.2, max=1.2, reference=0.5)
        for gsd, shown in ((0.1, 0.2), (0.2, 0.2), (0.25, 0.25), (0.5, 0.5), (0.51, 0.5)):
            assert seen.shown(gsd) == shown
        assert seen.shown(1.2) == 0.5
        assert GsdRange(min=0.2, max=1.2).shown(3.0) == 3.0

    def test_coarser_than_in_training_is_enlarged_no_further(self) -> None:
        assert GsdRange(min=0.2, max=1.2, reference=0.5).shown(2.4) == pytest.approx(1.0)

    def test_one_gsd_for_all(self) -> None:
        seen = GsdRange(min=0.4, max=0.4, reference=0.4)
        assert seen.shown(0.3) == seen.shown(0.4) == 0.4
