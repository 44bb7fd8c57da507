"""The page for a person, in a real Chromium."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import IN_CHROMIUM, Serve, Server
from tests.factories import scene, toy_cascade
from tests.serving import THRESHOLD, decoded, encoded, exact_bundle, toy_mask

pytestmark = IN_CHROMIUM

# Three equal channels: the toy's probability is then value / 255, and eight bits hold it exactly.
GREY: NDArray[np.uint8] = np.repeat(scene(60, 90)[..., :1], 3, axis=2)
READ_CANVAS = """id => {
  const canvas = document.getElementById(id);
  const { data, width, height } =
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return { width, height, data: Array.from(data) };
}"""


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, which must ask nobody but its server for anything, and complain of nothing."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    yield page
    page.close()
    assert asked
    assert not [url for url in asked if not url.startswith((f"{server.url}/", "data:", "blob:"))]
    assert not complaints


def choose(page: Page, folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    page.get_by_label("Drop").set_input_files(folder / name)


def canvas(page: Page, name: str) -> NDArray[np.uint8]:
    """Read the pixels of a canvas, uint8 (H, W, 4)."""
    read: dict[str, Any] = page.evaluate(READ_CANVAS, name)
    return np.array(read["data"], np.uint8).reshape(read["height"], read["width"], 4)


def shown_mask(page: Page) -> NDArray[np.bool_]:
    return canvas(page, "mask")[..., 3] > 0


def percent(mask: NDArray[np.bool_]) -> str:
    return f"{100 * mask.mean():.1f} %"


def test_an_image_is_shown_with_its_mask_and_figures(page: Page, tmp_path: Path) -> None:
    choose(page, tmp_path, "tile.png", encoded(GREY))
    expect(page.get_by_text(percent(toy_mask(GREY)))).to_be_visible()
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))
    np.testing.assert_array_equal(canvas(page, "picture")[..., :3], GREY)
    work = page.locator("#work")
    for text in ("tile.png", "90 × 60 px", "toy-", "CPU", "infer", "decode"):
        expect(work).to_contain_text(text)
    expect(page.locator("#notices")).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_sliders(page: Page, tmp_path: Path) -> None:
    choose(page, tmp_path, "tile.png", encoded(GREY))
    threshold = page.get_by_label("Threshold")
    expect(page.locator("#threshold-value")).to_have_text(str(THRESHOLD))
    threshold.fill("0.8")
    expect(page.get_by_text(percent(toy_mask(GREY, 0.8)))).to_be_visible()
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY, 0.8))
    page.get_by_role("button", name="Back to the model").click()
    expect(page.get_by_text(percent(toy_mask(GREY)))).to_be_visible()
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))
    opacity = page.get_by_label("Opacity")
    opacity.fill("0")
    expect(page.locator("#mask")).to_have_css("opacity", "0")


def test_downloads_are_the_services_own(page: Page, tmp_path: Path) -> None:
    choose(page, tmp_path, "my.tile.png", encoded(GREY))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    assert download.value.suggested_filename == "my.tile.mask.png"
    mask = decoded(Path(download.value.path()).read_bytes())
    np.testing.assert_array_equal(mask == 255, toy_mask(GREY))
    page.get_by_label("Threshold").fill("0.8")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the mask").click()
    mask = decoded(Path(download.value.path()).read_bytes())
    np.testing.assert_array_equal(mask == 255, toy_mask(GREY, 0.8))


def test_what_is_shown_is_what_is_downloaded(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    """Bit for bit, at the bundle's threshold and at others, with everything that decides masks."""
    cascade = toy_cascade("blue", 0.2, 0.8, 0.2)
    bundle = exact_bundle(tmp_path / "bundle", patch_size=32, cascade=cascade, min_confidence=0.62)
    colours = np.random.default_rng(7).integers(0, 256, (30, 40, 3))
    pixels = np.kron(colours, np.ones((6, 6, 1))).astype(np.uint8)
    page = browser.new_page()
    page.goto(serve(bundle).url)
    choose(page, tmp_path, "tile.png", encoded(pixels))
    button = page.get_by_role("button", name="Download the mask")
    expect(button).to_be_visible()
    masks: list[NDArray[np.bool_]] = []
    for threshold in (None, "0.3", "0.5", "0.71", "0.9"):
        if threshold:
            first = len(masks) == 1  # other probabilities come, once
            with page.expect_response(re.compile("min_confidence=0")) if first else nullcontext():
                page.get_by_label("Threshold").fill(threshold)
            page.wait_for_timeout(200)
        with page.expect_download() as download:
            button.click()
        masks.append(decoded(Path(download.value.path()).read_bytes()) == 255)
        np.testing.assert_array_equal(shown_mask(page), masks[-1])
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    page.close()


