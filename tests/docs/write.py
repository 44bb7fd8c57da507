"""Write the parts of documents that code decides: `python -m tests.docs.write`.

A part stands between the comments `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from tests.docs import import_map, parameters, scores

ROOT = Path(__file__).parents[2]

PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "scores"): scores.row,
    ("README.ko.md", "scores"): scores.korean_row,
    ("docs/models.md", "members"): scores.members,
    ("docs/models.md", "scores"): scores.table,
    ("docs/models.md", "sources"): scores.sources,
    ("docs/models.md", "cascade"): scores.cascade,
    ("docs/api.md", "parameters"): parameters.table,
    ("ARCHITECTURE.md", "import map"): import_map.draw,
    ("ARCHITECTURE.md", "libraries"): import_map.libraries,
}
"""Document and name of each part, and what returns its text."""


def written(text: str, name: str, part: str) -> str:
    """Return a document's text with `part` between the comments `name`.

    Raises:
        ValueError: the document does not have these comments exactly once.
    """
    pattern = re.compile(rf"(?<=^<!-- {name} -->\n).*?(?=^<!-- /{name} -->$)", re.M | re.S)
    changed, count = pattern.subn(lambda _: f"{part}\n", text)
    if count != 1:
        raise ValueError(f"expected <!-- {name} --> … <!-- /{name} --> once, found {count} times")
    return changed


if __name__ == "__main__":
    for (document, name), part in PARTS.items():
        path = ROOT / document
        path.write_text(written(path.read_text(), name, part()))
