"""The query parameters of the list of jobs. Source: OGC 18-062r2, section 11.2."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import InvalidOption
from ..jobs.records import Status
from ..jobs.store import Filter
from .ogc import PROCESS


class JobListParameters(BaseModel):
    """Which jobs are listed."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    type: list[Literal["process"]] = Field([], description="Kinds of jobs.", examples=[["process"]])
    processID: list[str] = Field([], description="Processes of the jobs.", examples=[[PROCESS]])
    status: list[Status] = Field([], description="States of the jobs.", examples=[["running"]])
    datetime: str | None = Field(
        None,
        description="Moment or interval of their creation: `2026-01-02T03:04:05Z`, "
        "`2026-01-02T00:00:00Z/2026-01-03T00:00:00Z`, with `..` for an open end.",
        examples=["2026-01-02T00:00:00Z/.."],
    )
    minDuration: float | None = Field(
        None, ge=0, description="Shortest time that they took, in seconds.", examples=[1]
    )
    maxDuration: float | None = Field(
        None, ge=0, description="Longest time that they took, in seconds.", examples=[3600]
    )
    limit: int = Field(
        100, ge=1, le=1000, description="Largest number of jobs to list.", examples=[10]
    )
    offset: int = Field(0, ge=0, le=10**9, description="Number of jobs to skip.", examples=[100])

    def filter(self) -> Filter:
        """Return these parameters as a filter of the table of jobs.

        Raises:
            InvalidOption: `datetime` is neither a moment nor an interval.
        """
        first, last = _interval(self.datetime)
        return Filter(self.status, first, last, self.minDuration, self.maxDuration)


def _interval(text: str | None) -> tuple[float | None, float | None]:
    if text is None:
        return None, None
    first, slash, last = text.partition("/")
    try:
        start, end = _moment(first), _moment(last if slash else first)
    except ValueError:
        raise InvalidOption(
            f"datetime={text[:80]!r} is neither a moment such as 2026-01-02T03:04:05Z nor an "
            "interval of two, with a slash between."
        ) from None
    return start, end


def _moment(text: str) -> float | None:
    """Return the seconds since 1970 of a moment of RFC 3339; None for an open end."""
    if text in ("", ".."):
        return None
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
