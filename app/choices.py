"""Names of the choices of a process. It imports no library, so settings and help come at once."""

from typing import Literal

Engine = Literal["local", "ray"]
"""Who predicts: this process, or processes on a Ray cluster."""

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
