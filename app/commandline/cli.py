"""The command line: `rooftrace serve | segment | models | settings`."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic.fields import FieldInfo

from app import __version__, logs
from app.api.server import Server
from app.bundle.verification import verify_files
from app.commandline.files import choose_format, expand, plan_targets
from app.commandline.resume import check_no_partial
from app.commandline.runs import Run
from app.errors import InvalidOption, StartupError
from app.imaging.proj import check_proj
from app.main import create_app, load_models
from app.outputs.formats import FORMATS
from app.runtime.predictor import Device
from app.segmentation.options import Options
from app.segmentation.plan import Plan
from app.segmentation.stream import Cancelled
from app.settings import PREFIX, Settings, load_settings

_OK, _SOME_FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 when some inputs failed, or 2 when it could not start."""
    args = _parser().parse_args(arguments)
    try:
        overrides = {
            name: value
            for name in ("bundle", "device", "host", "port")
            if (value := getattr(args, name, None)) is not None
        }
        settings = load_settings(**overrides)
        logs.configure(settings)
        status: int = args.command(args, settings)
    except (StartupError, InvalidOption) as error:
        print(f"error: {error}", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        print("interrupted: --resume goes on with `segment`", file=sys.stderr)
        return _INTERRUPTED
    return status


def _serve(_: argparse.Namespace, settings: Settings) -> int:
    # Loaded here rather than by the server, which would answer a refusal with a traceback.
    loaded = [load_models(settings)]
    app = create_app(settings, load=lambda _: loaded.pop())
    try:
        Server(app, lambda: app.state.service, settings, load_models).run()
    except SystemExit:  # an address that can't be listened on; the log says so
        return _REFUSED
    return _OK


def _segment(args: argparse.Namespace, settings: Settings) -> int:
    check_proj()
    inputs = expand(args.inputs)
    format = choose_format(args.output, args.format)
    targets = plan_targets(inputs, args.output, format)
    if not args.resume:
        for target in targets.values():
            check_no_partial(target)
    given = {name: getattr(args, name) for name in Options.model_fields}
    options = Options.parse({name: value for name, value in given.items() if value is not None})
    with closing(load_models(settings)) as segmenter, interruptible() as cancelled:
        Plan.check(segmenter.manifest, options)
        failed = Run(
            segmenter,
            options,
            format,
            targets,
            settings.max_pixels,
            cancelled,
            resume=args.resume,
            quiet=args.quiet,
        ).segment()
    return _SOME_FAILED if failed else _OK


@contextmanager
def interruptible() -> Iterator[Cancelled]:
    """Have Ctrl-C end the work, at the next call of what is yielded at the latest.

    Python raises KeyboardInterrupt wherever it happens to be. Where that is a callback of C code or
    a destructor, it is printed and forgotten. A process that ignores Ctrl-C, such as a shell's
    background job, goes on ignoring it.
    """
    told = False

    def interrupt(*_: object) -> None:
        nonlocal told
        told = True
        raise KeyboardInterrupt

    def cancelled() -> None:
        if told:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield cancelled
    finally:
        signal.signal(signal.SIGINT, before)


def _models(_: argparse.Namespace, settings: Settings) -> int:
    with closing(load_models(settings)) as segmenter:
        manifest, predictor = segmenter.manifest, segmenter.predictor
        verify_files(settings.bundle, manifest)
        threshold = f"{manifest.threshold.value:g}"
        if manifest.threshold.min_confidence:
            threshold += f", minimum confidence {manifest.threshold.min_confidence:g}"
        print(f"{manifest.version}  threshold {threshold}  {settings.bundle}")
        for member in manifest.members:
            print(
                f"  {member.name:<16} weight {member.weight:.2f}  {member.bytes / 2**20:6.1f} MiB"
                f"  {predictor.providers[member.name]}  SHA-256 {member.sha256[:12]}… verified"
            )
        if cascade := manifest.cascade:
            low, high = cascade.doubt
            print(
                f"  cascade: {cascade.member} decides a patch alone where at most "
                f"{cascade.share:.0%} of its pixels lie from {low:g} to {high:g}: "
                f"{cascade.alone:.0%} of the patches of {cascade.fitted_on}"
            )
        print(f"  {predictor.choice}")
        if predictor.fallback:
            print(f"  {predictor.fallback}")
    return _OK


def _settings(_: argparse.Namespace, settings: Settings) -> int:
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        print(f"{PREFIX}{name.upper()}={_written(value)}")
        print(f"    {field.description}; default: {_written(default) or 'unset'}")
    return _OK


def _written(value: object) -> str:
    """Write a setting as the environment has it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rooftrace", description="Building masks from satellite and aerial imagery."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    loads_models = argparse.ArgumentParser(add_help=False)
    loads_models.add_argument("--bundle", type=Path, help="folder of the models")
    loads_models.add_argument("--device", choices=get_args(Device), help="what to run them on")

    command = commands.add_parser("serve", parents=[loads_models], help="start the HTTP service")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on")
    command.set_defaults(command=_serve)

    command = commands.add_parser("segment", parents=[loads_models], help="segment image files")
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="image files, patterns of them, or - for stdin"
    )
    command.add_argument(
        "-o",
        "--output",
        required=True,
        help="a folder, the one result's file, or - for stdout",
    )
    command.add_argument(
        "--format", choices=tuple(FORMATS), help="default: by the ending of -o, else png"
    )
    for name, field in Options.model_fields.items():
        _add_option(command, name, field)
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with what an interrupted run left in OUTPUT.partial",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(command=_segment)

    command = commands.add_parser(
        "models", parents=[loads_models], help="list and verify the members of a bundle"
    )
    command.set_defaults(command=_models)

    command = commands.add_parser("settings", help="list the settings, their values and meaning")
    command.set_defaults(command=_settings)
    return parser


def _add_option(command: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """Add a flag for a field of `Options`; left out, it is None."""
    types = [kind for kind in (get_args(field.annotation) or [field.annotation]) if kind]
    choices = types if all(isinstance(kind, str) for kind in types) else None
    converter: Any = str if choices else next(kind for kind in types if kind is not NoneType)
    help = (field.description or "").replace("`", "").replace("%", "%%")
    if field.default is not None:
        help += f" Default: {field.default}."
    command.add_argument(f"--{name.replace('_', '-')}", type=converter, choices=choices, help=help)


if __name__ == "__main__":
    raise SystemExit(main())
