"""How far a mask of many patches is from one without patches, for each overlap.

A network that only looks around, such as a Unet, is run once over the whole scene: its graph is the
bundle's, enlarged by OpenVINO. One that pools over all that it sees, such as PSPNet and DeepLabV3+,
would be another network then, and so would the ensemble. Their reference takes each pixel from the
patch whose middle lies closest to it, of patches a quarter of a patch apart: every pixel sees at
least three eighths of a patch to each side, as far as the scene goes, and nothing is blended.

What differs is counted in pixels of the mask, at the bundle's threshold, as a share of the scene.
All is computed in fp32, so that nothing differs but by patches.
A scene that is too small is mirrored at its edges as often as it takes.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.imaging.decode import decode_image
from app.imaging.image import Image
from app.segmentation.blending import MemberBand
from app.segmentation.options import MAX_OVERLAP, Options
from app.segmentation.segmenter import Segmenter, load_segmenter
from app.segmentation.windows import plan_windows, read_patch
from app.settings import Settings
from training.evaluate import from_members
from training.scenes import generate_scene

OVERLAPS = (0.0, 0.25, 0.5, 0.75)
_POOLS = {"ReduceMean", "AvgPool", "AdaptiveAvgPool"}
_MULTIPLE = 224
"""Of this a side must be for networks that enlarge their patches and halve them five times."""


def single_pass(
    bundle: Path, segmenter: Segmenter, member: str, image: Image
) -> NDArray[np.float32] | None:
    """Run a member once over an image: float32 (1, H, W); None if it would be another network."""
    [file] = [m.file for m in segmenter.manifest.members if m.name == member]
    patch = segmenter.manifest.patch_size
    core = ov.Core()
    graph = core.read_model(bundle / file)
    graph.reshape([1, patch, patch, 3])
    if _POOLS & {node.get_type_name() for node in graph.get_ops()}:
        return None
    for node in graph.get_ops():
        if node.get_type_name() == "Interpolate":
            _keep_factor(node)
    graph.reshape([1, image.height, image.width, 3])
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    probability: NDArray[np.float32] = compiled(image.pixels[np.newaxis])[0]
    return probability


def _keep_factor(node: ov.Node) -> None:
    """Let a node enlarge by the factor by which it does at a patch's size, not to one size."""
    before, after = node.input(0).get_shape(), node.output(0).get_shape()
    attributes = node.get_attributes()
    enlarge = ov.opset11.interpolate(
        node.input_value(0),
        np.array([to / of for of, to in zip(before[2:], after[2:], strict=True)], np.float32),
        attributes["mode"],
        "scales",
        coordinate_transformation_mode=attributes["coordinate_transformation_mode"],
        nearest_mode=attributes["nearest_mode"],
        axes=np.array([2, 3]),
    )
    node.output(0).replace(enlarge.output(0))


def centred(segmenter: Segmenter, image: Image) -> NDArray[np.float32]:
    """Take each pixel from the patch whose middle is closest: float32 (M, H, W), all members."""
    size = segmenter.manifest.patch_size
    grid = plan_windows(image.height, image.width, size, MAX_OVERLAP)
    rows = _nearest(grid.row_offsets, image.height, size)
    cols = _nearest(grid.col_offsets, image.width, size)
    members = segmenter.predictor.members
    found = np.empty((len(members), image.height, image.width), np.float32)
    windows = iter(grid)
    while batch := list(islice(windows, segmenter.predictor.batch_size)):
        patches = np.stack([read_patch(image.pixels, window, size) for window in batch])
        predicted = segmenter.predictor.predict(patches, members)
        for i, window in enumerate(batch):
            at, inside = rows[window.row], cols[window.col]
            found[:, at, inside] = predicted[
                :,
                i,
                at.start - window.row : at.stop - window.row,
                inside.start - window.col : inside.stop - window.col,
            ]
    return found


def _nearest(offsets: Sequence[int], length: int, size: int) -> dict[int, slice]:
    """Cut an axis between the middles of windows: by offset, the pixels that are each one's."""
    cuts = [0, *((one + other + size) // 2 for one, other in pairwise(offsets)), length]
    return {offset: slice(*ends) for offset, ends in zip(offsets, pairwise(cuts), strict=True)}


def scene(path: Path | None, size: int) -> Image:
    """Make a scene of size x size pixels, size rounded down to what a single pass takes."""
    size -= size % _MULTIPLE
    if path is None:
        return Image(generate_scene(size, size, seed=0, gsd=0.4).pixels)
    pixels = decode_image(path.read_bytes(), max_pixels=1_000_000_000).pixels
    beyond = [(0, max(0, size - side)) for side in pixels.shape[:2]]
    return Image(np.pad(pixels, (*beyond, (0, 0)), mode="symmetric")[:size, :size])


def measure(
    bundle: Path, segmenter: Segmenter, image: Image, overlaps: Sequence[float]
) -> Iterator[tuple[float, dict[str, float]]]:
    """Give for each overlap the share of pixels that differ: of the ensemble, of members."""
    members = segmenter.predictor.members
    middle = centred(segmenter, image)
    everyone = segmenter.plan(image, Options(cascade="off"))
    compared = {"ensemble": (everyone, middle)}
    for i, member in enumerate(members):
        alone = segmenter.plan(image, Options(models=member))
        whole = single_pass(bundle, segmenter, member, image)
        if whole is None:
            compared[member] = alone, middle[i : i + 1]
        else:
            compared[f"{member}, in a single pass"] = alone, whole
    references = {
        name: (plan, from_members(plan, image, [MemberBand(0, maps)]).mask)
        for name, (plan, maps) in compared.items()
    }
    for overlap in overlaps:
        cut = segmenter.plan(image, Options(cascade="off", overlap=overlap))
        bands = list(segmenter.member_bands(cut, image))
        shares = {}
        for name, (plan, reference) in references.items():
            which = [members.index(member) for member in plan.members]
            some = [MemberBand(band.row, band.members[which]) for band in bands]
            shares[name] = float(np.mean(from_members(plan, image, some).mask != reference))
        yield overlap, shares


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seams", description=__doc__)
    parser.add_argument("image", type=Path, nargs="?", help="default: a procedural scene")
    parser.add_argument("--size", type=int, default=4000, help="of the scene, in pixels a side")
    parser.add_argument("--bundle", type=Path, default=Settings().bundle)
    parser.add_argument("--overlap", type=float, nargs="+", default=OVERLAPS)
    args = parser.parse_args(arguments)
    image = scene(args.image, args.size)
    with closing(load_segmenter(args.bundle, device="cpu", precision="fp32")) as segmenter:
        of = args.image.name if args.image else "a procedural scene"
        print(f"{segmenter.manifest.version}, {segmenter.predictor.choice}")
        print(f"{image.height} x {image.width} pixels of {of}\n")
        for overlap, shares in measure(args.bundle, segmenter, image, args.overlap):
            if overlap == args.overlap[0]:
                print("| overlap | " + " | ".join(shares) + " |")
                print("| --- " * (1 + len(shares)) + "|")
            cells = " | ".join(f"{share:.2%}" for share in shares.values())
            print(f"| {overlap:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
