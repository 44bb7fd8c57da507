"""What lies around and over the buildings: ground, woods, water, streets, shade, trees, air."""

import math

import cv2
import numpy as np

from training.scenery.canvas import (
    DETAIL_GSD,
    FIXED_BITS,
    GRASS,
    LEAF,
    SOIL,
    Canvas,
    Colour,
    Pixels,
    Points,
    fixed,
    gradient,
    scaled,
)

WATER = ((52, 74, 78), (70, 86, 74), (48, 64, 82), (96, 100, 84))
BANK = 8  # metres


def draw_ground(canvas: Canvas) -> None:
    """Cover everything with grass and soil, blended by noise; at times with woods."""
    mix = canvas.noise(120, 45, 16, 5) * np.float32(0.5) + np.float32(0.3)
    canvas.pixels = gradient(mix, canvas.pick(GRASS), canvas.pick(GRASS + SOIL))
    if canvas.chance(0.45):
        where = canvas.noise(150, 40, 8) > canvas.between(0.6, 1.6)
        crowns = canvas.noise(6, 3)
        step = [round(c * max(1.0, 1.5 / canvas.gsd)) for c in canvas.sun]
        lit = crowns - np.roll(crowns, (step[1], step[0]), axis=(0, 1))
        leaf = canvas.pick(LEAF)
        wood = gradient(
            lit * np.float32(0.22) + np.float32(0.5), scaled(leaf, 0.5), scaled(leaf, 1.5)
        )
        cv2.copyTo(wood, where.astype(np.uint8), canvas.pixels)


def plan_water(canvas: Canvas) -> None:
    """Mark where a river or a pond lies, and its banks."""
    u, v = canvas.between(-0.6, 0.6) * canvas.radius, canvas.between(-0.6, 0.6) * canvas.radius
    river = canvas.chance(0.5)
    if river:
        us = np.linspace(-1.5, 1.5, 60) * canvas.radius
        vs = v + canvas.between(10, 40) * np.sin(us / canvas.between(40, 120))
    else:
        turn = np.linspace(0, math.tau, 40)
        r = canvas.between(8, 70) * (1 + 0.25 * np.sin(2 * turn + canvas.between(0, 6)))
        us, vs = u + r * np.cos(turn), v + r * np.sin(turn) + 0.1 * r * np.sin(5 * turn)
    line = np.array([canvas.point(a, b) for a, b in zip(us.tolist(), vs.tolist(), strict=True)])
    if river:
        thick = max(1, round(canvas.between(8, 60) / canvas.gsd))
        cv2.polylines(canvas.water, [fixed(line)], False, 1, thick, cv2.LINE_8, FIXED_BITS)
    else:
        cv2.fillPoly(canvas.water, [fixed(line)], 1, cv2.LINE_8, FIXED_BITS)
    side = 2 * round(BANK / canvas.gsd) + 1
    canvas.banks = np.asarray(cv2.dilate(canvas.water, np.ones((side, side), np.uint8)), np.uint8)


