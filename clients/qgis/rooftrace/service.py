# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to a Rooftrace service, through QGIS's own network settings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from qgis.core import QgsBlockingNetworkRequest, QgsFeedback, QgsNetworkReplyContent
from qgis.PyQt.QtCore import QUrl
from qgis.PyQt.QtNetwork import QNetworkRequest

_PATIENCE = 300.0
"""Seconds that a busy service is waited for, all tries together."""
_TIFF = {"Content-Type": "image/tiff"}


class ServiceError(Exception):
    """The service refused, failed or did not answer; the message is for the user."""


class CancelledError(Exception):
    """The user cancelled."""


class Service:
    """A Rooftrace service at an address such as `http://127.0.0.1:8000`.

    Raises:
        ServiceError: the address begins with neither http:// nor https://.
    """

    def __init__(self, address: str, key: str, feedback: QgsFeedback) -> None:
        self._address = address.strip().rstrip("/")
        if not self._address.lower().startswith(("http://", "https://")):
            raise ServiceError(
                f"The service's address is {address!r}; it must begin with http:// or https://, "
                "such as http://127.0.0.1:8000."
            )
        self._key = key.strip()
        self._feedback = feedback

    def segment(self, image: bytes, options: Mapping[str, str]) -> dict[str, Any]:
        """Segment a TIFF in one request, and return the GeoJSON.

        Raises:
            ServiceError: it did not work; the message says why.
            CancelledError: the user cancelled.
        """
        query = urlencode({**options, "format": "geojson"})
        reply = self._send("POST", f"{self._address}/segment?{query}", image, _TIFF)
        return self._geojson(reply)

    def segment_as_job(self, image: bytes, options: Mapping[str, str]) -> dict[str, Any]:
        """Segment a TIFF as a job, show its progress, and return the GeoJSON.

        The job is dismissed in the end, so the service keeps nothing of the image.

        Raises:
            As `segment`.
        """
        query = urlencode({**options, "format": "geojson"})
        execution = f"{self._address}/processes/segment-buildings/execution?{query}"
        reply = self._send("POST", execution, image, {**_TIFF, "Prefer": "respond-async"})
        location = _header(reply, "Location")
        if not location:
            raise ServiceError("The service began no job. Is the address that of Rooftrace?")
        job = QUrl(execution).resolved(QUrl(location)).toString()
        try:
            self._wait_for(job)
            return self._geojson(self._send("GET", f"{job}/results?format=geojson"))
        finally:
            # Not by way of `_send`, as a cancelled feedback would stop this too.
            QgsBlockingNetworkRequest().deleteResource(self._request(job, {}))

    def _wait_for(self, job: str) -> None:
        """Show a job's progress until it has ended, well or not."""
        pause = 0.25
        while True:
            state = json.loads(bytes(self._send("GET", job).content()))
            self._feedback.setProgress(state.get("progress", 0))
            if state["status"] not in ("accepted", "running"):
                return
            self._sleep(pause)
            pause = min(2.0, pause * 1.3)

    def _geojson(self, reply: QgsNetworkReplyContent) -> dict[str, Any]:
        try:
            collection: dict[str, Any] = json.loads(bytes(reply.content()))
        except ValueError:
            collection = {}
        if collection.get("type") != "FeatureCollection":
            raise ServiceError(
                f"{self._address} answered with something else than buildings. Is it Rooftrace?"
            )
        for notice in collection.get("notices", []):
            self._feedback.pushWarning(notice)
        return collection

    def _request(self, url: str, headers: Mapping[str, str]) -> QNetworkRequest:
        request = QNetworkRequest(QUrl(url))
        if self._key:
            headers = {**headers, "Authorization": f"Bearer {self._key}"}
        for name, value in headers.items():
            request.setRawHeader(name.encode(), value.encode())
        return request

    def _send(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> QgsNetworkReplyContent:
        """Return the answer, once the service has room."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            sender = QgsBlockingNetworkRequest()
            request = self._request(url, headers or {})
            if method == "POST":
                sender.post(request, body, True, self._feedback)
            else:
                sender.get(request, True, self._feedback)
            if self._feedback.isCanceled():
                raise CancelledError
            reply = sender.reply()
            status = reply.attribute(QNetworkRequest.HttpStatusCodeAttribute)
            if status is None:
                raise ServiceError(
                    f"{self._address} does not answer ({sender.errorMessage()}). Check the "
                    "address, and that the service runs (rooftrace serve)."
                )
            wait = _seconds(_header(reply, "Retry-After"))
            if status in (429, 503) and wait is not None and time.monotonic() + wait < give_up:
                self._feedback.pushInfo(f"The service is busy; it is asked again in {wait:g} s.")
                self._sleep(wait)
                continue
            if status >= 400:
                raise ServiceError(_problem(status, bytes(reply.content())))
            return reply

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._feedback.isCanceled():
                raise CancelledError
            time.sleep(min(0.1, left))


def _header(reply: QgsNetworkReplyContent, name: str) -> str:
    """Return a header, "" where it is absent; QGIS's own look-up takes the case for part of it."""
    values = {bytes(key).lower(): bytes(reply.rawHeader(key)) for key in reply.rawHeaderList()}
    return values.get(name.lower().encode(), b"").decode("latin-1")


def _seconds(text: str) -> float | None:
    """Read `Retry-After`; None where it is absent or a date."""
    return max(1.0, float(text)) if text.strip().isdigit() else None


def _problem(status: int, body: bytes) -> str:
    """Say what the service says is wrong: RFC 9457's title and detail."""
    try:
        problem = json.loads(body)
        return f"The service refused ({status}, {problem['title']}): {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"The service answered with status {status}. Is the address that of Rooftrace?"
