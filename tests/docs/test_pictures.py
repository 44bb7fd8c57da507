"""The pictures of the documents are those that their script draws."""

import re
from xml.etree import ElementTree

import numpy as np
import PIL.Image

from tests.docs.import_map import ROOT
from tests.docs.pictures import FOLDER, HERO, LARGEST, PICTURES, drawn


def test_each_is_small_and_shown() -> None:
    assert {picture.name for picture in FOLDER.iterdir()} == set(PICTURES)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    shown = "".join(page.read_text() for page in pages)
    for name in PICTURES:
        assert (FOLDER / name).stat().st_size <= LARGEST
        assert re.search(rf"!\[[^\]]+\]\((?:docs/)?pictures/{name}\)", shown), name


def test_the_scene_is_the_one_that_the_script_draws() -> None:
    with PIL.Image.open(FOLDER / "hero.jpg") as picture:
        left = np.asarray(picture, np.int16)[:, : picture.width // 2 - 8]
    scene = drawn(*HERO).astype(np.int16)
    assert np.abs(left - scene[:, : left.shape[1]]).mean() < 6  # JPEG's own loss


def test_the_diagram_needs_no_other_file() -> None:
    tree = ElementTree.fromstring((FOLDER / "path.svg").read_text())
    addresses = [element.get("href", "data:") for element in tree.iter()]
    assert all(address.startswith("data:") for address in addresses)
