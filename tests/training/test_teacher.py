"""Learning from networks that are trained already, and from features on the way."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from training.checkpoints import load_checkpoint, load_network
from training.config import TeacherConfig, load_config
from training.network import DeepSupervision
from training.samples import TrainingSamples
from training.teacher import Teacher
from training.train import TrainingRun, train


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)


def answer(checkpoint: Path, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.sigmoid(load_network(checkpoint)[0](pixels))


def test_target_lies_between_label_and_answer(checkpoint: Path, pixels: torch.Tensor) -> None:
    label = (torch.rand(2, 224, 224) < 0.3).float()
    teacher = Teacher(TeacherConfig(checkpoints=(checkpoint,), share=0.25))

    target = teacher.target(pixels, label)

    expected = 0.75 * label + 0.25 * answer(checkpoint, pixels)
    assert torch.allclose(target, expected, atol=1e-5)


def test_patch_without_a_label_gets_the_answer(checkpoint: Path, pixels: torch.Tensor) -> None:
    label = torch.ones(2, 224, 224)
    label[1] = torch.nan
    teacher = Teacher(TeacherConfig(checkpoints=(checkpoint,), share=0.25))

    target = teacher.target(pixels, label)

    expected = answer(checkpoint, pixels)
    assert torch.allclose(target[0], 0.75 + 0.25 * expected[0], atol=1e-5)
    assert torch.allclose(target[1], expected[1], atol=1e-5)


def test_several_teachers_answer_with_their_mean(
    tiny: Path, checkpoint: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    other = train(load_config(tiny, ["trainer.epochs=1"]), tmp_path / "other", progress=False)
    teacher = Teacher(TeacherConfig(checkpoints=(checkpoint, other), share=1))

    target = teacher.target(pixels, torch.ones(2, 224, 224))

    expected = (answer(checkpoint, pixels) + answer(other, pixels)) / 2
    assert torch.allclose(target, expected, atol=1e-5)


def test_pixel_of_unknown_label_gets_the_answer(checkpoint: Path, pixels: torch.Tensor) -> None:
    label = torch.ones(2, 224, 224)
    label[0, :100] = torch.nan
    teacher = Teacher(TeacherConfig(checkpoints=(checkpoint,), share=0))

    target = teacher.target(pixels, label)

    expected = label.clone()
    expected[0, :100] = answer(checkpoint, pixels)[0, :100]
    assert torch.allclose(target, expected, atol=1e-5)


@pytest.mark.parametrize("share", [0, 0.5])
def test_patch_known_to_have_no_building_keeps_its_label(
    checkpoint: Path, pixels: torch.Tensor, share: float
) -> None:
    label = torch.zeros(2, 224, 224)
    label[1] = torch.nan
    teacher = Teacher(TeacherConfig(checkpoints=(checkpoint,), share=share))

    target = teacher.target(pixels, label)

    assert (target[0] == 0).all()
    assert torch.allclose(target[1], answer(checkpoint, pixels)[1], atol=1e-5)


def test_soft_answers_are_not_for_a_loss_that_needs_whole_labels(
    tiny: Path, checkpoint: Path
) -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        load_config(tiny, [f'teacher.checkpoints=["{checkpoint}"]', "optimizer.loss=ce+lovasz"])


def test_pupil_comes_closer_to_its_teacher(tiny: Path, checkpoint: Path) -> None:
    """On one batch without labels: what it learns can have come from the teacher alone."""
    config = load_config(
        tiny,
        [
            f'teacher.checkpoints=["{checkpoint}"]',
            'data.labels={scene = "none"}',
            "data.scenes=0",
            "trainer.seed=5",
        ],
    )
    run = TrainingRun(config)
    run.log = lambda *_, **__: None  # type: ignore[method-assign]  # no trainer is attached
    samples = TrainingSamples(config.data, config.augment, seed=0)
    pixels, nothing = default_collate([samples[n] for n in range(4)])
    expected = answer(checkpoint, pixels)
    optimizer = torch.optim.AdamW(run.parameters(), lr=1e-2)

    distances = []
    for step in range(25):
        optimizer.zero_grad()
        loss = run.training_step((pixels, nothing), step)
        torch.autograd.backward(loss)
        optimizer.step()
        with torch.no_grad():
            distances.append((torch.sigmoid(run.network(pixels)) - expected).abs().mean().item())

    assert distances[-1] < 0.5 * distances[0]


def test_neither_teacher_nor_second_answer_is_exported(
    tiny: Path, checkpoint: Path, tmp_path: Path
) -> None:
    config = load_config(
        tiny,
        [
            f'teacher.checkpoints=["{checkpoint}"]',
            "optimizer.deep_supervision=0.4",
            "trainer.epochs=1",
        ],
    )

    last = train(config, tmp_path, progress=False)

    stored = load_checkpoint(last)["state_dict"]
    extra = [name for name in stored if not name.startswith("network.")]
    assert extra == ["deep_supervision._answer.weight", "deep_supervision._answer.bias"]
    load_network(last)  # strictly: every weight there and here matches


def test_deep_supervision_reaches_the_encoder_alone(tiny: Path, pixels: torch.Tensor) -> None:
    run = TrainingRun(load_config(tiny, ["optimizer.deep_supervision=0.4"]))
    assert isinstance(run.deep_supervision, DeepSupervision)
    label = torch.zeros(2, 224, 224)
    label[:, 64:128, 64:128] = 1

    features = run.network.encode(pixels)[-1]
    unweighted, weighted = (
        DeepSupervision(features.shape[1], weight)(run.loss, features, label)
        for weight in map(float, (0, 1))
    )
    torch.autograd.backward(run.deep_supervision(run.loss, features, label))

    assert unweighted.item() == 0 < weighted.item()
    moved = [name for name, of in run.network.named_parameters() if of.grad is not None]
    assert moved
    assert all(".encoder." in name for name in moved)


def test_encoding_and_decoding_is_the_library_s_own_forward(
    tiny: Path, pixels: torch.Tensor
) -> None:
    network = TrainingRun(load_config(tiny)).network.eval()
    scaled = (pixels.permute(0, 3, 1, 2).float() - network.mean) / network.std

    with torch.no_grad():
        assert torch.equal(network(pixels), network.network(scaled).squeeze(1))
