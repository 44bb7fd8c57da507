"""Links between the documents lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "docs", "clients/*", "docker", "training", "models/*")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))

_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = (match["title"].lower() for match in _HEADING.finditer(text))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(_CODE.sub("", page.read_text())):
        target, _, anchor = match["target"].partition("#")
        if re.match(r"\w+:", target):
            continue  # another host's
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name}: {match['target']}"
        assert linked.is_relative_to(ROOT), f"{page.name}: {target} lies outside the repository"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: no heading for {match['target']}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, queue = set[Path](), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in found:
            continue
        found.add(page)
        links = (m["target"].partition("#")[0] for m in _LINK.finditer(page.read_text()))
        queue += [
            linked
            for link in links
            if link.endswith(".md") and (linked := (page.parent / link).resolve()).exists()
        ]
    assert set(PAGES) <= found


def test_the_path_of_an_image_names_what_is_there() -> None:
    steps = re.findall(r"│ +(?:or )?([\w/]+\.py) +([\w.]+)", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(steps) >= 10
    for module, name in steps:
        code = (ROOT / "app" / module).read_text()
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", code), f"{module} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_have_as_many_cells_as_their_table(page: Path) -> None:
    """A page shows no cell beyond those of the table's head."""
    text = re.sub(r"^```.*?^```|\\\|", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = table.splitlines()
        assert [row for row in rows if row.count("|") != head.count("|")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:app|clients|training|benchmarks|tests|docker|docs)/[\w/.]+\.\w+)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
