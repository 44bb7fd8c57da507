"""Where tiles come from, and the numbered stream of samples that is drawn from them."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.outputs.rle import encode_rle
from training.config import PATCH_SIZE, AugmentConfig, DataConfig
from training.data import Tile, WholeTiles, list_tiles
from training.samples import SampleNumbers, TrainingSamples


def write_tile(
    folder: Path, name: str, pixels: NDArray[np.uint8], label: NDArray[np.bool_]
) -> None:
    for part, array in (("images", pixels[..., ::-1]), ("masks", label.astype(np.uint8) * 255)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / part / f"{name}.png"), array)


def flat(value: int, size: int = PATCH_SIZE) -> NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def half(size: int = PATCH_SIZE) -> NDArray[np.bool_]:
    label = np.zeros((size, size), np.bool_)
    label[: size // 2] = True
    return label


def write_csv(path: Path, rows: list[str], header: str = "img_id,img_path,mask_rle") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_sources(root: Path, tiles: dict[str, int]) -> DataConfig:
    """Write so many noisy tiles per source."""
    for i, (source, number) in enumerate(tiles.items()):
        for k in range(number):
            pixels = np.random.default_rng((i, k)).integers(0, 256, (300, 300, 3), np.uint8)
            write_tile(root / "train", f"{source}_{k}", pixels, half(300))
    return DataConfig(root=root, folders=(Path("train"),))


def test_folder_tiles_are_read_as_rgb_with_their_label(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    label = pixels[..., 0] > 99
    write_tile(tmp_path, "mass_01_08", pixels, label)

    (tile,) = list_tiles(tmp_path)
    image, read = tile.read()

    assert (tile.name, tile.source) == ("mass_01_08", "mass")
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(read, label)


def test_csv_tiles_have_row_major_labels_and_paths_beside_the_file(tmp_path: Path) -> None:
    label = np.random.default_rng(1).random((20, 50)) < 0.3
    write_tile(tmp_path / "pictures", "a", np.zeros((20, 50, 3), np.uint8), label)
    path = write_csv(
        tmp_path / "train.csv",
        [
            f"full,pictures/images/a.png,{encode_rle(label, 'row')}",
            "empty,pictures/images/a.png,-1",
        ],
    )

    full, empty = list_tiles(path)

    np.testing.assert_array_equal(full.read()[1], label)
    assert empty.read()[1].shape == label.shape
    assert not empty.read()[1].any()


def test_image_without_a_mask_is_refused(tmp_path: Path) -> None:
    write_tile(tmp_path, "mass_1", flat(0), half())
    write_tile(tmp_path, "mass_2", flat(0), half())
    (tmp_path / "masks" / "mass_2.png").unlink()

    with pytest.raises(ValueError, match="1 images without a mask, such as mass_2"):
        list_tiles(tmp_path)


def test_label_of_another_size_is_refused(tmp_path: Path) -> None:
    write_tile(tmp_path, "mass_1", flat(0), half(PATCH_SIZE - 1))

    with pytest.raises(ValueError, match=r"mass_1\.png is \(223, 223\), .* \(224, 224\)"):
        list_tiles(tmp_path)[0].read()


def test_nothing_to_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no tiles"):
        list_tiles(tmp_path)
    with pytest.raises(ValueError, match="holds no tiles"):
        list_tiles(write_csv(tmp_path / "empty.csv", []))


def test_csv_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "train.csv", ["a,b"], header="image,mask")

    with pytest.raises(ValueError, match=r"has columns \['image', 'mask'\]"):
        list_tiles(path)


def test_sample_is_a_pure_function_of_seed_and_number(tmp_path: Path) -> None:
    config = write_sources(tmp_path, {"mass": 3, "china": 2}).model_copy(update={"scenes": 0.3})
    one, other, uncached = (
        TrainingSamples(config.model_copy(update={"cache": cache}), AugmentConfig(), seed)
        for seed, cache in ((7, True), (8, True), (7, False))
    )
    forward = [one[n] for n in range(8)]

    backward = [uncached[n] for n in reversed(range(8))][::-1]

    for (pixels, label), (pixels_again, label_again) in zip(forward, backward, strict=True):
        assert torch.equal(pixels, pixels_again)
        assert torch.equal(label, label_again)
    assert any(not torch.equal(forward[n][0], other[n][0]) for n in range(8))


def test_sample_is_a_patch_of_bytes_with_a_label_of_zeros_and_ones(tmp_path: Path) -> None:
    samples = TrainingSamples(write_sources(tmp_path, {"mass": 1}), AugmentConfig(), 0)

    pixels, label = samples[0]

    assert (pixels.dtype, pixels.shape) == (torch.uint8, (PATCH_SIZE, PATCH_SIZE, 3))
    assert (label.dtype, label.shape) == (torch.float32, (PATCH_SIZE, PATCH_SIZE))
    assert set(np.unique(label.numpy())) <= {0.0, 1.0}


def test_sources_are_drawn_by_weight_and_the_others_by_their_tiles(tmp_path: Path) -> None:
    """The label tells the source: all building, striped, or empty, however it is cut."""
    full, striped = np.ones((2, PATCH_SIZE, PATCH_SIZE), np.bool_)
    striped[np.arange(PATCH_SIZE) // 16 % 2 == 0] = False
    for name, label in (
        ("mass_1", full),
        *((f"china_{k}", striped) for k in range(3)),
        ("accra_1", np.zeros_like(full)),
    ):
        write_tile(tmp_path / "train", name, flat(100), label)
    config = DataConfig(
        root=tmp_path, folders=(Path("train"),), source_weights={"mass": 0.6}, scenes=0.0
    )
    samples = TrainingSamples(config, AugmentConfig(recipe="resized_crop"), 0)

    shares = [float(samples[n][1].mean()) for n in range(400)]

    drawn = Counter({0.0: "accra", 1.0: "mass"}.get(share, "china") for share in shares)
    expected = {"mass": 240, "china": 120, "accra": 40}
    assert all(abs(drawn[source] - expected[source]) < 25 for source in expected), drawn


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"mas": 0.5}, r"\['mas'\]"),
        ({"mass": 0.7, "china": 0.7}, "must sum to 1"),
        ({"mass": 0.5, "china": 0.4}, "must sum to 1"),  # nobody left to take the rest
    ],
)
def test_impossible_source_weights_are_refused(
    tmp_path: Path, weights: dict[str, float], said: str
) -> None:
    config = write_sources(tmp_path, {"mass": 1, "china": 1})

    with pytest.raises(ValueError, match=said):
        TrainingSamples(config.model_copy(update={"source_weights": weights}), AugmentConfig(), 0)


def test_scenes_alone_need_no_data() -> None:
    samples = TrainingSamples(DataConfig(scenes=1.0), AugmentConfig(), 0)

    assert samples[0][0].float().std() > 0
    with pytest.raises(ValueError, match="nothing to train on"):
        TrainingSamples(DataConfig(scenes=0.9), AugmentConfig(), 0)


def test_nearly_empty_tiles_are_left_out_at_their_share(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for name, rows in (("mass_none", 0), ("mass_below", 4), ("mass_at", 5), ("mass_above", 6)):
        label = np.zeros((100, 100), np.bool_)
        label[:rows] = True
        write_tile(folder, name, flat(0, 100), label)
    for image in (folder / "images").iterdir():
        image.write_bytes(b"")  # the labels alone are read: images take much longer
    config = DataConfig(root=tmp_path, folders=(Path("train"),), min_building_fraction=0.05)

    samples = TrainingSamples(config, AugmentConfig(), 0)

    assert {tile.name for tile in samples.tiles["mass"]} == {"mass_at", "mass_above"}


def test_a_smaller_share_of_the_tiles_is_part_of_a_larger_one(tmp_path: Path) -> None:
    config = write_sources(tmp_path, {"mass": 12, "china": 1})

    names = []
    for share in (0.25, 0.5, 1.0):
        of_share = config.model_copy(update={"share": share})
        tiles = TrainingSamples(of_share, AugmentConfig(), 0).tiles
        names.append({tile.name for tile in tiles["mass"]})
        assert len(tiles["china"]) == 1

    assert [len(some) for some in names] == [3, 6, 12]
    assert names[0] < names[1] < names[2]


@pytest.mark.parametrize("per_epoch", [6, 7])
def test_two_processes_share_out_each_epoch_and_never_repeat(per_epoch: int) -> None:
    dealt = [SampleNumbers(per_epoch, rank=rank, world=2) for rank in range(2)]
    seen: list[int] = []
    for epoch in range(3):
        for numbers in dealt:
            numbers.set_epoch(epoch)
            assert len(numbers) == len(list(numbers))
        ours, theirs = (list(numbers) for numbers in dealt)
        assert not set(ours) & set(theirs)
        seen += sorted(ours + theirs)

    assert seen == list(range(3 * per_epoch))


def test_validation_tiles_come_whole_and_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 300, 3), np.uint8)
    write_tile(tmp_path / "val", "mass_1", pixels, pixels[..., 1] > 99)

    read, label = WholeTiles(list_tiles(tmp_path / "val"))[0]

    np.testing.assert_array_equal(read.numpy(), pixels)
    np.testing.assert_array_equal(label.numpy(), pixels[..., 1] > 99)


@pytest.mark.parametrize(
    ("stated", "gsd"),
    [
        ("0.3", 0.3),
        ("~0.3 (est.)", 0.3),
        ("~0.3-0.4 (est., 4x downsample of drone ortho)", 0.35),
        ("~0.2 (est., original ~0.05)", 0.2),
        ("unknown (~0.5-1)", None),
        ("", None),
    ],
)
def test_gsd_is_read_from_the_sources_beside_the_folder(
    tmp_path: Path, stated: str, gsd: float | None
) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    write_tile(tmp_path / "train", "mass_1", pixels, pixels[..., 1] > 0)
    (tmp_path / "SOURCES.csv").write_text(f'name,gsd_m\nmass_1,"{stated}"\n')

    (tile,) = list_tiles(tmp_path / "train")

    assert tile.gsd == pytest.approx(gsd)


def test_source_of_a_name_without_underscore_is_the_name() -> None:
    assert Tile("solo", Path("solo.png"), "-1").source == "solo"
