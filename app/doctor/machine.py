"""Cores, memory, disk and port."""

import errno
import http.client
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from ..api.listening import bound
from ..errors import JobsAway, SettingsError, StartupError, StorageFull
from ..runtime.cores import control_groups, usable_cores
from ..settings import Settings
from .finding import Finding, written_bytes

_TRIED = 2**20
"""Bytes that are written for a trial."""
_VARIABLES = {"temporary folder": "TMPDIR", "job folder": "ROOFTRACE_JOBS"}
_LOW_DISK = 2**30
_PATIENCE = 3.0
"""Seconds that a program on the port has to answer."""


def cores(settings: Settings) -> Iterator[Finding]:
    """Compare the usable cores with the number of workers."""
    usable, there = usable_cores(), os.cpu_count() or 1
    found = f"{usable} of {there} may be used" + (
        ": affinity or a quota of the control group takes the rest" if usable < there else ""
    )
    if settings.workers and settings.workers > usable:
        advice = f"Set ROOFTRACE_WORKERS={usable}, or leave it unset."
        more = f"{found}; {settings.workers} workers share them"
        yield Finding("cores", "warning", more, advice)
    else:
        yield Finding("cores", "ok", found)


def memory(settings: Settings) -> Iterator[Finding]:
    """Compare the memory that is available with the budget."""
    available = available_memory()
    if available is None:
        yield Finding("memory", "ok", "this system does not tell how much is available")
        return
    found = (
        f"{written_bytes(available)} are available; requests may take "
        f"{written_bytes(settings.memory_budget)}, and the models come on top"
    )
    if available < settings.memory_budget:
        advice = "Lower ROOFTRACE_MEMORY_BUDGET and ROOFTRACE_MAX_PIXELS, or give it more memory."
        yield Finding("memory", "warning", found, advice)
    else:
        yield Finding("memory", "ok", found)


def available_memory(
    table: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return the bytes of memory that are available, within the limits of the control groups.

    None where the system does not tell.

    Source: Linux, proc_meminfo(5), `MemAvailable`; Documentation/admin-guide/cgroup-v2.rst,
    `memory.max`.
    """
    limits = []
    if sys.platform == "linux":
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(1024 * int(line.split()[1]))
        for group in control_groups(Path("/proc/self/cgroup"), groups):
            try:
                most = int((group / "memory.max").read_text())
                limits.append(most - int((group / "memory.current").read_text()))
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return min(limits, default=None)


def disk() -> Iterator[Finding]:
    """Check the temporary folder."""
    yield try_folder("temporary folder", Path(tempfile.gettempdir()))


def jobs(settings: Settings) -> Iterator[Finding]:
    """Check the folder of jobs, or where it will be made, or the bucket; and the database."""
    place, database = settings.jobs, settings.database
    if isinstance(place, Path):
        folder = place.absolute()
        there = next(each for each in (folder, *folder.parents) if each.exists())
        yield try_folder("job folder", there)
        if database is None:
            return
    from ..jobs.jobs import open_store, open_table  # what it imports may be broken

    if isinstance(place, str):
        advice = (
            "Compare ROOFTRACE_JOBS with the bucket, and AWS_… of the environment with its host. "
            "Or name a folder."
        )
        yield _asked("job store", place, lambda: open_store(place).check(), advice)
    address = database.get_secret_value() if database else None

    def ask_table() -> None:
        with closing(open_table(place, address, settings.job_budget)) as table:
            table.check()

    advice = (
        "Compare ROOFTRACE_DATABASE with the server's host, user, password and database. "
        "It is for several processes that share jobs in one place."
    )
    # Without the password, wherever it stands.
    server = (address or "").removeprefix("postgresql://").rpartition("@")[2].partition("?")[0]
    yield _asked("job database", server, ask_table, advice)


def _asked(name: str, place: str, ask: Callable[[], None], advice: str) -> Finding:
    """Check that a store or a database of jobs answers."""
    try:
        ask()
    except SettingsError as error:
        return Finding(name, "problem", str(error), advice)
    except (JobsAway, StorageFull) as error:
        cause = error.__cause__
        reason = str(getattr(cause, "orig", cause)).partition("\n")[0]
        return Finding(name, "problem", f"{place} can't be used: {reason}", advice)
    return Finding(name, "ok", f"{place} answers")


def try_folder(name: str, folder: Path) -> Finding:
    """Check that a folder can be written to and has room."""
    if not folder.is_dir():
        return Finding(
            name, "problem", f"{folder} is no folder", f"Name one in {_VARIABLES[name]}."
        )
    advice = f"Make room in {folder}, and let this user write there."
    advice += f" {_VARIABLES[name]} names another."
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED))
            file.flush()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, "problem", f"{folder} can't be written to: {error.strerror}", advice)
    found = f"{folder} has {written_bytes(free)} free"
    if free < _LOW_DISK:
        return Finding(name, "warning", found, advice)
    return Finding(name, "ok", found)


def port(settings: Settings) -> Iterator[Finding]:
    """Check that the port is free, or that Rooftrace listens there."""
    address = settings.address
    try:
        with bound(settings):
            pass
    except StartupError as error:
        cause = error.__cause__
        assert isinstance(cause, OSError)
        if cause.errno == errno.EADDRINUSE:
            yield _taken(settings, address)
        else:
            found = f"{address} can't be listened on: {cause.strerror or cause}"
            advice = (
                "Set ROOFTRACE_HOST to an address of this machine, and ROOFTRACE_PORT to a port "
            )
            yield Finding("port", "problem", found, f"{advice}that this user may have.")
    else:
        yield Finding("port", "ok", f"{address} is free: `rooftrace serve` can listen there")


def _taken(settings: Settings, address: str) -> Finding:
    """Return the finding for an address in use: Rooftrace itself, or another program."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        ours = answer.getheader("X-Request-Id") is not None
    except (OSError, http.client.HTTPException):
        ours = False
    finally:
        connection.close()
    if not ours:
        advice = "Stop the program that has it, or set ROOFTRACE_HOST and ROOFTRACE_PORT."
        return Finding("port", "problem", f"another program listens on {address}", advice)
    if answer.status == http.client.OK:
        return Finding("port", "ok", f"a service answers on {address}, and is ready")
    found = f"a service answers on {address}, and is not ready: status {answer.status}"
    return Finding(
        "port", "warning", found, f"Its log, and http://{address}/health/ready, say why."
    )
