"""What is learnt of labels that are trusted more or less, from the file to the target."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from training.config import AugmentConfig, Labels, load_config
from training.data import list_tiles
from training.labels import trusted
from training.samples import TrainingSamples
from training.train import TrainingRun, train


@pytest.fixture
def label() -> NDArray[np.float32]:
    label = np.zeros((60, 60), np.float32)
    label[20:40, 20:40] = 1
    return label


@pytest.mark.parametrize("labels", ["complete", "empty"])
def test_trusted_labels_count_whole(label: NDArray[np.float32], labels: Labels) -> None:
    np.testing.assert_array_equal(trusted(label, labels, 3), label)


@pytest.mark.parametrize("labels", ["weak", "none"])
def test_nothing_is_known_of_labels_without_trust(
    label: NDArray[np.float32], labels: Labels
) -> None:
    assert np.isnan(trusted(label, labels, 3)).all()


def test_incomplete_labels_know_buildings_and_no_background(label: NDArray[np.float32]) -> None:
    known = trusted(label, "incomplete", 3)

    assert (known[label == 1] == 1).all()
    assert np.isnan(known[label == 0]).all()


def test_edges_of_shifted_labels_are_not_known(label: NDArray[np.float32]) -> None:
    known = trusted(label, "shifted", 3)

    row = known[30]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(row)), [*range(17, 23), *range(37, 43)])
    far = ~np.isnan(known)
    np.testing.assert_array_equal(known[far], label[far])
    np.testing.assert_array_equal(trusted(label, "shifted", 0), label)


def write_folder(folder: Path, names: list[str], *, masks: bool) -> None:
    """Write noisy tiles; the mask of each is building but for its upper third."""
    label = np.full((300, 300), 255, np.uint8)
    label[:100] = 0
    for i, name in enumerate(names):
        for part in ("images", "masks") if masks else ("images",):
            (folder / part).mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(i).integers(0, 256, (300, 300, 3), np.uint8)
            cv2.imwrite(str(folder / part / f"{name}.png"), noise if part == "images" else label)


def test_column_of_the_sources_is_read_and_the_rest_is_complete(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", ["osm_1", "osm_2", "osm_3"], masks=True)
    write_folder(tmp_path / "more", ["drone_1"], masks=False)
    (tmp_path / "SOURCES.csv").write_text("name,labels\nosm_1,incomplete\nosm_2,\ndrone_1,\n")

    labels = {
        tile.name: (tile.labels, tile.group)
        for folder in ("mine", "more")
        for tile in list_tiles(tmp_path / folder)
    }

    assert labels == {
        "osm_1": ("incomplete", "osm"),
        "osm_2": ("complete", "osm"),
        "osm_3": ("complete", "osm"),
        "drone_1": ("none", "none"),
    }


def test_unknown_word_is_refused_with_its_tile(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine", ["osm_1"], masks=True)
    (tmp_path / "SOURCES.csv").write_text("name,labels\nosm_1,partial\n")

    with pytest.raises(ValueError, match=r"osm_1: labels are 'partial'; expected .*incomplete"):
        list_tiles(tmp_path / "mine")


def test_nothing_is_scored_on_a_tile_without_a_label(tmp_path: Path) -> None:
    write_folder(tmp_path / "more", ["drone_1"], masks=False)

    with pytest.raises(ValueError, match=r"drone_1\.png has no label"):
        list_tiles(tmp_path / "more")[0].read()


def tiles_of_all_kinds(root: Path) -> list[str]:
    """Write a source per kind, and return the options of a run on them."""
    kinds = ("complete", "shifted", "incomplete", "weak", "empty")
    write_folder(root / "mine", [f"{kind}_1" for kind in kinds], masks=True)
    write_folder(root / "more", ["drone_1"], masks=False)
    rows = "".join(f"{kind}_1,{kind}\n" for kind in kinds)
    (root / "SOURCES.csv").write_text(f"name,labels\n{rows}")
    return [f"data.root={root}", 'data.folders=["mine", "more"]', "data.scenes=0"]


def drawn(tiny: Path, options: list[str]) -> torch.Tensor:
    """Return the labels of ten samples, (10, S, S)."""
    config = load_config(tiny, options)
    samples = TrainingSamples(config.data, AugmentConfig(), seed=0)
    return torch.stack([samples[n][1] for n in range(10)])


@pytest.mark.parametrize(
    ("group", "found"),
    [
        ("complete", {0.0, 1.0}),
        ("shifted", {0.0, 1.0, None}),
        ("incomplete", {1.0, None}),
        ("weak", {None}),
        ("none", {None}),
        ("empty", {0.0, 1.0}),  # as the mask says: that it is empty is not assumed
    ],
)
def test_each_kind_is_drawn_as_what_is_known_of_it(
    tiny: Path, tmp_path: Path, group: str, found: set[float | None]
) -> None:
    options = tiles_of_all_kinds(tmp_path)

    labels = drawn(tiny, [*options, f"data.source_weights={{{group} = 1.0}}"])

    values = {None if np.isnan(value) else value for value in labels.unique().tolist()}
    assert values == found


def test_configuration_goes_before_the_column(tiny: Path, tmp_path: Path) -> None:
    options = tiles_of_all_kinds(tmp_path)
    options += ['data.labels={complete = "incomplete"}', "data.source_weights={complete = 1.0}"]

    assert (drawn(tiny, options) != 0).all()

    config = load_config(tiny, [*options, 'data.labels={mars = "weak"}'])
    with pytest.raises(ValueError, match=r"labels names \['mars'\]"):
        TrainingSamples(config.data, config.augment, seed=0)


def test_old_name_for_sources_without_labels_is_understood(tiny: Path) -> None:
    assert load_config(tiny, ['data.unlabelled=["osm"]']).data.labels == {"osm": "none"}


def test_tiles_can_be_kept_to_judge_by(tiny: Path, tmp_path: Path) -> None:
    options = [*tiles_of_all_kinds(tmp_path), 'data.without=["weak_*", "drone_?"]']
    config = load_config(tiny, options)

    groups = TrainingSamples(config.data, config.augment, seed=0).tiles.keys()

    assert groups == {"complete", "shifted", "incomplete", "empty"}


def test_tiles_without_trust_need_a_teacher(tiny: Path, checkpoint: Path, tmp_path: Path) -> None:
    options = [*tiles_of_all_kinds(tmp_path), "trainer.epochs=1", "trainer.steps_per_epoch=2"]

    with pytest.raises(ValueError, match=r"2 tiles, such as .*\((weak|none)\): name teacher"):
        train(load_config(tiny, options), tmp_path / "alone", progress=False)

    taught = load_config(tiny, [*options, f'teacher.checkpoints=["{checkpoint}"]'])
    assert train(taught, tmp_path / "taught", progress=False).exists()


def test_what_is_not_known_moves_no_weight(tiny: Path, tmp_path: Path) -> None:
    options = [*tiles_of_all_kinds(tmp_path), "data.source_weights={weak = 1.0}"]
    config = load_config(tiny, options)
    run = TrainingRun(config)
    run.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer is attached
    samples = TrainingSamples(config.data, config.augment, seed=0)

    loss = run.training_step(tuple(default_collate([samples[n] for n in range(2)])), 0)
    torch.autograd.backward(loss)

    assert loss.item() == 0
    assert all((of.grad is None or (of.grad == 0).all()) for of in run.parameters())
