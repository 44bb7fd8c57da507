"""A plain FastAPI service with a `def` endpoint: BUNDLE [MEMBER ...] PORT."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, File, Response

from benchmarks.peers.ensemble import DefaultSessions


def main(bundle: Path, names: Sequence[str], port: int) -> None:
    """Serve until somebody stops it."""
    model = DefaultSessions(bundle, names)
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/segment")
    def segment(file: Annotated[bytes, File()]) -> Response:
        return Response(model.segment(file), media_type="image/png")

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:-1], int(sys.argv[-1]))
