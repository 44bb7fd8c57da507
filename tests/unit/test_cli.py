"""The command line: the same results as over HTTP, and refusals in one line."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO, get_args

import numpy as np
import pytest

from app import __version__
from app.api.listening import bound
from app.api.server import Server
from app.bundle.manifest import load_manifest
from app.commandline.cli import main
from app.commandline.commands import _OVERRIDES, interruptible
from app.commandline.parser import build_parser
from app.errors import StartupError
from app.loading import load_models
from app.main import create_app
from app.outputs.rle import decode_rle
from app.settings import Settings, load_settings
from tests.e2e.conftest import free_port
from tests.factories import scene, write_toy_bundle
from tests.serving import decoded, encoded, toy_mask, toy_probability
from tests.terminal import terminal

PIXELS = scene(40, 60)


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "tile.png"
    path.parent.mkdir()
    path.write_bytes(encoded(PIXELS))
    return path


def rooftrace(
    *arguments: str | Path, stderr: IO[str] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "app", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=120
    )


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


class TestSegment:
    def test_the_mask_is_the_exact_one(self, bundle: Path, tile: Path, tmp_path: Path) -> None:
        assert run("segment", tile, "-o", tmp_path / "deep" / "out") == 0
        mask = decoded((tmp_path / "deep" / "out" / "tile.png").read_bytes())
        np.testing.assert_array_equal(mask == 255, toy_mask(PIXELS))

    def test_each_format_has_its_own_ending(self, bundle: Path, tile: Path, tmp_path: Path) -> None:
        for name in ("png", "probability", "overlay", "rle"):
            assert run("segment", tile, "-o", tmp_path / "out", "--format", name, "--quiet") == 0
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert set(written) == {
            "tile.png",
            "tile.probability.png",
            "tile.overlay.png",
            "tile.json",
        }
        probability = decoded(written["tile.probability.png"])
        assert np.abs(probability - 255 * toy_probability(PIXELS)).max() <= 0.5 + 1e-4
        result = json.loads(written["tile.json"])
        assert result["filename"] == "tile.png"
        mask = decode_rle(result["rle"], 40, 60, "row")
        np.testing.assert_array_equal(mask, toy_mask(PIXELS))

    def test_options_reach_the_networks(self, bundle: Path, tile: Path, tmp_path: Path) -> None:
        options = (
            *("--threshold", "0.25021", "--overlap", "0.5", "--tta", "flips"),
            *("--models", "blue,red", "--combine", "vote", "--min-area", "2"),
            *("--format", "rle", "--order", "column", "--quiet"),
        )
        assert run("segment", tile, "-o", tmp_path, *options) == 0
        result = json.loads((tmp_path / "tile.json").read_text())
        red, _, blue = np.moveaxis(PIXELS / 255 >= 0.25021, 2, 0)
        mask = decode_rle(result["rle"], 40, 60, "column")
        assert not (mask & ~(red & blue)).any()
        assert mask.sum() > 0.9 * (red & blue).sum()  # without the smallest specks

    def test_as_a_process(self, bundle: Path, tile: Path, tmp_path: Path) -> None:
        done = rooftrace("segment", tile, "-o", tmp_path / "out", "--quiet")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        mask = decoded((tmp_path / "out" / "tile.png").read_bytes())
        np.testing.assert_array_equal(mask == 255, toy_mask(PIXELS))

    def test_a_progress_bar_and_notices_go_to_stderr(
        self, bundle: Path, tile: Path, tmp_path: Path
    ) -> None:
        tile.write_bytes(encoded(PIXELS[..., 0]))
        with terminal() as (stream, shown):
            done = rooftrace("segment", tile, "-o", tmp_path / "out", stderr=stream)
        assert (done.returncode, done.stdout) == (0, "")
        assert "megapixels" in shown()
        assert f"notice: {tile}: The image is greyscale" in shown()

    @pytest.mark.parametrize("output", ["-", "out.geojson"])
    def test_an_image_without_a_valid_pixel_is_told(
        self, bundle: Path, tile: Path, output: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tile.write_bytes(encoded(np.zeros((40, 60, 4), np.uint8)))
        assert run("segment", tile, "-o", output, "--format", "geojson") == 0
        assert f"notice: {tile}: No pixel of the image is valid" in capsys.readouterr().err

    def test_a_log_has_no_bar(self, bundle: Path, tile: Path, tmp_path: Path) -> None:
        tile.write_bytes(encoded(PIXELS[..., 0]))
        shutil.copy(tile, tile.parent / "other.png")
        with (tmp_path / "log").open("w+", newline="") as log:
            rooftrace("segment", tile.parent, "-o", tmp_path / "out", stderr=log)
            log.seek(0)
            written = log.read()
        assert "\r" not in written
        *notices, summary = written.splitlines()
        assert [notice.split(":")[0] for notice in notices] == ["notice", "notice"]
        assert summary.startswith("2 files segmented, ")

    def test_a_broken_input_loses_no_other(
        self, bundle: Path, tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tile.with_name("broken.png")
        broken.write_bytes(tile.read_bytes()[:-40])
        missing, last = tile.with_name("none.png"), tile.with_name("z.png")
        shutil.copy(tile, last)
        out = tmp_path / "out"
        assert run("segment", broken, missing, tile, last, "-o", out, "--quiet") == 1
        assert {path.name for path in out.iterdir()} == {"tile.png", "z.png"}
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 2
        assert errors[0].startswith(f"error: {broken}: The PNG")
        assert errors[1] == f"error: {missing}: No such file or directory"

    def test_two_inputs_of_one_stem_are_refused(
        self, bundle: Path, tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        twin = tile.with_suffix(".jpg")
        shutil.copy(tile, twin)
        out = tmp_path / "out"
        assert run("segment", tile, twin, "-o", out) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(tile) in error
        assert str(twin) in error
        assert not out.exists()

    def test_no_input_is_overwritten(
        self, bundle: Path, tile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = tile.read_bytes()
        assert run("segment", tile, "-o", tile.parent) == 2
        assert "would be overwritten" in capsys.readouterr().err
        # Nor one by the result of another.
        other = tile.with_name("tile.overlay.png")
        other.write_bytes(before)
        assert run("segment", tile, other, "-o", tile.parent, "--format", "overlay") == 2
        assert tile.read_bytes() == other.read_bytes() == before

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--threshold", "1.5"], "threshold must be less than 1, got '1.5'"),
            (["--overlap", "0.8"], "overlap must be at most 0.75, got '0.8'"),
            (["--models", "pink"], "among red, green, blue, got pink"),
            (["--min-area", "nan"], "min_area"),
            (["--gsd", "-1"], "gsd"),
            (["--bands", "mask,nir"], "bands must be among mask, probability"),
            (["--simplify", "-1"], "simplify must be at least 0, got '-1'"),
            (["--rescale", "7"], "rescale must be LOW,HIGH"),
            (["--sharpen", "501"], "sharpen must be at most 500, got '501'"),
        ],
    )
    def test_an_option_out_of_range(
        self,
        bundle: Path,
        tile: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        words: str,
    ) -> None:
        assert run("segment", tile, "-o", tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert words in error

    @pytest.mark.parametrize("command", ["segment", "bulk"])
    @pytest.mark.parametrize("output", ["s3://city/map/", "/vsis3/city/map", "https://a.org/m.png"])
    def test_an_output_that_is_an_address(
        self,
        bundle: Path,
        tile: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        output: str,
    ) -> None:
        assert run(command, tile, "-o", output) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: -o {output} is an address, and results are written to ")
        assert error.endswith("Name a folder, and copy it when the run has ended\n")
        assert not Path(output.partition("/")[0] or output).exists()

    def test_an_output_folder_that_is_a_file(
        self, bundle: Path, tile: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("segment", tile, "-o", f"{tile}/") == 2
        assert capsys.readouterr().err == f"error: {tile} can't be a folder: File exists\n"


class TestModels:
    def test_members_are_listed_and_verified(
        self, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("models") == 0
        first, *members, choice = capsys.readouterr().out.splitlines()
        assert choice.startswith("  fp32: ")
        assert first.startswith(load_manifest(bundle).version)
        assert "threshold 0.5002" in first
        assert [line.split()[0] for line in members] == ["red", "green", "blue"]
        assert all(line.endswith("verified") for line in members)
        on = "OpenVINO CPU fp32" if find_spec("openvino") else "CPUExecutionProvider"
        assert all(on in line for line in members)

    def test_a_named_bundle_goes_before_the_environments(
        self, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = write_toy_bundle(tmp_path / "other", {"green": 1.0}, patch_size=32)
        assert run("models", "--bundle", other) == 0
        assert "green" in capsys.readouterr().out


def test_settings_lists_each_with_value_default_and_meaning(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOFTRACE_DEADLINE", "7")
    assert run("settings") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"ROOFTRACE_BUNDLE={bundle}" in lines
    at = lines.index("ROOFTRACE_DEADLINE=7.0")
    assert lines[at + 1] == "    seconds for a request, from its arrival; default: 120.0"
    assert "ROOFTRACE_WORKERS=" in lines
    assert len(lines) == 2 * len(Settings.model_fields)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--version")
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["sgment"], ["segment"], ["serve", "--port", "x"]])
def test_what_is_no_command_shows_how(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "usage: rooftrace" in error
    assert error.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("segment a.tif -o out --thresh .4", "--thresh is no option: did you mean --threshold?"),
        ("segment a.tif -o out --thresh=.4", "--thresh is no option: did you mean --threshold?"),
        ("segment a.tif -o out --treshold 1", "--treshold is no option: did you mean --threshold?"),
        ("serve --ho ::1", "--ho is no option: did you mean --host?"),
        ("bulk a -o b --min 3", "--min is no option: did you mean --min-confidence or --min-area?"),
        ("doctor --jso", "--jso is no option: did you mean --json?"),
        ("models --zzz", "--zzz is no option"),
        ("settings workers", "'workers' is one argument too many"),
        ("--vers settings", "--vers is no option: did you mean --version?"),
        ("segment a.tif --out out", "--out is no option: did you mean --output?"),
        ("segment a.tif -out out", "-out is no option: did you mean --output?"),
        ("bulk a --outptu b", "--outptu is no option: did you mean --output?"),
        ("models export --fro deepness", "--fro is no option: did you mean --for?"),
        (
            "--log-level debug settings",
            "--log-level comes too early: the command comes first, then its options",
        ),
    ],
)
def test_an_unknown_option_is_refused_with_what_was_meant(
    arguments: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments.split())
    assert capsys.readouterr().err.startswith(f"error: {error}\nusage: rooftrace")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("serve --port x", "port must be a whole number, got 'x'"),
        ("serve --engine rays", "engine must be 'local' or 'ray', got 'rays'"),
        ("bulk a -o b --zoom 33", "zoom must be from 1 to 18, got 33"),
        ("bulk a -o b --zoom -1", "zoom must be from 1 to 18, got -1"),
        ("models --for qgis", "program must be 'deepness', got 'qgis'"),
        ("completion ksh", "shell must be 'bash', 'zsh', 'tcsh' or 'fish', got 'ksh'"),
        ("sgment a.tif", "command must be 'serve', 'segment', "),
        ("segment a.tif -o b --tta all", "tta must be 'none', 'flips' or 'd4', got 'all'"),
    ],
)
def test_a_wrong_value_is_refused_in_the_words_of_the_service(
    arguments: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments.split())
    assert capsys.readouterr().err.startswith(f"error: {error}")


@pytest.mark.parametrize("command", ["serve", "segment", "bulk", "models", "settings", "doctor"])
def test_a_flag_has_the_choices_and_the_default_of_its_setting(command: str) -> None:
    [commands] = (action for action in build_parser()._actions if action.dest == "command")
    flags = {flag.dest: flag for flag in dict(commands.choices or {})[command]._actions}
    for name in set(_OVERRIDES) & set(flags):
        setting, help = Settings.model_fields[name], flags[name].help or ""
        choices = [choice for choice in flags[name].choices or () if choice != "gpu"]
        assert choices == list(get_args(setting.annotation)) or not choices
        if setting.default is not None and name != "bundle":
            assert help.split("default: ")[1] == str(setting.default)


def test_a_name_that_begins_with_a_dash(
    bundle: Path, tile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tile.parent)
    tile.rename("-my tile.png")
    Path("-tile.png").write_bytes(encoded(PIXELS))
    assert run("segment", "-oout", "--", "-tile.png", "-my tile.png") == 0
    assert run("segment", "-my tile.png", "--output=-masks/") == 0
    assert {path.name for path in Path("out").iterdir()} == {"-tile.png", "-my tile.png"}
    assert Path("-masks", "-my tile.png").exists()


def test_such_a_name_without_a_folder_is_told_how_to_be_written(
    tile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tile.parent)
    tile.rename("-tile.png")
    with pytest.raises(SystemExit, match="2"):
        run("segment", "-tile.png", "-o", "mask.png")
    error = "error: -tile.png is no option: write ./-tile.png for the file of this name\n"
    assert capsys.readouterr().err.startswith(error)


LONG = "x" * 252 + ".tif"


@pytest.mark.parametrize(
    "arguments", [f"segment {LONG} -o out/", f"segment in -o {LONG}", f"bulk {LONG} -o out/"]
)
def test_a_name_that_is_too_long_is_refused(
    arguments: str, tile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tile.parents[1])
    assert run(*arguments.split()) == 2
    assert capsys.readouterr().err == f"error: {LONG}: File name too long\n"


def test_a_result_that_cannot_be_written_is_named(
    bundle: Path, tile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("segment", tile, "-o", "/proc/mask.png", "--quiet") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tile}: /proc/mask.png can't be written: ")


def test_the_log_does_not_mix_with_a_bar(bundle: Path, tile: Path, tmp_path: Path) -> None:
    shutil.copy(tile, tile.parent / "other.png")
    options = ("-o", tmp_path / "out", "--log-level", "debug")
    with terminal() as (stream, shown):
        rooftrace("segment", tile.parent, *options, stderr=stream)
    lines = shown().splitlines()  # a bar ends with \r, which counts as the end of a line
    logged = [line for line in lines if " DEBUG " in line]
    assert logged
    assert any("image/s" in line for line in lines)
    assert not [line for line in logged if not re.match(r"20\d\d-", line)]


COMMANDS = [
    ["serve", "--port", str(free_port())],
    ["models"],
    ["segment", "in/tile.png", "-o", "out"],
]


class TestRefusals:
    """Whatever is wrong before the work can start: one line, status 2."""

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda c: str(c[0]))
    def test_a_bundle_that_is_not_there(
        self, bundle: Path, tile: Path, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (bundle / "manifest.json").unlink()
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {bundle}/manifest.json can't be read")
        assert error.count("\n") == 1

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda c: str(c[0]))
    def test_a_file_that_was_tampered_with(
        self, bundle: Path, tile: Path, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = bytearray((bundle / "green.onnx").read_bytes())
        model[-1] ^= 1
        (bundle / "green.onnx").write_bytes(model)
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {bundle}/green.onnx has SHA-256")
        assert error.count("\n") == 1

    @pytest.mark.parametrize("command", [*COMMANDS, ["settings"]], ids=lambda c: str(c[0]))
    def test_a_setting_that_is_none(
        self,
        bundle: Path,
        command: list[str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("ROOFTRACE_THRESHOLD", "0.5")
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ROOFTRACE_THRESHOLD is not a setting")
        assert error.count("\n") == 1

    def test_a_port_that_is_none(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("serve", "--port", "70000") == 2
        assert capsys.readouterr().err.startswith(
            "error: ROOFTRACE_PORT must be at most 65535, got 70000"
        )

    def test_a_process_says_no_more_than_that(self, bundle: Path) -> None:
        (bundle / "blue.onnx").write_bytes(b"")
        done = rooftrace("serve", "--port", "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {bundle}/blue.onnx has 0 bytes")
        assert done.stderr.count("\n") == 1

    def test_a_port_that_is_taken_is_found_before_models_are_loaded(
        self, bundle: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (bundle / "blue.onnx").unlink()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert run("serve", "--port", port) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: can't listen on 127.0.0.1:{port} (address already in use)")
        assert "choose another --port or --host" in error
        assert error.count("\n") == 1

    def test_a_host_that_is_none(self, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("serve", "--host", "no.such.host.invalid") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: can't listen on no.such.host.invalid:8000 (")

    def test_keys_that_are_not_there_are_found_before_models_are_loaded(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (bundle / "blue.onnx").unlink()
        monkeypatch.setenv("ROOFTRACE_API_KEYS", "no.keys")
        assert run("serve", "--port", "0") == 2
        assert "no.keys" in capsys.readouterr().err


def test_a_port_that_another_process_was_first_to_listen_on(bundle: Path) -> None:
    settings = load_settings(port=0, jobs=bundle / "jobs")
    app = create_app(settings)
    with bound(settings) as sockets, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(sockets[0].getsockname())
        other.listen()
        with pytest.raises(StartupError, match="address already in use"):
            Server(app, lambda: app.state.service, settings, load_models).run(sockets)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_counts_where_python_forgets_it() -> None:
    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruptible() as cancelled:
            cancelled()
            del [Interrupted()][0]
            with pytest.raises(KeyboardInterrupt):
                cancelled()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "a second one ends the process"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    "module", ["app.errors", "argparse", "app.settings", "pydantic", "rasterio", "onnxruntime"]
)
def test_ctrl_c_while_modules_are_imported_ends_without_a_word(
    bundle: Path, tmp_path: Path, module: str, ignored: bool
) -> None:
    code = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from app.commandline.cli import main
sys.exit(main(["models"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None,
        capture_output=True,
        text=True,
    )
    if ignored:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_background_job_goes_on_ignoring_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as cancelled:
            os.kill(os.getpid(), signal.SIGINT)
            cancelled()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
