"""The record of a job."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Open = Literal["accepted", "running"]
Finished = Literal["successful", "failed"]
KeptStatus = Literal[Open, Finished]
Status = Literal[KeptStatus, "dismissed"]

FINISHED: tuple[Finished, ...] = get_args(Finished)

UPLOAD = "upload"
"""Name of the file that a client sent."""
MANIFEST = "manifest.json"
"""Name of the manifest that a job began with: its results are made by it."""


def is_id(name: str) -> bool:
    """Tell whether a name is one that a job may have."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _now() -> float:
    return round(time.time(), 3)  # milliseconds, as clients get it


@dataclass(frozen=True)
class Job:
    """A row of the table of jobs. Moments are seconds since 1970, in UTC.

    `options` are those that the client set, `image` describes the upload to clients and has its
    checksum, and `outcome` is what was found in it. `made_of` names everything that decides the
    bits of its bands. `problem` is the error that a failed job ended with: its class and message.
    """

    owner: str
    """Digest of the API key that created it; empty where no keys are asked for."""
    filename: str
    options: dict[str, Any]
    image: dict[str, Any]
    bytes: int
    """Bytes on disk; until the job is finished, the most that it may need."""
    format: str | None = None
    """Format of the results that the client asked for as it created the job."""
    document: bool = False
    """Results come in a JSON document of the standard, unless a request names a format."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = "accepted"
    message: str = "Waits for its turn."
    created: float = field(default_factory=_now)
    updated: float = field(default_factory=_now)
    started: float | None = None
    finished: float | None = None
    progress: int = 0
    made_of: dict[str, str] | None = None
    outcome: dict[str, Any] | None = None
    problem: dict[str, str] | None = None
    worker: str | None = None
    """The process that works on it."""
    lease_until: float = 0.0
    """Moment from which on another process may take it over."""

    def file(self, name: str) -> str:
        """Return the name of one of its files in the store."""
        return f"{self.id}/{name}"

    @property
    def bands(self) -> str:
        """Folder of its bands in the store."""
        return self.file("bands")
