"""The same as a LitServe service: BUNDLE PORT."""

import sys
from pathlib import Path

import litserve
from fastapi import Response, UploadFile

from benchmarks.peers.ensemble import DefaultSessions


class Segment(litserve.LitAPI):  # type: ignore[misc]
    """One worker, as LitServe has it by default."""

    bundle: Path

    def setup(self, device: str) -> None:
        """Load the networks in the worker."""
        self.model = DefaultSessions(self.bundle)

    def decode_request(self, request: UploadFile) -> bytes:
        """Take the uploaded file."""
        return request.file.read()

    def predict(self, x: bytes) -> bytes:
        """Segment it."""
        return self.model.segment(x)

    def encode_response(self, output: bytes) -> Response:
        """Send the mask."""
        return Response(output, media_type="image/png")


def main(bundle: Path, port: int) -> None:
    """Serve until somebody stops it."""
    api = Segment(api_path="/segment")
    api.bundle = bundle
    # Its own limit of 30 s would refuse what waits, which the others do not.
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
