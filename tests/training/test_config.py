"""TOML files, overrides, and what they refuse."""

from pathlib import Path

import pytest

from training.config import RunConfig, load_config

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        'member = "small"\n'
        "[network]\n"
        'architecture = "Unet"\n'
        'encoder = "resnet18"\n'
        "[data.source_weights]\n"
        "mass = 0.5\n"
    )
    return path


def test_overrides_are_toml_values_or_else_strings(path: Path) -> None:
    config = load_config(
        path,
        [
            "trainer.epochs=3",
            "optimizer.lr = 2e-4",
            "network.encoder=resnet34",
            'member="other"',
            'data.folders=["a", "b"]',
            "data.cache=false",
            "data.source_weights.inria=0.25",
            "trainer.devices=auto",
        ],
    )

    assert config.trainer.epochs == 3
    assert config.optimizer.lr == 2e-4
    assert config.network.encoder == "resnet34"
    assert config.member == "other"
    assert config.data.folders == (Path("a"), Path("b"))
    assert config.data.cache is False
    assert config.data.source_weights == {"mass": 0.5, "inria": 0.25}
    assert config.trainer.devices == "auto"


def test_later_override_wins_and_the_rest_keeps_its_default(path: Path) -> None:
    config = load_config(path, ["trainer.seed=1", "trainer.seed=2"])

    assert config.trainer.seed == 2
    assert config.optimizer == RunConfig.model_fields["optimizer"].default


def test_tables_replace_values_whole_and_overrides_win(path: Path) -> None:
    first = {"optimizer": {"loss": "dice", "lr": 0.1}, "data": {"source_weights": {"accra": 1.0}}}
    second = {"optimizer": {"lr": 0.2}, "trainer": {"epochs": 3}}

    config = load_config(
        path, ["trainer.epochs=4", "data.source_weights.inria=0"], tables=[first, second]
    )

    assert (config.optimizer.loss, config.optimizer.lr, config.trainer.epochs) == ("dice", 0.2, 4)
    assert config.data.source_weights == {"accra": 1.0, "inria": 0}
    assert first["data"] == {"source_weights": {"accra": 1.0}}  # they may serve again


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.epochs", "has no '='"),
        ("trainer.epochs=0", "trainer.epochs"),
        ("trainer.epoch=3", "trainer.epoch"),  # a typing error must not be ignored
        ("optimizer.loss=hinge", "optimizer.loss"),
        ("member=Upper Case", "member"),
        ("data.scenes=1.5", "data.scenes"),
    ],
)
def test_mistaken_override_names_the_field(path: Path, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_config(path, [override])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_committed_configuration_loads_and_is_called_as_its_member(path: Path) -> None:
    assert load_config(path).member == path.stem


def test_the_three_networks_of_the_mission_are_committed() -> None:
    networks = {load_config(path).network.architecture for path in CONFIGS}

    assert networks == {"PSPNet", "DeepLabV3Plus", "Unet"}


def test_configuration_survives_a_checkpoint(path: Path) -> None:
    config = load_config(path, ['data.folders=["a"]'])

    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
