"""Draw the documents' pictures from our own scenes: `python -m tests.docs.pictures`.

The scenes are procedural (training/scenes.py), and the masks are those of the shipped models.
"""

import base64
import io
from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from app.outputs.formats import FORMATS
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.settings import Settings
from tests.docs.import_map import ROOT
from tests.factories import EXACTLY
from tests.maps import stream_of
from tests.serving import decoded, encoded
from training.scenes import LandUse, generate_scene

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 200_000
"""Bytes of a picture, at most."""

Pixels = NDArray[np.uint8]

_GAP = 8
_WHITE = 255
_GSD = 0.3
HERO: tuple[int, int, LandUse, int] = (460, 1200, "suburb", 11)
"""Height, width, land use and seed."""
_BEFORE_AFTER: tuple[LandUse, ...] = ("suburb", "town", "industry")


def drawn(height: int, width: int, use: LandUse, seed: int = 5) -> Pixels:
    """Return the scene of a picture, uint8 (height, width, 3)."""
    return generate_scene(height, width, seed=seed, gsd=_GSD, land_use=use).pixels


def seen(segmenter: Segmenter, pixels: Pixels, format: str) -> Pixels:
    """Return what the service answers for a scene, in a format that is a picture."""
    stream = stream_of(segmenter, encoded(pixels), format, gsd=_GSD, resample="auto")
    return decoded(FORMATS[format].encode(stream))


def hero(segmenter: Segmenter) -> bytes:
    """Draw one scene: as it is on the left, with its buildings on the right."""
    pixels = drawn(*HERO)
    picture = seen(segmenter, pixels, "overlay").copy()
    middle = pixels.shape[1] // 2
    picture[:, :middle] = pixels[:, :middle]
    picture[:, middle - 2 : middle + 2] = _WHITE
    return encoded(picture, "JPEG", quality=80, optimize=True)


def before_and_after(segmenter: Segmenter) -> bytes:
    """Draw a column for each of three land uses: the scene above, its buildings below."""
    columns = []
    for use in _BEFORE_AFTER:
        pixels = drawn(336, 400, use)
        gap = np.full((_GAP, pixels.shape[1], 3), _WHITE, np.uint8)
        columns.append(np.concatenate([pixels, gap, seen(segmenter, pixels, "overlay")]))
        columns.append(np.full((len(columns[0]), _GAP, 3), _WHITE, np.uint8))
    return encoded(np.concatenate(columns[:-1], axis=1), "JPEG", quality=74, optimize=True)


def diagram(segmenter: Segmenter) -> bytes:
    """Draw the path of an image: picture, windows, probability, mask, outlines."""
    pixels = drawn(448, 448, "suburb", seed=11)
    mask = seen(segmenter, pixels, "png")
    probability = seen(segmenter, pixels, "probability")
    outlined = seen(segmenter, pixels, "overlay")
    # With a quarter's overlap in 448 pixels; the last window slides inward.
    grid = "".join(
        f'<rect x="{x}" y="{y}" width="80" height="80" class="window"/>'
        for x in (0, 60, 80)
        for y in (0, 60, 80)
    )
    steps = (
        ("image", "PNG, JPEG, WebP, TIFF", pixels, ""),
        ("windows", "224 × 224, overlapping", pixels, grid),
        ("probability", "networks, blended", probability, ""),
        ("mask", "threshold, components", mask, ""),
        ("result", "PNG, RLE, GeoJSON, COG …", outlined, ""),
    )
    drawn_steps = "\n".join(
        f'<g transform="translate({20 + 200 * i} 20)">'
        f'<image width="160" height="160" href="data:image/jpeg;base64,{_thumbnail(picture)}"/>'
        f'{over}<text x="80" y="186" class="name">{name}</text>'
        f'<text x="80" y="206" class="what">{what}</text>'
        + ('<path d="M166 80h24m-8-7 8 7-8 7" class="arrow"/>' if i < len(steps) - 1 else "")
        + "</g>"
        for i, (name, what, picture, over) in enumerate(steps)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 240" role="img">
<title>The path of an image: windows, probability, mask, result</title>
<style>
  text {{ font: 13px system-ui, sans-serif; text-anchor: middle; fill: #333 }}
  .name {{ font-weight: 600; font-size: 15px; fill: #111 }}
  .window {{ fill: none; stroke: #ffd400; stroke-width: 1.5 }}
  .arrow {{ fill: none; stroke: #00796b; stroke-width: 2.5 }}
</style>
<rect width="1000" height="240" rx="12" fill="#f7f8f8"/>
{drawn_steps}
</svg>
""".encode()


def _thumbnail(picture: Pixels) -> str:
    small = PIL.Image.fromarray(picture).resize((240, 240), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


PICTURES = {
    "hero.jpg": hero,
    "before_and_after.jpg": before_and_after,
    "path.svg": diagram,
}


def write(folder: Path) -> None:
    """Write every picture.

    Raises:
        ValueError: one is larger than `LARGEST`.
    """
    bundle = Settings(_env_file=None).bundle
    with closing(load_segmenter(bundle, **EXACTLY)) as segmenter:
        for name, draw in PICTURES.items():
            data = draw(segmenter)
            if len(data) > LARGEST:
                raise ValueError(f"{name} has {len(data)} bytes, more than {LARGEST}")
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    write(FOLDER)
