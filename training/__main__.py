"""The command line of training: `python -m training COMMAND --help`."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from app.errors import RooftraceError
from app.segmentation.options import SCORED, add_flags, given_options
from app.terminal import Parser
from training.config import load_config


def _train(args: argparse.Namespace) -> None:
    from training.train import train

    config = load_config(args.config, args.set)
    folder = args.run or Path("runs") / config.member
    best = train(config, folder, resume=args.resume, progress=not args.quiet)
    print(f"best checkpoint: {best}")


def _evaluate(args: argparse.Namespace) -> int:
    from training.data import list_tiles
    from training.evaluate import SEAM_TILES, Gate, examine
    from training.export import served

    options = given_options(args)
    if args.tell_gsd and args.gsd:
        raise ValueError("--gsd tells every tile's GSD, --tell-gsd each its own: give one of them")
    gates = [Gate.parse(text) for text in args.gate]
    tiles = [tile for path in args.data for tile in list_tiles(path)]
    if args.html and args.html.is_dir():  # better said now than after the work
        raise ValueError(f"{args.html} is a directory; --html takes the file to write")
    if args.mistakes < 0 or (args.mistakes and not args.html):
        raise ValueError(
            f"--mistakes {args.mistakes}: expected 0 or more, and --html for the page that has them"
        )
    seam_tiles = (SEAM_TILES if args.html else 0) if args.seams is None else args.seams
    with served(args.model) as segmenter:
        found = examine(
            segmenter,
            tiles,
            options,
            tell_gsd=args.tell_gsd,
            at_gsd=args.at_gsd,
            conditions=args.under,
            seam_tiles=seam_tiles,
            progress=not args.quiet,
        )
        report = found.report
        print(report.table())
        if args.json:
            report.write(args.json)
        if args.html:
            from training.report import write_page

            write_page(
                args.html,
                found,
                segmenter,
                tiles,
                options,
                mistakes=args.mistakes,
                progress=not args.quiet,
            )
    complaints = [complaint for gate in gates if (complaint := gate.complaint(report))]
    for complaint in complaints:
        print(f"gate: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _export(args: argparse.Namespace) -> None:
    from training.export import export, load_trained
    from training.provenance import data_sources

    trained = [load_trained(path) for path in args.checkpoints]
    runs = [one.config.data for one in trained]
    trained_on = [data.root / path for data in runs for path in (*data.folders, *data.csv)]
    export(
        trained,
        args.out,
        name=args.name,
        validation=args.validation,
        negatives=args.negatives,
        calibration=list(dict.fromkeys(trained_on)),
        gsd=tuple(args.gsd),
        sources=data_sources([one.config for one in trained]),
        notes=args.note,
        progress=not args.quiet,
    )
    print(f"bundle: {args.out}")


def _fit(args: argparse.Namespace) -> None:
    from training.export import load_trained, refit
    from training.provenance import data_sources

    add = [load_trained(path) for path in args.add]
    manifest = refit(
        args.bundle,
        args.out,
        validation=args.data,
        add=add,
        sources=data_sources([one.config for one in add]),
        negatives=args.negatives,
        calibration=args.calibration,
        notes=args.note,
        progress=not args.quiet,
    )
    for member in manifest.members:
        print(f"{member.name}: weight {member.weight:g}")
    print(f"threshold: {manifest.threshold.value:g}")
    print(f"bundle: {args.out}")


def _submit(args: argparse.Namespace) -> None:
    from training.competition import submit
    from training.export import served

    options = given_options(args)
    with served(args.model) as segmenter:
        new = submit(
            segmenter, args.tiles, args.out, options, resume=args.resume, progress=not args.quiet
        )
    print(f"submission: {args.out} ({new} new rows)")


def _score(args: argparse.Namespace) -> None:
    from training.competition import score

    found = score(args.submission, args.labels, side=args.size)
    print(
        f"mean Dice {found.dice:.4f} over {found.images} images; {found.both_empty} that are empty "
        "in submission and labels were left out"
    )


def _restore(args: argparse.Namespace) -> None:
    from training.restore import restore

    for path in restore(args.bundle, args.data, args.out):
        print(f"checkpoint: {path}")


def _average(args: argparse.Namespace) -> None:
    from training.checkpoints import average

    average(args.start, args.end, args.share, args.out)
    print(f"checkpoint: {args.out}")


def _explore(args: argparse.Namespace) -> None:
    from training.data import list_tiles
    from training.explore.facts import survey
    from training.explore.page import write_page

    found = survey(
        [tile for path in args.data for tile in list_tiles(path)], progress=not args.quiet
    )
    page = write_page(args.out, found, seed=args.seed)
    print(
        f"{len(found.tiles)} tiles; labels: {len(found.empty)} empty, {len(found.boxed)} of plain "
        f"boxes, {len(found.misaligned)} misaligned"
    )
    print(f"page: {page}")


def _compare(args: argparse.Namespace) -> None:
    from training.compare.experiment import load_experiment
    from training.compare.queue import run_experiment

    experiment = load_experiment(args.experiment, args.set)
    found = run_experiment(experiment, args.out, runs=args.runs, progress=not args.quiet)
    print(found.markdown())
    print(f"page: {args.out / 'compare.html'}")


def _scenes(args: argparse.Namespace) -> None:
    from training.scenes import write_scenes

    write_scenes(args.folder, args.count, args.size, args.seed)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(
        run: Callable[[argparse.Namespace], int | None],
        help: str,
        *parents: Parser,
    ) -> argparse.ArgumentParser:
        """Add a command, named as the function that runs it, with the flags of `parents`."""
        command = commands.add_parser(run.__name__[1:], help=help, parents=parents)
        command.set_defaults(run_command=run)
        return command

    # Flags that several commands have.
    quiet, overriding, noted, fitted, scored = (Parser(add_help=False) for _ in range(5))
    quiet.add_argument("--quiet", action="store_true", help="no progress bar")
    overriding.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a value of the configuration, or of all arms, such as trainer.epochs=3 "
        "(repeatable)",
    )
    fitted.add_argument(
        "--negatives",
        type=Path,
        nargs="+",
        default=(),
        metavar="TILES",
        help="folders or CSV files with tiles that are `empty` in SOURCES.csv: those that no "
        "network trained on judge the cascade, and false buildings are counted there",
    )
    noted.add_argument(
        "--note", action="append", default=[], help="a line for the model card (repeatable)"
    )
    add_flags(scored.add_argument_group("options of the masks, as the service has them"), SCORED)

    command = add(_train, "train one network from its TOML configuration", quiet, overriding)
    command.add_argument("config", type=Path, help="such as training/configs/unet_scratch.toml")
    command.add_argument("--run", type=Path, help="folder of the run (default: runs/MEMBER)")
    command.add_argument("--resume", action="store_true", help="go on after the last epoch there")

    command = add(_evaluate, "score a bundle, or a checkpoint, on tiles", quiet, scored)
    command.add_argument("model", type=Path, help="folder of a bundle, or a checkpoint")
    command.add_argument("data", type=Path, nargs="+", help="folders or CSV files with labels")
    command.add_argument(
        "--tell-gsd", action="store_true", help="tell the GSD of tiles where SOURCES.csv states it"
    )
    command.add_argument("--json", type=Path, help="write the scores, and each image's, there")
    command.add_argument(
        "--html", type=Path, help="write a page there: scores, plots, the worst images, seams"
    )
    command.add_argument(
        "--mistakes",
        type=int,
        default=0,
        metavar="N",
        help="show N wrong pixels of each source on the page, drawn at random: is it the mask that "
        "is wrong, or the label?",
    )
    command.add_argument(
        "--at-gsd",
        type=float,
        nargs="+",
        default=[],
        metavar="GSD",
        help="score again on tiles of known GSD resampled to so many metres per pixel",
    )
    command.add_argument(
        "--under",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help="score again on tiles in other light, air or of another camera, such as dark or haze; "
        "an unknown one is answered with all there are",
    )
    command.add_argument(
        "--seams",
        type=int,
        metavar="N",
        help="segment the N largest tiles twice more, cut a third of a patch further on, and "
        "measure the share of building that changes (default: 3 with --html, otherwise 0)",
    )
    command.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="NAME>=BOUND",
        help="status 1 unless the ensemble's score keeps it; also NAME<=BOUND (repeatable)",
    )

    command = add(_export, "make a bundle that can be served", quiet, noted, fitted)
    command.add_argument("checkpoints", type=Path, nargs="+", help="one per member")
    command.add_argument("--out", type=Path, required=True, help="such as models/NAME")
    command.add_argument("--name", help="name of the bundle (default: that of its folder)")
    command.add_argument(
        "--validation",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATA",
        help="folders or CSV files on which weights and threshold are chosen",
    )
    command.add_argument(
        "--gsd",
        type=float,
        nargs=2,
        default=[0.2, 1.2],
        metavar=("MIN", "MAX"),
        help="metres per pixel that the networks were trained at (default: 0.2 1.2)",
    )

    command = add(
        _fit,
        "copy a bundle, with everything that is fitted fitted to other tiles",
        quiet,
        noted,
        fitted,
    )
    command.add_argument("bundle", type=Path, help="folder of the bundle")
    command.add_argument("data", type=Path, nargs="+", help="folders or CSV files with labels")
    command.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        default=(),
        metavar="TILES",
        help="folders or CSV files of the training: make members compute in int8, measured there",
    )
    command.add_argument("--out", type=Path, required=True, help="such as models/NAME")
    command.add_argument(
        "--add",
        type=Path,
        nargs="+",
        default=(),
        metavar="CHECKPOINT",
        help="networks that join the bundle, one of a member's name in its place",
    )

    command = add(_submit, "make the competition's submission CSV", quiet, scored)
    command.add_argument("model", type=Path, help="folder of a bundle, or a checkpoint")
    command.add_argument("tiles", type=Path, help="CSV with img_id,img_path, such as test.csv")
    command.add_argument("--out", type=Path, required=True, help="such as submission.csv")
    command.add_argument("--resume", action="store_true", help="go on after the last row there")

    command = add(_score, "score a submission as the competition did")
    command.add_argument("submission", type=Path, help="CSV with img_id,mask_rle")
    command.add_argument("labels", type=Path, help="CSV with img_id,mask_rle")
    command.add_argument("--size", type=int, default=224, help="side of a tile (%(default)s)")

    command = add(_restore, "turn a bundle back into checkpoints, to fine-tune them")
    command.add_argument("bundle", type=Path, help="folder of the bundle")
    command.add_argument("data", type=Path, help="a folder or CSV of tiles to go on training with")
    command.add_argument("--out", type=Path, required=True, help="gets one checkpoint per member")

    command = add(_average, "average the weights that a run began and ended with")
    command.add_argument("start", type=Path, help="checkpoint that the run went on from")
    command.add_argument("end", type=Path, help="checkpoint of the run")
    command.add_argument("--share", type=float, default=0.6, help="of the end (default: 0.6)")
    command.add_argument("--out", type=Path, required=True, help="the new checkpoint")

    command = add(
        _explore, "write a page about labelled tiles: figures, plots, suspicious labels", quiet
    )
    command.add_argument("data", type=Path, nargs="+", help="folders or CSV files with labels")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="gets explore.html and its plots"
    )
    command.add_argument("--seed", type=int, default=0, help="of the tiles shown as samples")

    command = add(
        _compare,
        "train and score the arms of an experiment; started again, it goes on",
        quiet,
        overriding,
    )
    command.add_argument("experiment", type=Path, help="such as training/experiments/loss.toml")
    command.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="gets compare.html and the runs"
    )
    command.add_argument(
        "--runs",
        type=Path,
        metavar="FOLDER",
        help="runs that experiments share (default: in --out)",
    )

    command = add(_scenes, "write procedural scenes with labels")
    command.add_argument("folder", type=Path, help="gets images/ and masks/")
    command.add_argument("--count", type=int, default=100, help="default: %(default)s")
    command.add_argument("--size", type=int, default=512, help="pixels (default: %(default)s)")
    command.add_argument("--seed", type=int, default=0, help="of the first scene")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; problems that the user can mend are one line on stderr and status 2."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("training").setLevel(logging.INFO)  # libraries speak up from warnings on
    try:
        _check_numbers(args)
        status: int | None = args.run_command(args)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except (ValueError, RooftraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status or 0


def _check_numbers(args: argparse.Namespace) -> None:
    """Check the numbers that are not options of the masks, before any work.

    Raises:
        ValueError: one that is out of range.
    """
    for name, least in {"count": 1, "size": 1, "seed": 0, "seams": 0}.items():
        value = getattr(args, name, None)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    for name in ("at_gsd", "gsd"):
        values = getattr(args, name, None)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be more than 0 metres per pixel, got {value:g}")


if __name__ == "__main__":
    raise SystemExit(main())
