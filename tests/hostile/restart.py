"""Kill the service at work, and see how soon it is ready again: `python -m tests.hostile.restart`.

What starts it again in a container is the engine: `restart: unless-stopped` in docker/compose.yaml,
100 ms after the first end (Docker's first delay). Here a shell's loop does the same. `--bundle`
serves other models than the shipped ones. It prints seconds by the clock, and how many of them the
process computed: on an idle core they are nearly the same.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from app.settings import Settings
from tests.e2e.conftest import Server, is_ready, running_server
from tests.factories import scene
from tests.hostile.wire import POST, connect, cpu_seconds, drained
from tests.serving import RAW, encoded

_SUPERVISOR = ("sh", "-c", 'until "$@"; do sleep 0.1; done', "sh")


@contextmanager
def supervised(folder: Path, bundle: Path, **settings: Any) -> Iterator[Server]:
    """Serve under a supervisor, which `Server.process` is here; `served_by` says who serves."""
    with running_server(folder, bundle, wrapper=_SUPERVISOR, **settings) as server:
        try:
            yield server
        finally:
            serving = served_by(server)  # asked first: a dead supervisor has no children
            server.process.kill()
            os.kill(serving, signal.SIGKILL)


def served_by(server: Server) -> int:
    """Return the process that a supervisor runs at this moment."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.01)
    return int(found[0])


def kill_and_wait(server: Server) -> dict[str, float]:
    """Kill the process while a request is in it, and wait until another one is ready."""
    image = encoded(scene(3000, 3000))
    request = POST.replace(b"/segment", b"/segment?overlap=0.75&tta=d4")
    with connect(server) as connection:
        connection.sendall(request + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
        time.sleep(0.5)
        killed = served_by(server)
        os.kill(killed, signal.SIGKILL)
        started = time.perf_counter()
        assert drained(connection) == b"", "an answer that is no result"
    while not is_ready(server):
        assert time.perf_counter() - started < 120, server.log.read_text()
        time.sleep(0.02)
    seconds = time.perf_counter() - started
    assert served_by(server) != killed
    return {"seconds": round(seconds, 2), "computed": cpu_seconds(served_by(server))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure three times, and see that masks are the same before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    bundle = parser.parse_args(arguments).bundle.absolute()
    image = encoded(scene(300, 300))

    def mask(server: Server) -> bytes:
        url = f"{server.url}/segment"
        return httpx2.post(url, content=image, headers=RAW, timeout=120).raise_for_status().content

    with tempfile.TemporaryDirectory() as folder, supervised(Path(folder), bundle) as server:
        expected = mask(server)
        for _ in range(3):
            print(json.dumps(kill_and_wait(server)), flush=True)
            assert mask(server) == expected, "another mask than before"
    return 0


if __name__ == "__main__":
    sys.exit(main())
