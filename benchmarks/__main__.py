"""Measure everything, and write the page: `python -m benchmarks`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.segmentation.segmenter import load_segmenter
from app.settings import Settings
from benchmarks import cascade, engine, machine, report, service
from benchmarks.imagery import Imagery
from training.data import list_tiles
from training.precision import costs


def run(bundle: Path, data: Path, *, full: bool, scale: float) -> dict[str, Any]:
    """Measure part by part; `scale` multiplies the time for each."""
    imagery = Imagery(data)
    found: dict[str, Any] = {"machine": machine.describe(), "load": machine.load()}
    _say(f"{found['load']:.0%} of the processor is in use by others")
    _say("torch checkpoints of the members")
    checkpoints = engine.restored(bundle, data / "val")
    _say("engine")
    found["engine"] = engine.measure(
        bundle,
        imagery,
        rounds=6 if full else 3,
        per_round=max(2, round(16 * scale)),
        checkpoints=checkpoints,
    )
    _say("precision")
    found["precisions"] = _precisions(bundle, data / "val", scale)
    _say("cascade")
    size = 4096 if full else max(512, round(1344 * scale**0.5))
    found["cascade"] = cascade.measure(bundle, imagery, size=size)
    _say("services")
    cells: Sequence[service.Cell] = service.FULL if full else service.SHORT
    if scale < 1:  # a rehearsal: nothing large
        cells = [
            replace(cell, size=min(cell.size, 512), seconds=cell.seconds * scale) for cell in cells
        ]
    found["service"] = service.measure(bundle, imagery, cells, service.contenders(bundle))
    return found


def _precisions(bundle: Path, val: Path, scale: float) -> dict[str, Any]:
    if not val.is_dir():
        return {}
    # Every third: the manifest has the figures of all of val, in each precision.
    tiles = list_tiles(val)[:: max(1, round(3 / scale))]
    with closing(load_segmenter(bundle, device="cpu", precision="fp32")) as exact:
        found = costs(bundle, exact, tiles, "val")
    return {precision: cost.model_dump() for precision, cost in found.items()}


def _say(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write figures as JSON, and the page with its plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--full", action="store_true", help="longer, larger, up to 64 clients")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="less than 1 for a rehearsal of the run"
    )
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--from-json", action="store_true", help="write the page again, no run")
    args = parser.parse_args(arguments)
    if args.from_json:
        found = json.loads(args.json.read_text())
    else:
        found = run(args.bundle.resolve(), args.data, full=args.full, scale=args.scale)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    report.write(found, args.page)
    _say(f"{args.page} is written")


if __name__ == "__main__":
    main()
