"""Python, packages, optional parts, GDAL and PROJ.

The top imports the standard library alone: a package that is missing is a finding.
"""

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires, version

from .finding import Finding

_RUNTIME = "onnxruntime"
_EXTRAS = {
    "openvino": "int8 and bf16 on CPUs",
    "geo": "GeoPackage, FlatGeobuf and GeoParquet",
    "tiles": "live map tiles",
    "bulk": "many files as one map",
    "otel": "OpenTelemetry traces",
}
"""Optional parts of the service, by their extra."""
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([^]]*)\])?([^;]*)(?:;(.*))?")


def python() -> Iterator[Finding]:
    """Name the Python that runs."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("Python", "ok", f"{found}, {sys.prefix}")


def packages() -> Iterator[Finding]:
    """Compare the packages that are needed with those that are installed."""
    try:
        needed = _requirements()
    except PackageNotFoundError:
        yield Finding(
            "packages",
            "warning",
            "rooftrace is not installed here: its requirements are not known",
            "Install it with pip, from its folder.",
        )
        return
    problems = [problem for name, least in needed[""] for problem in _lacking(name, least)]
    if problems:
        yield Finding("packages", "problem", "; ".join(problems), "Install rooftrace again.")
    else:
        found = f"rooftrace {version('rooftrace')} and the {len(needed[''])} packages it needs"
        yield Finding("packages", "ok", found)
    for extra, purpose in _EXTRAS.items():
        if extra in needed:
            yield _optional(extra, purpose, needed[extra])


def runtime() -> Iterator[Finding]:
    """Check that exactly one build of ONNX Runtime is installed, and one that fits the machine."""
    builds = sorted(
        {
            (name, found.version)
            for found in distributions()
            if (name := _normal(found.metadata["Name"] or "")) == _RUNTIME
            or name.startswith(f"{_RUNTIME}-")
        }
    )
    named = " and ".join(f"{name} {number}" for name, number in builds)
    if not builds:
        advice = "Install one of the extras `cpu` and `gpu`: pip install 'rooftrace[cpu]'."
        yield Finding("ONNX Runtime", "problem", "it is not installed", advice)
    elif len(builds) > 1:
        yield Finding(
            "ONNX Runtime",
            "problem",
            f"{named} are installed, and write over each other's files",
            f"Uninstall both, then install one: pip uninstall {' '.join(n for n, _ in builds)}",
        )
    elif builds[0][0] == _RUNTIME and _has_gpu():
        yield Finding(
            "ONNX Runtime",
            "warning",
            f"{named} is the CPU build, and this machine has an NVIDIA GPU",
            "Uninstall onnxruntime and install the extra `gpu`, or set ROOFTRACE_DEVICE=cpu.",
        )
    else:
        yield Finding("ONNX Runtime", "ok", named)


def gdal() -> Iterator[Finding]:
    """Check PROJ's data, and name the GDAL and the PROJ in use."""
    from ..imaging.proj import check_proj, libraries

    check_proj()
    yield Finding("GDAL and PROJ", "ok", libraries())


def _optional(extra: str, purpose: str, needed: list[tuple[str, str]]) -> Finding:
    lacking = [problem for name, least in needed for problem in _lacking(name, least)]
    if not lacking:
        names = ", ".join(f"{name} {version(name)}" for name, _ in needed)
        return Finding(f"extra {extra}", "ok", f"{purpose}: {names}")
    advice = f"Where it is wanted: pip install 'rooftrace[{extra}]'."
    slower = extra == "openvino" and not _has_gpu()
    return Finding(
        f"extra {extra}", "warning" if slower else "ok", f"{purpose}: {'; '.join(lacking)}", advice
    )


def _requirements() -> dict[str, list[tuple[str, str]]]:
    """Return the name and least version of each requirement, by extra; "" is for no extra.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    needed: dict[str, list[tuple[str, str]]] = {"": []}
    others: dict[str, list[str]] = {}
    for line in requires("rooftrace") or ():
        match = _REQUIREMENT.fullmatch(line)
        assert match, line
        name, extras, versions, condition = match.groups()
        found = re.search(r"extra == ['\"]([^'\"]+)", condition or "")
        extra = found[1] if found else ""
        least = re.search(r"[>=]=\s*([\d.]+)", versions)
        needed.setdefault(extra, [])
        if name == "rooftrace":  # an extra that has others in it
            others.setdefault(extra, []).extend(extras.split(","))
        else:
            needed[extra].append((name, least[1] if least else ""))
    for extra, parts in others.items():
        for part in parts:
            needed[extra] += needed.get(part, [])
    return needed


def _lacking(name: str, least: str) -> Iterator[str]:
    """Yield a problem if a package is missing or too old."""
    try:
        found = version(name)
    except PackageNotFoundError:
        yield f"{name} is not installed"
        return
    if _numbers(found) < _numbers(least):
        yield f"{name} {found} is installed, {least} or newer is needed"


def _numbers(text: str) -> list[int]:
    """Read the release of a version: 1.10.0rc1 is [1, 10, 0]."""
    release = re.match(r"[\d.]*", text)
    return [int(part) for part in (release[0] if release else "").split(".") if part]


def _normal(name: str) -> str:
    """Normalise a package's name. Source: PyPA, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _has_gpu() -> bool:
    try:
        from ..runtime.gpu import GPU_FILES
    except ImportError:  # no runtime, which is a finding of its own
        return False
    return any(path.exists() for path in GPU_FILES)
