"""The canvas of a scene: pixels, label, and the street frame that lays metres over pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]
Palette = Sequence[tuple[int, int, int]]

GRASS = ((96, 110, 68), (112, 120, 78), (84, 98, 62), (130, 128, 90), (104, 108, 76))
CROP = ((150, 138, 98), (120, 126, 78), (98, 114, 66), (142, 118, 92), (174, 160, 122))
SOIL = ((190, 174, 146), (202, 192, 170), (166, 142, 114), (180, 158, 128))
PAVED = ((128, 126, 122), (146, 143, 138), (108, 107, 106), (164, 160, 152))
METAL = ((206, 210, 214), (176, 182, 188), (96, 128, 162), (74, 110, 154), (226, 226, 224),
         (134, 144, 148), (142, 92, 76), (120, 136, 126))  # fmt: skip
LEAF = ((58, 76, 46), (70, 88, 52), (48, 66, 44), (84, 94, 56), (64, 74, 52))

ACROSS = math.pi / 2  # a turn from along a street to across it
DETAIL_GSD = 0.6  # above this many metres per pixel, objects under a metre are not drawn
FIXED_BITS = 4  # OpenCV's sub-pixel coordinates: sixteenths of a pixel


@dataclass(frozen=True)
class Pose:
    """Place an object: pixel x and y of its centre, and the angle of its long side."""

    x: float
    y: float
    angle: float

    def turned(self, angle: float) -> "Pose":
        """Return the pose turned further by an angle."""
        return Pose(self.x, self.y, self.angle + angle)


@dataclass(frozen=True)
class Block:
    """Bound the land between streets, in metres of the street frame."""

    u0: float
    v0: float
    u1: float
    v1: float

    @property
    def centre(self) -> tuple[float, float]:
        """Return the middle (u, v)."""
        return (self.u0 + self.u1) / 2, (self.v0 + self.v1) / 2

    def inset(self, metres: float) -> "Block":
        """Return the block without its rim."""
        return Block(self.u0 + metres, self.v0 + metres, self.u1 - metres, self.v1 - metres)


@dataclass
class Canvas:
    """Carry the picture while it is drawn: pixels, label, and what the later passes need."""

    height: int
    width: int
    gsd: float
    rng: np.random.Generator
    trees: list[tuple[float, float, float]] = field(default_factory=list)  # x, y, radius in pixels

    def __post_init__(self) -> None:
        shape = (self.height, self.width)
        self.pixels: Pixels = np.zeros((*shape, 3), np.uint8)
        self.label: Pixels = np.zeros(shape, np.uint8)
        self.shadow: Pixels = np.zeros(shape, np.uint8)
        self.water: Pixels = np.zeros(shape, np.uint8)
        self.banks: Pixels = self.water  # water and the strip beside it where nothing is built
        self.rough: Pixels = np.full(shape, 90, np.uint8)  # strength of the surface's texture
        self.radius = math.hypot(*shape) / 2 * self.gsd + 10  # metres that reach every corner
        azimuth, elevation = self.between(0, math.tau), math.radians(self.between(28, 65))
        self.sun = (math.cos(azimuth), math.sin(azimuth))
        self.relief = 0.4 * math.cos(elevation)  # how much a pitched face gains or loses light
        reach = 1 / math.tan(elevation) / self.gsd  # pixels of shadow per metre of height
        self.shadow_step = np.array([-self.sun[0] * reach, -self.sun[1] * reach])
        self._angle = self.between(0, math.pi)
        self._turn = (math.cos(self._angle) / self.gsd, math.sin(self._angle) / self.gsd)
        self._wave = (math.tau / self.between(250, 600), math.tau / self.between(250, 600))
        self._bend = (self.between(0, 0.2) / self._wave[0], self.between(0, 0.2) / self._wave[1])
        self._phase = (self.between(0, math.tau), self.between(0, math.tau))

    def between(self, low: float, high: float) -> float:
        """Return a number drawn evenly between low and high."""
        return low + (high - low) * float(self.rng.random())

    def chance(self, p: float) -> bool:
        """Return True with probability p."""
        return bool(self.rng.random() < p)

    def sign(self) -> int:
        """Return -1 or 1."""
        return 1 if self.rng.random() < 0.5 else -1

    def pick(self, palette: Palette, spread: float = 9) -> Colour:
        """Return a colour of the palette, a little brighter or darker and off in hue."""
        base = palette[int(self.rng.random() * len(palette))]
        light, *hue = self.rng.standard_normal(4).tolist()
        r, g, b = (c + spread * light + 3 * d for c, d in zip(base, hue, strict=True))
        return (r, g, b)

    def point(self, u: float, v: float) -> tuple[float, float]:
        """Map a point of the street frame, in metres, to pixel x and y."""
        bent_u = u + self._bend[0] * math.sin(self._wave[0] * v + self._phase[0])
        bent_v = v + self._bend[1] * math.sin(self._wave[1] * u + self._phase[1])
        c, s = self._turn
        return c * bent_u - s * bent_v + self.width / 2, s * bent_u + c * bent_v + self.height / 2

    def path(self, *ends: tuple[float, float], steps: int = 6) -> Points:
        """Map a line through ends in the street frame to pixels, bent like the streets."""
        knots = np.array(ends)
        at = np.linspace(0, len(ends) - 1, steps * (len(ends) - 1) + 1)
        us, vs = (np.interp(at, np.arange(len(ends)), knots[:, k]).tolist() for k in (0, 1))
        return np.array([self.point(u, v) for u, v in zip(us, vs, strict=True)])

    def pose(self, u: float, v: float, angle: float = 0.0) -> Pose:
        """Place an object at (u, v), turned by angle against the street there."""
        slope = self._bend[1] * self._wave[1] * math.cos(self._wave[1] * u + self._phase[1])
        return Pose(*self.point(u, v), self._angle + math.atan(slope) + angle)

    def sees(self, pose: Pose, reach: float) -> bool:
        """Tell whether an object of that reach in metres can show on dry land in the picture."""
        r = reach / self.gsd
        if not (-r < pose.x < self.width + r and -r < pose.y < self.height + r):
            return False
        x, y = int(pose.x), int(pose.y)
        return not (0 <= x < self.width and 0 <= y < self.height and self.banks[y, x])

    def at(self, pose: Pose, local: Points) -> Points:
        """Map points (…, 2) in metres about a pose to pixels."""
        c, s = math.cos(pose.angle) / self.gsd, math.sin(pose.angle) / self.gsd
        return np.asarray(local @ np.array([[c, s], [-s, c]]) + (pose.x, pose.y))

    def fill(
        self,
        pose: Pose,
        shape: Points,
        colour: Colour,
        *,
        rough: int | None = None,
        lift: float = 0,
    ) -> None:
        """Fill a polygon in metres about a pose; lift shifts it to where its shadow would fall."""
        points = self.at(pose, shape)
        self.polygon(points + lift * self.shadow_step if lift else points, colour, rough)

    def polygon(self, points: Points, colour: Colour, rough: int | None = None) -> None:
        """Fill a polygon in pixels with a colour and, for large ones, a strength of texture."""
        outline = fixed(points)
        cv2.fillPoly(self.pixels, [outline], colour, cv2.LINE_AA, FIXED_BITS)
        if rough is not None:
            cv2.fillPoly(self.rough, [outline], rough, cv2.LINE_8, FIXED_BITS)

    def lines(
        self, paths: Sequence[Points], colour: Colour, metres: float, rough: int | None = None
    ) -> None:
        """Draw lines in pixels, metres thick but never thinner than a pixel."""
        thick = max(1, round(metres / self.gsd))
        drawn = [fixed(p) for p in paths]
        cv2.polylines(self.pixels, drawn, False, colour, thick, cv2.LINE_AA, FIXED_BITS)
        if rough is not None:
            cv2.polylines(self.rough, drawn, False, rough, thick, cv2.LINE_8, FIXED_BITS)

    def block(self, block: Block, colour: Colour, rough: int = 90) -> None:
        """Fill a block's ground, its edges bent like the streets."""
        u0, v0, u1, v1 = block.u0, block.v0, block.u1, block.v1
        self.polygon(self.path((u0, v0), (u1, v0), (u1, v1), (u0, v1), (u0, v0)), colour, rough)

    def noise(self, *metres: float) -> NDArray[np.float32]:
        """Sum octaves of smooth noise, one per cell size; zero mean, about unit deviation."""
        total = np.zeros((self.height, self.width), np.float32)
        for cell in (max(2.0, m / self.gsd) for m in metres):
            rows, cols = int(self.height / cell) + 3, int(self.width / cell) + 3
            coarse = self.rng.standard_normal((rows, cols), np.float32)
            size = (self.width, self.height)
            total += cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
        return total / np.float32(math.sqrt(len(metres) * 0.5))


def rectangle(x: float, y: float, length: float, width: float) -> Points:
    """Return the corners (4, 2) of a rectangle about (x, y)."""
    a, b = length / 2, width / 2
    return np.array([(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)])


def fixed(points: Points) -> NDArray[np.int32]:
    """Return points as OpenCV's sub-pixel integers."""
    whole: NDArray[np.int32] = (points * 2**FIXED_BITS).astype(np.int32)
    return whole


def scaled(colour: Colour, factor: float) -> Colour:
    """Return the colour lighter or darker by a factor."""
    return (
        min(255, colour[0] * factor),
        min(255, colour[1] * factor),
        min(255, colour[2] * factor),
    )


def gradient(amount: NDArray[np.float32], low: Colour, high: Colour) -> Pixels:
    """Return RGB (H, W, 3) that goes from low where amount is 0 to high where it is 1."""
    index = np.clip(amount * 255, 0, 255).astype(np.uint8)
    ramps = np.clip(np.linspace(low, high, 256), 0, 255).astype(np.uint8)
    return np.asarray(cv2.merge([cv2.LUT(index, ramps[:, k]) for k in range(3)]), np.uint8)
