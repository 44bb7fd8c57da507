"""TCP proxies that break connections, as a flaky network does."""

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread


@dataclass
class Cutting:
    """The proxy's address, and how many connections it has broken and let through."""

    url: str
    broken: int = 0
    passed: int = 0


@contextmanager
def cutting_proxy(url: str, breaks: int, after: int) -> Iterator[Cutting]:
    """Pass connections on to `url`; reset the first ones once `after` bytes of an answer passed."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = Cutting(f"http://127.0.0.1:{listening.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    near, _ = listening.accept()
                except OSError:  # the test has ended
                    return
                far = socket.create_connection((host, int(port)))
                cut = proxy.broken < breaks
                proxy.broken += cut
                proxy.passed += not cut
                limit = after if cut else None
                Thread(target=_pass_on, args=(near, far, limit), daemon=True).start()

        Thread(target=serve, daemon=True).start()
        yield proxy
        listening.shutdown(socket.SHUT_RDWR)


class Line:
    """A way to a server that can be cut: connections break then, and new ones are reset."""

    def __init__(self, listening: socket.socket, far: tuple[str, int]) -> None:
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._is_cut = False
        self._open: list[socket.socket] = []
        Thread(target=self._serve, args=(listening, far), daemon=True).start()

    def cut(self) -> None:
        """Break it."""
        self._is_cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def _serve(self, listening: socket.socket, far: tuple[str, int]) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:  # the test has ended
                return
            if self._is_cut:
                near.close()
                continue
            self._open.append(near)
            ends = near, socket.create_connection(far), None
            Thread(target=_pass_on, args=ends, daemon=True).start()


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """Lay a line to `url`."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Line(listening, (host, int(port)))
        listening.shutdown(socket.SHUT_RDWR)


def _pass_on(near: socket.socket, far: socket.socket, limit: int | None) -> None:
    """Pass bytes on in both directions until one end closes, or `limit` of an answer passed."""
    with near, far, suppress(OSError):
        while True:
            readable, _, _ = select.select([near, far], [], [])
            for source, sink in ((near, far), (far, near)):
                if source not in readable:
                    continue
                data = source.recv(65536)
                if not data:
                    return
                if source is far and limit is not None:
                    near.sendall(data[:limit])
                    # With no time to linger, closing sends a reset.
                    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                sink.sendall(data)
