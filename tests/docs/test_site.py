"""The documents as a site: whole, strict, and without a request to another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser loads of its own accord when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and (name == "src" or (tag == "link" and name == "href")):
                self.addresses.append(value)


def test_no_page_asks_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert loaded.addresses
        for address in loaded.addresses:
            assert not re.match(r"\w+:|//", address), f"{page.name} loads {address}"


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in PAGES:
        assert f'href="{page.removesuffix(".md")}.html"' in menu, f"{page}: add it to mkdocs.yml"


def test_links_to_other_parts_of_the_repository_lead_there(site: Path) -> None:
    api, quickstart = (site / "api.html").read_text(), (site / "quickstart.html").read_text()
    assert 'href="repository/openapi.json"' in api
    assert (site / "repository" / "openapi.json").read_bytes()
    assert 'href="client.html"' in quickstart
    assert 'href="quickstart.ipynb"' in quickstart


@pytest.mark.parametrize("link", ["nowhere.md", "api.md#nowhere"])
def test_a_link_that_leads_nowhere_breaks_it(link: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Here\n\n[there]({link})\n")
    (docs / "api.md").write_text("# API\n")
    (docs / "site_pages.py").write_text("")
    config = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
