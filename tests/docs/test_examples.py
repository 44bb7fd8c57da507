"""The examples of README and documents run as they stand, against the shipped models.

A fenced block of `sh` or `python` is run as a reader would run it from the repository's root. One
that cannot be run here has a comment on the line above it: `<!-- not run: REASON -->`. pytest lists
these as skipped.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.docs.conftest import ADDRESSES, ENVIRONMENT, ROOT
from tests.e2e.conftest import Server
from tests.serving import decoded

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "clients/*/README.md",
    "docker/README.md",
    "training/README.md",
)

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """A fenced block of a page; `reason` says why it is not run, and is None if it is."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    """Find the examples of a page."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        language, code, reason = match["language"], match["code"], match["reason"]
        if language in ("sh", "python"):
            line = 1 + text.count("\n", 0, match.start("code"))
            yield Example(page, line, language, code, reason)


EXAMPLES = [
    example
    for pattern in PAGES
    for page in sorted(ROOT.glob(pattern))
    for example in examples(page)
]
RUN = [example for example in EXAMPLES if example.reason is None]
LEFT_OUT = [example for example in EXAMPLES if example.reason is not None]


@pytest.mark.parametrize("example", RUN, ids=str)
def test_example_runs(example: Example, server: Server, checkout: Path) -> None:
    if "curl " in example.code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    code = example.code
    for address in ADDRESSES:
        code = code.replace(address, server.url.removeprefix("http://"))
    shell = shutil.which("bash") or "sh"
    command = [shell, "-euc"] if example.language == "sh" else [sys.executable, "-c"]
    before = set(checkout.rglob("*"))

    done = subprocess.run(
        [*command, code],
        cwd=checkout,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    written = [file for file in set(checkout.rglob("*")) - before if file.is_file()]
    assert written or done.stdout or "assert" in code, "an example shows something"
    for text in (done.stdout, *map(_text, written)):
        assert "urn:rooftrace:" not in text or "HTTPError" in code, text


def _text(file: Path) -> str:
    """Return the beginning of a file, where a problem would stand in place of a result."""
    return file.read_bytes()[:1000].decode(errors="replace")


@pytest.mark.parametrize("example", LEFT_OUT, ids=str)
def test_example_cannot_run_here(example: Example) -> None:
    pytest.skip(str(example.reason))


def test_the_examples_are_found() -> None:
    """A fence that is written in another way would be left out without a word."""
    for pattern in PAGES:
        for page in ROOT.glob(pattern):
            text = page.read_text()
            blocks = len(re.findall(r"^\s*```(?:sh|bash|shell|console|py|python)\b", text, re.M))
            assert blocks == len(list(examples(page))), page
            assert text.count("<!-- not run") == sum(e.page == page for e in LEFT_OUT), page


def test_the_sample_has_the_dice_that_is_written(server: Server) -> None:
    written = re.search(
        r"sample\.jpg\), the Dice is (0\.\d+)", (ROOT / "docs/models.md").read_text()
    )
    assert written
    image = (ROOT / "docs" / "sample.jpg").read_bytes()
    response = httpx2.post(
        f"{server.url}/segment", content=image, headers={"Content-Type": "image/jpeg"}, timeout=120
    )
    mask = decoded(response.content) > 0
    label = decoded((ROOT / "docs" / "sample_label.png").read_bytes()) > 0
    dice = 2 * np.count_nonzero(mask & label) / (np.count_nonzero(mask) + np.count_nonzero(label))
    assert dice == pytest.approx(float(written[1]), abs=0.01)  # precisions differ by less
