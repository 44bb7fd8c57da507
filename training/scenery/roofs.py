"""Buildings: their footprints, which are the label, and their roofs and shadows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from training.scenery.canvas import (
    DETAIL_GSD,
    FIXED_BITS,
    METAL,
    Canvas,
    Colour,
    Points,
    Pose,
    fixed,
    rectangle,
    scaled,
)

RoofKind = Literal["pitched", "flat", "hall"]

TILES = ((162, 104, 82), (148, 92, 74), (180, 126, 100), (122, 80, 68), (112, 112, 114),
         (92, 94, 98), (142, 138, 132), (72, 72, 78), (118, 104, 92), (108, 124, 142),
         (172, 168, 160), (72, 86, 80))  # fmt: skip
FELT = ((190, 188, 182), (214, 212, 206), (146, 144, 142), (112, 112, 114), (168, 158, 144),
        (232, 231, 228), (86, 88, 92), (150, 134, 120))  # fmt: skip
UNIT = ((196, 198, 200), (150, 152, 156))
PALETTE = {"pitched": TILES, "flat": FELT, "hall": METAL}


@dataclass(frozen=True)
class Building:
    """Describe a building in metres: length x width, height, and a wing if it is an L or a T."""

    pose: Pose
    length: float
    width: float
    height: float
    kind: RoofKind
    colour: Colour
    wing: tuple[float, float, float] | None = None  # offset along, half width, reach from centre
    hipped: bool = False

    def parts(self) -> Points:
        """Return the rectangles (parts, 4, 2) about the pose whose union is the footprint."""
        parts = [rectangle(0, 0, self.length, self.width)]
        if self.wing is not None:
            along, half, reach = self.wing
            parts.append(rectangle(along, reach / 2, 2 * half, reach))
        return np.array(parts)


def draw_roofs(canvas: Canvas, buildings: list[Building]) -> None:
    """Draw every roof."""
    draw = {"pitched": _pitched, "flat": _flat, "hall": _hall}
    for building in buildings:
        draw[building.kind](canvas, building)


def lay_footprints(canvas: Canvas, buildings: list[Building]) -> None:
    """Draw footprints into the label, and sweep them away from the sun into the shadow."""
    for building in buildings:
        foot = canvas.at(building.pose, building.parts())
        for part in fixed(foot):
            cv2.fillPoly(canvas.label, [part], 1, cv2.LINE_8, FIXED_BITS)
            cv2.fillPoly(canvas.rough, [part], 28, cv2.LINE_8, FIXED_BITS)
        swept = np.concatenate([foot, foot + canvas.shadow_step * building.height], axis=1)
        for prism in swept.astype(np.float32):
            hull = cv2.convexHull(prism).reshape(-1, 2).astype(np.float64)
            cv2.fillPoly(canvas.shadow, [fixed(hull)], 255, cv2.LINE_8, FIXED_BITS)


def _faces(building: Building) -> Iterator[tuple[list[tuple[float, float]], tuple[float, float]]]:
    """Yield a pitched roof's faces and the way each looks: main part, then the wing over it."""
    a, b = building.length / 2, building.width / 2
    ridge = max(0.0, a - b) if building.hipped else a
    yield [(-a, -b), (a, -b), (ridge, 0), (-ridge, 0)], (0, -1)
    yield [(-a, b), (a, b), (ridge, 0), (-ridge, 0)], (0, 1)
    if building.hipped:
        yield [(a, -b), (a, b), (ridge, 0), (ridge, 0)], (1, 0)
        yield [(-a, -b), (-a, b), (-ridge, 0), (-ridge, 0)], (-1, 0)
    if building.wing is not None:
        # At one pitch, a narrower wing's ridge meets the main slope at half its width from b.
        x, half, reach = building.wing
        end = reach - half if building.hipped else reach
        for side in (-1, 1):
            yield (
                [(x + side * half, b), (x + side * half, reach), (x, end), (x, b - half)],
                (side, 0),
            )
        if building.hipped:
            yield [(x - half, reach), (x + half, reach), (x, end), (x, end)], (0, 1)


def _pitched(canvas: Canvas, building: Building) -> None:
    """Draw gabled or hipped faces, each lit by how it looks at the sun."""
    shapes, looks = zip(*_faces(building), strict=True)
    c, s = math.cos(building.pose.angle), math.sin(building.pose.angle)
    towards = (c * canvas.sun[0] + s * canvas.sun[1], c * canvas.sun[1] - s * canvas.sun[0])
    outlines = fixed(canvas.at(building.pose, np.array(shapes)))
    for outline, look in zip(outlines, looks, strict=True):
        light = 1 + canvas.relief * (look[0] * towards[0] + look[1] * towards[1])
        shade = scaled(building.colour, light)
        cv2.fillPoly(canvas.pixels, [outline], shade, cv2.LINE_AA, FIXED_BITS)
    if canvas.gsd < DETAIL_GSD and canvas.chance(0.35):
        chimney = rectangle(building.length * canvas.between(-0.3, 0.3), 0.8, 1, 1)
        canvas.fill(building.pose, chimney, scaled(building.colour, 0.5), lift=1)
        canvas.fill(building.pose, chimney, canvas.pick(UNIT))


def _flat(canvas: Canvas, building: Building) -> None:
    """Draw a flat roof: parapet, roofing, units."""
    parts = building.parts()
    for part in parts:
        canvas.fill(building.pose, part, scaled(building.colour, 1.14))
    for part in parts:
        inner = part - np.sign(part - part.mean(axis=0)) * 0.5
        canvas.fill(building.pose, inner, building.colour)
    _units(canvas, building, building.length * building.width / 80)


def _hall(canvas: Canvas, building: Building) -> None:
    """Draw a hall's low bays, at times rows of skylights, and units."""
    a, b, bays = building.length / 2, building.width / 2, int(canvas.between(1, 5))
    relief, deep = canvas.between(0.02, 0.12), building.width / (2 * bays)
    for i in range(2 * bays):
        bay = rectangle(0, -b + (i + 0.5) * deep, 2 * a, deep)
        light = 1 + relief * (1 if i % 2 else -1)
        canvas.fill(building.pose, bay, scaled(building.colour, light))
    if canvas.chance(0.5):
        light = canvas.between(0.75, 1.25)
        for x in np.arange(-a + 4, a - 3, canvas.between(6, 12)).tolist():
            for y in (-b / 2, b / 2):
                pane = rectangle(x, y, 1.2, b * 0.6)
                canvas.fill(building.pose, pane, scaled(building.colour, light))
    _units(canvas, building, building.length * building.width / 250)


def _units(canvas: Canvas, building: Building, mean: float) -> None:
    """Set ventilation units on a roof, each with its small shadow."""
    for _ in range(min(14, int(canvas.rng.poisson(mean)))):
        x, y = (
            canvas.between(-0.42, 0.42) * building.length,
            canvas.between(-0.4, 0.4) * building.width,
        )
        unit = rectangle(x, y, canvas.between(0.8, 3), canvas.between(0.8, 3))
        canvas.fill(building.pose, unit, scaled(building.colour, 0.55), lift=1)
        canvas.fill(building.pose, unit, canvas.pick(UNIT))
