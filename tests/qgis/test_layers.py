"""Results as QGIS shows them when they are opened over the imagery."""

import subprocess
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from app.commandline.cli import main
from app.imaging.encode import ACCENT
from tests.factories import write_toy_bundle
from tests.maps import geotiff, plan
from tests.qgis.conftest import PYTHON, qgis_environment, qgis_is_missing

pytestmark = pytest.mark.skipif(qgis_is_missing() is not None, reason=str(qgis_is_missing()))

BUILDING = plan()
GROUND = np.array([40, 90, 60], np.uint8)
PIXELS = np.where(BUILDING[..., np.newaxis], np.uint8(230), GROUND)
VALID = np.ones(BUILDING.shape, np.bool_)
VALID[:, :4] = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with imagery, and a bundle that finds what is bright in it."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "imagery.tif").write_bytes(geotiff(PIXELS, valid=VALID))
    write_toy_bundle(folder / "bundle", patch_size=32)
    return folder


def segment(folder: Path, name: str, *flags: str) -> Path:
    result = folder / name
    flags = (*flags, "--resample", "off", "--bundle", f"{folder}/bundle", "--device", "cpu")
    assert main(["segment", f"{folder}/imagery.tif", "-o", str(result), *flags, "--quiet"]) == 0
    return result


def drawn(*layers: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """Return what QGIS shows, uint8 (H, W, 3), a pixel for a pixel, and the layers' renderers."""
    picture = layers[0].with_suffix(".drawn.png")
    script = Path(__file__).with_name("render.py")
    width = BUILDING.shape[1]
    command = [PYTHON, str(script), str(picture), str(width), *map(str, layers)]
    environment = qgis_environment(layers[0].parent)
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    with PIL.Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), run.stdout.split()


def blended(colour: tuple[int, ...], opacity: float) -> NDArray[np.float64]:
    """Return the imagery of the buildings under a colour, float64 (N, 3)."""
    return PIXELS[BUILDING & VALID] * (1 - opacity) + np.array(colour) * opacity


# What QGIS makes of a file alone: bands as red, green and blue, here 1 and an alpha of 180.
AS_COMES = (1, 180, 0)


STYLED, ALONE = "QgsPalettedRasterRenderer", "QgsMultiBandColorRenderer"
BANDS = ("--bands", "mask,probability,disagreement")


@pytest.mark.parametrize(
    ("name", "flags", "renderer", "colour"),
    [
        ("styled.tif", (), STYLED, ACCENT),
        ("styled3.tif", (*BANDS, "--background", "opaque"), STYLED, ACCENT),
        ("alone.tif", ("--no-style",), ALONE, AS_COMES),
        ("alone3.tif", ("--no-style", *BANDS), ALONE, None),
    ],
)
def test_imagery_shows_through_where_no_building_is(
    folder: Path, name: str, flags: tuple[str, ...], renderer: str, colour: tuple[int, ...] | None
) -> None:
    pixels, renderers = drawn(segment(folder, name, *flags), folder / "imagery.tif")
    assert renderers == [renderer, "QgsMultiBandColorRenderer"]
    np.testing.assert_array_equal(pixels[~BUILDING & VALID], PIXELS[~BUILDING & VALID])
    assert (pixels[~VALID] == 255).all(), "the paper"
    found = pixels[BUILDING & VALID]
    if colour is None:  # QGIS stretches bands that have a scale, by what it finds in them
        assert (found != PIXELS[BUILDING & VALID]).any(axis=1).all()
    else:
        np.testing.assert_allclose(found, blended(colour, 180 / 255), atol=3)


def test_an_opaque_background_without_style_hides_it(folder: Path) -> None:
    """What the two guard against: without them, this is what a user saw."""
    flags = ("--no-style", "--background", "opaque")
    pixels, _ = drawn(segment(folder, "opaque.tif", *flags), folder / "imagery.tif")
    assert (pixels[~BUILDING & VALID] == 0).all()


def test_a_geopackage_opens_with_its_style(folder: Path) -> None:
    pixels, renderers = drawn(segment(folder, "buildings.gpkg"), folder / "imagery.tif")
    assert renderers == ["QgsSingleSymbolRenderer", "QgsMultiBandColorRenderer"]
    inside = np.zeros_like(BUILDING)
    inside[45:55, 62:66] = True  # a wing of the yard, away from outlines
    expected = 230 * (1 - 70 / 255) + np.array(ACCENT) * 70 / 255
    np.testing.assert_allclose(pixels[inside], np.broadcast_to(expected, (40, 3)), atol=3)
    away = np.zeros_like(BUILDING)
    away[82:, 40:] = True
    np.testing.assert_array_equal(pixels[away], PIXELS[away])
