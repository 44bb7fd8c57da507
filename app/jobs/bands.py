"""Keep the finished bands of long work in files, so that interrupted work goes on below them.

Bands have the same bits whether or not those above them were computed in the same run, and so has
what a writer makes of them. A file holds what a mask is made of: probabilities, and how far the
members disagree. Masks and valid pixels follow from the plan and the image.

A file is a line of JSON, its checksum, and two compressed arrays, which have their own.
Neighbouring probabilities have similar bits, so their differences are stored, first the lowest byte
of each and then the next: 0.67 of the bytes.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..imaging.image import RowSource
from ..segmentation.cascade import CascadeCount
from ..segmentation.plan import Plan
from ..segmentation.segmenter import band_of
from ..segmentation.stream import Band
from .blobs import Blobs

_ENDING = ".band"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, zlib.error)
"""Errors of reading a file that is gone or damaged."""
_LEVEL = 1  # 6 takes three times as long, and leaves 2 % less


class KeptBands:
    """The bands of one image that are kept in `folder`, from its first row on.

    `count`: patches that the cascade spared in these rows; it is kept with each band.
    `check`: read each band to its end, as the machine may have failed while it was written.
    """

    def __init__(
        self, blobs: Blobs, folder: str, count: CascadeCount | None = None, *, check: bool = True
    ) -> None:
        self._blobs = blobs
        self._folder = folder
        self._count = count
        self._names: list[str] = []
        self.rows = 0
        """Rows of the image, from the first on, whose bands are kept."""
        header: dict[str, Any] = {}
        for name in blobs.names(folder):
            if not name.endswith(_ENDING):
                continue
            try:
                data = blobs.read(name)
                read, _ = _split(data)
                if check:
                    _decode(data)
            except UNREADABLE:
                break
            if read["row"] != self.rows:
                break
            header = read
            self.rows += read["shape"][0]
            self._names.append(name)
        if count is not None:
            rows = header.get("cascade", {})
            count.rows.update({int(row): list(of_row) for row, of_row in rows.items()})

    def read(self, plan: Plan, image: RowSource) -> Iterator[Band]:
        """Read the bands that are kept, with the mask that `plan` makes of them."""
        for name in list(self._names):
            data = self._blobs.read(name)
            row, probability, disagreement = _decode(data, disagreement=plan.disagreement)
            yield band_of(plan, image, row, probability, disagreement)

    def save(self, bands: Iterable[Band]) -> Iterator[Band]:
        """Pass on the bands that follow, each kept before it goes.

        Raises, as they are read:
            OSError: no room.
        """
        for band in bands:
            self._blobs.write(f"{self._folder}/{band.row:010}{_ENDING}", _encode(band, self._count))
            yield band


def _encode(band: Band, count: CascadeCount | None) -> bytes:
    parts = [_pack(band.probability)]
    if band.disagreement is not None:
        parts.append(_pack(band.disagreement))
    header = {
        "row": band.row,
        "shape": band.probability.shape,
        "bytes": [len(part) for part in parts],
        "cascade": {} if count is None else count.rows,
    }
    line = json.dumps(header).encode()
    return b"\n".join([line, b"%d" % zlib.crc32(line), b"".join(parts)])


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    line, checksum, body = data.split(b"\n", 2)
    if int(checksum) != zlib.crc32(line):
        raise ValueError("its first line is damaged")
    header: dict[str, Any] = json.loads(line)
    if len(body) != sum(header["bytes"]):
        raise ValueError("it was cut short")
    return header, body


def _decode(
    data: bytes, *, disagreement: bool = True
) -> tuple[int, NDArray[np.float32], NDArray[np.float32] | None]:
    header, body = _split(data)
    height, width = header["shape"]
    first, *more = header["bytes"]
    probability = _unpack(body[:first], height, width)
    apart = _unpack(body[first:], height, width) if more and disagreement else None
    return int(header["row"]), probability, apart


def _pack(values: NDArray[np.float32]) -> bytes:
    bits = np.ascontiguousarray(values).view(np.uint32)
    differences = bits.copy()
    differences[:, 1:] -= bits[:, :-1]
    in_planes = differences.reshape(-1).view(np.uint8).reshape(-1, 4).T
    return zlib.compress(in_planes.tobytes(), _LEVEL)


def _unpack(data: bytes, height: int, width: int) -> NDArray[np.float32]:
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(4, height * width)
    differences = np.ascontiguousarray(planes.T).view(np.uint32).reshape(height, width)
    return np.cumsum(differences, axis=1, dtype=np.uint32).view(np.float32)
