"""Many files on many processors: Ray Data hands files to workers, one row a file.

A worker opens its file and its neighbours itself: no pixel travels through Ray. Workers ask for
half a processor each: a pool that takes all of them starves its own readers, and hangs.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from ..segmentation.segmenter import Segmenter
from .cluster import on_cluster  # before ray, which reads its environment as it is imported
from .outcome import Crew, Outcome, attempt
from .sources import File
from .tiles import Tile
from .work import BulkWork, Record, probe, segment_tile

# isort: split
import ray
import ray.data

_CPUS = 0.5
_TRIES = 3
"""Times that a file is tried again after its worker ended."""
_OBJECTS = 200_000_000
"""Bytes of Ray's object store in a cluster that is begun here: it holds names and records alone."""


class OnRay(Crew):
    """A Ray cluster that segments tiles; the context is the connection to it.

    `address` is that of `on_cluster`. `workers` is the number of processes that predict, by default
    that of the processors.
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        self._address = address
        self._workers = workers
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        self._exits.enter_context(on_cluster(self._address, cpus=None, objects=_OBJECTS))
        logging.getLogger("ray.data").setLevel("ERROR")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # a file that ends its workers costs no other file
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def probe(self, files: Sequence[File], work: BulkWork) -> Iterator[Outcome[Tile]]:
        """Look at the size and the place of each file."""

        def look(row: dict[str, Any]) -> dict[str, Any]:
            file = pickle.loads(row["packed"])
            work.begin()
            return {"packed": pickle.dumps(attempt(file.name, probe, file, work))}

        rows = [{"packed": pickle.dumps(file)} for file in files]
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 200))
        yield from _outcomes(data.map(look, num_cpus=_CPUS), [file.name for file in files])

    def segment(
        self,
        tiles: Sequence[tuple[Tile, list[Tile]]],
        work: BulkWork,
        load: Callable[[], Segmenter],
    ) -> Iterator[Outcome[Record]]:
        """Segment tiles beside their neighbours, and yield each outcome as soon as it is known.

        A worker that ends is started again, and its file is begun anew.
        """
        workers = self._workers or int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        rows = [{"packed": pickle.dumps(pair)} for pair in tiles]
        segmented = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Worker,
            fn_constructor_args=(work, load),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=_CPUS,
            max_restarts=-1,
            max_task_retries=_TRIES,
        )
        yield from _outcomes(segmented, [tile.name for tile, _ in tiles])


class _Worker:
    """A process with the models, which lives for many files."""

    def __init__(self, work: BulkWork, load: Callable[[], Segmenter]) -> None:
        work.begin()
        self._work = work
        self._segmenter = load()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Segment the one tile of a batch."""
        tile, neighbours = pickle.loads(batch["packed"][0])
        outcome = attempt(tile.name, segment_tile, tile, neighbours, self._work, self._segmenter)
        return {"packed": np.array([pickle.dumps(outcome)], object)}


def _outcomes(data: "ray.data.Dataset", names: Sequence[str]) -> Iterator[Outcome[Any]]:
    """Yield the outcome of each file, an error for each that has none."""
    missing = dict.fromkeys(names)
    for row in data.iter_rows():
        outcome: Outcome[Any] = pickle.loads(row["packed"])
        missing.pop(outcome.name, None)
        yield outcome
    for name in missing:
        yield Outcome(
            name,
            error=f"its worker ended {_TRIES + 1} times while it was at this file, perhaps for "
            "want of memory: give it fewer --workers, or cut the file",
        )
