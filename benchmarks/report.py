"""Lay out measurements as tables, plots and a page.

The template `page.md` has the words, and figures that were measured apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from app.bundle.cascade import Cascade
from benchmarks import plots
from benchmarks.engine import EXACT
from benchmarks.service import EXACT_PATH

Found = Mapping[str, Any]

_PAGE = Path(__file__).with_name("page.md")
BUSY = 0.1
"""Share of the machine that others may take before the page says that it was busy."""


def write(found: Found, page: Path) -> None:
    """Write the page and, in a folder of its name beside it, its plots."""
    folder = page.with_suffix("")
    engine, service, cascade = found["engine"], found["service"], found["cascade"]
    plots.engine(engine["arrangements"], folder / "engine.png")
    plots.services(service["services"], folder / "service.png")
    if cascade["rows"]:
        plots.cascade(cascade["rows"], folder / "cascade.png")
    services = service["services"]
    page.write_text(
        Template(_PAGE.read_text()).substitute(
            machine="\n".join(f"| {key} | {value} |" for key, value in found["machine"].items()),
            bundle=engine["bundle"],
            imagery=engine["imagery"],
            idle=_idle(found["load"]),
            patches=engine["patches"],
            rounds=engine["rounds"],
            engine_table=_engine(engine["arrangements"], engine["operations_per_patch"]),
            ceiling=_ceiling(engine),
            engine_left_out=_left_out(engine["left_out"]),
            precisions=_precisions(found["precisions"]),
            gsd=f"{service['gsd']:g}",
            exact=EXACT_PATH,
            ratio_table=_ratios(services),
            service_tables="\n\n".join(
                f"### {name}\n\n{_service(cells)}" for name, cells in services.items()
            ),
            reference=next(iter(services)),
            agreement=_listed(service["agreement"], "{:.4%}"),
            starts=_listed(service["start_seconds"], "{:.1f} s"),
            stage_table=_stages(services),
            share_of_engine=_share_of_engine(engine["arrangements"], services),
            scene_size=cascade["size"],
            cascade=_cascade(cascade["cascade"]),
            cascade_table=_cascade_table(cascade["rows"]),
        )
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _idle(load: float) -> str:
    if load <= BUSY:
        return f"Before the run, {load:.0%} of the processor was in use."
    return (
        f"**Before the run, {load:.0%} of the processor was in use by others: "
        "these figures mean nothing.**"
    )


def _left_out(left_out: Mapping[str, str]) -> str:
    return "\n".join(f"Not measured: {name} ({why})." for name, why in left_out.items())


def _ceiling(engine: Found) -> str:
    """Say how near the exact networks come to the most that the processor computes in fp32."""
    operations, most = engine["operations_per_patch"], engine["ceiling"]
    reached = 1000 * operations / engine["arrangements"][EXACT]["milliseconds"]
    return (
        f"A patch takes {operations / 1e9:.1f} GFLOP. In products of large square matrices, ONNX "
        f"Runtime computes {most / 1e9:.0f} GFLOP/s in fp32 on all cores here, and the networks in "
        f"one-thread workers reach {reached / most:.0%} of that."
    )


def _engine(arrangements: Mapping[str, Found], operations: int) -> str:
    exact = arrangements[EXACT]["milliseconds"]
    rows = [
        (
            name,
            f"{one['milliseconds']:.0f}",
            f"{1000 / one['milliseconds']:.1f}",
            f"{exact / one['milliseconds']:.2f}",
            f"{operations / one['milliseconds'] / 1e6:.0f}",
            f"{one['peak_bytes'] / 2**30:.2f}",
            f"{one['load_seconds']:.1f}",
            f"{one['agreement']:.4%}",
            f"{one['dice_micro_change']:+.4f}",
        )
        for name, one in arrangements.items()
    ]
    header = (
        "arrangement", "ms/patch", "patches/s", "speed against workers in fp32", "GFLOP/s",
        "peak GiB", "load s", "masks agree", "change of micro Dice",
    )  # fmt: skip
    return table(header, rows)


def _precisions(costs: Mapping[str, Found]) -> str:
    if not costs:
        return "Not measured: there were no labelled tiles, no OpenVINO, or no bf16 in the CPU."
    rows = [
        (
            precision,
            cost["measured_on"],
            f"{cost['agreement']:.4%}",
            f"{cost['iou']:.4f}",
            f"{cost['dice_micro_change']:+.4f}",
        )
        for precision, cost in costs.items()
    ]
    header = "", "on", "masks agree", "IoU of both masks", "change of micro Dice"
    return table(header, rows)


def _ratios(services: Mapping[str, Sequence[Found]]) -> str:
    best = plots.best_peer(services)
    labels = [cell["label"] for cell in next(iter(services.values()))]
    rows = []
    for i, label in enumerate(labels):
        rates = [cells[i]["requests_per_second"] for cells in services.values()]
        rows.append([label, *(f"{rate:#.3g} ({rate / best[i]:.2f} ×)" for rate in rates)])
    return "Requests per second, and how many times those of the best peer:\n\n" + table(
        ("", *services), rows
    )


def _service(cells: Sequence[Found]) -> str:
    rows = [
        (
            cell["label"],
            f"{cell['requests']}" + (f" (+ {cell['failed']} failed)" if cell["failed"] else ""),
            f"{cell['requests_per_second']:#.3g}",
            *(f"{cell[q]:.2f}" for q in ("p50", "p95", "p99")),
            f"{cell['square_km_per_minute']:.2f}",
            f"{cell['processor_seconds_per_square_km']:.0f}",
            f"{cell['peak_bytes'] / 2**30:.2f}",
            f"{1000 * cell['health_p99']:.0f}",
            f"{cell['client_share']:.1%}",
        )
        for cell in cells
    ]
    header = (
        "", "requests", "requests/s", "p50 s", "p95 s", "p99 s", "km²/min", "CPU s/km²", "peak GiB",
        "health p99 ms", "clients' share of the CPU",
    )  # fmt: skip
    return table(header, rows)


def _ours(services: Mapping[str, Sequence[Found]]) -> dict[str, Sequence[Found]]:
    return {name: cells for name, cells in services.items() if name.startswith("Rooftrace")}


def _stages(services: Mapping[str, Sequence[Found]]) -> str:
    ours = _ours(services)
    stages = list(
        dict.fromkeys(
            stage for cells in ours.values() for cell in cells for stage in cell["stages"]
        )
    )
    rows = [
        (name, cell["label"], *(f"{cell['stages'].get(stage, 0):.1f}" for stage in stages))
        for name, cells in ours.items()
        for cell in cells
    ]
    return table(("", "", *stages), rows)


def _share_of_engine(
    arrangements: Mapping[str, Found], services: Mapping[str, Sequence[Found]]
) -> str:
    """Compare the service's patches per second with the engine's, where no patch was spared."""
    said = []
    for name, cells in _ours(services).items():
        precision = name.split()[-1]
        engine = arrangements.get(f"OpenVINO {precision}, one-thread workers")
        if engine is None and precision == "fp32":
            engine = arrangements[EXACT]  # without OpenVINO, the service runs on these
        for cell in cells:
            if engine is None or cell["size"] != 1024 or cell["empty"] is not None:
                continue
            rate = cell["requests_per_second"] * cell["patches"]
            share = rate * engine["milliseconds"] / 1000
            said.append(f"{name}, {cell['label']}: {share:.0%}")
    if not said:
        return ""
    return (
        "Patches per second of the service, as a share of the bare engine's (more than 100 % where "
        f"the cascade spared members): {'; '.join(said)}."
    )


def _cascade(fitted: Found | None) -> str:
    if fitted is None:
        return "This bundle has no cascade."
    return str(Cascade.model_validate(fitted))


def _cascade_table(rows: Sequence[Found]) -> str:
    if not rows:
        return ""
    header = (
        "empty", "precision", "s without", "s with", "times as fast", "decided by each stage",
        "masks agree", "IoU of both masks", "share that is building",
    )  # fmt: skip
    cells = [
        (
            f"{row['empty']:.0%}",
            row["precision"],
            f"{row['without']:.2f}",
            f"{row['with']:.2f}",
            f"{row['without'] / row['with']:.2f}",
            " + ".join(f"{share:.0%}" for share in row["decided"]),
            f"{row['agreement']:.3%}",
            f"{row['iou']:.4f}",
            f"{row['building']:.1%}",
        )
        for row in rows
    ]
    return table(header, cells) + "\n\n![Speed-up by the cascade](benchmarks/cascade.png)"


def _listed(values: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in values.items())
