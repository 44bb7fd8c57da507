"""The table of jobs, in SQLite or PostgreSQL: each change is one statement, whole or not at all.

A process that works on a job holds a lease on it, which it renews. Any process may take a job whose
lease has ended: so a killed process loses nothing, and several may share one table.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    UpdateBase,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import JobsAway, NoSuchJob, SettingsError, StorageFull
from ..extras import check_extra
from .records import FINISHED, Job, Open

_METADATA = MetaData()

_JOBS = Table(
    "rooftrace_jobs",
    _METADATA,
    Column("id", String(36), primary_key=True),
    Column("owner", String(64), nullable=False, index=True),
    Column("status", String(16), nullable=False, index=True),
    Column("message", Text, nullable=False),
    Column("created", Float(53), nullable=False, index=True),
    Column("updated", Float(53), nullable=False),
    Column("started", Float(53)),
    Column("finished", Float(53)),
    Column("progress", Integer, nullable=False),
    Column("filename", Text, nullable=False),
    Column("options", JSON, nullable=False),
    Column("format", String(32)),
    Column("document", Boolean, nullable=False),
    Column("image", JSON, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("made_of", JSON(none_as_null=True)),
    Column("outcome", JSON(none_as_null=True)),
    Column("problem", JSON(none_as_null=True)),
    Column("worker", String(64)),
    Column("lease_until", Float(53), nullable=False),
)
_IS_OPEN = _JOBS.c.status.in_(get_args(Open))
_AT_ONCE = 500
"""Names in one query."""
_LONGEST_LEASE = 120.0
"""Seconds, twice as long as any lease. A lease with more left was made before a clock went back."""
_PATIENCE = 5
"""Seconds after which a PostgreSQL that does not answer is away."""
_BUSY_MS = 10_000
"""Milliseconds that SQLite waits for another writer."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter:
    """Which jobs a list has. Moments and durations are in seconds; None: any."""

    statuses: Sequence[str] = ()
    created_from: float | None = None
    created_to: float | None = None
    min_duration: float | None = None
    max_duration: float | None = None


class _Database:
    """A database that has the table, from the first transaction on."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._has_table = False
        self.is_away = False
        """Whether the database could not be reached, or had no room, when it was last asked."""

    def check(self) -> None:
        """Check that the database answers and that the table can be made in it. Nothing is kept."""
        with self._asking(), self._engine.connect() as connection:
            _METADATA.create_all(connection)  # and no commit

    def close(self) -> None:
        """Close the connections. The next use opens the file of then, and makes its table."""
        self._engine.dispose()
        self._has_table = False

    def _make_table(self) -> None:
        try:
            _METADATA.create_all(self._engine)
        except (IntegrityError, ProgrammingError):  # another process was a moment earlier
            _METADATA.create_all(self._engine)
        self._has_table = True

    def _read(self, query: Select[Any]) -> Sequence[Job]:
        with self._begin() as connection:
            return [Job(**row) for row in connection.execute(query).mappings()]

    def _write(self, statement: UpdateBase) -> int:
        """Return how many rows were changed."""
        with self._begin() as connection:
            return connection.execute(statement).rowcount

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """Open a transaction, in a database that has the table."""
        with self._asking():
            if not self._has_table:
                self._make_table()
            with self._engine.begin() as connection:
                yield connection

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the errors of a database that can't be used into ours."""
        try:
            yield
            self.is_away = False
        except SQLAlchemyError as error:
            self.is_away = True
            reason = str(getattr(error, "orig", error)).strip()
            if "is full" in reason or "No space left" in reason:
                raise StorageFull(
                    "The disk of the database of jobs is full. Delete jobs that are not needed, or "
                    "try again later."
                ) from error
            logger.warning("the database of jobs: %s", reason)
            raise JobsAway(
                "The database of jobs can't be reached. Try again shortly; jobs that were accepted "
                "are kept."
            ) from error


