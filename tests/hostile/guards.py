"""Take out one guard at a time, and see a test go red: `python -m tests.hostile.guards`.

Each guard is a line of `app/`, what it is replaced with in a copy, and the test that must notice.
All of these tests pass on the copy as it is, which is seen first. `docs/reliability.md` has the
table.
"""

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from tests.e2e.conftest import ROOT


@dataclass(frozen=True)
class Guard:
    """A line that holds a promise: `line` of `file`, which becomes `without`; `test` sees it."""

    name: str
    file: str
    line: str
    without: str
    test: str


GUARDS = (
    Guard(
        "a full queue refuses",
        "app/api/admission.py",
        "if self.inside >= self.concurrency + self._max_waiting:",
        "if False:",
        "tests/unit/test_admission.py::TestQueue::test_503_when_it_is_really_full",
    ),
    Guard(
        "room is asked for before parameters are read",
        "app/api/routes.py",
        ", RoomFirst)",
        ")",
        "tests/unit/test_admission.py::TestQueue"
        "::test_refusing_takes_no_thread_and_looks_at_nothing_else",
    ),
    Guard(
        "bodies have a budget",
        "app/memory.py",
        "if new > max(room, old):",
        "if False:",
        "tests/unit/test_admission.py::TestMemory"
        "::test_an_upload_without_room_is_refused_before_it_is_read",
    ),
    Guard(
        "a body is limited while it streams",
        "app/api/uploads.py",
        "if received > limit:",
        "if False:",
        "tests/unit/test_uploads.py::TestTooLarge::test_while_it_streams",
    ),
    Guard(
        "an encoded body is refused as such",
        "app/api/uploads.py",
        "if value.strip().lower() not in plain:",
        "if False:",
        "tests/unit/test_uploads.py::TestEncodings::test_a_compressed_body",
    ),
    Guard(
        "every patch has an answer",
        "app/segmentation/cascade.py",
        "if not all(skipped):",
        "if False:",
        "tests/unit/test_service.py::TestBugs"
        "::test_one_that_looks_like_the_end_of_the_patches_gives_no_mask",
    ),
    Guard(
        "a result has all rows",
        "app/segmentation/stream.py",
        "if ended < self.image.height:",
        "if False:",
        "tests/unit/test_segmenter.py::test_a_stream_without_its_last_rows_is_no_result",
    ),
    Guard(
        "uploads are not spooled to disk",
        "app/api/uploads.py",
        "spool_max_size = 0",
        "spool_max_size = 1",
        "tests/unit/test_uploads.py::test_nothing_is_written_to_disk",
    ),
    Guard(
        "work stops at its deadline",
        "app/api/admission.py",
        "if self.remaining <= 0:",
        "if False:",
        "tests/unit/test_admission.py::TestDeadline"
        "::test_nor_does_it_when_the_event_loop_is_late_to_cancel_it",
    ),
    Guard(
        "work stops when its client leaves",
        "app/api/admission.py",
        "if self._abandoned:",
        "if False:",
        "tests/unit/test_admission.py::TestDeparture",
    ),
    Guard(
        "every batch asks whether to stop",
        "app/segmentation/segmenter.py",
        "            cancelled()\n            yield np.stack(batch)",
        "            yield np.stack(batch)",
        "tests/unit/test_segmenter.py::TestStopping"
        "::test_every_batch_and_band_asks_whether_to_stop",
    ),
    Guard(
        "a component of low confidence is no building",
        "app/segmentation/components.py",
        "enough = sure & (area >= rule.least)",
        "enough = area >= rule.least",
        "tests/unit/test_min_confidence.py"
        "::test_a_component_of_low_confidence_is_held_below_the_threshold",
    ),
    Guard(
        "no redirect of a tile source is followed",
        "app/tiles/web.py",
        "follow_redirects=False",
        "follow_redirects=True",
        "tests/unit/test_tiles.py::TestFaults::test_no_redirect_is_followed",
    ),
    Guard(
        "a tile source that failed is left alone for a while",
        "app/tiles/web.py",
        "if (left := self._alone_until - time.monotonic()) > 0:",
        "if (left := 0.0) > 0:",
        "tests/unit/test_tiles.py::TestFaults::test_down_and_back",
    ),
    Guard(
        "a key must be one of the operator's",
        "app/api/access.py",
        "return digest if any(matches) else None",
        "return digest",
        "tests/unit/test_access.py::TestKeys::test_403_with_another",
    ),
    Guard(
        "a PNG must have all its rows",
        "app/imaging/png.py",
        "    if missing:\n",
        "    if False:\n",
        "tests/unit/test_decode.py"
        "::test_png_with_half_its_rows_is_damaged_though_its_stream_ends_cleanly",
    ),
    Guard(
        "GDAL asks one driver",
        "app/imaging/gdal.py",
        "DatasetReader(file.name, driver=driver) as dataset",
        "DatasetReader(file.name) as dataset",
        "tests/unit/test_decode_tiff.py::test_only_the_named_driver_is_asked",
    ),
    Guard(
        "models have the SHA-256 of the manifest",
        "app/bundle/verification.py",
        "elif sha256 != member.sha256:",
        "elif False:",
        "tests/unit/test_predictor.py::test_a_file_that_was_tampered_with_does_not_load",
    ),
    Guard(
        "what is no probability never leaves",
        "app/runtime/predictor.py",
        "if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):",
        "if False:",
        "tests/unit/test_predictor.py::test_what_is_no_probability_never_leaves",
    ),
    Guard(
        "a precision that the CPU lacks is refused",
        "app/runtime/capabilities.py",
        "if precision not in native:",
        "if False:",
        "tests/unit/test_predictor.py::TestPrecision"
        "::test_a_precision_that_the_cpu_lacks_is_refused_before_anything_is_read",
    ),
    Guard(
        "a GPU's lack of memory halves the batch",
        "app/runtime/gpu.py",
        "not _OUT_OF_MEMORY.search(str(error))",
        "True",
        "tests/unit/test_predictor.py::TestDevice"
        "::test_without_memory_for_a_batch_batches_get_smaller",
    ),
    Guard(
        "a client's text is escaped in the log",
        "app/logs.py",
        "return json.dumps(entry)",
        "return json.dumps(entry, ensure_ascii=False)",
        "tests/unit/test_logs.py::test_clients_text_is_escaped",
    ),
    Guard(
        "a refused connection is not reset",
        "app/api/server.py",
        "if self.conn.their_state is not h11.SEND_BODY:",
        "if True:",
        "tests/hostile/test_faults.py::TestSlowClients"
        "::test_a_client_that_closes_still_reads_its_answer",
    ),
    Guard(
        "headers have a deadline",
        "app/api/server.py",
        'self._timer = self.loop.call_later(self.header_timeout, self._expire, "headers")',
        "pass",
        "tests/hostile/test_faults.py::TestSlowClients::test_an_idle_connection",
    ),
)


def copied(folder: Path) -> Path:
    """Copy what the tests need, compiled, and return the copy's root.

    A changed file is known by its hash: its size and its second may be those of before.
    """
    for name in ("app", "tests", "training", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "openapi.json"):
        shutil.copy(ROOT / name, folder)
    compileall.compile_dir(folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


def run(root: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy on the copy."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--timeout=60",
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True)


def is_noticed(root: Path, guard: Guard) -> bool:
    """Take a guard out of the copy, run its test, and put it back; tell whether the test failed."""
    file = root / guard.file
    whole = file.read_text()
    file.write_text(whole.replace(guard.line, guard.without))
    try:
        return run(root, guard.test).returncode == 1  # 1: tests failed; others are pytest's own
    finally:
        file.write_text(whole)


def main() -> int:
    """Go through all guards; return 1 if one can go unnoticed."""
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        done = run(root, *(guard.test for guard in GUARDS))
        if done.returncode != 0:
            print(done.stdout)
            return 1
        unnoticed = 0
        for guard in GUARDS:
            noticed = is_noticed(root, guard)
            unnoticed += not noticed
            print("red " if noticed else "GREEN", guard.name, "|", guard.test, flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
