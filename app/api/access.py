"""API keys and a rate of requests for each client; both are off by default."""

import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from ..errors import KeyMissing, KeyRefused, RateExceeded, SettingsError
from ..settings import Settings

KEY_FAILURES = (KeyMissing, KeyRefused, RateExceeded)
"""Problems of every request where keys or a rate are asked for."""
_SHORTEST_KEY = 16
_MAX_CLIENTS = 10_000  # remembered at once by `Rate`


class Rate:
    """Limits each client to `per_minute` requests a minute, which may come all at once.

    Source: the generic cell rate algorithm, ITU-T I.371. It keeps one moment for each client.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval = 60 / per_minute
        self._burst = max(60.0, self._interval)
        self._free_at = OrderedDict[bytes, float]()  # the client of the last request is last

    def check(self, client: bytes) -> None:
        """Count a request of `client`.

        Raises:
            RateExceeded: the client has sent too many.
        """
        now = time.monotonic()
        due = max(self._free_at.get(client, now), now) + self._interval
        if (early := due - now - self._burst) > 1e-9:
            raise RateExceeded(
                f"This client may send {60 / self._interval:g} requests a minute. "
                f"Try again in {math.ceil(early)} s.",
                early,
            )
        self._free_at[client] = due
        self._free_at.move_to_end(client)
        if len(self._free_at) > _MAX_CLIENTS:
            self._free_at.popitem(last=False)


class Access:
    """The digests of the valid keys, and a rate; either may be absent."""

    def __init__(self, keys: Sequence[bytes] = (), rate: Rate | None = None) -> None:
        self.keys = keys
        self._rate = rate

    def check(self, address: str, given: str | None) -> str:
        """Check a request, and return its owner: a digest of the key, empty if no keys are set.

        A request without a valid key counts against its address.

        Raises:
            RateExceeded: the client has sent too many.
            KeyMissing, KeyRefused: keys are set, and the request has none or a wrong one.
        """
        holder = self._holder(given) if given else None
        if self._rate:
            self._rate.check(holder or address.encode())
        if self.keys and not given:
            raise KeyMissing("A key is needed: send the header Authorization: Bearer KEY.")
        if self.keys and not holder:
            raise KeyRefused("This key is not valid. Ask the operator of the service for another.")
        return holder.hex() if holder else ""

    def _holder(self, given: str) -> bytes | None:
        """Return a digest that identifies the holder of a key, None for an invalid key.

        It compares with every valid key in constant time, so its duration reveals nothing.
        """
        digest = _digest(given)
        matches = [compare_digest(digest, good) for good in self.keys]
        return digest if any(matches) else None


def read_keys(file: Path) -> list[bytes]:
    """Read a file with a key on each line, and return the digests of the keys.

    Empty lines and those that start with # do not count.

    Raises:
        SettingsError: it can't be read, holds no key, or one that is too easily guessed or sent.
    """
    try:
        text = file.read_text("utf-8-sig")  # Notepad begins a file with a byte order mark
    except (OSError, ValueError) as error:
        raise SettingsError(f"ROOFTRACE_API_KEYS={file} can't be read: {error}") from error
    lines = map(str.strip, text.splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    for number, key in enumerate(keys, 1):
        if len(key) < _SHORTEST_KEY or not key.isascii() or " " in key:
            raise SettingsError(  # without the key itself
                f"ROOFTRACE_API_KEYS={file}: key {number} must have at least {_SHORTEST_KEY} "
                "ASCII characters and no space"
            )
    if not keys:
        raise SettingsError(f"ROOFTRACE_API_KEYS={file} holds no key; write one on each line")
    return [_digest(key) for key in keys]


def access_of(settings: Settings) -> Access:
    """Return the keys and the rate that the settings name; reads the file of keys each time.

    Raises:
        SettingsError: the keys can't be used.
    """
    return Access(
        read_keys(settings.api_keys) if settings.api_keys else (),
        Rate(settings.rate_limit) if settings.rate_limit else None,
    )


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
