"""List the files of a bucket's folder or of a STAC catalogue."""

import fnmatch
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ..errors import InvalidOption
from ..imaging.sniff import ENDINGS

if TYPE_CHECKING:
    import pystac

_ROLES = ("visual", "data")
_NAMES = ("visual", "image", "data")


@dataclass(frozen=True)
class File:
    """A file as its user or a catalogue named it.

    `path` is a path, or GDAL's name if `named`. `version` is its size and time of change, empty if
    they are not known. `taken` is when the imagery was taken, from its catalogue: RFC 3339.
    """

    name: str
    path: str
    named: bool
    version: str = ""
    taken: str | None = None

    @cached_property
    def id(self) -> str:
        """Name of its results: legible, and different for each file."""
        stem = PurePosixPath(self.name.split("?")[0]).stem
        legible = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in stem)
        return f"{legible[:80]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def list_bucket(folder: str, pattern: str) -> list[str]:
    """Return the files below a folder (/vsis3/…) whose path in it matches `pattern`, sorted.

    An empty pattern matches all files. Hidden ones are left out.

    Raises:
        InvalidOption: the bucket can't be listed.
    """
    import pyogrio

    try:
        listed = pyogrio.vsi_listtree(folder)
    except Exception as error:  # GDAL's reasons have no class of their own
        raise InvalidOption(f"{folder} can't be listed: {error}") from error
    below = {path: path[len(folder) :].lstrip("/") for path in listed if not path.endswith("/")}
    return sorted(
        path
        for path, name in below.items()
        if not any(part.startswith(".") for part in name.split("/"))
        and (not pattern or _fits(name, pattern))
    )


def list_catalogue(href: str, asset: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield the address of an image of each item of a STAC catalogue, and when it was taken.

    `asset` names the items' asset; without it, it is the one named or described as imagery.

    Raises:
        InvalidOption: it is no catalogue, or an item has no such asset.
    """
    import pystac

    try:
        read = pystac.StacIO.default().read_json(href)
        if read.get("type") == "FeatureCollection":  # what a search of a STAC API gives
            items = list(pystac.ItemCollection.from_dict(read))
        else:
            whole = pystac.read_file(href)
            if isinstance(whole, pystac.Catalog):
                items = list(whole.get_items(recursive=True))
            else:
                items = [whole] if isinstance(whole, pystac.Item) else []
    except Exception as error:  # of the network, of JSON, of pystac
        raise InvalidOption(f"{href} can't be read as a STAC catalogue: {error}") from error
    if not items:
        raise InvalidOption(f"{href} is a STAC catalogue without items")
    for item in items:
        chosen = item.assets.get(asset or _imagery(item))
        if chosen is None:
            known = ", ".join(item.assets) or "none"
            named = f"no asset {asset}" if asset else "no single image among its assets"
            raise InvalidOption(f"{item.id} in {href} has {named} ({known}): name one by --asset")
        taken = None if item.datetime is None else item.datetime.isoformat()
        yield chosen.get_absolute_href() or chosen.href, taken


def _imagery(item: "pystac.Item") -> str:
    """Return the name of the asset that is the imagery, empty if it is not clear which."""
    assets = item.assets
    if named := [name for name in _NAMES if name in assets]:
        return named[0]
    for role in _ROLES:
        fitting = [name for name, asset in assets.items() if role in (asset.roles or ())]
        if len(fitting) == 1:
            return fitting[0]
    images = [
        name
        for name, asset in assets.items()
        if asset.href.split("?")[0].lower().endswith(ENDINGS)
        and not set(asset.roles or ()) & {"thumbnail", "overview"}
    ]
    return images[0] if len(images) == 1 else ""


def _fits(path: str, pattern: str) -> bool:
    """Tell whether a path matches a pattern in which `**/` stands for any folders, even none."""
    if "**/" not in pattern:
        return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)
    alone = pattern.replace("**/", "", 1)
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, alone)
