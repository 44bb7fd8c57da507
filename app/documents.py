"""JSON from clients and operators."""

import json
from collections import Counter
from typing import Any

from .errors import brief


def read_json(text: str | bytes) -> Any:  # noqa: ANN401
    """Parse JSON in which no object has a key twice: one of the two would be lost silently.

    Raises:
        ValueError: it is not such JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {brief(twice)} comes more than once in one object")
    return found
