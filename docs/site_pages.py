"""Bring pages from all over the repository into the site, with links that lead there.

Pages link to each other by their places in the repository, as GitHub and editors follow them.
A hook of MkDocs (mkdocs.yml).
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from rooftrace.settings import Settings

ROOT = Path(__file__).parents[1]
CARD: Path = Settings.model_fields["bundle"].default / "MODEL_CARD.md"

ELSEWHERE = {
    "index.md": "README.md",
    "ko.md": "README.ko.md",
    "client.md": "clients/python/README.md",
    "containers.md": "docker/README.md",
    "training.md": "training/README.md",
    "model-card.md": CARD.relative_to(ROOT).as_posix(),
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
"""Pages that lie outside of docs/: their place in the site, and in the repository."""

_LINK = re.compile(r"\]\((?P<path>[^()\s#:]+)(?P<anchor>#[^()\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and every file of the repository that a page links to."""
    for place, path in ELSEWHERE.items():
        if (ROOT / path).exists():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    known = _places(files)
    for page in files.documentation_pages():
        for linked in _linked(page):
            if linked not in known and linked.is_file() and linked.is_relative_to(ROOT):
                known[linked] = f"repository/{linked.relative_to(ROOT).as_posix()}"
                files.append(File.generated(config, known[linked], abs_src_path=str(linked)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make each link of a page lead to where the site has what it names."""
    places = _places(files)
    source, here = Path(str(page.file.abs_src_path)), PurePosixPath(page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        place = places.get((source.parent / match["path"]).resolve())
        if place is None:  # MkDocs says that it leads nowhere
            return match[0]
        return f"]({os.path.relpath(place, here)}{match['anchor'] or ''})"

    parts = _CODE.split(markdown)  # code is every second part
    return "".join(part if i % 2 else _LINK.sub(led, part) for i, part in enumerate(parts))


def _places(files: Files) -> dict[Path, str]:
    """Return the place in the site of each file, by its place on disk."""
    return {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}


def _linked(page: File) -> list[Path]:
    text = _CODE.sub("", page.content_string)
    folder = Path(str(page.abs_src_path)).parent
    return [(folder / match["path"]).resolve() for match in _LINK.finditer(text)]
