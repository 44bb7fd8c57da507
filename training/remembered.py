"""A predictor that remembers its answers: fitting asks about the same patches again and again."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from app.runtime.predictor import Predictor


class Remembered:
    """Answer as another predictor does, and ask it about each patch once.

    Memory grows by S x S float32 for each member and patch: 0.2 MB at 224 pixels.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Wrap a predictor, which stays the caller's to close."""
        self._predictor = predictor
        self._answers: dict[tuple[str, bytes], NDArray[np.float32]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._predictor, name)

    def predict(self, patches: NDArray[np.uint8], members: Sequence[str]) -> NDArray[np.float32]:
        """Predict as `Predictor.predict` promises.

        Raises:
            InferenceError: as there.
        """
        digests = [hashlib.sha256(patch.tobytes()).digest() for patch in patches]
        new: Mapping[bytes, int] = {
            digest: n
            for n, digest in enumerate(digests)
            if any((member, digest) not in self._answers for member in members)
        }
        if new:
            answers = self._predictor.predict(patches[list(new.values())], members)
            for member, of_member in zip(members, answers, strict=True):
                for digest, answer in zip(new, of_member, strict=True):
                    self._answers[member, digest] = answer.copy()
        return np.stack(
            [np.stack([self._answers[member, digest] for digest in digests]) for member in members]
        )
