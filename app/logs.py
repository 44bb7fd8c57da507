"""Write the log: a line for a person, or an object on a line for a machine."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from .settings import Settings


class JsonFormatter(logging.Formatter):
    """Write a record as one line of ASCII JSON, with the record's own `fields`.

    Control characters and all that is not ASCII are escaped, so that no client's text can end a
    line or colour a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, without a line break."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(settings: Settings) -> None:
    """Write the log to standard error as the settings ask for."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if settings.log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # httpx2 would write the addresses of tile sources, which may hold a key.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if settings.log_level == "info":
        # At this level rasterio logs errors that it raises as well, and botocore logs for each
        # file of a bucket where it found the credentials.
        for library in ("rasterio", "botocore"):
            logging.getLogger(library).setLevel(logging.WARNING)
