"""The page in a real Chromium: what it shows of an image is what the service says of it."""

import base64
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import PIL.Image
import pyproj
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, expect
from rasterio.transform import Affine

from tests.data import DATA
from tests.e2e.browsing import (
    GREY,
    canvas,
    choose,
    drop,
    percent,
    shown_mask,
    wait_for_result,
    wait_for_update,
    watched,
)
from tests.e2e.conftest import IN_CHROMIUM, Serve, Server
from tests.e2e.following import wait_until
from tests.e2e.gated import GATED, Gate
from tests.factories import scene, toy_cascade, write_toy_bundle
from tests.geotiff import tiff
from tests.serving import THRESHOLD, decoded, encoded, exact_bundle, toy_mask

pytestmark = IN_CHROMIUM
JOPLIN = DATA / "geotiff" / "joplin_utm15n_rgb_2048.tif"
_RECORD_PROGRESS = """() => {
  const bar = document.getElementById("progress");
  window.steps = [];
  new MutationObserver(() => window.steps.push(bar.value)).observe(bar, { attributes: true });
}"""
_FIRST_LOOK = """() => {
  const picture = document.getElementById("picture");
  const { data } = picture.getContext("2d").getImageData(0, 0, picture.width, picture.height);
  const some = Array.from({ length: 1000 }, (_, i) => data[4 * i * Math.floor(data.length / 4000)]);
  return [some, document.getElementById("result").hidden];
}"""


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with watched(browser, server.url) as page:
        yield page


@pytest.fixture
def tile(tmp_path: Path) -> Path:
    """An image of 90 × 60 pixels."""
    return written(tmp_path / "my.tile.png", encoded(GREY))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def download(page: Page, format: str) -> bytes:
    with page.expect_download() as begun:
        page.locator(f"[data-format={format}]").click()
    return Path(begun.value.path()).read_bytes()


def test_an_image_is_shown_with_its_mask_and_figures(page: Page, tile: Path) -> None:
    choose(page, tile)
    wait_for_result(page)
    expect(page.get_by_text(percent(toy_mask(GREY)))).to_be_visible()
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))
    np.testing.assert_array_equal(canvas(page, "picture")[..., :3], GREY)
    page.get_by_text("About this image").click()
    for text in ("90 × 60 px", "not known", "toy-"):
        expect(page.locator("#facts")).to_contain_text(text)
    expect(page.locator("#threshold-value")).to_have_text(str(THRESHOLD))
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#complaint")).to_be_hidden()


def test_what_is_adjusted_is_what_is_shown_and_downloaded(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    """Bit for bit, at the bundle's own values and at others, with everything that decides masks."""
    cascade = toy_cascade("blue", 0.2, 0.8, 0.2)
    bundle = exact_bundle(tmp_path / "bundle", patch_size=32, cascade=cascade, min_confidence=0.62)
    colours = np.random.default_rng(7).integers(0, 256, (30, 40, 3))
    pixels = np.kron(colours, np.ones((6, 6, 1))).astype(np.uint8)
    masks: list[NDArray[np.bool_]] = []
    with watched(browser, serve(bundle).url) as page:
        choose(page, written(tmp_path / "tile.png", encoded(pixels)))
        wait_for_result(page)
        for name, value in (
            ("", ""),
            ("threshold", "0.3"),
            ("threshold", "0.71"),
            ("min_confidence", "0.8"),
            ("min_area", "100"),
        ):
            if name:
                with page.expect_response(re.compile(f"results.*coco.*{name}={value}")):
                    page.locator(f"#{name}").fill(value)
                wait_for_update(page)
            masks.append(decoded(download(page, "png")) == 255)
            np.testing.assert_array_equal(shown_mask(page), masks[-1])
            expect(page.locator("#share")).to_have_text(percent(masks[-1]))
        assert len({mask.tobytes() for mask in masks}) == len(masks)
        page.get_by_role("button", name="Reset").click()
        expect(page.locator("#share")).to_have_text(percent(masks[0]))
        np.testing.assert_array_equal(shown_mask(page), masks[0])


def test_the_threshold_shows_while_it_moves(page: Page, tile: Path) -> None:
    """The page fetches probabilities once. It asks the service when the slider rests."""
    choose(page, tile)
    wait_for_result(page)
    with page.expect_response(re.compile("format=probability")):
        page.locator("#threshold").fill("0.6")
    expect(page.locator("#share")).to_have_text(percent(toy_mask(GREY, 0.6)))
    page.route("**/results*", lambda route: None)  # no answer comes
    page.locator("#threshold").fill("0.8")
    page.wait_for_timeout(400)
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY, 0.8))
    expect(page.locator("#share")).to_have_text(percent(toy_mask(GREY, 0.6)))
    expect(page.locator("#result")).to_have_class("stale")


