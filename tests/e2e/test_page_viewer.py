"""The page in a real Chromium: many images, one viewer, mouse, fingers and keys."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import GREY, choose, percent, shown_mask, wait_for_result, watched
from tests.e2e.conftest import IN_CHROMIUM, Serve, Server
from tests.serving import encoded, toy_mask

pytestmark = IN_CHROMIUM

# Three buildings: one of 1200 pixels, a smaller one, and one of lower confidence.
HOUSES: NDArray[np.uint8] = np.zeros((80, 100, 3), np.uint8)
HOUSES[10:40, 10:50] = 255
HOUSES[50:60, 60:80] = 255
HOUSES[10:30, 70:90] = 180


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with watched(browser, server.url) as page:
        yield page


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    path = tmp_path / "houses.png"
    path.write_bytes(encoded(HOUSES))
    return path


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    path = tmp_path / "tile.png"
    path.write_bytes(encoded(GREY))
    return path


def zoom(page: Page) -> float:
    """Return screen pixels per pixel of the image."""
    transform = page.locator("#layers").evaluate("layers => layers.style.transform")
    return float(re.findall(r"scale\(([\d.]+)\)", transform)[0])


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return where a pixel of the image is on the screen."""
    box = page.locator("#picture").bounding_box()
    assert box
    return box["x"] + x * zoom(page), box["y"] + y * zoom(page)


