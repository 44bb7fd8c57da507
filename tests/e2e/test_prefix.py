"""Under a path prefix, behind a real nginx that takes it off."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browsing import choose, percent, wait_for_result
from tests.e2e.conftest import CHROMIUM, Serve, Server, free_port, wait_until_ready
from tests.e2e.following import wait_until
from tests.e2e.gated import GATED, Gate
from tests.factories import scene
from tests.serving import assert_problem, decoded, encoded, toy_mask

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")

in_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium or google-chrome here"
)

CONFIGURATION = """
daemon off;
user root;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /rooftrace/ {{ proxy_pass {url}/; }}
    location /maps/roofs/ {{
      proxy_pass {url}/;
      proxy_redirect off;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
}}
"""
PIXELS = scene(30, 50)


@pytest.fixture(scope="module")
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The root of an nginx that has the service under two prefixes."""
    with nginx_before(server, tmp_path_factory.mktemp("nginx")) as root:
        yield root


@contextmanager
def nginx_before(server: Server, folder: Path) -> Iterator[str]:
    """Run an nginx before a server, and yield its root."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(CONFIGURATION.format(folder=folder, port=port, url=server.url))
    log = folder / "error.log"
    command = [str(NGINX), "-e", str(log), "-c", str(file)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)
    root = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(Server(f"{root}/rooftrace", process, log))
        yield root
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["/rooftrace/", "/maps/roofs/"])
def root(nginx: str, request: pytest.FixtureRequest) -> str:
    """Where the service is to a client."""
    return f"{nginx}{request.param}"


def test_it_segments(root: str) -> None:
    response = httpx2.post(f"{root}segment", files={"file": ("a.png", encoded(PIXELS))})
    np.testing.assert_array_equal(decoded(response.content) == 255, toy_mask(PIXELS))
    assert_problem(httpx2.get(f"{root}nowhere"), 404, "Not found", "/docs")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("docs/", "docs"),
        ("health", "health/ready"),
        ("health/ready/", "health/ready"),
        ("models/?a=b", "models?a=b"),
    ],
)
def test_redirects_stay_under_it(root: str, path: str, meant: str) -> None:
    response = httpx2.get(f"{root}{path}", follow_redirects=True)
    assert (str(response.url), response.status_code) == (f"{root}{meant}", 200)


def test_lines_of_a_batch_come_as_they_are_ready(serve: Serve, exact: Path, tmp_path: Path) -> None:
    """By itself nginx holds back all that does not fill its buffer."""
    server, gate = serve(exact, module=GATED), Gate(tmp_path, "requests")
    gate.shut(1)  # an image of one band passes, and one of several waits
    black = [np.zeros((rows, 30, 3), np.uint8) for rows in (50, 500)]
    files = [("files", (f"{len(image)}.png", encoded(image))) for image in black]
    (tmp_path / "nginx").mkdir()
    with nginx_before(server, tmp_path / "nginx") as root:
        url = f"{root}/rooftrace/segment/rle?format=ndjson"
        with httpx2.stream("POST", url, files=files, timeout=60) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["filename"] == "50.png"
            wait_until(lambda: gate.is_reached)
            gate.open()
            assert json.loads(next(lines))["filename"] == "500.png"


@in_chromium
def test_the_page_works(root: str, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(encoded(PIXELS))
    page = browser.new_page()
    page.goto(root)
    choose(page, tmp_path / "tile.png")
    wait_for_result(page)
    expect(page.locator("#share")).to_have_text(percent(toy_mask(PIXELS)))
    with page.expect_download() as begun:
        page.get_by_role("button", name="Download").click()
    mask = decoded(Path(begun.value.path()).read_bytes())
    np.testing.assert_array_equal(mask == 255, toy_mask(PIXELS))
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock").first).to_be_visible()
    page.close()


@in_chromium
def test_the_documents_work_and_try_it_out_too(root: str, browser: Browser) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{root}docs")
    models = page.locator("#operations-service-models")
    models.click()
    models.get_by_role("button", name="Execute").click()
    expect(models.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert f"{root}models" in asked
    assert not [url for url in asked if not url.startswith((root, "data:"))]
    page.close()
