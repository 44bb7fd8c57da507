"""What a network must learn not to call a building: vehicles, parking, pools, courts, furrows."""

import numpy as np

from training.scenery.canvas import (
    ACROSS,
    CROP,
    DETAIL_GSD,
    GRASS,
    METAL,
    PAVED,
    SOIL,
    Block,
    Canvas,
    Pose,
    rectangle,
    scaled,
)

CAR = (
    (226, 226, 226),
    (34, 36, 40),
    (148, 152, 156),
    (132, 40, 36),
    (50, 66, 104),
    (190, 184, 172),
)
COURT = ((64, 110, 90), (156, 90, 70), (66, 98, 134), (88, 128, 80))
POOL = ((92, 176, 194), (70, 160, 190))


def vehicle(canvas: Canvas, pose: Pose, length: float = 4.5) -> None:
    """Draw a car or, if long, a truck or container, with its shadow."""
    if not canvas.sees(pose, length):
        return
    body = rectangle(0, 0, length, 1.9 if length < 6 else 2.5)
    if canvas.gsd < DETAIL_GSD or length > 6:
        canvas.fill(pose, body, (48, 50, 54), lift=1.3 if length < 6 else 2.6)
    colour = canvas.pick(CAR if length < 6 else CAR + METAL)
    canvas.fill(pose, body, colour)
    if canvas.gsd < DETAIL_GSD and length < 6:
        canvas.fill(pose, rectangle(0.6, 0, 1.0, 1.5), scaled(colour, 0.45))


def parking(canvas: Canvas, block: Block) -> None:
    """Pave a parking lot with marked bays, partly taken."""
    canvas.block(block, canvas.pick(PAVED, 6), 30)
    taken = canvas.between(0.1, 0.9)
    bays = np.arange(block.u0 + 2, block.u1 - 4, 2.7).tolist()
    for v in np.arange(block.v0 + 4, block.v1 - 3, 8.5).tolist():
        if canvas.gsd < DETAIL_GSD and bays:
            marks = [np.array([canvas.point(u, v - 2.5), canvas.point(u, v + 2.5)]) for u in bays]
            canvas.lines(marks, (205, 205, 200), 0.1)
        for u in bays:
            if canvas.chance(taken):
                vehicle(canvas, canvas.pose(u + 1.35, v, ACROSS))


def pool(canvas: Canvas, pose: Pose) -> None:
    """Dig a swimming pool with a paved rim."""
    length, width = canvas.between(6, 11), canvas.between(3, 5)
    canvas.fill(pose, rectangle(0, 0, length + 2, width + 2), canvas.pick(SOIL))
    canvas.fill(pose, rectangle(0, 0, length, width), canvas.pick(POOL))


def court(canvas: Canvas, pose: Pose) -> None:
    """Lay a sports court, or a pitch, with its white lines."""
    pitch = canvas.chance(0.3)
    length, width = (100.0, 64.0) if pitch else (34.0, 17.0)
    canvas.fill(
        pose, rectangle(0, 0, length, width), canvas.pick(GRASS if pitch else COURT), rough=25
    )
    corners = rectangle(0, 0, length * 0.92, width * 0.88)
    middle = np.array([(0, -width * 0.44), (0, width * 0.44)])
    ring = np.vstack([corners, corners[:1]])
    canvas.lines([canvas.at(pose, ring), canvas.at(pose, middle)], (216, 216, 210), 0.2)


def furrows(canvas: Canvas, block: Block) -> None:
    """Plough a field: one colour, often with rows."""
    colour = canvas.pick(CROP + GRASS, 12)
    canvas.block(block, colour, 70)
    if canvas.chance(0.65):
        step, light = canvas.between(2.5, 9), canvas.between(0.82, 1.14)
        across = np.arange(block.v0 + step / 2, block.v1 - step / 2, step).tolist()
        rows = [canvas.path((block.u0 + 1, v), (block.u1 - 1, v)) for v in across]
        canvas.lines(rows, scaled(colour, light), step * 0.4)