class JobTable(_Database):
    """The table of jobs.

    Every method raises JobsAway if the database can't be reached, and those that write StorageFull
    if its disk is full.
    """

    def __init__(self, url: str, *, budget: int) -> None:
        """Open the database at `url`, as SQLAlchemy writes it; jobs may take `budget` bytes."""
        super().__init__(url)
        self._budget = budget

    def add(self, job: Job) -> None:
        """Add a job, if its bytes fit into the budget.

        Raises:
            StorageFull: they don't.
        """
        values = asdict(job)
        taken = select(func.coalesce(func.sum(_JOBS.c.bytes), 0)).scalar_subquery()
        columns = [
            bindparam(name, value, type_=_JOBS.c[name].type).label(name)
            for name, value in values.items()
        ]
        row = select(*columns).where(
            taken + literal(job.bytes, BigInteger) <= literal(self._budget, BigInteger)
        )
        if not self._write(insert(_JOBS).from_select(list(values), row)):
            raise StorageFull(
                f"Jobs may take {self._budget} bytes on disk, and this one, of up to "
                f"{job.bytes}, does not fit beside the others. Delete jobs that are not needed, or "
                "wait until the oldest expire."
            )

    def get(self, id: str, owner: str) -> Job:
        """Return a job of an owner.

        Raises:
            NoSuchJob: there is none, or it is another's.
        """
        found = self._read(select(_JOBS).where(_JOBS.c.id == id, _JOBS.c.owner == owner))
        if not found:
            raise NoSuchJob(
                f"There is no job {id[:64]!r}: it was never created here, was dismissed, or has "
                "expired."
            )
        return found[0]

    def find(self, owner: str, filter: Filter, limit: int, offset: int) -> Sequence[Job]:
        """Return the jobs of an owner, the newest first."""
        query = select(_JOBS).where(_JOBS.c.owner == owner)
        duration = func.coalesce(_JOBS.c.finished, time.time()) - _JOBS.c.started
        for column, least, most in (
            (_JOBS.c.created, filter.created_from, filter.created_to),
            (duration, filter.min_duration, filter.max_duration),
        ):
            if least is not None:
                query = query.where(column >= least)
            if most is not None:
                query = query.where(column <= most)
        if filter.statuses:
            query = query.where(_JOBS.c.status.in_(filter.statuses))
        query = query.order_by(_JOBS.c.created.desc(), _JOBS.c.id)
        return self._read(query.limit(limit).offset(offset))

    def claim(self, worker: str, lease: float) -> Job | None:
        """Take the oldest job that nobody works on, for `lease` seconds; None if there is none."""
        now = time.time()
        oldest = (
            select(_JOBS.c.id)
            .where(_IS_OPEN, ~_JOBS.c.lease_until.between(now, now + _LONGEST_LEASE))
            .order_by(_JOBS.c.created)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has one writer, and leaves it out
            .scalar_subquery()
        )
        taken = (
            update(_JOBS)
            .where(_JOBS.c.id == oldest)
            .values(worker=worker, lease_until=now + lease)
            .returning(*_JOBS.c)
        )
        with self._begin() as connection:
            row = connection.execute(taken).mappings().first()
        return None if row is None else Job(**row)

    def change(self, id: str, held_by: str, **values: object) -> bool:
        """Change a job that a process works on; False if it does not."""
        held = update(_JOBS).where(_JOBS.c.id == id, _JOBS.c.worker == held_by)
        return self._write(held.values({"updated": time.time(), **values})) > 0

    def renew(self, id: str, worker: str, lease: float) -> bool:
        """Renew the lease of a process on a job for `lease` seconds; False if it has none."""
        held = update(_JOBS).where(_JOBS.c.id == id, _JOBS.c.worker == worker)
        return self._write(held.values(lease_until=time.time() + lease)) > 0

    def free(self, worker: str | None = None) -> None:
        """End the leases of a process, or of all: any process may take their jobs at once."""
        which = [_IS_OPEN] + ([] if worker is None else [_JOBS.c.worker == worker])
        self._write(update(_JOBS).where(*which).values(worker=None, lease_until=0.0))

    def remove(self, id: str) -> None:
        """Remove a job."""
        self._write(delete(_JOBS).where(_JOBS.c.id == id))

    def expired(self, before: float) -> Sequence[str]:
        """Return the jobs that were finished before a moment."""
        old = _JOBS.c.status.in_(FINISHED) & (_JOBS.c.finished < before)
        with self._begin() as connection:
            return connection.execute(select(_JOBS.c.id).where(old)).scalars().all()

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are jobs."""
        known = set[str]()
        with self._begin() as connection:
            for first in range(0, len(ids), _AT_ONCE):
                some = _JOBS.c.id.in_(ids[first : first + _AT_ONCE])
                known.update(connection.execute(select(_JOBS.c.id).where(some)).scalars())
        return known

    def totals(self) -> tuple[dict[str, int], int]:
        """Return how many jobs have each status, and the bytes of all."""
        query = select(_JOBS.c.status, func.count(), func.sum(_JOBS.c.bytes)).group_by(
            _JOBS.c.status
        )
        with self._begin() as connection:
            rows = connection.execute(query).all()
        return {status: count for status, count, _ in rows}, sum(int(size) for *_, size in rows)


def _engine(url: str) -> Engine:
    if url.startswith("sqlite:"):
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare)
        return engine
    check_extra("ROOFTRACE_DATABASE", "postgres", "psycopg")
    try:
        return create_engine(
            url.replace("postgresql:", "postgresql+psycopg:", 1),
            pool_pre_ping=True,
            connect_args={"connect_timeout": _PATIENCE, "tcp_user_timeout": 1000 * _PATIENCE},
        )
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        raise SettingsError("ROOFTRACE_DATABASE can't be read as an address") from None


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Let readers and a writer work at once, and writers wait for each other."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.close()
