"""What the container files promise, as far as that can be seen without a container engine."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
import yaml
from fastapi import FastAPI

from app.main import create_app
from app.settings import PREFIX, Settings
from tests.serving import settings_of

ROOT = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "docker/training.Dockerfile")
COMPOSE_FILES = ("docker/compose.yaml", "docker/compose.gpu.yaml")


def _instructions(file: str) -> list[tuple[str, str]]:
    """List a Dockerfile's instructions with their arguments, lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    split = (line.split(maxsplit=1) for line in lines if line.strip())
    return [(instruction, arguments) for instruction, arguments in split]


def _arguments(file: str, instruction: str) -> list[str]:
    return [arguments for name, arguments in _instructions(file) if name == instruction]


def _service(file: str) -> dict[str, Any]:
    [service] = yaml.safe_load((ROOT / file).read_text())["services"].values()
    return service


@contextmanager
def _served(app: FastAPI) -> Iterator[int]:
    """Serve `app` from a thread, and yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def health_check() -> Callable[[int], subprocess.CompletedProcess[str]]:
    """Run the image's health check against a port, with a proxy around that must not be asked."""
    [arguments] = _arguments("Dockerfile", "HEALTHCHECK")
    python, *command = json.loads(arguments.partition("CMD")[2])
    assert python == "python3"
    proxy = "http://127.0.0.1:9"

    def run(port: int) -> subprocess.CompletedProcess[str]:
        environment = {f"{PREFIX}PORT": str(port), "http_proxy": proxy, "HTTP_PROXY": proxy}
        return subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True
        )

    return run


def test_health_check_follows_readiness(
    toy_bundle: Path, health_check: Callable[[int], subprocess.CompletedProcess[str]]
) -> None:
    app = create_app(settings_of(toy_bundle, concurrency=1, max_waiting=0))

    async def while_full(port: int) -> int:
        async with app.state.service.admission.admit():
            return (await asyncio.to_thread(health_check, port)).returncode

    with _served(app) as port:
        ready = health_check(port)
        assert ready.returncode == 0, ready.stderr
        assert asyncio.run(while_full(port)) == 1
    gone = health_check(port)
    assert gone.returncode != 0
    assert "ConnectionRefusedError" in gone.stderr


@pytest.mark.parametrize("file", DOCKERFILES)
def test_image_runs_as_a_number_that_is_not_root(file: str) -> None:
    # A number, since Kubernetes' runAsNonRoot can't judge a name.
    user = _arguments(file, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("file", DOCKERFILES)
def test_build_context_holds_what_is_copied_and_no_more(file: str) -> None:
    ignored, *rules = (ROOT / ".dockerignore").read_text().split()
    assert ignored == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        Path(source).parts[0]
        for arguments in _arguments(file, "COPY")
        if not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    assert copied <= allowed
    assert ".env" not in allowed


def test_containers_set_only_what_the_settings_know() -> None:
    """A misspelt variable with our prefix would keep the service from starting."""
    text = "".join((ROOT / file).read_text() for file in (*DOCKERFILES, *COMPOSE_FILES))
    names = set(re.findall(rf"\b{PREFIX}(\w+)\b", text))
    assert "HOST" in names
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_compose_gives_the_container_no_more_than_it_needs() -> None:
    service = _service("docker/compose.yaml")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for file in COMPOSE_FILES:
        overridden = _service(file).keys()
        assert not overridden & {"privileged", "cap_add", "network_mode", "pid", "ipc", "user"}
        assert "docker.sock" not in (ROOT / file).read_text()


def test_a_stop_waits_for_requests_that_were_accepted() -> None:
    grace = _service("docker/compose.yaml")["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["deadline"].default
