"""Run uvicorn with deadlines for slow clients, an orderly stop, and a reload at SIGHUP.

Uvicorn waits without end for headers, bodies and readers that do not come. A subclass of its
HTTP/1.1 protocol adds deadlines; it watches states that the h11 parser keeps anyway. A proxy in
front can do the same, but nothing here relies on one.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from threading import Event
from types import FrameType
from typing import Any
from weakref import WeakMethod

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..segmentation.segmenter import Segmenter
from ..settings import Settings
from .cors import ANY_ORIGIN
from .listening import address_refused
from .problems import MEDIA_TYPE, unreadable_request
from .service import Service

logger = logging.getLogger(__name__)

_ANSWER = 2.0
"""Seconds to send the answer to a late or broken request before its connection is cut."""

_HEAD, _PIECE = 16384, 65536
"""Bytes read from a connection at once: with the headers, and later. h11 copies them three times.
Each copy of asyncio's 256 KiB takes new memory from the system, which is 8 times as slow. In a
burst, most of what is read with the headers belongs to refused bodies."""

_TURN, _AT_ONCE = 0.01, 8
"""Seconds between two turns, and connections that read a piece in each: 50 MB/s together."""

_SWITCH = 0.0005
"""Seconds until a working thread hands the interpreter over to the event loop, which waits for it
after each read. With Python's 5 ms, the hundreds of reads of a burst would take seconds."""

_early = Event()
"""A reload was asked for before the server had started."""