class TestBuildings:
    def test_a_click_tells_of_one(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        expect(page.locator("#count")).to_have_text("3")
        expect(page.locator("#facts-of-it")).to_be_hidden()
        page.mouse.click(*place(page, 30, 25))
        facts = page.locator("#facts-of-it")
        expect(facts).to_contain_text("1\u202f200 px")
        expect(facts).to_contain_text("100.0 %")
        assert str(page.locator("#picked-edge").get_attribute("d")).count("M10 ") >= 2
        page.mouse.click(*place(page, 80, 20))
        expect(facts).to_contain_text("400 px")
        expect(facts).to_contain_text("70.6 %")  # 180 / 255
        page.mouse.click(*place(page, 5, 5))
        expect(facts).to_be_hidden()

    def test_they_are_gone_through_by_button_and_by_key(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        which, said = page.locator("#which"), page.locator("#status")
        page.get_by_role("button", name="Next building").click()
        expect(which).to_have_text("Building 1 of 3")
        expect(said).to_contain_text(re.compile(r"Building 1 of 3: Area .* px, Confidence"))
        page.locator("#viewer").focus()
        page.keyboard.press("n")
        expect(which).to_have_text("Building 2 of 3")
        page.keyboard.press("p")
        page.keyboard.press("p")
        expect(which).to_have_text("Building 3 of 3")
        page.keyboard.press("Escape")
        expect(page.locator("#facts-of-it")).to_be_hidden()

    def test_the_small_and_the_doubtful_go_at_once(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        page.locator("#min_confidence").fill("0.8")
        expect(page.locator("#count")).to_have_text("2")
        page.locator("#min_area").fill("200")
        expect(page.locator("#count")).to_have_text("2")  # of 200 pixels, and it is 200
        page.route("**/results*", lambda route: None)  # no answer comes
        page.locator("#min_confidence").fill("0.5")
        page.locator("#min_confidence").fill("1")
        page.wait_for_timeout(300)
        expected = np.zeros((80, 100), np.bool_)
        expected[10:40, 10:50] = expected[50:60, 60:80] = True
        np.testing.assert_array_equal(shown_mask(page), expected)


class TestMoving:
    def test_wheel_buttons_and_keys_zoom(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        whole = zoom(page)
        x, y = place(page, 30, 25)
        page.mouse.move(x, y)
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(100)
        assert zoom(page) > 1.5 * whole
        assert np.allclose(place(page, 30, 25), (x, y), atol=1)  # what is under the pointer stays
        page.locator("#viewer").focus()
        page.keyboard.press("0")
        assert zoom(page) == pytest.approx(whole)
        page.keyboard.press("+")
        page.get_by_role("button", name="Zoom in").click()
        assert zoom(page) == pytest.approx(whole * 1.4**2)
        page.get_by_role("button", name="Zoom out").click()
        page.keyboard.press("-")
        assert zoom(page) == pytest.approx(whole)

    def test_it_is_dragged_and_moved_by_arrows(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        for _ in range(4):
            page.get_by_role("button", name="Zoom in").click()
        x, y = place(page, 50, 40)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y + 20, steps=4)
        page.mouse.up()
        assert np.allclose(place(page, 50, 40), (x + 60, y + 20), atol=1)
        expect(page.locator("#facts-of-it")).to_be_hidden()  # that was no click
        page.locator("#viewer").focus()
        page.keyboard.press("ArrowRight")
        assert np.allclose(place(page, 50, 40), (x - 20, y + 20), atol=1)

    def test_two_fingers_pinch(self, browser: Browser, server: Server, houses: Path) -> None:
        phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
        with watched(browser, server.url, **phone) as page:
            choose(page, houses)
            wait_for_result(page)
            before, (x, y) = zoom(page), place(page, 50, 40)
            touch = page.context.new_cdp_session(page)
            for kind, apart in (("Start", 20), ("Move", 40), ("Move", 60)):
                points = [{"x": x + way * apart, "y": y, "id": way} for way in (-1, 1)]
                touch.send(
                    "Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points}
                )
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            page.wait_for_timeout(100)
            assert zoom(page) == pytest.approx(3 * before, rel=0.1)
            page.touchscreen.tap(*place(page, 45, 35))
            expect(page.locator("#facts-of-it")).to_contain_text("px")

    def test_what_is_held_shows_the_image_alone(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        mask, button = page.locator("#mask"), page.get_by_role("button", name="Hold to compare")
        expect(mask).to_be_visible()
        button.hover()
        page.mouse.down()
        expect(mask).to_be_hidden()
        page.mouse.up()
        expect(mask).to_be_visible()
        button.focus()
        page.keyboard.down("Space")
        expect(mask).to_be_hidden()
        page.keyboard.up("Space")
        expect(mask).to_be_visible()
        page.locator("#viewer").focus()
        page.keyboard.down("c")
        expect(mask).to_be_hidden()
        page.keyboard.up("c")
        expect(mask).to_be_visible()

    def test_opacity(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        page.get_by_label("Opacity").fill("0")
        expect(page.locator("#mask")).to_have_css("opacity", "0")


class TestImages:
    def test_several_are_a_list(self, page: Page, houses: Path, tile: Path) -> None:
        choose(page, houses, tile)
        entries = page.locator("#images li")
        expect(entries).to_have_count(2)
        expect(entries.nth(0)).to_contain_text("3 buildings")
        expect(entries.nth(1)).to_contain_text(re.compile(r"\d+ buildings?"))
        expect(page.locator("#name")).to_have_text("houses.png")
        entries.nth(1).get_by_role("button").first.click()
        expect(page.locator("#share")).to_have_text(percent(toy_mask(GREY)))
        np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))

    def test_a_count_at_other_settings_is_marked(
        self, page: Page, houses: Path, tile: Path
    ) -> None:
        choose(page, houses, tile)
        entries = page.locator("#images li small")
        for at in range(2):
            expect(entries.nth(at)).to_have_text(re.compile(r"^\d+ buildings?$"))
        wait_for_result(page)
        page.locator("#threshold").fill("0.7")
        expect(entries.nth(1)).to_have_text(re.compile(r"^Was \d+ buildings?$"))
        expect(entries.nth(0)).to_have_text(re.compile(r"^\d+ buildings?$"))
        page.locator("#images li").nth(1).get_by_role("button").first.click()
        expect(entries.nth(1)).to_have_text(re.compile(r"^\d+ buildings?$"))

    def test_one_that_is_removed_is_forgotten_by_the_service(
        self, page: Page, server: Server, houses: Path
    ) -> None:
        with page.expect_response("**/execution") as begun:
            choose(page, houses)
        wait_for_result(page)
        job = f"{server.url}/jobs/{begun.value.json()['jobID']}"
        assert httpx2.get(job).status_code == 200
        with page.expect_response(lambda answer: answer.request.method == "DELETE"):
            page.get_by_role("button", name="Remove houses.png").click()
        assert httpx2.get(job).status_code == 404
        expect(page.locator("#welcome")).to_be_visible()
        expect(page.locator("#stage")).to_be_hidden()

    def test_a_reload_loses_nothing(self, page: Page, houses: Path) -> None:
        choose(page, houses)
        wait_for_result(page)
        page.reload()
        wait_for_result(page)
        expect(page.locator("#name")).to_have_text("houses.png")
        expect(page.locator("#count")).to_have_text("3")

    def test_a_hostile_filename_is_text(self, page: Page, tmp_path: Path) -> None:
        name = "<img src=x onerror=alert(1)>.png"
        (tmp_path / name).write_bytes(encoded(GREY))
        choose(page, tmp_path / name)
        expect(page.locator("#name")).to_have_text(name)
        assert page.locator("img").count() == 0


class TestProblems:
    def test_the_services_words_are_shown_and_the_next_image_works(
        self, page: Page, tmp_path: Path, tile: Path
    ) -> None:
        (tmp_path / "notes.png").write_bytes(b"<svg/>")
        choose(page, tmp_path / "notes.png")
        alert = page.locator("#problem")
        expect(alert).to_contain_text("Unsupported format")
        expect(alert).to_contain_text("The file is an SVG drawing.")
        expect(page.locator("#images li")).to_contain_text("Unsupported format")
        choose(page, tile)
        page.locator("#images li").nth(1).get_by_role("button").first.click()
        wait_for_result(page)
        expect(alert).to_be_hidden()

    def test_a_service_that_is_away_is_said_and_all_that_it_failed_is_tried_again(
        self, page: Page, tile: Path, tmp_path: Path
    ) -> None:
        other = Path(shutil.copy(tile, tmp_path / "other.png"))
        page.route("**/execution", lambda route: route.abort())
        choose(page, tile, other)
        alert, failed = page.locator("#problem"), page.locator("#images li.failed")
        expect(alert).to_contain_text("The service can’t be reached.")
        expect(failed).to_have_count(2)
        page.unroute("**/execution")
        page.get_by_role("button", name="Try again").click()
        wait_for_result(page)
        expect(alert).to_be_hidden()
        expect(failed).to_have_count(0)

    def test_a_busy_service_is_waited_for(self, page: Page, tile: Path) -> None:
        answers = iter([True])

        def busy(route: object) -> None:
            if next(answers, False):
                headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
                route.fulfill(status=503, headers=headers, body="{}")  # type: ignore[attr-defined]
            else:
                route.continue_()  # type: ignore[attr-defined]

        page.route("**/execution", busy)
        choose(page, tile)
        expect(page.locator("#doing")).to_contain_text("The service is busy")
        wait_for_result(page)

    def test_a_key_is_asked_for_where_one_is_needed_and_kept_in_the_tab(
        self, browser: Browser, serve: Serve, exact: Path, tmp_path: Path, tile: Path
    ) -> None:
        good, bad = "a-good-key-of-some-length", "another-key-that-is-not-good"
        (tmp_path / "keys").write_text(f"{good}\n")
        server = serve(exact, api_keys=tmp_path / "keys")
        with watched(browser, server.url) as page:
            sent: list[tuple[str, str | None]] = []
            page.on("request", lambda r: sent.append((r.url, r.headers.get("authorization"))))
            key, use = page.get_by_label("Key"), page.get_by_role("button", name="Use this key")
            expect(key).to_be_hidden()
            choose(page, tile)
            expect(page.locator("#problem")).to_contain_text("Key missing")
            key.fill(bad)
            use.click()
            expect(page.locator("#problem")).to_contain_text("Key refused")
            key.fill(good)
            key.press("Enter")
            wait_for_result(page)
            expect(key).to_be_hidden()
            expect(page.locator("#problem")).to_be_hidden()
            np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))
            begun = [header for url, header in sent if url.endswith("/execution")]
            assert begun == [None, f"Bearer {bad}", f"Bearer {good}"]
            assert not [url for url, _ in sent if good in url or bad in url]
            assert page.evaluate("localStorage.length + document.cookie.length") == 0
            expect(page.locator("#command pre")).to_contain_text("Bearer $ROOFTRACE_KEY")
        with watched(browser, server.url) as another:
            choose(another, tile)
            expect(another.get_by_label("Key")).to_be_visible()