def test_a_tiff_which_no_browser_shows(page: Page, tmp_path: Path) -> None:
    choose(page, tmp_path, "tile.tif", encoded(GREY, "TIFF"))
    expect(page.get_by_text(percent(toy_mask(GREY)))).to_be_visible()
    np.testing.assert_array_equal(canvas(page, "picture")[..., :3], GREY)
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))


def test_the_picture_lies_under_its_mask_whatever_its_exif_says(page: Page, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    choose(page, tmp_path, "phone.jpg", encoded(GREY, "JPEG", quality=100, exif=exif))
    expect(page.locator("#notices")).to_contain_text("orientation")
    assert shown_mask(page).shape == canvas(page, "picture").shape[:2] == (60, 90)
    distance = canvas(page, "picture")[..., :3].astype(int) - GREY
    assert np.abs(distance).mean() < 5


def test_transparent_pixels_do_not_count(page: Page, tmp_path: Path) -> None:
    alpha = np.zeros((60, 90, 1), np.uint8)
    alpha[:, :45] = 255
    choose(page, tmp_path, "half.png", encoded(np.dstack([GREY, alpha])))
    expect(page.get_by_text(percent(toy_mask(GREY)[:, :45]))).to_be_visible()
    page.get_by_label("Threshold").fill("0.8")
    expect(page.get_by_text(percent(toy_mask(GREY, 0.8)[:, :45]))).to_be_visible()


def test_an_error_shows_the_problems_detail_and_the_next_image_works(
    page: Page, tmp_path: Path
) -> None:
    choose(page, tmp_path, "notes.png", b"<svg/>")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Unsupported format")
    expect(alert).to_contain_text("The file is an SVG drawing.")
    expect(page.locator("#work")).to_be_hidden()
    choose(page, tmp_path, "tile.png", encoded(GREY))
    expect(page.get_by_text(percent(toy_mask(GREY)))).to_be_visible()
    expect(alert).to_be_hidden()


def test_a_hostile_filename_is_text(page: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    choose(page, tmp_path, name, encoded(GREY))
    expect(page.locator("#status")).to_have_text(name)
    assert page.locator("img").count() == 0


def test_it_can_be_used_without_a_mouse(page: Page, tmp_path: Path) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Drop")).to_be_focused()
    choose(page, tmp_path, "tile.png", encoded(GREY))
    threshold = page.get_by_label("Threshold")
    expect(threshold).to_be_visible()
    threshold.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-value")).to_have_text("0.5118")  # 130.5 / 255


def test_a_key_is_asked_for_where_one_is_needed_and_kept_in_the_tab(
    browser: Browser, serve: Serve, exact: Path, tmp_path: Path
) -> None:
    good, bad = "a-good-key-of-some-length", "another-key-that-is-not-good"
    (tmp_path / "keys").write_text(f"{good}\n")
    server = serve(exact, api_keys=tmp_path / "keys")
    page, share = browser.new_page(), percent(toy_mask(GREY))
    sent: list[tuple[str, str | None]] = []
    complaints: list[str] = []
    page.on("request", lambda r: sent.append((r.url, r.headers.get("authorization"))))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    key, use = page.get_by_label("Key"), page.get_by_role("button", name="Use this key")
    expect(key).to_be_hidden()
    choose(page, tmp_path, "tile.png", encoded(GREY))
    expect(page.get_by_role("alert")).to_contain_text("Key missing")
    key.fill(bad)
    use.click()
    expect(page.get_by_role("alert")).to_contain_text("Key refused")
    key.fill(good)
    key.press("Enter")
    expect(page.get_by_text(share)).to_be_visible()
    expect(key).to_be_hidden()
    expect(page.get_by_role("alert")).to_be_hidden()
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))
    segmenting = [header for url, header in sent if "/segment?" in url]
    assert segmenting == [None, f"Bearer {bad}", f"Bearer {good}"]
    assert not [url for url, _ in sent if good in url or bad in url]
    assert page.evaluate("localStorage.length + document.cookie.length") == 0

    page.reload()
    choose(page, tmp_path, "tile.png", encoded(GREY))
    expect(page.get_by_text(share)).to_be_visible()
    another = browser.new_page()
    another.goto(server.url)
    choose(another, tmp_path, "tile.png", encoded(GREY))
    expect(another.get_by_label("Key")).to_be_visible()
    for each in (page, another):
        each.close()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(
    browser: Browser, server: Server, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(server.url)
    choose(page, tmp_path, "w" * 80 + ".png", encoded(scene(300, 900)))
    expect(page.get_by_text("of the image is building")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    assert dark == (scheme == "dark")
    page.close()


def test_the_documents_render_from_our_own_files(page: Page) -> None:
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock")).to_have_count(6)
    expect(page.locator(".opblock-summary-path").first).to_contain_text("/segment")
    page.locator(".opblock-summary").first.click()
    expect(page.get_by_text("threshold").first).to_be_visible()
