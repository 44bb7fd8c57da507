"""The masks and the buildings of many files as one STAC collection, with relative links alone.

Sources: the SpatioTemporal Asset Catalog specification 1.1; its projection extension 2.0.
"""

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely

from ..outputs.earth import to_earth
from ..outputs.partitions import KEY
from .tiles import Tile
from .work import BulkWork, Record, described

if TYPE_CHECKING:
    import pystac

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"


def save_collection(
    dest: Path, tiles: Sequence[Tile], records: Mapping[str, Record], work: BulkWork, buildings: int
) -> None:
    """Write `collection.json`, and one item for each tile in `items/`.

    Raises:
        OSError: no room, or no right to write there.
    """
    import pystac

    items = [_item(tile, records[tile.id], work) for tile in tiles]
    west, south, east, north = zip(*(item.bbox or () for item in items), strict=True)
    times = sorted(item.datetime for item in items if item.datetime)
    collection = pystac.Collection(
        id=dest.resolve().name or "buildings",
        title="Buildings found by Rooftrace",
        description=f"Masks of {len(items)} images, and the outlines of the {buildings} buildings.",
        extent=pystac.Extent(
            pystac.SpatialExtent([[min(west), min(south), max(east), max(north)]]),
            pystac.TemporalExtent([[times[0], times[-1]]]),
        ),
        license="other",
        extra_fields={"rooftrace": described(records)},
        assets={
            "buildings": pystac.Asset(
                "./buildings",
                title=f"GeoParquet in longitude and latitude, in folders by {KEY}",
                media_type="application/vnd.apache.parquet",
                roles=["data"],
            )
        },
    )
    folder = dest / "items"
    shutil.rmtree(folder, ignore_errors=True)
    collection.set_self_href(str(dest / "collection.json"))
    for item in items:
        collection.add_item(item)
        item.set_self_href(str(folder / f"{item.id}.json"))
    collection.save(pystac.CatalogType.SELF_CONTAINED)


def _item(tile: Tile, record: Record, work: BulkWork) -> "pystac.Item":
    """Describe a tile's mask. Its time is that of the imagery if known, else of segmentation."""
    import pystac

    place = tile.georeference
    assert place.crs is not None, "probe has checked it"
    corners = place.to_map([0, tile.height, tile.height, 0], [0, 0, tile.width, tile.width])
    on_map = shapely.Polygon(np.stack(corners, axis=1))
    on_earth = shapely.orient_polygons(to_earth(on_map, place.to_degrees()))
    authority = pyproj.CRS(place.crs).to_authority()
    return pystac.Item(
        id=tile.id,
        geometry=shapely.geometry.mapping(on_earth),
        bbox=list(on_earth.bounds),
        datetime=datetime.fromisoformat(tile.taken or record.segmented),
        properties={
            "processing:datetime": record.segmented,
            "proj:code": ":".join(authority) if authority else None,
            **({} if authority else {"proj:wkt2": place.crs}),
            "proj:shape": [tile.height, tile.width],
            "proj:transform": list(place.transform),
            "rooftrace:source": tile.name,
            "rooftrace:notices": list(record.notices),
        },
        stac_extensions=[_PROJECTION],
        assets={
            "mask": pystac.Asset(
                f"../{work.masks.name}/{tile.id}.tif",
                title="1 is building, 0 is not, 255 is not this image's",
                media_type=pystac.MediaType.COG,
                roles=["data"],
            )
        },
    )
