"""Take the address of the service before its models are loaded."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..errors import StartupError
from ..settings import Settings


@contextmanager
def bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """Take the port, so that it is known to be ours before anything is loaded.

    Nobody can connect until the server listens.

    Raises:
        StartupError: the address can't be had.
    """
    with ExitStack() as opened:
        try:
            # As asyncio does: a host may have several addresses, and localhost may be there twice.
            found = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            sockets = []
            for family, kind, protocol, _, address in dict.fromkeys(found):
                sockets.append(opened.enter_context(socket.socket(family, kind, protocol)))
                sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sockets[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sockets[-1].bind(address)
        except OSError as error:
            raise address_refused(settings, error) from error
        yield sockets


def address_refused(settings: Settings, error: OSError) -> StartupError:
    """Say why an address can't be listened on, and what to do."""
    reason = (error.strerror or str(error)).lower()
    return StartupError(
        f"can't listen on {settings.address} ({reason}): "
        "choose another --port or --host, or stop what listens there; `rooftrace doctor` looks at "
        "the port"
    )
