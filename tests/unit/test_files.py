"""Files of the operator's own: what lies beside them counts, and their names are what they are."""

import os
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio

from app.errors import UnsupportedFormat
from app.imaging.decode import decode_image
from app.imaging.files import open_image
from app.imaging.image import Image
from tests.factories import scene
from tests.geotiff import tiff
from tests.serving import encoded

PIXELS = scene(40, 30)
WORLD = "0.5\n0\n0\n-0.5\n500000.25\n3999999.75\n"
PLACE = (0.5, 0.0, 500_000.0, 0.0, -0.5, 4_000_000.0)
UTM = pyproj.CRS("EPSG:32633")
ENDINGS = [("PNG", "png", "pgw"), ("JPEG", "jpg", "jgw"), ("WEBP", "webp", "wld")]


def read_image(path: Path, *, max_pixels: int) -> Image:
    """Read a file whole, as `open_image` opens it."""
    with open_image(path, max_pixels=max_pixels) as source:
        return Image(
            source.read_pixels(0, source.height),
            source.read_valid(0, source.height),
            source.georeference,
            source.notices,
            source.gsd,
        )


def write(folder: Path, kind: str, ending: str) -> Path:
    path = folder / f"ortho.{ending}"
    path.write_bytes(encoded(PIXELS, kind))
    return path


@pytest.mark.parametrize(("kind", "ending", "world"), ENDINGS)
@pytest.mark.parametrize("system", ["aux.xml", "prj", "esri prj"])
def test_a_world_file_and_a_system_beside_a_picture(
    tmp_path: Path, kind: str, ending: str, world: str, system: str
) -> None:
    path = write(tmp_path, kind, ending)
    path.with_suffix(f".{world}").write_text(WORLD)
    if system == "aux.xml":
        text = UTM.to_wkt("WKT1_GDAL").replace('"', "&quot;")
        aux = f"<PAMDataset><SRS>{text}</SRS></PAMDataset>"
        path.with_name(path.name + ".aux.xml").write_text(aux)
    else:
        dialect = "WKT1_ESRI" if system == "esri prj" else "WKT2_2019"
        path.with_suffix(".prj").write_text(UTM.to_wkt(dialect))
    image = read_image(path, max_pixels=10**6)
    np.testing.assert_array_equal(
        image.pixels, decode_image(path.read_bytes(), max_pixels=10**6).pixels
    )
    assert image.georeference is not None
    assert image.georeference.transform == pytest.approx(PLACE)
    assert image.georeference.crs is not None
    assert pyproj.CRS(image.georeference.crs).equals(UTM, ignore_axis_order=True) or "33N" in (
        pyproj.CRS(image.georeference.crs).name
    )
    assert image.gsd == pytest.approx((0.5002, 0.5002), rel=1e-4)


@pytest.mark.parametrize(("kind", "ending", "world"), ENDINGS)
def test_a_world_file_alone_is_a_place_in_no_known_system(
    tmp_path: Path, kind: str, ending: str, world: str
) -> None:
    path = write(tmp_path, kind, ending)
    path.with_suffix(f".{world}").write_text(WORLD)
    with open_image(path, max_pixels=10**6) as image:
        assert image.georeference is not None
        assert image.georeference.crs is None
        assert any("does not tell its GSD" in notice for notice in image.notices)


@pytest.mark.parametrize(("kind", "ending", "world"), ENDINGS)
def test_nothing_beside_it(tmp_path: Path, kind: str, ending: str, world: str) -> None:
    path = write(tmp_path, kind, ending)
    (tmp_path / f"other.{world}").write_text(WORLD)
    image = read_image(path, max_pixels=10**6)
    assert image.georeference is None
    assert image.notices == decode_image(path.read_bytes(), max_pixels=10**6).notices


def test_a_tiff_is_read_alike_whole_and_in_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.moveaxis(PIXELS, 2, 0), photometric="rgb"))
    path.with_suffix(".tfw").write_text(WORLD)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as file:
        file.write_mask(PIXELS[..., 0] > 99)
    whole = read_image(path, max_pixels=10**6)
    np.testing.assert_array_equal(whole.valid, PIXELS[..., 0] > 99)
    assert whole.georeference is not None
    assert whole.georeference.transform == PLACE
    with open_image(path, max_pixels=10**6) as rows:
        np.testing.assert_array_equal(rows.read_pixels(3, 9), whole.pixels[3:9])
        assert (rows.gsd, rows.notices) == (whole.gsd, whole.notices)


@pytest.mark.parametrize(("kind", "ending"), [("PNG", "png"), ("TIFF", "tif")])
def test_a_name_in_latin_1_is_the_cause(tmp_path: Path, kind: str, ending: str) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9." + ending.encode()))
    path.write_bytes(encoded(PIXELS, kind))
    with pytest.raises(UnsupportedFormat, match=r"not UTF-8.*Rename it"):
        read_image(path, max_pixels=10**6)


def test_rational_polynomials_are_told(tmp_path: Path) -> None:
    coefficients = " ".join(["1"] + ["0"] * 19)
    rpcs = {
        **{
            f"{axis}_{what}": "1"
            for axis in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
            for what in ("OFF", "SCALE")
        },
        **{
            f"{axis}_{part}_COEFF": coefficients
            for axis in ("LINE", "SAMP")
            for part in ("NUM", "DEN")
        },
    }
    path = tmp_path / "raw.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=9, width=9, dtype="uint8", photometric="rgb"
    ) as file:
        file.write(np.moveaxis(PIXELS[:9, :9], 2, 0))
        file.update_tags(ns="RPC", **rpcs)
    image = decode_image(path.read_bytes(), max_pixels=999)
    assert image.georeference is None
    assert any("RPC" in notice for notice in image.notices)
