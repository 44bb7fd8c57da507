"""The import map: which folder imports which, read from the code and never typed."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "training", "benchmarks")

LIBRARIES = (
    "fastapi", "starlette", "uvicorn", "onnxruntime", "onnx", "openvino", "PIL", "rasterio",
    "pyproj", "morecantile", "httpx2", "scipy", "shapely", "pyogrio", "pyarrow", "pystac", "ray",
    "torch", "albumentations",
)  # fmt: skip
"""Libraries that have walls around them: the map says which modules import them."""


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the dotted name and the syntax tree of each module of a package.

    Relative imports are made absolute in it.
    """
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = parts[: len(parts) - node.level]
                node.module = ".".join([*above, *([node.module] if node.module else [])])
                node.level = 0
        yield ".".join(part for part in parts if part != "__init__"), tree


def imported(tree: ast.Module) -> set[str]:
    """Return the dotted names of what a module imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            # `from app import errors` imports the module `app.errors`.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(module: str) -> str:
    """Return the folder of a module, or its file where it lies beside the folders."""
    package, *inner = module.split(".")
    if package != "app":
        return package
    return inner[0] if inner else "app"


def folders() -> dict[str, set[str]]:
    """Return which folders each folder of `app`, and each other package, imports."""
    known = {room(name) for package in PACKAGES for name, _ in modules(package)}
    drawn: dict[str, set[str]] = {folder: set() for folder in known}
    for package in PACKAGES:
        for name, tree in modules(package):
            rooms = {room(other) for other in imported(tree) if other.split(".")[0] in PACKAGES}
            drawn[room(name)] |= (rooms & known) - {room(name), "app"}
    drawn.pop("app")  # the version and nothing else
    return drawn


def draw() -> str:
    """Draw the map: a folder stands below all that it imports.

    Raises:
        CycleError: folders import each other in a circle.
    """
    drawn = folders()
    order = list(TopologicalSorter({f: sorted(drawn[f]) for f in sorted(drawn)}).static_order())
    width = max(map(len, order))
    lines = [
        f"{folder:{width}}  →  {', '.join(sorted(drawn[folder], key=order.index)) or '–'}"
        for folder in order
    ]
    return "\n".join(["```", *lines, "```"])


def libraries() -> str:
    """List the modules of `app` and `training` that import each library, as a table."""
    users: dict[str, list[str]] = {library: [] for library in LIBRARIES}
    for package in ("app", "training"):
        for name, tree in modules(package):
            for library in {other.split(".")[0] for other in imported(tree)} & users.keys():
                users[library].append(name)
    rows = [f"| {library} | {_shortened(users[library])} |" for library in LIBRARIES]
    return "\n".join(["| library | imported in |", "| --- | --- |", *rows])


def _shortened(names: list[str]) -> str:
    """Name modules by their folder where a folder has more than three of them."""
    by_room: dict[str, list[str]] = {}
    for name in names:
        by_room.setdefault(name.rpartition(".")[0], []).append(name)
    return (
        ", ".join(
            f"`{folder}` ({len(inside)} modules)" if len(inside) > 3 else f"`{'`, `'.join(inside)}`"
            for folder, inside in by_room.items()
        )
        or "–"
    )
