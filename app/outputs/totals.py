"""Count and area of the buildings, as JSON results carry them."""

from ..segmentation.stream import SegmentedStream


def totals(stream: SegmentedStream) -> dict[str, object]:
    """Return count and area in m² (None where the GSD is not known) of a stream read to its end."""
    return {"building_count": stream.building_count, "building_area_m2": stream.building_area}
