"""What a benchmark ran on, and what processes took of it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import psutil

from app.runtime.cores import usable_cores

_PACKAGES = ("onnxruntime", "openvino", "torch", "numpy", "fastapi", "uvicorn", "litserve")
_SAMPLED_EVERY = 0.1  # seconds


def describe() -> dict[str, str]:
    """Describe machine and versions, for the page."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": str(usable_cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(versions),
        "commit": commit.stdout.strip() or "unknown",
    }


def load() -> float:
    """Return the share of all processor time, 0 to 1, that somebody takes within half a second."""
    return float(psutil.cpu_percent(interval=0.5)) / 100


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    flags = found.get("flags", "").split()
    has = [name for name in ("avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if name in flags]
    return f"{found.get('model name', platform.machine())} ({', '.join(has) or 'no AVX-512'})"


def peak_memory() -> int:
    """Return the most bytes that this process has held at once, since it began."""
    for line in Path("/proc/self/status").read_text().splitlines():
        # Not getrusage's: that one starts with what the parent held.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("VmHWM is missing from /proc/self/status: benchmarks need Linux")


class Watch:
    """Watch a process and its children: the most memory that they hold, the time that they take."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._done = Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self.peak_bytes = 0
        self.seconds = 0.0

    def __enter__(self) -> "Watch":
        self._before = self._cpu()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.seconds = self._cpu() - self._before

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._tree())

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLED_EVERY):
            try:
                held = sum(process.memory_info().rss for process in self._tree())
            except psutil.NoSuchProcess:
                continue
            self.peak_bytes = max(self.peak_bytes, held)


def own_seconds() -> float:
    """Return the processor time that this process has taken."""
    times = os.times()
    return times.user + times.system
