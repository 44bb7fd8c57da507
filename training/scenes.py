"""Procedural nadir scenes with exact building labels, for training where no imagery is at hand.

The world is a street frame (u, v) in metres, gently bent and turned, laid over the pixel grid.
A scene is drawn from the ground up: soil, blocks, water, streets, shadows, roofs, trees, air.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenery import clutter, land, roofs
from training.scenery.canvas import (
    ACROSS,
    GRASS,
    METAL,
    PAVED,
    SOIL,
    Block,
    Canvas,
    Palette,
    Pixels,
    Points,
    Pose,
    rectangle,
)
from training.scenery.roofs import Building, RoofKind

LandUse = Literal["suburb", "town", "informal", "industry", "rural", "empty"]
GSD_RANGE = (0.2, 1.2)


@dataclass(frozen=True, eq=False)
class Scene:
    """Hold one generated picture: RGB uint8 (H, W, 3), bool label (H, W), metres per pixel."""

    pixels: Pixels
    label: NDArray[np.bool_]
    gsd: float


@dataclass
class Site(Canvas):
    """Be a canvas on which buildings are planned before they are drawn."""

    buildings: list[Building] = field(default_factory=list)

    def build(
        self,
        pose: Pose,
        size: tuple[float, float],
        height: float,
        kind: RoofKind,
        palette: Palette | None = None,
        *,
        wing: tuple[float, float, float] | None = None,
        hipped: bool = False,
    ) -> None:
        """Plan a building of length and width in metres, unless out of sight or in water."""
        if self.sees(pose, max(size)):
            colour = self.pick(palette or roofs.PALETTE[kind], 12)
            self.buildings.append(Building(pose, *size, height, kind, colour, wing, hipped))

    def plant(self, u: float, v: float, radius: float) -> None:
        """Plant a tree of a crown radius in metres."""
        pose = Pose(*self.point(u, v), 0)
        if self.sees(pose, 12):
            self.trees.append((pose.x, pose.y, radius / self.gsd))


def _scatter(site: Site, block: Block, per_hectare: float) -> None:
    """Plant trees at random over a block."""
    area = (block.u1 - block.u0) * (block.v1 - block.v0)
    for _ in range(int(site.rng.poisson(max(0, per_hectare * area / 1e4)))):
        u, v = site.between(block.u0, block.u1), site.between(block.v0, block.v1)
        site.plant(u, v, site.between(1.5, 4.5))


def _house(site: Site, pose: Pose, length: float, width: float, palette: Palette | None) -> None:
    """Plan a house: a rectangle, an L or a T, mostly with a pitched roof."""
    wing = None
    if length > 9 and site.chance(0.45):
        half = site.between(0.5, 0.95) * width / 2
        along = (length / 2 - half) * (site.sign() if site.chance(0.7) else 0)
        wing = (along, half, width / 2 + half + site.between(0.5, 4))
    flat, hipped = site.chance(0.12), site.chance(0.4)
    kind: RoofKind = "flat" if flat else "pitched"
    high = site.between(4, 8)
    site.build(
        pose, (length, width), high, kind, None if flat else palette, wing=wing, hipped=hipped
    )


def _suburb(site: Site, block: Block) -> None:
    """Fill a block with two rows of lots: house, driveway, car, pool or shed, trees."""
    depth = (block.v1 - block.v0) / 2
    palette = roofs.TILES if site.chance(0.7) else roofs.TILES[4:]
    for edge, side in ((block.v0, 1), (block.v1, -1)):
        u = block.u0 + 1
        while u < block.u1 - 12:
            lot = min(site.between(13, 24), block.u1 - u)
            middle = u + lot / 2
            u += lot
            here = site.pose(middle, edge + side * depth / 2)
            if not site.sees(here, 24) or site.chance(0.05):
                continue
            lawn = site.pick(SOIL if site.chance(0.12) else GRASS, 9)
            site.fill(here, rectangle(0, 0, lot - 0.6, depth - 0.6), lawn, rough=90)
            drive = site.pose(middle + (lot / 2 - 2) * site.sign(), edge + side * 4, ACROSS)
            site.fill(drive, rectangle(0, 0, 10, 3), site.pick(PAVED + SOIL))
            if site.chance(0.5):
                clutter.vehicle(site, drive)
            length, width = min(site.between(8, 18), lot - 2.5), site.between(8, 12)
            angle = (0 if side > 0 else math.pi) + site.between(-0.06, 0.06)
            front = edge + side * (site.between(4, 9) + width / 2)
            _house(site, site.pose(middle, front, angle), length, width, palette)
            back = edge + side * (depth - 4)
            if site.chance(0.12):
                clutter.pool(
                    site, site.pose(middle, back - side * 2, ACROSS if site.chance(0.5) else 0)
                )
            elif site.chance(0.35):
                shed = site.pose(middle + lot * site.between(-0.3, 0.3), back)
                site.build(shed, (site.between(3, 6), 3), 2.5, "pitched", METAL + roofs.TILES)
            for _ in range(int(site.rng.poisson(2))):
                far = site.between(-0.1, 0.15) if site.chance(0.4) else site.between(0.6, 0.95)
                at = middle + site.between(-lot, lot) / 2
                site.plant(at, edge + side * depth * far, site.between(1.2, 4.5))


def _town(site: Site, block: Block) -> None:
    """Line a block with joined houses around a courtyard, or stand slabs in it."""
    deep = site.between(9, 13)
    wide = block.v1 - block.v0
    if site.chance(0.25) or min(block.u1 - block.u0, wide) < 3 * deep:
        for u in np.arange(block.u0 + 12, block.u1 - 9, site.between(24, 38)).tolist():
            slab = (wide * site.between(0.5, 0.85), site.between(11, 16))
            pose = site.pose(u, block.centre[1], ACROSS)
            site.build(pose, slab, site.between(9, 24), "flat")
        _scatter(site, block, 35)
        return
    u0, v0, u1, v1 = block.u0, block.v0, block.u1, block.v1
    yard = block.inset(deep + 1)
    site.block(yard, site.pick(PAVED + GRASS + SOIL), 60)
    for along_v, line, start, stop in (
        (False, v0 + deep / 2, u0, u1),
        (False, v1 - deep / 2, u0, u1),
        (True, u0 + deep / 2, v0 + deep, v1 - deep),
        (True, u1 - deep / 2, v0 + deep, v1 - deep),
    ):
        at = start
        while at < stop - 6:
            size = min(site.between(8, 20), stop - at)
            middle = at + size / 2
            at += size
            if site.chance(0.1):
                continue
            pose = site.pose(line, middle, ACROSS) if along_v else site.pose(middle, line)
            kind: RoofKind = "pitched" if site.chance(0.65) else "flat"
            site.build(pose, (size, deep + site.between(-1, 1)), site.between(7, 15), kind)
    _scatter(site, yard, 30)


def _informal(site: Site, block: Block) -> None:
    """Pack a block of bare soil with small metal roofs at odd angles."""
    site.block(block, site.pick(SOIL), 90)
    cell = site.between(9, 15)
    turn = site.between(-0.3, 0.3)
    for u in np.arange(block.u0 + cell / 2, block.u1 - cell / 2, cell).tolist():
        for v in np.arange(block.v0 + cell / 2, block.v1 - cell / 2, cell).tolist():
            if site.chance(0.15):
                site.plant(u, v, site.between(1, 4))
                continue
            angle = turn + site.between(-0.15, 0.15) + (ACROSS if site.chance(0.5) else 0)
            pose = site.pose(u + site.between(-1, 1), v + site.between(-1, 1), angle)
            size = (cell * site.between(0.6, 1), cell * site.between(0.45, 0.75))
            kind: RoofKind = "hall" if site.chance(0.4) else "pitched"
            site.build(pose, size, site.between(2.5, 5), kind, METAL + roofs.TILES[:4])


def _industry(site: Site, block: Block) -> None:
    """Stand huge halls in a block, with trucks, containers and parking lots."""
    site.block(block, site.pick(PAVED + GRASS), 50)
    u = block.u0 + 5
    while u < block.u1 - 20:
        length = min(site.between(20, 100), block.u1 - u - 4)
        width = (block.v1 - block.v0 - 14) * site.between(0.45, 1)
        middle, end = u + length / 2, u + length
        if site.chance(0.25):
            clutter.parking(site, Block(u, block.v0 + 4, end, block.v1 - 4))
        else:
            pose, size = site.pose(middle, block.v0 + 5 + width / 2), (length, width)
            if width > length:
                pose, size = pose.turned(ACROSS), (width, length)
            kind: RoofKind = "hall" if site.chance(0.6) else "flat"
            site.build(pose, size, site.between(6, 14), kind)
            for _ in range(int(site.between(0, 9))):
                truck = site.pose(site.between(u, end), block.v1 - site.between(2, 7))
                long = 12.2 if site.chance(0.5) else 6.1
                clutter.vehicle(site, truck.turned(ACROSS if site.chance(0.5) else 0), long)
        u = end + site.between(8, 20)


def _open(site: Site, block: Block) -> None:
    """Fill a block with what is not a building: parking, field, courts, bare soil, trees."""
    kind = int(site.between(0, 6))
    if kind == 0:
        clutter.parking(site, block.inset(4))
    elif kind == 1:
        clutter.furrows(site, block)
    else:
        bow = (block.centre[0], block.centre[1] + site.between(-15, 15))
        path = site.path((block.u0, block.v0), bow, (block.u1, block.v1))
        site.lines([path], site.pick(SOIL + PAVED), 2)
        for _ in range(int(site.between(1, 6))):
            pose = site.pose(site.between(block.u0, block.u1), site.between(block.v0, block.v1))
            if kind == 2:
                clutter.court(site, pose)
            elif kind == 3:
                bare = rectangle(0, 0, site.between(6, 30), site.between(6, 30))
                site.fill(pose, bare, site.pick(SOIL, 14), rough=50)
            elif kind == 4:
                clutter.vehicle(site, pose, 12.2 if site.chance(0.5) else 6.1)
        _scatter(site, block, site.between(2, 10) ** 2)


def _rural(site: Site, block: Block) -> None:
    """Plough a block into two fields, at times with a farm in a corner and a row of trees."""
    cut = block.u0 + site.between(0.3, 0.7) * (block.u1 - block.u0)
    clutter.furrows(site, Block(block.u0, block.v0, cut, block.v1))
    clutter.furrows(site, Block(cut, block.v0, block.u1, block.v1))
    if site.chance(0.6):
        u, v = block.u0 + 25, block.v0 + 25
        site.fill(site.pose(u, v), rectangle(0, 0, 46, 40), site.pick(GRASS + SOIL), rough=80)
        _house(site, site.pose(u - 10, v - 8), site.between(10, 16), 9, roofs.TILES)
        for at in (8, 24)[: 1 + site.chance(0.4)]:
            barn = site.pose(u + at, v + 8, ACROSS if site.chance(0.5) else 0)
            size = (site.between(15, 30), site.between(9, 14))
            site.build(barn, size, 7, "pitched", METAL + roofs.TILES)
        _scatter(site, Block(u - 25, v - 25, u + 25, v + 25), 50)
    if site.chance(0.6):
        for u in np.arange(block.u0, block.u1, site.between(5, 20)).tolist():
            site.plant(u, block.v1 + site.between(-1, 1), site.between(1.5, 4))


@dataclass(frozen=True)
class Plan:
    """Plan a land use: its share of scenes, block sides in metres, and what fills a block."""

    share: float
    long: tuple[float, float]
    deep: tuple[float, float]
    fill: Callable[[Site, Block], None]


PLANS: dict[LandUse, Plan] = {
    "suburb": Plan(0.32, (90, 200), (56, 78), _suburb),
    "town": Plan(0.22, (50, 110), (45, 75), _town),
    "informal": Plan(0.10, (60, 140), (40, 90), _informal),
    "industry": Plan(0.14, (120, 260), (60, 130), _industry),
    "rural": Plan(0.12, (160, 320), (120, 260), _rural),
    "empty": Plan(0.10, (120, 260), (90, 200), _open),
}


def _cuts(site: Site, metres: tuple[float, float]) -> list[float]:
    """Cut an axis that reaches past every corner into steps of that many metres."""
    reach = site.radius + 40
    cuts = [-reach - site.between(0, metres[1])]
    while cuts[-1] < reach:
        cuts.append(cuts[-1] + site.between(*metres))
    return cuts


def _lay_out(site: Site, use: LandUse) -> tuple[list[Block], list[Points]]:
    """Lay out blocks and the streets between them; side streets may be staggered."""
    plan = PLANS[use]
    columns, rows = _cuts(site, plan.long), _cuts(site, plan.deep)
    staggered = site.chance(0.5)
    blocks: list[Block] = []
    streets = [site.path((u, rows[0]), (u, rows[-1]), steps=60) for u in columns]
    for u0, u1 in pairwise(columns):
        rows = _cuts(site, plan.deep) if staggered else rows
        blocks += [Block(u0, v0, u1, v1) for v0, v1 in pairwise(rows)]
        streets += [site.path((u0, v), (u1, v), steps=12) for v in rows]
    return blocks, streets


def _traffic(site: Site, streets: list[Points]) -> None:
    """Put cars on the streets, to the right of the centre line."""
    for street in streets:
        for (x0, y0), (x1, y1) in pairwise(street.tolist()):
            if site.chance(0.2):
                way = math.atan2(y1 - y0, x1 - x0) + (math.pi if site.chance(0.5) else 0)
                aside = 1.8 / site.gsd
                clutter.vehicle(
                    site, Pose(x0 - aside * math.sin(way), y0 + aside * math.cos(way), way)
                )


def generate_scene(
    height: int, width: int, *, seed: int, gsd: float | None = None, land_use: LandUse | None = None
) -> Scene:
    """Generate the scene of a seed: the same arguments give the same bytes.

    gsd is metres per pixel; where it or land_use is None, the seed draws one.
    """
    rng = np.random.default_rng(seed)
    drawn_gsd = float(rng.uniform(*GSD_RANGE))
    uses = list(PLANS)
    drawn_use = uses[int(rng.choice(len(uses), p=[plan.share for plan in PLANS.values()]))]
    site = Site(height, width, drawn_gsd if gsd is None else gsd, rng)
    use = drawn_use if land_use is None else land_use
    paved = use in ("suburb", "town", "industry")
    blocks, streets = _lay_out(site, use)
    land.draw_ground(site)
    if site.chance(0.25):
        land.plan_water(site)
    for block in blocks:
        reach = math.hypot(block.u1 - block.u0, block.v1 - block.v0) / 2 + 20
        x, y = site.point(*block.centre)
        outside = math.hypot(max(0, -x, x - width), max(0, -y, y - height)) * site.gsd
        if outside < reach:
            fill = _open if site.chance(0.1) else PLANS[use].fill
            fill(site, block.inset(6.5))
    land.draw_water(site)
    land.draw_streets(site, streets, site.pick(PAVED if paved else PAVED + SOIL), paved=paved)
    if paved:
        _traffic(site, streets)
    roofs.lay_footprints(site, site.buildings)
    land.fell_trees(site)
    land.apply_shadows(site)
    roofs.draw_roofs(site, site.buildings)
    land.draw_trees(site)
    return Scene(land.photograph(site), site.label > 0, site.gsd)


def write_scene(scene: Scene, image: Path, mask: Path, *, quality: int = 92) -> None:
    """Write a scene's picture as JPEG and its label as 1-bit PNG."""
    cv2.imwrite(str(image), scene.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    cv2.imwrite(str(mask), scene.label.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])


def write_scenes(folder: Path, count: int, size: int, seed: int) -> None:
    """Write count square scenes as images/scene_00000.jpg and masks/scene_00000.png, and so on.

    Scene number i has the seed `seed + i`.
    """
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        scene = generate_scene(size, size, seed=seed + i)
        write_scene(scene, images / f"scene_{i:05d}.jpg", masks / f"scene_{i:05d}.png")
