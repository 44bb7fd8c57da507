"""A Ray cluster: somebody's, or one of our own that ends with us."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray reads these as it is imported. Nobody is told who runs this; of its own processes' log, what
# concerns its users comes as exceptions.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray

from ..errors import InvalidOption, StartupError

logger = logging.getLogger(__name__)

_KNOCK = 10
"""Seconds."""
_STARTS = 3
"""Times that a cluster is begun here: Ray's own 30 seconds are few on a machine with much to do."""


@contextmanager
def on_cluster(address: str | None, *, cpus: int | None, objects: int) -> Iterator[None]:
    """Be connected to a cluster.

    `address` is a cluster's. Without it, one is begun on this machine, which asks for the token of
    this user, has no dashboard, takes `cpus` processors for its own, by default all, holds
    `objects` bytes of what travels between processes, and ends with the context.

    Raises:
        InvalidOption: there is no cluster at the address.
        StartupError: none can be begun.
    """
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if address is None:
        _begin(num_cpus=cpus, object_store_memory=objects, **options)
    else:
        host, _, port = address.rpartition(":")
        try:
            if host and port.isdecimal():  # where nobody listens, Ray itself would try for minutes
                socket.create_connection((host, int(port)), _KNOCK).close()
            ray.init(address=address, **options)
        except (OSError, RuntimeError) as error:
            raise InvalidOption(
                f"there is no Ray cluster at {address}: {error}. If it asks for a token, set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _begin(**options: Any) -> None:
    # Ray's ports are open to the network whatever address it is given, and so the token is needed.
    # From 2.60 on it is asked for of Ray's own accord.
    for left in reversed(range(_STARTS)):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:  # Ray raises no narrower one when it is late
            ray.shutdown()
            if not left:
                raise StartupError(
                    f"Ray could not begin a cluster on this machine: {error} Try again when the "
                    "machine has less to do, or name a cluster by --address."
                ) from error
