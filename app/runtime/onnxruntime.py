"""ONNX Runtime: its sessions, and a predictor on the CPU.

By default, ONNX Runtime moves from CUDA to the CPU without an error, reads weights from files in
the working directory, and its threads wait for each other in loops. This module prevents all three.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..bundle.verification import read_model
from ..errors import BundleError
from .cores import usable_cores
from .predictor import Predictor, check_signature, reason, spell

CPU = "CPUExecutionProvider"

Providers = Sequence[str | tuple[str, dict[str, str]]]
"""ONNX Runtime's execution providers, the best first, some with options."""


class OnnxPredictor(Predictor):
    """Run a bundle's networks on the CPU in fp32, one session each.

    `workers` threads (default: one per usable core), which all callers share, take one patch at a
    time through all members. This was measured to be faster than any batch size and than ONNX
    Runtime's own threads, and it needs the least memory.
    """

    def __init__(self, bundle: Path, manifest: Manifest, *, workers: int | None = None) -> None:
        """Verify, load and check every member of the bundle in the folder `bundle`.

        Raises:
            BundleError: a file, or the graph in it, is not what the manifest describes.
        """
        workers = usable_cores() if workers is None else workers
        super().__init__(workers)
        self._sessions = {
            member.name: open_session(
                member.name, read_model(bundle, member), [CPU], manifest.patch_size
            )
            for member in manifest.members
        }
        self.members = tuple(self._sessions)
        self.providers = dict.fromkeys(self.members, CPU)
        # Two rounds a call: a whole number, so that no worker idles at the end, and few, so that
        # callers who share the workers, or want to stop, need not wait for long.
        self.batch_size = 2 * workers

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run_session(self._sessions[member], patches)


def open_session(
    member: str, model: bytes, providers: Providers, patch: int
) -> ort.InferenceSession:
    """Open a session that uses one thread, nothing but `model`, and no provider but those given.

    Raises:
        BundleError: ONNX Runtime can't run the graph, or it is not of the agreed kind.
        RuntimeError, ValueError: a provider other than the CPU's could not be set up.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; this module checks what its warnings say
    options.intra_op_num_threads = 1  # the caller's own: no pool, so nothing spins
    # Weights outside the file were not verified. Even for a model that comes as bytes, ONNX
    # Runtime looks for them in the working directory; inside this file there can be none.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        # enable_fallback is on by default: after a failure, now or in a later run, the session
        # would move to the CPU.
        session = ort.InferenceSession(model, options, providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no other class in common
        # Errors of providers have these two classes, errors of graphs have classes of their own.
        if list(providers) != [CPU] and isinstance(error, RuntimeError | ValueError):
            raise
        raise BundleError(
            f"ONNX Runtime {ort.__version__} can't load member {member!r}: {reason(error)}"
        ) from error
    check_signature(
        member, _signature(session.get_inputs()), _signature(session.get_outputs()), patch
    )
    return session


def run_session(session: ort.InferenceSession, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict uint8 (N, S, S, 3): float32 (N, S, S)."""
    probability: NDArray[np.float32]
    (probability,) = session.run(None, {session.get_inputs()[0].name: patches})
    return probability


def _signature(nodes: Sequence[ort.NodeArg]) -> str:
    return " and ".join(spell(node.type, node.shape) for node in nodes)