def test_every_format_comes_of_one_inference_and_is_the_services_own(
    page: Page, server: Server, tile: Path
) -> None:
    before = inferences(server)
    choose(page, tile)
    wait_for_result(page)
    offered = page.locator("#downloads button:not([aria-disabled])")
    formats = [button.get_attribute("data-format") for button in offered.all()]
    assert {"png", "probability", "overlay", "rle", "coco", "geojson"} <= set(formats)
    files = {str(name): download(page, str(name)) for name in formats}
    assert inferences(server) == before + 1
    for name in ("png", "probability", "overlay"):
        own = httpx2.post(
            f"{server.url}/segment?format={name}", files={"file": (tile.name, tile.read_bytes())}
        )
        np.testing.assert_array_equal(decoded(files[name]), decoded(own.content))


def test_what_an_image_can_not_have_is_said(page: Page, tile: Path) -> None:
    choose(page, tile)
    wait_for_result(page)
    geotiff = page.locator("[data-format=geotiff]")
    expect(geotiff).to_have_attribute("aria-disabled", "true")
    # One reason is said once, for all formats that it keeps away.
    expect(page.locator("#reasons li")).to_have_text(
        re.compile(
            "No GeoPackage, GeoTIFF, FlatGeobuf or GeoParquet: The image has no georeference"
        )
    )
    expect(geotiff).to_have_accessible_description(re.compile("georeference"))


@pytest.mark.parametrize("stem", ["my.tile", """a;type=b,"c\\"'d'$e #1""", "-"])
def test_the_command_line_gives_the_same_file(page: Page, tmp_path: Path, stem: str) -> None:
    suffix = "" if stem == "-" else ".png"  # curl takes a bare - for standard input
    choose(page, written(tmp_path / f"{stem}{suffix}", encoded(GREY)))
    wait_for_result(page)
    page.locator("#threshold").fill("0.7")
    expect(page.locator("#share")).to_have_text(percent(toy_mask(GREY, 0.7)))
    data = download(page, "rle")
    page.get_by_text("The same from a command line").click()
    lines = page.locator("#command pre").inner_text().splitlines()
    commands = [line for line in lines if line.startswith("curl ")]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(["bash", "-ec", f"{command} -sS"], cwd=tmp_path, check=True)
        assert (tmp_path / f"{stem}.rle.json").read_bytes() == data
        (tmp_path / f"{stem}.rle.json").unlink()
    page.locator("#threshold").fill("0.6")
    expect(page.locator("#command pre")).to_contain_text("format=rle&threshold=0.6")


def test_a_tiff_which_no_browser_shows(page: Page, tmp_path: Path) -> None:
    choose(page, written(tmp_path / "tile.tif", encoded(GREY, "TIFF")))
    wait_for_result(page)
    np.testing.assert_array_equal(canvas(page, "picture")[..., :3], GREY)
    np.testing.assert_array_equal(shown_mask(page), toy_mask(GREY))


