"""A real PostgreSQL of a test's own, as Debian packages it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from tests.e2e.conftest import free_port


@dataclass(frozen=True)
class Postgresql:
    """A database server, run by nobody in particular: PostgreSQL refuses root."""

    programs: Path
    data: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://jobs@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        subprocess.run(
            command,
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_nobody,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        if os.geteuid() == 0:
            shutil.chown(self.data, "nobody", "nogroup")
        self._run("initdb", "-D", str(self.data), "-U", "jobs", "-A", "trust", "--no-sync")
        self.start()
        try:
            yield
        finally:
            self.stop()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        log = str(self.data / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "fast", "stop")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop it, and start it again afterwards."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def ask_for_passwords(self) -> None:
        """Let no user in without a password from now on."""
        rules = self.data / "pg_hba.conf"
        rules.write_text(rules.read_text().replace("trust", "scram-sha-256"))
        self._run("pg_ctl", "-D", str(self.data), "reload")

    def execute(self, statement: str) -> None:
        """Run a statement."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement)


@contextmanager
def running_postgresql() -> Iterator[Postgresql]:
    """Start a database in a folder of its own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    # Not in pytest's folder, which is closed to the user that the database runs as.
    with TemporaryDirectory() as data:
        database = Postgresql(Path(found).resolve().parent, Path(data), free_port())
        with database.running():
            yield database
