"""The domain errors. They know nothing of HTTP: `app.api.problems` maps each class to a status.

Every message says what came, what was expected and what to do.
"""

import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class RooftraceError(Exception):
    """Base of every error that Rooftrace raises on purpose."""


class PassingError(RooftraceError):
    """Base of errors that pass: the same request may succeed after `seconds`."""

    def __init__(self, message: str, seconds: float = 2.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class InputError(RooftraceError):
    """The client's input is at fault."""


class MalformedUpload(InputError):
    """The body is no readable form, or does not hold the files that are expected."""


class EmptyUpload(InputError):
    """The file has no bytes."""


class UploadTooLarge(InputError):
    """More bytes, pixels or files than the limits allow."""


class UnsupportedFormat(InputError):
    """Not an image format that is accepted."""


class UnsupportedEncoding(UnsupportedFormat):
    """The body or the file is encoded, such as with gzip or base64."""


class DamagedImage(InputError):
    """An accepted format, but truncated, corrupt or without pixels."""


class UnsupportedImage(InputError):
    """A whole image whose bands or samples can't be read as 8-bit RGB."""


class InvalidOption(InputError):
    """A parameter out of range, or one that this bundle can't honour."""


class ImpossibleOutput(InputError):
    """An output that the upload can't give, such as a GeoTIFF without a georeference."""


class InvalidInputs(InputError):
    """A body in JSON that can't be read as an execution: a part is missing, or of another type."""


class NoSuchProcess(InputError):
    """A process that is not offered."""


class NoSuchJob(InputError):
    """A job that is not there, or another client's."""


class ResultNotReady(InputError):
    """A job that has no result yet."""


class NotAcceptable(InputError):
    """No result format satisfies what the client accepts."""


class NoSuchTile(InputError):
    """No source of this name, or a tile that lies outside of it."""


class KeyMissing(InputError):
    """The service needs a key, and none came."""


class KeyRefused(InputError):
    """A key came that is not one of the operator's."""


class OverloadError(RooftraceError):
    """The request is valid, but the service has no room or time for it."""


class QueueFull(OverloadError):
    """As many requests are waiting as the settings allow."""


class NotReady(OverloadError):
    """Models are not loaded, or the service is draining."""


class StorageFull(OverloadError):
    """No room on disk for a job."""


class JobsAway(OverloadError):
    """The database of jobs, or the store of their files, can't be reached."""


class UploadTimeout(OverloadError):
    """The body did not arrive in time."""


class DeadlineExceeded(OverloadError):
    """The request's deadline passed before its result was ready."""


class RateExceeded(PassingError, InputError):
    """This client sends more requests than the operator allows."""


class SourceDown(PassingError, OverloadError):
    """The imagery of a map can't be read at the moment."""


class ClientGone(OverloadError):
    """The client left before its result was ready."""


class InferenceError(RooftraceError):
    """A model failed, or gave something that is no probability."""


class StartupError(RooftraceError):
    """The service refuses to start."""


class SettingsError(StartupError):
    """A setting has a value that it can't have, or does not exist."""


class BundleError(StartupError):
    """Manifest, weights or graph are missing or disagree."""


class DeviceError(StartupError):
    """The device that was asked for is not really in use."""


def message_of(error: Exception) -> str:
    """Return the message of an error for the command line.

    The message of an unforeseen error says where it arose and asks for a report.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RooftraceError):
        return str(error)
    logger.debug("an unforeseen error", exc_info=error)
    [*_, last] = traceback.extract_tb(error.__traceback__)
    return (
        f"an unforeseen {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}: "
        f"{error}. This is a fault of Rooftrace: report it, with the file if you can. "
        "--log-level debug shows more."
    )


_EXPECTED = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be text",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "too_short": "must have {min_length} or more",
    "string_pattern_mismatch": "must match {pattern}",
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "json_invalid": "is not JSON: {error}",
}
"""Plain words for the types of pydantic's errors, filled with their context."""


def refusal(name: str, refused: Mapping[str, Any]) -> str:
    """Say what pydantic refused, such as "overlap must be at most 0.75, got 2"."""
    kind = refused["type"]
    if kind in _EXPECTED:
        bounds = {key: str(of).removesuffix(".0") for key, of in refused.get("ctx", {}).items()}
        expected = _EXPECTED[kind].format(**bounds)
    else:
        expected = refused["msg"].replace("Input should", "must").replace("Value error, ", "")
    if kind == "value_error" and not expected.startswith("must "):
        # A sentence of ours, which says what came.
        return f"{name}: {expected}" if name else expected
    if kind in ("missing", "extra_forbidden", "json_invalid"):
        return f"{name} {expected}"
    return f"{name} {expected}, got {brief(refused['input'])}"


def brief(value: object) -> str:
    """Quote what came, but not at any length."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
