"""What became of a file, and who works on files: this process, or others (`onray`)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Protocol, Self

from ..errors import told
from ..segmentation.segmenter import Segmenter
from .sources import File
from .tiles import Tile
from .work import Record, Work, probe, segment_tile


@dataclass(frozen=True)
class Outcome:
    """What became of a file: a tile or its record, or else what is wrong."""

    name: str
    tile: Tile | None = None
    record: Record | None = None
    error: str | None = None


class Crew(AbstractContextManager["Crew"], Protocol):
    """Those who work on files, while their context lasts."""

    def probe(self, files: Sequence[File], work: Work) -> Iterator[Outcome]:
        """Look at the size and the place of each file."""

    def segment(
        self,
        tiles: Sequence[tuple[Tile, list[Tile]]],
        work: Work,
        load: Callable[[], Segmenter],
    ) -> Iterator[Outcome]:
        """Segment tiles beside their neighbours, and yield what became of each as it is known."""


class Alone:
    """This process, which works on one file after the other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def probe(self, files: Sequence[File], work: Work) -> Iterator[Outcome]:
        """Look at the size and the place of each file."""
        work.begin()
        return (try_probe(file, work) for file in files)

    def segment(
        self,
        tiles: Sequence[tuple[Tile, list[Tile]]],
        work: Work,
        load: Callable[[], Segmenter],
    ) -> Iterator[Outcome]:
        """Segment tiles beside their neighbours, and yield what became of each as it is known."""
        with closing(load()) as segmenter:
            for tile, neighbours in tiles:
                yield try_segment(tile, neighbours, work, segmenter)


def try_probe(file: File, work: Work) -> Outcome:
    """Probe a file; whatever is wrong with it costs no other file anything."""
    try:
        return Outcome(file.name, tile=probe(file, work))
    except Exception as error:
        return Outcome(file.name, error=told(error))


def try_segment(
    tile: Tile, neighbours: Sequence[Tile], work: Work, segmenter: Segmenter
) -> Outcome:
    """Segment a tile; whatever is wrong with it, a fault of ours too, costs no other anything."""
    try:
        return Outcome(tile.name, record=segment_tile(tile, neighbours, work, segmenter))
    except Exception as error:
        return Outcome(tile.name, error=told(error))
