"""Building masks from satellite and aerial imagery: a client of the Rooftrace service.

```python
import rooftrace_client as rooftrace

with rooftrace.Client("http://127.0.0.1:8000") as client:
    result = client.segment("tile.png")
    print(result.building_count, "buildings")
    mask = result.mask()
```
"""

from ._batch import Outcome
from ._client import AsyncClient, Client
from ._errors import (
    ConnectionFailed,
    DamagedImage,
    DeadlineExceeded,
    EmptyUpload,
    FormatError,
    ImpossibleOutput,
    InputError,
    InvalidOption,
    KeyMissing,
    KeyRefused,
    MalformedUpload,
    NotFound,
    NotReady,
    ProblemError,
    QueueFull,
    RateExceeded,
    RooftraceError,
    ServiceError,
    UnsupportedFormat,
    UnsupportedImage,
    UploadTimeout,
    UploadTooLarge,
)
from ._images import Image
from ._options import Format, Options
from ._results import Result
from ._version import __version__

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "DamagedImage",
    "DeadlineExceeded",
    "EmptyUpload",
    "Format",
    "FormatError",
    "Image",
    "ImpossibleOutput",
    "InputError",
    "InvalidOption",
    "KeyMissing",
    "KeyRefused",
    "MalformedUpload",
    "NotFound",
    "NotReady",
    "Options",
    "Outcome",
    "ProblemError",
    "QueueFull",
    "RateExceeded",
    "Result",
    "RooftraceError",
    "ServiceError",
    "UnsupportedFormat",
    "UnsupportedImage",
    "UploadTimeout",
    "UploadTooLarge",
    "__version__",
]
