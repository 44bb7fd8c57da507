"""Load the models that the settings ask for: for the service, the command line and the doctor."""

from .runtime.gpu import Gpu
from .segmentation.segmenter import Segmenter, load_segmenter
from .settings import Settings


def load_models(settings: Settings) -> Segmenter:
    """Load the bundle that the settings name, on the device that they name.

    Raises:
        BundleError: manifest, files or graphs are missing, disagree or don't run.
        DeviceError: the device, backend or precision of the settings can't be used.
    """
    return load_segmenter(
        settings.bundle,
        device=settings.device,
        workers=settings.workers,
        backend=settings.backend,
        precision=settings.precision,
        gpu=Gpu(settings.gpu_batch, settings.cuda_graphs, settings.tensorrt),
    )
