"""The parts of documents that code decides are as the code has them."""

import re
import tomllib

import pytest

from tests.docs.write import PARTS, ROOT, written


@pytest.mark.parametrize(("document", "name"), PARTS, ids=lambda part: part)
def test_part_is_up_to_date(document: str, name: str) -> None:
    text = (ROOT / document).read_text()
    part = PARTS[document, name]()
    assert written(text, name, part) == text, "run python -m tests.docs.write"


def test_a_document_without_the_comments_is_an_error() -> None:
    with pytest.raises(ValueError, match="once"):
        written("no comments", "scores", "a part")


def test_every_dependency_has_its_licence_and_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[^\w-]", requirement)[0] for group in groups for requirement in group}
    _, _, tables = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")
    rows = re.findall(r"^\| ([a-z][\w-]*) \|", tables, re.MULTILINE)
    assert set(rows) - {"package"} == names - {"rooftrace"}
