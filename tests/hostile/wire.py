"""Talk to a server in bytes, as no well-behaved client does."""

import http.client
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2

from tests.e2e.conftest import Server

POST = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def connect(server: Server, timeout: float = 30) -> socket.socket:
    """Open a connection."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


@contextmanager
def connections(server: Server, number: int) -> Iterator[list[socket.socket]]:
    """Open many."""
    with ExitStack() as opened:
        yield [opened.enter_context(connect(server)) for _ in range(number)]


def drained(connection: socket.socket) -> bytes:
    """Read until the other side ends the connection, gently or not."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def exchange(server: Server, request: bytes) -> tuple[int, bytes]:
    """Send bytes, and return the first answer's status and body; 0 if there is none."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # it may have said what it has to say before all is sent
            connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return response.status, response.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""


def closed_after(drips: Mapping[socket.socket, bytes], seconds: float) -> list[float]:
    """Drip bytes into connections, and return how many seconds it took until each was closed.

    What is open after `seconds` counts as infinitely late.
    """
    started = time.monotonic()
    closed = dict.fromkeys(drips, float("inf"))
    while float("inf") in closed.values() and time.monotonic() - started < seconds:
        for connection, drip in drips.items():
            if closed[connection] == float("inf") and _is_closed(connection, drip):
                closed[connection] = time.monotonic() - started
        time.sleep(0.2)
    return list(closed.values())


def _is_closed(connection: socket.socket, drip: bytes) -> bool:
    connection.setblocking(False)
    try:
        if drip:
            connection.send(drip)
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    finally:
        connection.setblocking(True)
    return True


def metric(server: Server, name: str) -> float:
    """Read one sample of the server's metrics, 0 if there is none."""
    text = httpx2.get(f"{server.url}/metrics", verify=False).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def resident(server: Server) -> int:
    """Return the server's resident memory in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024


def peak(server: Server) -> int:
    """Return the most that was ever resident, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024


def descriptors(server: Server) -> int:
    """Count its open files and sockets."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed: a measure that a busy machine keeps."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
