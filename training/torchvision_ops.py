"""Let `import torchvision` succeed where its wheel was built for another torch than the one here.

torchvision's wheel on the public index is built against CUDA torch. Beside a CPU torch its compiled
operators do not load, and its Python half then dies on `operator torchvision::nms does not exist`
while it registers shape functions for two operators that no segmentation network runs. Declaring
their schemas first is enough; `training/__init__.py` imports this module before anything else can
import torchvision (timm, segmentation_models_pytorch, lightning).
"""

import importlib.util
from pathlib import Path

import torch


def _compiled_operators_load() -> bool:
    """Return whether torchvision's compiled operators load beside this torch."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return True  # nothing to repair: the importer will say that torchvision is missing
    libraries = sorted(Path(package.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(library)
    except OSError:
        return False
    return bool(libraries)


if not _compiled_operators_load():
    _SCHEMAS = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _SCHEMAS.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
