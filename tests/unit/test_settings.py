"""Settings: three ways to set one, and none to misspell one without being told."""

import re
from pathlib import Path

import pytest

from app.errors import SettingsError
from app.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _no_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_the_contracts() -> None:
    settings = load_settings()
    assert settings.max_upload_bytes == 64 * 2**20
    assert settings.max_pixels == 100_000_000
    assert settings.max_batch_files == 64
    assert settings.max_waiting == 32
    assert settings.deadline == 120
    assert settings.device == "auto"
    assert (settings.bundle / "..").resolve() == Path(__file__).parents[2] / "models"


def test_a_database_is_postgresql_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROOFTRACE_DATABASE", "postgresql://jobs:secret@host/name")
    settings = load_settings()
    assert "secret" not in f"{settings} {settings.database}"
    for wrong, words in (
        ("mysql://jobs:secret@host/name", "postgresql://"),
        ("postgresql://jobs:p@secret@host/name", "%40"),  # or the host would be secret@host
    ):
        monkeypatch.setenv("ROOFTRACE_DATABASE", wrong)
        with pytest.raises(SettingsError, match=f"ROOFTRACE_DATABASE.*{words}") as raised:
            load_settings()
        assert "secret" not in str(raised.value)


def test_jobs_are_in_a_folder_or_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().jobs == Path("rooftrace-jobs")
    monkeypatch.setenv("ROOFTRACE_JOBS", "/var/jobs")
    assert load_settings().jobs == Path("/var/jobs")
    monkeypatch.setenv("ROOFTRACE_JOBS", "s3://city/jobs")
    assert load_settings().jobs == "s3://city/jobs"
    for wrong in ("s3://city", "s3://city/", "gs://city/jobs", "s3:///jobs"):
        monkeypatch.setenv("ROOFTRACE_JOBS", wrong)
        with pytest.raises(SettingsError, match=r"ROOFTRACE_JOBS.*folder or s3://BUCKET/PREFIX"):
            load_settings()


def test_every_one_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_goes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ROOFTRACE_PORT=1234\nROOFTRACE_DEADLINE=7\nOTHER=1\n")
    monkeypatch.setenv("ROOFTRACE_PORT", "4321")
    settings = load_settings()
    assert (settings.port, settings.deadline) == (4321, 7)


def test_what_the_command_line_says_goes_before_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFTRACE_PORT", "4321")
    assert load_settings(port=1).port == 1
    with pytest.raises(SettingsError, match="ROOFTRACE_PORT must be at most 65535, got 70000"):
        load_settings(port=70000)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFTRACE_WORKERS", "")
    assert load_settings().workers is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ROOFTRACE_MAX_PIXELS", "0"),
        ("ROOFTRACE_MAX_PIXELS", "many"),
        ("ROOFTRACE_DEADLINE", "-1"),
        ("ROOFTRACE_DEADLINE", "nan"),
        ("ROOFTRACE_RECEIVE_TIMEOUT", "inf"),
        ("ROOFTRACE_DEVICE", "tpu"),
        ("ROOFTRACE_BACKEND", "tensorrt"),
        ("ROOFTRACE_PRECISION", "int4"),
        ("ROOFTRACE_MAX_WAITING", "-1"),
        ("ROOFTRACE_PORT", "65536"),
        ("ROOFTRACE_LOG_LEVEL", "verbose"),
        ("ROOFTRACE_BASEMAP", "https://tiles.example.org/{z}/{x}.png"),
        ("ROOFTRACE_BASEMAP", "ftp://tiles.example.org/{z}/{x}/{y}.png"),
        ("ROOFTRACE_BASEMAP", "https://a.org;b/{z}/{x}/{y}"),
    ],
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_bad_value_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, where: str
) -> None:
    if where == "file":
        (tmp_path / ".env").write_text(f"{variable}={value}\n")
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"^{variable} must .*, got '{re.escape(value)}'$"):
        load_settings()


@pytest.mark.parametrize("where", ["environment", "file"])
@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("ROOFTRACE_MAX_PIXEL", "did you mean ROOFTRACE_MAX_PIXELS?"),
        ("ROOFTRACE_DEADLNE", "did you mean ROOFTRACE_DEADLINE?"),
        ("ROOFTRACE_XYZZY", "`rooftrace settings` lists them"),
    ],
)
def test_a_misspelt_one_is_not_silently_without_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str, variable: str, meant: str
) -> None:
    if where == "file":
        (tmp_path / ".env").write_text(f"{variable}=5\n")
    else:
        monkeypatch.setenv(variable, "5")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value) == f"{variable} is not a setting: {meant}"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]
