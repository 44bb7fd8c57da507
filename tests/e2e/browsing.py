"""The page as a person has it before them: what the tests of it share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from tests.factories import scene

# Three equal channels: the toy's probability is then value / 255, and eight bits hold it exactly.
GREY: NDArray[np.uint8] = np.repeat(scene(60, 90)[..., :1], 3, axis=2)
_READ_CANVAS = """id => {
  const canvas = document.getElementById(id);
  if (!canvas.width) return { width: 0, height: 0, data: [] };
  const { data, width, height } =
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return { width, height, data: Array.from(data) };
}"""
_DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
}"""


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """Open the page, which must ask nobody but its server for anything, and complain of nothing."""
    options = {"viewport": {"width": 1280, "height": 800}, **options}
    page = browser.new_page(**options)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if "Policy" in m.text else None)
    page.goto(url)
    try:
        yield page
    finally:
        page.close()
    assert asked
    root = f"{url.rstrip('/')}/"
    assert not [a for a in asked if not a.startswith((root, "data:", f"blob:{root}"))]
    assert not complaints


def choose(page: Page, *files: Path) -> None:
    """Choose files, as the dialogue of the browser would."""
    page.locator("#file").set_input_files(files)


def drop(page: Page, name: str, data: str) -> None:
    """Drop a file, whose bytes come in base64, on the page."""
    page.evaluate(_DROP, [name, data])


def wait_for_result(page: Page) -> None:
    """Wait until the image on the stage has its buildings, at the parameters that are chosen."""
    expect(page.locator("#count")).not_to_be_empty()
    expect(page.locator("#result")).to_be_visible()
    wait_for_update(page)


def wait_for_update(page: Page) -> None:
    """Wait until the page shows what was chosen last."""
    expect(page.locator("#updating[hidden]")).to_have_count(1)


def canvas(page: Page, name: str) -> NDArray[np.uint8]:
    """Read the pixels of a canvas, uint8 (H, W, 4)."""
    read: dict[str, Any] = page.evaluate(_READ_CANVAS, name)
    return np.array(read["data"], np.uint8).reshape(read["height"], read["width"], 4)


def shown_mask(page: Page) -> NDArray[np.bool_]:
    """Return the pixels that are drawn as building, bool (H, W)."""
    return canvas(page, "mask")[..., 3] > 0


def percent(mask: NDArray[np.bool_]) -> str:
    """Write the share of a mask as the page does."""
    return f"{100 * mask.mean():.1f} % of the image"
