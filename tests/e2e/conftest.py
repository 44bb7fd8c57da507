"""A real server process, and a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.serving import exact_bundle

ROOT = Path(__file__).parents[2]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITH_WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
expect.set_options(timeout=30_000)  # a busy machine may keep a page waiting
IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium or google-chrome here"),
]


@dataclass(frozen=True)
class Server:
    """A `rooftrace serve` that takes requests at `url`, and what it writes."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


Serve = Callable[..., Server]


def command(*arguments: str, module: str = "app") -> list[str]:
    """Return the command line of `rooftrace`, or of a module in its place."""
    return [sys.executable, "-m", module, *arguments]


def environment(bundle: Path, **settings: object) -> dict[str, str]:
    """Return an environment with these settings and no others."""
    ours = {f"ROOFTRACE_{name.upper()}": str(value) for name, value in settings.items()}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROOFTRACE_")}
    paths = {"PYTHONPATH": str(ROOT), "ROOFTRACE_BUNDLE": str(bundle)}
    return {**inherited, "ROOFTRACE_DEVICE": "cpu", **paths, **ours}


@contextmanager
def running_server(
    folder: Path,
    bundle: Path,
    *,
    module: str = "app",
    wrapper: Sequence[str] = (),
    patience: float = 90,
    **settings: Any,
) -> Iterator[Server]:
    """Start a server, by way of a command if so wanted, wait until it is ready, and end it."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*wrapper, *command("serve", "--port", str(port), module=module)],
            cwd=folder,
            env=environment(bundle, **settings),
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until_ready(server, patience)
        yield server
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until_ready(server: Server, seconds: float = 90) -> None:
    """Wait until it takes work; fail with its log if it ends or takes longer."""
    give_up = time.monotonic() + seconds
    while not is_ready(server):
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < give_up, server.log.read_text()
        time.sleep(0.05)


def is_ready(server: Server) -> bool:
    """Ask whether it takes work.

    Like others that ask often, it reads no certificates: that takes more than to ask.
    """
    try:
        return httpx2.get(f"{server.url}/health/ready", verify=False).is_success
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle, with a threshold at which rounding decides nothing."""
    return exact_bundle(tmp_path_factory.mktemp("bundles") / "exact")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers of a test's own."""
    with ExitStack() as servers:
        yield lambda bundle, **settings: servers.enter_context(
            running_server(tmp_path, bundle, **settings)
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, exact: Path) -> Iterator[Server]:
    """One server of the toy bundle, for tests that leave it as it is."""
    with running_server(tmp_path_factory.mktemp("server"), exact) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium, for tests marked `IN_CHROMIUM`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def webgl_browser() -> Iterator[Browser]:
    """A Chromium that draws WebGL in software, as maps need it."""
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"] + WITH_WEBGL
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
