"""The commands, each from its arguments to its exit status."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from .. import logs
from ..bundle.manifest import load_manifest
from ..bundle.verification import read_model
from ..errors import InvalidOption
from ..extras import check_extra
from ..imaging.gdal import allow_named
from ..imaging.proj import check_proj
from ..loading import load_models
from ..segmentation.options import given_options
from ..segmentation.plan import Plan
from ..segmentation.stream import Cancelled
from ..settings import PREFIX, Settings, load_settings
from .files import (
    check_output,
    check_targets,
    choose_format,
    expand,
    make_folders,
    plan_targets,
)
from .runs import Run, dry_run

_OK, _SOME_FAILED = 0, 1
_OVERRIDES = ("bundle", "device", "host", "port", "log_level", "engine", "ray_address")
"""Settings that have a flag."""


def serve(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from ..api.admission import Admission
    from ..api.engine import Engine
    from ..api.listening import bound
    from ..api.server import Server, hold_reloads
    from ..main import create_app

    settings = _settings_of(args)
    hold_reloads()
    with ExitStack() as ended:
        sockets = ended.enter_context(bound(settings))  # before models, which take long to load
        load = load_models
        open_engine: Callable[[Admission], Engine] = Engine
        if settings.engine == "ray":
            check_extra("--engine ray", "ray", "ray", "grpc")
            from ..replicas.engine import RayEngine, remote_models

            models = ended.enter_context(remote_models(settings, _reload))
            load, open_engine = models.load, partial(RayEngine, models)
        elif settings.ray_address:
            raise InvalidOption("--address and ROOFTRACE_RAY_ADDRESS are those of --engine ray")
        app = create_app(settings, load=lambda _: loaded.pop(), open_engine=open_engine)
        # Loaded here rather than by the server, which would answer a refusal with a traceback.
        loaded = [load(settings)]
        Server(app, lambda: app.state.service, settings, load).run(sockets)
    return _OK


def _reload() -> None:
    """Have the server load the models that the cluster serves now."""
    if hasattr(signal, "SIGHUP"):
        os.kill(os.getpid(), signal.SIGHUP)


def segment(args: argparse.Namespace) -> int:
    """Segment files; return 1 when some of them failed."""
    settings = _settings_of(args)
    check_output(args.output)
    inputs = expand(args.inputs, args.output)
    if any(source.needs_gdal for source in inputs):
        allow_named()
    check_proj()
    format = choose_format(args.output, args.format)
    targets = plan_targets(inputs, args.output, format)
    if not args.resume:
        check_targets(targets.values(), overwrite=args.overwrite)
    options = given_options(args)
    Plan.check(load_manifest(settings.bundle), options)
    if args.dry_run:
        failed = dry_run(targets, options, format, settings.max_pixels)
        return _SOME_FAILED if failed else _OK
    make_folders(targets.values())
    with ExitStack() as ended, interruptible() as cancelled, logging_redirect_tqdm():
        failed = Run(
            lambda: ended.enter_context(closing(load_models(settings))),
            options,
            format,
            targets,
            settings.max_pixels,
            cancelled,
            resume=args.resume,
            styled=not args.no_style,
            quiet=args.quiet,
        ).segment()
    return _SOME_FAILED if failed else _OK


def bulk(args: argparse.Namespace) -> int:
    """Segment many files as one map; return 1 when some of them failed."""
    check_extra("bulk", "bulk", "pyarrow", "pyogrio", "pystac")
    from ..scale.outcome import Crew
    from .bulk import Bulk, find_files

    settings = _settings_of(args)
    check_output(args.output)
    files = find_files(args.inputs, args.output, args.asset)
    if any(file.named for file in files):
        allow_named()
    check_proj()
    options = given_options(args)
    crew = Crew()
    if args.engine == "ray":
        check_extra("--engine ray", "ray", "ray", "pandas")
        from ..scale.onray import OnRay

        if args.workers is not None and args.workers < 1:
            raise InvalidOption(f"workers must be at least 1, got {args.workers}")
        crew = OnRay(args.address, args.workers)
        # Its workers are processes, with one thread each unless the settings say more.
        settings = settings.model_copy(update={"workers": settings.workers or 1})
    elif args.address or args.workers:
        raise InvalidOption("--address and --workers are those of --engine ray")
    load = partial(load_models, settings)
    bulk = Bulk(Path(args.output), options, settings, load, crew, args.zoom, args.quiet)
    with logging_redirect_tqdm():
        return _SOME_FAILED if bulk.run(files) else _OK


@contextmanager
def interruptible() -> Iterator[Cancelled]:
    """Have Ctrl-C end the work, at the latest when the yielded function is called next.

    Python raises KeyboardInterrupt at any point of the code. In a callback of C code or in a
    destructor, it is printed and lost. A second Ctrl-C ends the process at once: while threads are
    stopped, it would be an abort. A process that ignores Ctrl-C, such as a shell's background job,
    goes on ignoring it.
    """
    interrupted = False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    def cancelled() -> None:
        if interrupted:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield cancelled
    finally:
        if not interrupted:
            signal.signal(signal.SIGINT, before)


def models(args: argparse.Namespace) -> int:
    """Print the members of the bundle, once each is verified and loaded; or export them."""
    settings = _settings_of(args)
    if args.action == "export":
        return _export(args, settings)
    if args.output is not None:
        raise InvalidOption("-o is for models export")
    with closing(load_models(settings)) as segmenter:
        manifest, predictor = segmenter.manifest, segmenter.predictor
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
            print(f"  cascade: {cascade}")
        print(f"  {predictor.choice}")
        if predictor.fallback:
            print(f"  {predictor.fallback}")
    return _OK


def _export(args: argparse.Namespace, settings: Settings) -> int:
    """Write the ensemble, and each member, as a file of its own."""
    from ..runtime.deepness import to_deepness

    if args.output is None:
        raise InvalidOption("models export needs -o FOLDER")
    check_output(args.output)
    manifest = load_manifest(settings.bundle)
    members = [(member, read_model(settings.bundle, member)) for member in manifest.members]
    choices = {"all": members} | {member.name: [(member, model)] for member, model in members}
    folder = Path(args.output)
    make_folders([folder / "any"])
    for name, chosen in choices.items():
        path = folder / f"{manifest.version}-{name}-{args.program}.onnx"
        path.write_bytes(to_deepness(manifest, chosen))
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    return _OK


def settings(args: argparse.Namespace) -> int:
    """Print each setting with its value, default and meaning."""
    settings = _settings_of(args)
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        print(f"{PREFIX}{name.upper()}={_written(value)}")
        description = " ".join((field.description or "").split())
        print(f"    {description}; default: {_written(default) or 'unset'}")
    return _OK


def completion(args: argparse.Namespace) -> int:
    """Print the script by which a shell completes this command line."""
    import shtab

    from .parser import build_parser

    parser = build_parser()
    [commands] = (action for action in parser._actions if action.dest == "command")
    for command in dict(commands.choices or {}).values():
        for action in command._actions:
            if action.dest in {"inputs", "output", "bundle"}:
                action.complete = shtab.FILE
    sys.stdout.write(shtab.complete(parser, args.shell))
    return _OK


def _settings_of(args: argparse.Namespace) -> Settings:
    """Read the settings, flags before the environment, and begin to log as they say."""
    settings = load_settings(**{name: getattr(args, name, None) for name in _OVERRIDES})
    logs.configure(settings)
    return settings


def _written(value: object) -> str:
    """Write a setting as the environment has it."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        entries = {k: source.model_dump(exclude_defaults=True) for k, source in value.items()}
        return json.dumps(entries) if entries else ""
    return "" if value is None else str(value)
