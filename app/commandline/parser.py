"""The flags of each command. Nothing here waits for a library that computes."""

import argparse
from collections.abc import Container
from pathlib import Path
from typing import get_args

from .. import __version__
from ..choices import Engine, LogLevel
from ..outputs.choices import FormatName
from ..terminal import Parser

SHELLS = ("bash", "zsh", "tcsh", "fish")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser, with the flags of one command, or with those of all."""
    parser = Parser(
        prog="rooftrace", description="Building masks from satellite and aerial imagery."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (add_flags, help) in _COMMANDS.items():
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        if command in (None, name):
            add_flags(added)
    return parser


def _serve(parser: argparse.ArgumentParser) -> None:
    _add_models(parser)
    parser.add_argument("--host", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="port to listen on; default: 8000")
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        help="who predicts. local: this process; ray: model replicas on a Ray cluster; "
        "default: local",
    )
    parser.add_argument(
        "--address",
        dest="ray_address",
        help="with ray: a cluster that has the application; default: begin one on this machine, "
        "and end it with the service",
    )


def _segment(parser: argparse.ArgumentParser) -> None:
    _add_files(
        parser,
        ("INPUT", "OUTPUT"),
        "image files, patterns such as '**/*.tif', folders (with all images below), .vrt "
        "files, https:// and s3:// addresses, GDAL's /vsi names, or - for standard input",
        "a folder, the one result's file, or - for standard output",
    )
    formats = get_args(FormatName)
    parser.add_argument("--format", choices=formats, help="default: by the ending of -o, else png")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="open each input, tell its size and its result's file, and write nothing",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what an interrupted run left in OUTPUT.partial; leave what is finished",
    )
    parser.add_argument(
        "--no-style",
        action="store_true",
        help="write no .qml beside a GeoTIFF; QGIS draws by it, and an existing one is never "
        "replaced",
    )
    _add_models(parser)
    _add_options(parser, "options of the masks and of the maps")


def _bulk(parser: argparse.ArgumentParser) -> None:
    _add_files(
        parser,
        ("SOURCE", "DEST"),
        "files, folders and patterns as `segment` takes them, folders and patterns of a "
        "bucket such as s3://city/**/*.tif, and STAC catalogues (.json)",
        "a folder that all who work see: masks/, buildings/ and a STAC collection go there; "
        "what a run before has left whole there is left",
    )
    parser.add_argument(
        "--asset", help="the asset of a STAC item to read; default: the one that is the imagery"
    )
    parser.add_argument(
        "--zoom",
        type=int,
        default=12,
        choices=range(1, 19),
        metavar="1 to 18",
        help="zoom of the quadkeys that name the folders of buildings/; default: 12, about 10 km",
    )
    parser.add_argument(
        "--engine",
        choices=get_args(Engine),
        default="local",
        help="local: this process, one file after the other; ray: many processes, on a Ray "
        "cluster; default: local",
    )
    parser.add_argument(
        "--address",
        help="the Ray cluster's; default: begin one on this machine, and end it with the run",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with ray: processes that predict, each with models of its own; default: as many as "
        "the cluster has processors",
    )
    _add_models(parser)
    _add_options(parser, "options of the masks and of the outlines", {"bands", "order"})


def _models(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [OPTION...] | %(prog)s export --for deepness -o FOLDER [OPTION...]"
    parser.add_argument(
        "action", nargs="?", choices=("export",), help="write the models for another program"
    )
    parser.add_argument(
        "--for",
        dest="program",
        choices=("deepness",),
        default="deepness",
        help="the program: QGIS's plugin Deepness",
    )
    parser.add_argument("-o", "--output", help="the folder of the exported files")
    _add_models(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    _add_bundle_and_device(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell whose language it prints")


def _add_files(
    parser: argparse.ArgumentParser, names: tuple[str, str], inputs: str, output: str
) -> None:
    """Add what a command reads, where it writes, and whether it shows its progress."""
    parser.usage = f"%(prog)s {names[0]}... -o {names[1]} [OPTION...]"
    parser.add_argument("inputs", nargs="+", metavar=names[0], help=inputs)
    parser.add_argument("-o", "--output", required=True, help=output)
    parser.add_argument(
        "--quiet", action="store_true", help="no progress bar and no closing summary"
    )


def _add_options(parser: argparse.ArgumentParser, title: str, but: Container[str] = ()) -> None:
    """Add the options of a client, but for some."""
    from ..segmentation.options import Options, add_flags

    names = [name for name in Options.model_fields if name not in but]
    add_flags(parser.add_argument_group(title), names)


def _add_models(parser: argparse.ArgumentParser) -> None:
    _add_bundle_and_device(parser)
    _add_log_level(parser)


def _add_bundle_and_device(parser: argparse.ArgumentParser) -> None:
    from ..runtime.choices import Device

    parser.add_argument("--bundle", type=Path, help="folder of the models; default: the shipped")
    parser.add_argument(
        "--device",
        choices=(*get_args(Device), "gpu"),
        help="where to run them; cuda or gpu: the GPU or no start; default: auto",
    )


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        choices=get_args(LogLevel),
        help="least severe kind of log line to write; debug: with tracebacks; default: info",
    )


_COMMANDS = {
    "serve": (_serve, "start the HTTP service"),
    "segment": (_segment, "segment image files"),
    "bulk": (_bulk, "segment many files as one map, on many processors or machines"),
    "models": (_models, "list and verify the members of a bundle, or export them"),
    "settings": (_add_log_level, "list the settings, their values and meaning"),
    "doctor": (_doctor, "look at installation, machine and models, and say what to do"),
    "completion": (_completion, "print what makes a shell complete this command line"),
}
