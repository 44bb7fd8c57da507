"""A real S3 server, moto's, in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.e2e.conftest import free_port

KEYS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "who",
    "AWS_SECRET_ACCESS_KEY": "what",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def running_s3(folder: Path) -> Iterator[str]:
    """Start the server, and yield its address."""
    pytest.importorskip("moto", reason="moto's server stands for S3")
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    log = folder / "s3.log"
    with (
        log.open("w") as out,
        subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out) as server,
    ):
        try:
            for _ in range(600):
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/moto-api/", timeout=5)
                    break
                except httpx2.TransportError:
                    assert server.poll() is None, log.read_text()
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
