"""The results of a finished job: any format, at any threshold, from the probabilities it keeps."""

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..bundle.manifest import Manifest
from ..errors import ImpossibleOutput, InvalidOption, NoSuchJob
from ..imaging.georeference import corners, crs_name, mean_gsd
from ..imaging.image import Image
from ..outputs.formats import FORMATS, Format
from ..segmentation.options import Options, ResultOptions
from ..segmentation.plan import Plan
from ..segmentation.segmenter import stream
from ..segmentation.stream import Band, Cancelled, SegmentedStream
from .bands import UNREADABLE, KeptBands
from .blobs import Blobs
from .records import MANIFEST, UPLOAD, Job

logger = logging.getLogger(__name__)

_CASCADE_DIFFERS = (
    "The probabilities were made with the job's own threshold, at which the cascade was {was}; "
    "with this threshold POST /segment would have it {would}, and may differ."
)


@dataclass(frozen=True)
class Kept:
    """A job, and its files."""

    job: Job
    blobs: Blobs

    def options(self, given: ResultOptions) -> Options:
        """Return the job's options, with those that a client gives for its results.

        Raises:
            InvalidOption: a threshold where the job kept votes.
        """
        values = given.model_dump(include=set(ResultOptions.model_fields), exclude_unset=True)
        if self.job.options.get("combine") == "vote" and "threshold" in values:
            raise InvalidOption(
                "threshold is fixed for this job: with combine=vote it decides the votes that are "
                "kept. Create another job."
            )
        return Options.parse({**self.job.options, **values})

    def upload(self) -> bytes:
        """Return the file that the client sent.

        Raises:
            NoSuchJob: it is gone or damaged: it was whole when the job was created.
            JobsAway: the store can't be reached.
        """
        try:
            data = self.blobs.read(self.job.file(UPLOAD))
        except OSError as error:
            raise self._lost(error) from error
        if self.job.image["crc32"] != zlib.crc32(data):
            raise self._lost("its upload has another checksum")
        return data

    def begin(
        self,
        image: Image,
        options: Options,
        format: Format,
        notices: tuple[str, ...],
        cancelled: Cancelled,
    ) -> SegmentedStream:
        """Return the stream of the image as `POST /segment` would, without asking a member.

        `notices` are those of the format.

        Raises:
            NoSuchJob: files of the job are gone or damaged. The stream may raise it too.
        """
        manifest = self._manifest()
        made = Plan.resolve(manifest, Options.parse(self.job.options), image)
        plan = Plan.resolve(manifest, options, image, buildings=format.buildings, notices=notices)
        if plan.cascade != made.cascade:
            was, would = ("off" if p.cascade is None else "on" for p in (made, plan))
            differs = _CASCADE_DIFFERS.format(was=was, would=would)
            plan = replace(plan, cascade=made.cascade, notices=(*plan.notices, differs))
        count = plan.count()
        kept = KeptBands(self.blobs, self.job.bands, count, check=False)
        if kept.rows < image.height:
            raise self._lost(f"its bands end at row {kept.rows} of {image.height}")
        bands = self._read(kept, plan, image)
        return stream(plan, image, bands, cancelled, name=self.job.filename, cascade_count=count)

    def _manifest(self) -> Manifest:
        try:
            manifest = Manifest.model_validate_json(self.blobs.read(self.job.file(MANIFEST)))
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        # The version is a digest of all that the manifest says.
        if manifest.version != (self.job.made_of or {}).get("model"):
            raise self._lost("its manifest has another version")
        return manifest

    def _read(self, kept: KeptBands, plan: Plan, image: Image) -> Iterator[Band]:
        try:
            yield from kept.read(plan, image)
        except UNREADABLE as error:
            raise self._lost(error) from error

    def _lost(self, reason: object) -> NoSuchJob:
        """Return the error of a job whose files went while it was read, or failed with a disk."""
        logger.warning("job %s has lost files: %s", self.job.id, reason)
        return NoSuchJob(
            f"The job {self.job.id} has lost its files: it was dismissed, has expired, or the "
            "service's disk failed. Create it again."
        )


def describe(image: Image, filename: str, data: bytes) -> dict[str, object]:
    """Describe an upload: its size, its place, the formats that it can have, and its checksum."""
    place = image.georeference
    return {
        "filename": filename,
        "width": image.width,
        "height": image.height,
        "gsd": None if image.gsd is None else mean_gsd(image.gsd),
        "crs": None if place is None else crs_name(place),
        "corners": None if place is None else corners(place, image.height, image.width),
        "formats": {name: _why_not(format, image) for name, format in FORMATS.items()},
        "crc32": zlib.crc32(data),
    }


def _why_not(format: Format, image: Image) -> str | None:
    try:
        format.check(image)
    except (ImpossibleOutput, InvalidOption) as error:
        return str(error)
    return None
