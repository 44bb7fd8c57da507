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
from ._client import AsyncClient, AsyncJob, Client, Job
from ._errors import (
    ConnectionFailed,
    DamagedImage,
    DeadlineExceeded,
    EmptyUpload,
    FormatError,
    ImpossibleOutput,
    InputError,
    InvalidOption,
    JobCancelled,
    KeyMissing,
    KeyRefused,
    MalformedUpload,
    NoSuchJob,
    NotFound,
    NotReady,
    ProblemError,
    QueueFull,
    RateExceeded,
    ResultNotReady,
    RooftraceError,
    ServiceError,
    StorageFull,
    UnsupportedFormat,
    UnsupportedImage,
    UploadTimeout,
    UploadTooLarge,
)
from ._images import Image
from ._jobs import JobImage, JobStatus
from ._options import Format, JobFormat, Options, ResultOptions
from ._results import Result
from ._version import __version__

__all__ = [
    "AsyncClient",
    "AsyncJob",
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
    "Job",
    "JobCancelled",
    "JobFormat",
    "JobImage",
    "JobStatus",
    "KeyMissing",
    "KeyRefused",
    "MalformedUpload",
    "NoSuchJob",
    "NotFound",
    "NotReady",
    "Options",
    "Outcome",
    "ProblemError",
    "QueueFull",
    "RateExceeded",
    "Result",
    "ResultNotReady",
    "ResultOptions",
    "RooftraceError",
    "ServiceError",
    "StorageFull",
    "UnsupportedFormat",
    "UnsupportedImage",
    "UploadTimeout",
    "UploadTooLarge",
    "__version__",
]
