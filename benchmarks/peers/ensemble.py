"""The work of both peers for an image: the usual script, around sessions with default options.

Windows and blending are ours. So the masks are the same, and only the way of running differs.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import PIL.Image
from numpy.typing import NDArray

from app.segmentation.blending import blend
from app.segmentation.windows import plan_windows, read_patch

OVERLAP = 0.25


class DefaultSessions:
    """All networks of a bundle, or those named, one after the other, `batch` patches at a time."""

    def __init__(self, bundle: Path, names: Sequence[str] = (), *, batch: int = 1) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        members = [m for m in manifest["members"] if not names or m["name"] in names]
        self._sessions = [
            ort.InferenceSession(bundle / member["file"], providers=["CPUExecutionProvider"])
            for member in members
        ]
        weights = np.array([member["weight"] for member in members], np.float32)
        self._weights = weights / weights.sum()
        self._threshold = manifest["threshold"]["value"]
        self._size = manifest["patch_size"]
        self._batch = batch

    def probability(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Predict uint8 (N, S, S, 3): weighted mean probability, float32 (N, S, S)."""
        means = []
        for start in range(0, len(patches), self._batch):
            batch = patches[start : start + self._batch]
            answers = [
                session.run(None, {session.get_inputs()[0].name: batch})[0]
                for session in self._sessions
            ]
            means.append(np.tensordot(self._weights, np.stack(answers), 1))
        return np.concatenate(means)

    def segment(self, file: bytes) -> bytes:
        """Turn an image file into its mask as a PNG file."""
        pixels = np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"))
        height, width = pixels.shape[:2]
        grid = plan_windows(height, width, self._size, OVERLAP)
        patches = np.stack([read_patch(pixels, window, self._size) for window in grid])
        predictions = self.probability(patches)[:, np.newaxis]
        whole = np.concatenate([band.members[0] for band in blend(grid, predictions)])
        mask = np.where(whole >= self._threshold, 255, 0).astype(np.uint8)
        out = io.BytesIO()
        PIL.Image.fromarray(mask).save(out, "PNG")
        return out.getvalue()