def hold_reloads() -> None:
    """Keep a SIGHUP until the server has started: it would end the process before that.

    It sets a handler, as a mask would not hold in threads that libraries have started before.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: _early.set())


class Server(uvicorn.Server):
    """Uvicorn's server with an orderly stop, and a reload at SIGHUP.

    After the first SIGTERM or SIGINT, readiness is 503 and connections are still taken for
    `drain_delay` seconds, in which load balancers learn of it. Then nothing new is accepted, and
    the process ends once everything accepted is answered. A second signal ends it at once.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        service: Callable[[], Service],
        settings: Settings,
        load: Callable[[Settings], Segmenter],
    ) -> None:
        """Serve `app`. `service` is called only after the start, and `load` at each SIGHUP."""
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=_protocol(settings),
                ws="none",
                # uvloop would read a connection up to 32 times in a row: in a burst of uploads
                # nobody would get an answer before all are read.
                loop="asyncio",
                timeout_keep_alive=settings.idle_timeout,
                log_config=None,
                access_log=False,  # it would repeat ours, with the client's text unescaped in it
            )
        )
        self._service = service
        self._settings = settings
        self._load = load
        self._stopping = False
        self._reloads: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and handle SIGHUP where the system has it.

        Raises:
            StartupError: another process that was started just now listens on the address.
        """
        sys.setswitchinterval(_SWITCH)
        # Imported objects stay. A garbage collection that looks through them takes 70 ms.
        gc.collect()
        gc.freeze()
        try:
            await super().startup(sockets)
        except OSError as error:
            await self.lifespan.shutdown()
            raise address_refused(self._settings, error) from error
        self._log_started_message(sockets or ())
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
            if _early.is_set():
                _early.clear()
                self._reload()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin an orderly stop; at the second signal, or before the start, end at once."""
        if self._stopping or not self.started:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._stopping = True
        service = self._service()
        service.draining = True
        loop = service.loop
        loop.call_soon_threadsafe(loop.call_later, self._settings.drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.create_task(self._service().reload(self._load))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class _Turns:
    """Reads the bodies of refused requests to their end, a few connections at a time.

    asyncio reads whatever is readable before it does anything else. Hundreds of refused bodies
    would keep the event loop from the requests that were admitted.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Transport] = deque()
        self._running = False

    def wait(self, transport: asyncio.Transport) -> None:
        """Pause reading until it is this connection's turn."""
        transport.pause_reading()
        self._waiting.append(transport)
        if not self._running:
            self._running = True
            self._run_later()

    def _run_later(self) -> None:
        asyncio.get_running_loop().call_later(_TURN, self._run)

    def _run(self) -> None:
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            self._waiting.popleft().resume_reading()  # which does nothing to one that is closed
        self._running = bool(self._waiting)
        if self._running:
            self._run_later()


class _Lingering:
    """A transport that closes only after its client had time to read the answer.

    A connection that is closed with unread bytes is reset, and the client loses the answer. So
    `close` calls `linger`, which closes the writing side and reads on if a body is still coming.
    Source: RFC 9112, section 9.6.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport = transport
        # A weak reference: two objects that hold each other stay until the garbage collector runs.
        self._linger = WeakMethod(linger)
        self._lingers = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close it, or let it linger if something is still coming."""
        linger = self._linger()
        if linger is not None and not self.is_closing():
            self._lingers = linger()
        if not self._lingers:
            self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether nothing can be written to it any more."""
        return self._lingers or self._transport.is_closing()


class _Protocol(H11Protocol):
    """HTTP/1.1 with deadlines for what a client must do.

    Headers must come within `header_timeout` seconds of the connection, or of the first byte of a
    further request. The body must come within `body_timeout` of the headers, even if the
    application has answered already. A client that reads slowly has `body_timeout` for each pause.
    Between requests, uvicorn's own timeout holds.

    A body that was answered before it came is still read, in turns. Without that, the connection
    would be reset before the client reads the answer.
    """

    header_timeout: float
    body_timeout: float
    turns: _Turns
    cors: bool

    _reads: asyncio.Transport
    _watched: object = None  # the state that the timer is for
    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _deaf = False  # bytes that come are thrown away

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.max_size = _HEAD  # type: ignore[attr-defined]
        super().connection_made(transport)
        self._reads = transport
        self.transport = _Lingering(transport, self._linger)  # type: ignore[assignment]
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state in (h11.IDLE, h11.DONE) and not self.conn.trailing_data[0]:
            data = data.removeprefix(b"\r\n")  # an empty line: RFC 9112, section 2.2
        if data and not self._deaf:
            super().data_received(data)
            self._watch()
            self._reads.max_size = _PIECE  # type: ignore[attr-defined]
        if self._deaf or self._refused:
            self.turns.wait(self._reads)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refused:
            self._unset_keepalive_if_required()  # it is not idle
            self.turns.wait(self._reads)
        elif not self._deaf:
            self._unwatch()

    def _linger(self) -> bool:
        if self.conn.their_state is not h11.SEND_BODY:
            return False
        self._deaf = True
        self.transport.write_eof()
        self.turns.wait(self._reads)
        return True

    def shutdown(self) -> None:
        super().shutdown()
        if self._deaf:  # the process would wait `body_timeout` for bytes that nobody reads
            self._cut_soon()

    @property
    def _refused(self) -> bool:
        """Whether the request was answered while its body is still coming."""
        return (self.conn.our_state, self.conn.their_state) == (h11.DONE, h11.SEND_BODY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = self.loop.call_later(self.body_timeout, self._expire, "reader")

    def resume_writing(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP with a problem, if no answer has begun."""
        self._deaf = True
        # Closed while more is coming, the connection would be reset, and the answer lost.
        self._cut_soon()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = unreadable_request().model_dump_json().encode()
            headers = [
                ("Content-Type", MEDIA_TYPE),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            if self.cors:  # for any origin: its own could not be read, and the text is no secret
                headers.append(("Access-Control-Allow-Origin", ANY_ORIGIN))
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _cut_soon(self) -> None:
        self._unwatch()
        self._timer = self.loop.call_later(_ANSWER, self.transport.abort)

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is self._watched or self.transport.is_closing():
            return
        self._unwatch()
        if state is h11.IDLE:
            self._timer = self.loop.call_later(self.header_timeout, self._expire, "headers")
        elif state is h11.SEND_BODY:
            self._timer = self.loop.call_later(self.body_timeout, self._expire, "body")
        self._watched = state

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._watched = None

    def _expire(self, what: str) -> None:
        logger.info("a connection was cut: its %s took too long", what)
        self.transport.abort()


def _protocol(settings: Settings) -> type[_Protocol]:
    attributes = {
        "header_timeout": settings.header_timeout,
        "body_timeout": settings.receive_timeout + _ANSWER,
        "turns": _Turns(),
        "cors": bool(settings.cors_origins),
    }
    return type("Protocol", (_Protocol,), attributes)