def test_the_picture_lies_under_its_mask_whatever_its_exif_says(page: Page, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    choose(page, written(tmp_path / "a.jpg", encoded(GREY, "JPEG", quality=100, exif=exif)))
    expect(page.locator("#notices")).to_contain_text("orientation")
    assert shown_mask(page).shape == canvas(page, "picture").shape[:2] == (60, 90)
    distance = canvas(page, "picture")[..., :3].astype(int) - GREY
    assert np.abs(distance).mean() < 5


def test_transparent_pixels_do_not_count(page: Page, tmp_path: Path) -> None:
    alpha = np.zeros((60, 90, 1), np.uint8)
    alpha[:, :45] = 255
    choose(page, written(tmp_path / "half.png", encoded(np.dstack([GREY, alpha]))))
    wait_for_result(page)
    expect(page.locator("#share")).to_have_text(percent(toy_mask(GREY)[:, :45]))


def test_a_georeferenced_image_from_the_first_look_to_the_last_file(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    """Pixels before any result, a bar that moves, one inference, and the headers' own totals."""
    if not JOPLIN.exists():
        pytest.skip(f"there is no {JOPLIN}")
    bundle = write_toy_bundle(tmp_path / "bundle", {"red": 1.0}, threshold=0.9)
    server, gate = serve(bundle, module=GATED), Gate(tmp_path)
    gate.shut(after=0)
    with watched(browser, server.url) as page:
        page.evaluate(_RECORD_PROGRESS)
        choose(page, JOPLIN)
        expect(page.locator("#images canvas")).to_have_attribute("data-of", "2048")
        pixels, before_result = page.evaluate(_FIRST_LOOK)
        assert before_result
        assert np.std(pixels) > 10
        drop(page, "second.png", base64.b64encode(encoded(GREY)).decode())
        for after in range(1, 12):
            shown = progress(page)
            gate.shut(after)
            wait_until(lambda shown=shown: progress(page) > shown)  # type: ignore[misc]
        gate.open()
        expect(page.locator("#work")).to_be_hidden(timeout=300_000)
        steps: list[float] = page.evaluate("steps")
        assert steps == sorted(steps)
        assert len(set(steps)) > 10
        wait_for_result(page)
        formats = page.locator("#downloads button:not([aria-disabled])")
        names = [str(button.get_attribute("data-format")) for button in formats.all()]
        assert {"geotiff", "geojson", "png", "overlay", "coco"} <= set(names)
        with page.expect_response(re.compile("results.*format=png")) as answered:
            download(page, "png")
        headers = answered.value.headers
        assert (
            page.locator("#count").inner_text().replace("\u202f", "")
            == (headers["x-building-count"])
        )
        area = re.sub(r"\D", "", page.locator("#area").inner_text().replace("m²", ""))
        assert int(area) == round(float(headers["x-building-area-m2"]))
        share = 100 * float(headers["x-building-fraction"])
        assert page.locator("#share").inner_text() == f"{share:.1f} % of the image"
        # The second file was not lost.
        expect(page.locator("#images li")).to_have_count(2)
        page.get_by_role("button", name="second.png", exact=False).first.click()
        expect(page.locator("#name")).to_have_text("second.png")
        wait_for_result(page)
        assert shown_mask(page).shape == (60, 90)
        assert inferences(server) == 2


def progress(page: Page) -> float:
    return float(page.evaluate("document.getElementById('progress').value"))


def inferences(server: Server) -> int:
    """Count the images that members were asked about, by the service's own metrics."""
    metrics = httpx2.get(f"{server.url}/metrics").text
    of_jobs = re.findall(r'^rooftrace_jobs_ended_total\{.*"successful"\} (\S+)', metrics, re.M)
    of_requests = re.findall(r'^rooftrace_stage_duration.*_count\{.*"infer"\} (\S+)', metrics, re.M)
    return sum(int(float(number)) for number in (*of_jobs, *of_requests))


def test_the_sample(page: Page) -> None:
    page.get_by_role("button", name="Try a sample").click()
    wait_for_result(page)
    expect(page.locator("#name")).to_have_text("sample.tif")
    expect(page.locator("#area")).to_contain_text("m²")


def test_a_very_large_image_is_shown_smaller(
    browser: Browser, server: Server, tmp_path: Path
) -> None:
    pixels = np.zeros((30, 9000, 3), np.uint8)
    pixels[6:24, 300:8100] = 255
    with watched(browser, server.url) as page:
        choose(page, written(tmp_path / "long.png", encoded(pixels)))
        wait_for_result(page)
        expect(page.locator("#share")).to_have_text(percent(toy_mask(pixels)))
        np.testing.assert_array_equal(shown_mask(page), toy_mask(pixels)[::3, ::3])
        assert canvas(page, "picture").shape[1] == 4096


def test_outlines_are_drawn_as_geojson_has_them(page: Page, server: Server, tmp_path: Path) -> None:
    rows, cols = np.mgrid[:80, :100]
    house = (np.abs(3 * (cols - 50) + rows - 40) < 60) & (np.abs(cols - 50 - 3 * (rows - 40)) < 60)
    pixels = np.repeat(np.where(house, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    image = written(tmp_path / "house.png", encoded(pixels))
    choose(page, image)
    wait_for_result(page)
    outlines = page.locator("#outlines")
    assert outlines.get_attribute("d") is None
    page.get_by_label("Square corners").check()
    expect(outlines).to_have_attribute("d", re.compile("^M"))
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", str(outlines.get_attribute("d")))
    own = httpx2.post(
        f"{server.url}/segment?format=geojson&rectify=orthogonal",
        files={"file": (image.name, image.read_bytes())},
    )
    [feature] = own.json()["features"]
    assert [[float(x), float(y)] for x, y in points] == feature["geometry"]["coordinates"][0]
    assert len(points) == 5  # four corners, the first one twice
    page.get_by_label("Square corners").uncheck()
    expect(outlines).not_to_have_attribute("d", re.compile(""))


def test_outlines_across_the_antimeridian(page: Page, tmp_path: Path) -> None:
    pixels = np.zeros((3, 80, 100), np.uint8)
    pixels[:, 20:60, 30:70] = 255
    x, y = pyproj.Transformer.from_crs(4326, "EPSG:32760", always_xy=True).transform(180, -16.5)
    place = Affine(0.5, 0, x - 25, 0, -0.5, y + 20)
    choose(page, written(tmp_path / "fiji.tif", tiff(pixels, crs="EPSG:32760", transform=place)))
    wait_for_result(page)
    page.get_by_label("Square corners").check()
    outlines = page.locator("#outlines")
    expect(outlines).to_have_attribute("d", re.compile("^M.*zM.*z"))
    drawn = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", str(outlines.get_attribute("d")))
    points = np.array(drawn, np.float64)
    np.testing.assert_allclose(points.min(axis=0), (30, 20), atol=0.1)
    np.testing.assert_allclose(points.max(axis=0), (70, 60), atol=0.1)


def test_where_the_models_disagree(page: Page, server: Server, tmp_path: Path) -> None:
    pixels = scene(60, 90)
    image = written(tmp_path / "tile.png", encoded(pixels))
    choose(page, image)
    wait_for_result(page)
    page.get_by_label("Where the models disagree").check()
    layer = page.locator("#disagreement")
    expect(layer).to_be_visible()
    wait_for_update(page)
    spread = pixels.max(axis=2).astype(float) - pixels.min(axis=2)
    drawn = canvas(page, "disagreement")[..., 3]
    np.testing.assert_allclose(drawn, np.minimum(230, 1.6 * spread), atol=2.5)
    page.get_by_label("Where the models disagree").uncheck()
    expect(layer).to_be_hidden()
