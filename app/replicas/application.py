"""The models as an application of Ray Serve: replicas that take whole images.

A replica segments an image as the service does, with the same threads, memory and deadlines. It has
no port: other processes call it through a handle of Ray Serve.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray import serve

from ..api.admission import Admission, Deadline
from ..api.engine import Answer, Engine
from ..api.stages import Stages
from ..api.uploads import Upload
from ..api.work import Work
from ..bundle.manifest import Manifest
from ..errors import NotReady, RooftraceError
from ..loading import load_models
from ..memory import memory_of
from ..settings import Settings, load_settings

T = TypeVar("T")

APPLICATION, DEPLOYMENT = "rooftrace", "models"

CALLS = 4
"""Calls for patches of jobs and tiles that each service makes at once."""

_LONGER, _SHORTER = 10, 300
"""Seconds for which the queue must be long or short before replicas are added or removed."""
_CHECKED = 2
"""Seconds between two health checks of a replica. An ended one is replaced after the next."""


@dataclass(frozen=True)
class Description:
    """The models that a replica has loaded, and how many images it works on at once.

    `room`: how many images a service may have with the replicas, at work and waiting.
    """

    manifest: Manifest
    providers: dict[str, str]
    choice: str
    fallback: str | None
    concurrency: int
    room: int


class Replica:
    """A process with the models. It returns domain errors, as Ray wraps those that are raised."""

    def __init__(self, settings: Settings) -> None:
        self._segmenter = load_models(settings)
        self._concurrency, self._room = concurrency_of(settings), room_of(settings)
        self._engine = Engine(
            Admission(concurrency=self._concurrency, max_waiting=0, memory=memory_of(settings))
        )

    async def describe(self) -> Description:
        """Describe the loaded models."""
        predictor = self._segmenter.predictor
        return Description(
            self._segmenter.manifest,
            dict(predictor.providers),
            predictor.choice,
            predictor.fallback,
            self._concurrency,
            self._room,
        )

    async def segment(
        self, work: Work, upload: Upload, seconds: float, left: float
    ) -> tuple[Answer | RooftraceError, dict[str, float]]:
        """Segment an image; return its answer or its error, and the seconds of each stage.

        `left` is how many of the request's `seconds` remain.
        """
        deadline, stages = Deadline(seconds, left), Stages()
        segmenting = self._engine.segment(self._segmenter, work, upload, stages, deadline)
        return await _caught(segmenting), stages.seconds

    async def predict(
        self, version: str, member: str, patches: NDArray[np.uint8]
    ) -> NDArray[np.float32] | RooftraceError:
        """Predict uint8 (N, S, S, 3) by a member of the bundle `version`: float32 (N, S, S)."""
        if version != (ours := self._segmenter.manifest.version):
            return NotReady(f"The models have changed from {version} to {ours}. Try again later.")
        predicting = asyncio.to_thread(self._segmenter.predictor.predict, patches, (member,))
        found = await _caught(predicting)
        return found if isinstance(found, RooftraceError) else found[0]


def concurrency_of(settings: Settings) -> int:
    """Return how many images a replica works on at once."""
    return settings.concurrency or workers_of(settings) + 1


def workers_of(settings: Settings) -> int:
    """Return how many processors a replica takes: by default one, for many small replicas."""
    return settings.workers or 1


def most_replicas(settings: Settings) -> int:
    """Return how many replicas there may be."""
    return max(settings.replicas, settings.max_replicas or 0)


def room_of(settings: Settings) -> int:
    """Return how many images a service may have with the replicas, at work and waiting."""
    return most_replicas(settings) * concurrency_of(settings) + settings.max_waiting


def deploy(settings: Settings) -> None:
    """Run the application on the cluster that this process is connected to, without a port."""
    serve.start(proxy_location="Disabled")
    serve.run(of_settings(settings), name=APPLICATION, route_prefix=None)


def build(_: dict[str, str]) -> serve.Application:
    """Build the application from the environment, as `serve run` and KubeRay want it."""
    return of_settings(load_settings())


def of_settings(settings: Settings) -> serve.Application:
    """Build the application."""
    settings = settings.model_copy(
        update={
            "workers": workers_of(settings),
            "database": None,  # replicas do not use it, and it holds a password
        }
    )
    resources: dict[str, Any] = {"num_cpus": settings.workers}
    if settings.device == "cuda":
        resources["num_gpus"] = 1
    deployment = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=concurrency_of(settings),
        # Of each service. It has a queue of its own, and sends no more than this one takes.
        max_queued_requests=room_of(settings) + 2 * CALLS,  # twice: a reload has two predictors
        autoscaling_config={
            "min_replicas": settings.replicas,
            "initial_replicas": settings.replicas,
            "max_replicas": most_replicas(settings),
            "target_ongoing_requests": concurrency_of(settings),
            "upscale_delay_s": _LONGER,
            "downscale_delay_s": _SHORTER,
        },
        ray_actor_options=resources,
        graceful_shutdown_timeout_s=settings.deadline,
        health_check_period_s=_CHECKED,
    )
    return deployment(Replica).bind(settings)


async def _caught(work: Awaitable[T]) -> T | RooftraceError:
    try:
        return await work
    except RooftraceError as error:
        return error
