"""Jobs: long work with progress, whose results are kept.

Source: OGC API - Processes, Part 1: Core (OGC 18-062r2), sections 7.11 to 7.13.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

import httpx

from ._errors import JobCancelled, NoSuchJob
from ._flow import Call, Flow, Retries, Send, Sleep, exchange
from ._images import Image, read_image
from ._results import Result

PROCESS = "segment-buildings"

_FIRST_POLL, _LONGEST_POLL = 0.2, 5.0  # seconds


@dataclass(frozen=True)
class JobImage:
    """The image of a job.

    `gsd` is in metres per pixel. `corners` are (longitude, latitude) of top left, top right, bottom
    right, bottom left. `formats` says of each format why this image can't have it, None if it can.
    """

    filename: str
    width: int
    height: int
    gsd: float | None
    crs: str | None
    corners: tuple[tuple[float, float], ...] | None
    formats: Mapping[str, str | None]


@dataclass(frozen=True)
class JobStatus:
    """What the service says of a job. `progress` is in per cent; figures come with success."""

    id: str
    status: Literal["accepted", "running", "successful", "failed", "dismissed"]
    message: str
    progress: int
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    updated: datetime | None
    image: JobImage | None
    model: str | None
    building_count: int | None
    building_fraction: float | None
    building_area_m2: float | None
    notices: tuple[str, ...]
    raw: Mapping[str, Any] = field(repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status not in ("accepted", "running")

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> JobStatus:
        """Read a `statusInfo`."""
        image = body.get("image")
        return cls(
            id=body["jobID"],
            status=body["status"],
            message=body.get("message") or "",
            progress=int(body.get("progress") or 0),
            created=_moment(body.get("created")),
            started=_moment(body.get("started")),
            finished=_moment(body.get("finished")),
            updated=_moment(body.get("updated")),
            image=_image(image) if image else None,
            model=body.get("model"),
            building_count=body.get("building_count"),
            building_fraction=body.get("building_fraction"),
            building_area_m2=body.get("building_area_m2"),
            notices=tuple(body.get("notices") or ()),
            raw=body,
        )


Progress: TypeAlias = bool | Callable[[JobStatus], object]
"""True: a bar on standard error. A function: it gets each status that was asked for."""


def submit(image: Image, options: Mapping[str, Any], retries: Retries) -> Flow[JobStatus]:
    """Send an image as a job."""
    file = yield Call(lambda: read_image(image))
    path = f"processes/{PROCESS}/execution"
    headers = {"Prefer": "respond-async"}
    send = Send("POST", path, options, headers, file, repeatable=False)
    response = yield from exchange(send, retries)
    return JobStatus.of(response.json())


def status(id: str, retries: Retries) -> Flow[JobStatus]:
    """Ask for the status of a job."""
    response = yield from exchange(Send("GET", _path(id)), retries)
    return JobStatus.of(response.json())


def listed(limit: int, retries: Retries) -> Flow[list[JobStatus]]:
    """Ask for the newest jobs of this key."""
    response = yield from exchange(Send("GET", "jobs", {"limit": limit}), retries)
    return [JobStatus.of(body) for body in response.json()["jobs"]]


def wait(id: str, progress: Progress, retries: Retries) -> Flow[JobStatus]:
    """Ask for the status of a job until it has ended.

    Raises:
        ProblemError: the job failed; this is the problem that it ended with.
        JobCancelled: it was dismissed, and is gone.
    """
    bar = _Bar() if progress is True else None
    tell = bar.show if bar else progress if callable(progress) else _say_nothing
    pause = _FIRST_POLL
    try:
        while True:
            try:
                now = yield from status(id, retries)
            except NoSuchJob as gone:
                raise JobCancelled(f"job {id} was dismissed, and nothing is kept of it") from gone
            tell(now)
            if now.ended:
                break
            yield Sleep(pause)
            pause = min(_LONGEST_POLL, 1.3 * pause)
    finally:
        if bar:
            bar.close()
    if now.status == "failed":
        yield from result(id, "png", {}, retries)  # answers the problem
    return now


def result(id: str, format: str, options: Mapping[str, Any], retries: Retries) -> Flow[Result]:
    """Ask for a result of a job that has ended."""
    send = Send("GET", f"{_path(id)}/results", {"format": format, **options})
    response = yield from exchange(send, retries)
    return Result.of(response, format)


def preview(id: str, retries: Retries) -> Flow[bytes]:
    """Ask for the picture of a job's image, a PNG of at most 2048 pixels a side."""
    response: httpx.Response = yield from exchange(Send("GET", f"{_path(id)}/preview"), retries)
    return response.content


def cancel(id: str, retries: Retries) -> Flow[JobStatus]:
    """Dismiss a job, and with it its results."""
    response = yield from exchange(Send("DELETE", _path(id)), retries)
    return JobStatus.of(response.json())


def _path(id: str) -> str:
    return f"jobs/{id}"


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _image(body: Mapping[str, Any]) -> JobImage:
    corners = body.get("corners")
    return JobImage(
        filename=body["filename"],
        width=body["width"],
        height=body["height"],
        gsd=body.get("gsd"),
        crs=body.get("crs"),
        corners=tuple((lon, lat) for lon, lat in corners) if corners else None,
        formats=body.get("formats") or {},
    )


def _say_nothing(_: JobStatus) -> None:
    pass


class _Bar:
    """A bar on standard error, on one line that is written again and again."""

    _WIDTH = 30

    def __init__(self) -> None:
        self._last = ""

    def show(self, now: JobStatus) -> None:
        full = round(now.progress / 100 * self._WIDTH)
        bar = "█" * full + "░" * (self._WIDTH - full)
        line = f"{bar} {now.progress:3d} % {now.message or now.status}"
        print(f"\r{line:{len(self._last)}}", end="", file=sys.stderr, flush=True)
        self._last = line

    def close(self) -> None:
        print(file=sys.stderr)
