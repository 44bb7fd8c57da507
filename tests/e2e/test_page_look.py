"""How the page looks, and whether everybody can use it, in a real Chromium."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import GREY, choose, wait_for_result, watched
from tests.e2e.conftest import IN_CHROMIUM, Server
from tests.factories import scene
from tests.serving import encoded

pytestmark = IN_CHROMIUM
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


def assert_accessible(page: Page) -> None:
    """Ask axe-core, and fail at whatever it calls serious or worse."""
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    assert not serious, [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_everybody_can_use_it(
    browser: Browser, server: Server, tmp_path: Path, scheme: str, viewport: dict[str, int]
) -> None:
    """With nothing, with a result and all its parts, and with a problem."""
    (tmp_path / "tile.png").write_bytes(encoded(GREY))
    (tmp_path / "notes.png").write_bytes(b"<svg/>")
    options: dict[str, Any] = {"viewport": viewport, "color_scheme": scheme}
    with watched(browser, server.url, **options) as page:
        assert_accessible(page)
        choose(page, tmp_path / "tile.png", tmp_path / "notes.png")
        wait_for_result(page)
        page.get_by_role("button", name="Next building").click()
        for summary in page.locator("summary").all():
            summary.click()
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.locator("#stage").scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / "result.png")
        stage = page.locator("#viewer").bounding_box()
        assert stage
        with PIL.Image.open(tmp_path / "result.png") as shot:
            x, y = int(stage["x"]), int(stage["y"])
            box = (x, y, x + int(stage["width"]), y + int(stage["height"]))
            pixels = np.asarray(shot.convert("RGB").crop(box), np.int16)
        assert pixels.std() > 20  # the image
        assert (np.abs(pixels - (0, 224, 255)).sum(axis=2) < 90).mean() > 0.02  # and its buildings
        page.locator("#images li").nth(1).get_by_role("button").first.click()
        expect(page.locator("#problem")).to_be_visible()
        assert_accessible(page)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
        assert dark == (scheme == "dark")


def test_it_fits_a_small_phone(browser: Browser, server: Server, tmp_path: Path) -> None:
    name = "w" * 80 + ".png"
    (tmp_path / name).write_bytes(encoded(scene(300, 900)))
    with watched(browser, server.url, viewport={"width": 360, "height": 740}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        choose(page, tmp_path / name)
        wait_for_result(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_can_be_used_without_a_mouse(browser: Browser, server: Server, tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(encoded(GREY))
    with watched(browser, server.url) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Drop")).to_be_focused()
        choose(page, tmp_path / "tile.png")
        wait_for_result(page)
        threshold = page.get_by_label("Threshold")
        threshold.focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#threshold-value")).to_have_text("0.51")
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.id || document.activeElement.dataset.format")
            )
        everything = {"viewer", "closer", "compare", "next", "threshold", "min_area", "rectify"}
        assert everything | {"opacity", "png", "geojson"} <= reached


def test_what_changes_is_said(browser: Browser, server: Server, tmp_path: Path) -> None:
    """A screen reader hears of the result, and of the next one after an adjustment."""
    (tmp_path / "tile.png").write_bytes(encoded(GREY))
    with watched(browser, server.url) as page:
        choose(page, tmp_path / "tile.png")
        wait_for_result(page)
        said = page.get_by_role("status")
        expect(said).to_contain_text("buildings")
        before = said.inner_text()
        page.get_by_label("Threshold").fill("0.9")
        expect(said).not_to_have_text(before)
        expect(said).to_contain_text("tile.png:")


def test_the_documents_render_from_our_own_files(browser: Browser, server: Server) -> None:
    with watched(browser, server.url) as page:
        page.get_by_role("link", name="API").click()
        expect(page.locator(".opblock").first).to_be_visible()
        expect(page.locator(".opblock-summary-path").first).to_contain_text("/segment")
        page.locator(".opblock-summary").first.click()
        expect(page.get_by_text("threshold").first).to_be_visible()
