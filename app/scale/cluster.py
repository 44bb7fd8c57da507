"""Connect to a Ray cluster, or begin one on this machine that ends with this process."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Ray reads these as it is imported: no report to its makers, and no log of its own processes, as
# errors that matter here come as exceptions.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray

from ..errors import InvalidOption, StartupError

logger = logging.getLogger(__name__)

_KNOCK = 10
"""Seconds that a cluster has to accept a connection."""
_STARTS = 3
"""Tries to begin a cluster here: Ray's own 30 seconds are too few on a busy machine."""


@contextmanager
def on_cluster(address: str | None, *, cpus: int | None, objects: int) -> Iterator[None]:
    """Connect to the cluster at `address` for the length of the context.

    Without an address, a cluster is begun on this machine, and ends with the context. It asks for
    this user's token and has no dashboard. It has `cpus` processors, by default all, and a store of
    `objects` bytes for what its processes exchange.

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
    # Ray's ports are open to the network at any address, so the token is needed. Ray asks for it by
    # default from 2.60 on.
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
