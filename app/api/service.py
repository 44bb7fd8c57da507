"""What a running service holds, and how an endpoint gets at it."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from app.api.admission import Admission
from app.api.metrics import Metrics
from app.inference.segmenter import Segmenter
from app.settings import Settings


@dataclass(frozen=True)
class Service:
    """Settings, models, admission and metrics of one application."""

    settings: Settings
    segmenter: Segmenter
    admission: Admission
    metrics: Metrics
    concurrency: int

    @property
    def execution_providers(self) -> list[str]:
        """Return the execution providers in use, each once."""
        return sorted(set(self.segmenter.predictor.providers.values()))


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


Running = Annotated[Service, Depends(_service)]
"""The type of an endpoint's argument that is the running service."""
