"""The command line: `rooftrace serve | segment | models | settings`."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

from app import __version__, logs
from app.api.server import Server
from app.bundle.verification import verify_files
from app.commandline.files import choose_format, expand, plan_targets
from app.commandline.resume import check_no_partial
from app.commandline.runs import Run
from app.errors import InvalidOption, StartupError
from app.imaging.proj import check_proj
from app.imaging.scaling import parse_rescale
from app.main import create_app, load_models
from app.outputs.findings import OutputOptions, RasterBand, Rectify, parse_bands
from app.outputs.formats import FORMATS
from app.outputs.pipeline import Pipeline
from app.outputs.rle import PixelOrder
from app.runtime.onnxruntime import Device
from app.segmentation.options import Combine, Resample, SegmentOptions, Unsure, UseGate
from app.segmentation.segmenter import Checkpoint
from app.segmentation.tta import Tta
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
    options = SegmentOptions(
        threshold=args.threshold,
        overlap=args.overlap,
        tta=args.tta,
        members=None if args.models is None else tuple(args.models.split(",")),
        combine=args.combine,
        gsd=args.gsd,
        resample=args.resample,
        min_area=args.min_area,
        unsure=args.unsure,
        gate=args.gate,
    )
    output = OutputOptions(
        order=args.order,
        simplify=args.simplify,
        rectify=args.rectify,
        bands=parse_bands(args.bands),
    )
    rescale = None if args.rescale is None else parse_rescale(args.rescale)
    with closing(load_models(settings)) as segmenter, interruptible() as checkpoint:
        segmenter.chosen_members(options)
        pipeline = Pipeline(
            segmenter,
            options,
            settings.max_pixels,
            format,
            checkpoint=checkpoint,
            output=output,
            rescale=rescale,
            sharpen=args.sharpen,
        )
        failed = Run(pipeline, targets, resume=args.resume, quiet=args.quiet).segment()
    return _SOME_FAILED if failed else _OK


@contextmanager
def interruptible() -> Iterator[Checkpoint]:
    """Have Ctrl-C end the work, at the checkpoint that follows at the latest.

    Python raises KeyboardInterrupt wherever it happens to be. Where that is a callback of C code or
    a destructor, it is printed and forgotten. Who ignores Ctrl-C, as a shell's background job does,
    goes on doing so.
    """
    told = False

    def interrupt(*_: object) -> None:
        nonlocal told
        told = True
        raise KeyboardInterrupt

    def checkpoint() -> None:
        if told:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield checkpoint
    finally:
        signal.signal(signal.SIGINT, before)


def _models(_: argparse.Namespace, settings: Settings) -> int:
    with closing(load_models(settings)) as segmenter:
        manifest, predictor = segmenter.manifest, segmenter.predictor
        verify_files(settings.bundle, manifest)
        threshold = f"{manifest.threshold.value:g}"
        if manifest.threshold.sure:
            threshold += f" (and {manifest.threshold.sure:g} on average of a building)"
        print(f"{manifest.version}  threshold {threshold}  {settings.bundle}")
        for member in manifest.members:
            print(
                f"  {member.name:<16} weight {member.weight:.2f}  {member.bytes / 2**20:6.1f} MiB"
                f"  {predictor.providers[member.name]}  SHA-256 {member.sha256[:12]}… verified"
            )
        if gate := manifest.gate:
            print(
                f"  gate {gate.member}<{gate.threshold:g}: clears {gate.cleared_empty:.0%} of the "
                f"empty patches and loses {gate.lost:.3%} of the building pixels of "
                f"{gate.fitted_on}"
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
    command.add_argument("--threshold", type=float, help="default: the bundle's")
    command.add_argument("--overlap", type=float, default=SegmentOptions.overlap)
    command.add_argument("--tta", choices=get_args(Tta), default=SegmentOptions.tta)
    command.add_argument("--models", metavar="NAME,…", help="members that vote; default: all")
    command.add_argument("--combine", choices=get_args(Combine), default=SegmentOptions.combine)
    command.add_argument(
        "--rescale",
        metavar="LOW,HIGH",
        help="samples that become 0 and 255, or three such pairs; default: 8 bits as they are, "
        "corrected if they have a colour cast or little contrast, deeper ones by percentiles",
    )
    command.add_argument(
        "--sharpen",
        type=int,
        metavar="PERCENT",
        help="by unsharp masking; default: 0, or as many as a soft image calls for",
    )
    command.add_argument("--gsd", type=float, help="metres per pixel; default: the file's own")
    command.add_argument(
        "--resample",
        choices=get_args(Resample),
        default=SegmentOptions.resample,
        help="auto: with a known GSD, run the models at the GSD they were trained at",
    )
    command.add_argument(
        "--min-area",
        type=float,
        default=SegmentOptions.min_area,
        help="drop smaller components: m² with a known GSD, else pixels",
    )
    command.add_argument(
        "--unsure",
        choices=get_args(Unsure),
        default=SegmentOptions.unsure,
        help="drop: a component whose mean probability lies below what the bundle calls sure is no "
        "building",
    )
    command.add_argument(
        "--gate",
        choices=get_args(UseGate),
        default=SegmentOptions.gate,
        help="on: for a mask alone, the bundle's gate, if it has one, clears patches in which one "
        "model sees nothing; off: all models decide every pixel",
    )
    command.add_argument("--order", choices=get_args(PixelOrder), default="row")
    command.add_argument(
        "--simplify",
        type=float,
        default=OutputOptions.simplify,
        help="tolerance of outlines: metres with a known GSD, else pixels",
    )
    command.add_argument(
        "--rectify",
        choices=get_args(Rectify),
        default=OutputOptions.rectify,
        help="square up the corners of outlines",
    )
    command.add_argument(
        "--bands",
        metavar="NAME,…",
        default=",".join(OutputOptions.bands),
        help=f"what a GeoTIFF holds, of {', '.join(get_args(RasterBand))}",
    )
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


if __name__ == "__main__":
    raise SystemExit(main())
