"""Outlines lie where labels end, and sheets put each picture below its name."""

import numpy as np

from training.pictures import cell, outlined, sheet


def test_outlines_are_drawn_around_label_and_mask() -> None:
    label, mask = np.zeros((2, 96, 64), bool)
    label[8:24, 8:24] = mask[40:56, 8:24] = True
    pixels = np.full((96, 64, 3), 128, np.uint8)

    picture = outlined(pixels, label, mask, side=768).astype(int)

    assert picture.shape == (768, 512, 3)  # eight times as large
    assert (picture[64, 64:192] == (240, 228, 66)).all()
    assert (picture[320, 64:192] == (0, 60, 220)).all()
    assert (picture[100:156, 100:156] == 128).all()  # what lies inside stays visible
    assert (picture[360:400, 100:156] == 128).all()
    assert (pixels == 128).all()
    wide = outlined(np.zeros((1000, 2000, 3), np.uint8), np.zeros((1000, 2000), bool), side=768)
    assert wide.shape == (384, 768, 3)


def test_sheet_has_rows_of_pictures_below_one_line_each() -> None:
    empty = np.zeros((50, 50), bool)
    colours = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    red, green, blue = (cell(np.full((50, 50, 3), rgb, np.uint8), empty) for rgb in colours)

    picture = sheet([[("red", red), ("a\nname " * 40, green)], [("blue", blue)]])

    assert red.shape == (320, 320, 3)
    assert picture.shape == (2 * 346 - 8, 2 * 328 - 8, 3)
    assert (picture[18:338, :320] == (200, 0, 0)).all()
    assert (picture[18:338, 328:] == (0, 200, 0)).all()
    assert (picture[346 + 18 :, :320] == (0, 0, 200)).all()
    assert (picture[346:, 328:] == 255).all()
    assert (picture[:18, 320:328] == 255).all()  # a long name ends with its picture
    assert (picture[:18, 328:] < 128).any()
