"""The summary of a run, one line at its end."""

from dataclasses import dataclass, field
from time import perf_counter

from ..segmentation.stream import SegmentedStream
from ..terminal import counted


@dataclass
class Summary:
    """Counts over the files of a run."""

    files: int = 0
    failed: int = 0
    left: int = 0
    """Files whose result was there already."""
    buildings: int = 0
    area: float = 0.0
    """Area of the buildings in m², of the files whose GSD is known."""
    without_gsd: int = 0
    started: float = field(default_factory=perf_counter)

    def add(self, stream: SegmentedStream) -> None:
        """Count a stream that was read to its end."""
        self.files += 1
        self.buildings += stream.building_count
        if stream.building_area is None:
            self.without_gsd += 1
        else:
            self.area += stream.building_area

    def __str__(self) -> str:
        parts = [f"{counted(self.files, 'file')} segmented", counted(self.buildings, "building")]
        if self.without_gsd < self.files:
            unknown = f" ({counted(self.without_gsd, 'file')} without a GSD not counted)"
            parts.append(f"{self.area:.0f} m²{unknown if self.without_gsd else ''}")
        parts.append(f"{perf_counter() - self.started:.1f} s")
        if self.left:
            parts.append(f"{self.left} already there")
        parts.append(f"{self.failed} failed")
        return ", ".join(parts)
