"""The Korean README says what the English one says."""

import re

import pytest

from tests.docs.import_map import ROOT

ENGLISH, KOREAN = ((ROOT / name).read_text() for name in ("README.md", "README.ko.md"))

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_WRITTEN = re.compile(r"^<!-- (\w+) -->.*?^<!-- /\1 -->", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_BARE = re.compile(r"<(https?://[^>]+)>")


def prose(text: str) -> str:
    return _LINK.sub("]", _BARE.sub("", _WRITTEN.sub("", _FENCE.sub("", text))))


def test_commands_are_the_same() -> None:
    assert _FENCE.findall(KOREAN) == _FENCE.findall(ENGLISH)


def test_figures_are_the_same() -> None:
    def figures(text: str) -> list[str]:
        return sorted(re.findall(r"\d+(?:\.\d+)?", prose(text)))

    assert figures(KOREAN) == figures(ENGLISH)


@pytest.mark.parametrize("pattern", [_LINK, _BARE], ids=["link", "address"])
def test_links_are_the_same(pattern: re.Pattern[str]) -> None:
    def links(text: str) -> list[str]:
        return sorted(link for link in pattern.findall(text) if not link.startswith("README"))

    assert links(KOREAN) == links(ENGLISH)


def test_headings_and_points_are_the_same() -> None:
    def shape(text: str) -> list[str]:
        return re.findall(r"^(?:#+ |- \*\*|\d\. \*\*|\| )", text, re.MULTILINE)

    assert shape(KOREAN) == shape(ENGLISH)


def test_code_in_the_prose_is_the_same() -> None:
    def code(text: str) -> set[str]:
        return set(re.findall(r"`([^`\n]+)`", _FENCE.sub("", _WRITTEN.sub("", text))))

    assert code(KOREAN) == code(ENGLISH)


def test_it_is_korean() -> None:
    letters = re.findall(r"[가-힣]", prose(KOREAN))
    assert len(letters) > 1000
