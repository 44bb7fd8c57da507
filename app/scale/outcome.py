"""The outcome of a file, and the crew that works on files: this process, or others (`onray`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..errors import message_of
from ..segmentation.segmenter import Segmenter
from .sources import File
from .tiles import Tile
from .work import BulkWork, Record, probe, segment_tile

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Outcome(Generic[_Result]):
    """The outcome for the file of this name: a result, or an error."""

    name: str
    result: _Result | None = None
    error: str = "nothing is known of it"


class Crew(AbstractContextManager["Crew"]):
    """The processes that work on files within a context: here this process, file by file."""

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def probe(self, files: Sequence[File], work: BulkWork) -> Iterator[Outcome[Tile]]:
        """Look at the size and the place of each file."""
        return (attempt(file.name, probe, file, work) for file in files)

    def segment(
        self,
        tiles: Sequence[tuple[Tile, list[Tile]]],
        work: BulkWork,
        load: Callable[[], Segmenter],
    ) -> Iterator[Outcome[Record]]:
        """Segment tiles beside their neighbours, and yield each outcome as soon as it is known."""
        with closing(load()) as segmenter:
            for tile, neighbours in tiles:
                yield attempt(tile.name, segment_tile, tile, neighbours, work, segmenter)


def attempt(name: str, do: Callable[..., _Result], *arguments: Any) -> Outcome[_Result]:
    """Call `do` for the file of this name. Any error becomes its outcome, so other files go on."""
    try:
        return Outcome(name, do(*arguments))
    except Exception as error:
        return Outcome(name, error=message_of(error))