def draw_water(canvas: Canvas) -> None:
    """Flood what was marked, with a darker shore."""
    colour = canvas.pick(WATER)
    wet = canvas.water > 0
    canvas.pixels[wet] = colour
    canvas.rough[wet] = 10
    shore, _ = cv2.findContours(canvas.water, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    thick = max(1, round(1.5 / canvas.gsd))
    cv2.drawContours(canvas.pixels, shore, -1, scaled(colour, 0.75), thick, cv2.LINE_AA)


def draw_streets(canvas: Canvas, paths: list[Points], paving: Colour, *, paved: bool) -> None:
    """Draw streets as pavement, asphalt and dashed centre line, or as tracks."""
    width = canvas.between(6, 9) if paved else canvas.between(3.5, 6)
    if paved:
        canvas.lines(paths, canvas.pick(((170, 166, 158),)), width + 3.5, 40)
    canvas.lines(paths, paving, width, 35)
    if paved and canvas.gsd < DETAIL_GSD:
        for path in paths:
            dashes = np.stack([path[:-1], path[:-1] + np.diff(path, axis=0) * 0.4], axis=1)
            canvas.lines(list(dashes), (208, 208, 200), 0.15)


def fell_trees(canvas: Canvas) -> None:
    """Drop the trees that would stand on a roof; one beside it may still reach over its edge."""
    canvas.trees = [
        (x, y, r)
        for x, y, r in canvas.trees
        if not (0 <= x < canvas.width and 0 <= y < canvas.height)
        or not canvas.label[int(y), int(x)]
    ]


def apply_shadows(canvas: Canvas) -> None:
    """Add the shadows of the trees, and darken the ground where shadows fall."""
    for x, y, r in canvas.trees:
        foot = np.array([x, y])
        line = fixed(np.array([foot, foot + canvas.shadow_step * r * canvas.gsd * 1.6]))
        thick = max(1, round(1.7 * r))
        cv2.polylines(canvas.shadow, [line], False, 255, thick, cv2.LINE_8, FIXED_BITS)
    deep = canvas.between(0.45, 0.72)
    soft = cv2.blur(canvas.shadow, (3, 3)).astype(np.float32) / np.float32(255)
    lit = 255 * (1 - deep)
    shade = gradient(soft, (255, 255, 255), (lit, lit * 1.03, lit * 1.15))
    canvas.pixels = np.asarray(cv2.multiply(canvas.pixels, shade, scale=1 / 255), np.uint8)


def draw_trees(canvas: Canvas) -> None:
    """Draw every tree: a dark ragged crown, and lobes that are lit towards the sun."""
    if not canvas.trees:
        return
    rng, trees = canvas.rng, np.array(canvas.trees)
    turn = np.linspace(0, math.tau, 11)[:-1]
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    radius = np.maximum(trees[:, 2], 0.8)[:, None, None]
    ragged = rng.uniform(0.78, 1.12, (len(trees), 10, 1)) * radius
    crowns = fixed(ring * ragged + trees[:, None, :2])
    most = min(24, int(radius.max() * 1.5))
    lobes = rng.uniform((-0.6, -0.6, 0.14), (0.6, 0.6, 0.36), (len(trees), most, 3))
    light = (1.05 + 0.55 * lobes[..., :2] @ np.array(canvas.sun)).tolist()
    spots = fixed(lobes[..., :2] * radius + trees[:, None, :2]).tolist()
    sizes = fixed(lobes[..., 2] * radius[..., 0]).tolist()
    species = [canvas.pick(LEAF, 6) for _ in range(3)]
    for i, crown in enumerate(crowns):
        colour = scaled(species[i % 3], canvas.between(0.85, 1.15))
        cv2.fillPoly(canvas.pixels, [crown], scaled(colour, 0.8), cv2.LINE_AA, FIXED_BITS)
        for k in range(min(most, int(trees[i, 2] * 1.5))):
            shade = scaled(colour, light[i][k])
            cv2.circle(canvas.pixels, spots[i][k], sizes[i][k], shade, -1, cv2.LINE_AA, FIXED_BITS)


def photograph(canvas: Canvas) -> Pixels:
    """Look through air, optics and sensor: texture, colour, haze, blur, grain, JPEG."""
    rng, shape = canvas.rng, (canvas.height, canvas.width)
    strength = canvas.rough * np.float32(canvas.between(0.0007, 0.0014))
    texture = 1 + canvas.noise(9, 2, 0.9) * strength
    picture = cv2.multiply(canvas.pixels, cv2.merge([texture] * 3), dtype=cv2.CV_32F)
    contrast, bright = canvas.between(0.75, 1.25), canvas.between(-22, 22)
    haze = canvas.between(0, 0.25) if canvas.chance(0.5) else 0.0
    vivid = canvas.between(0.6, 1.15)
    mix = vivid * np.eye(3) + (1 - vivid) / 3
    gain = mix * rng.normal(1, 0.035, (3, 1)) * contrast * (1 - haze)
    shift = ((1 - contrast) * 118 + bright) * (1 - haze) + haze * np.array([[178], [186], [196]])
    picture = cv2.transform(picture, np.hstack([gain, shift]))
    if canvas.chance(0.7):
        picture = cv2.GaussianBlur(picture, (0, 0), canvas.between(0.3, 1.1))
    grain = rng.standard_normal(shape, np.float32) * np.float32(canvas.between(0.5, 5))
    exposed = cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(canvas.between(55, 97))]
    jpeg = cv2.imencode(".jpg", exposed, quality)[1]
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
