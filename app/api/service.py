"""The parts of a running service, and the routes that give them to an endpoint."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..errors import NotReady, RooftraceError, StartupError
from ..jobs.jobs import Jobs
from ..segmentation.segmenter import Segmenter
from ..settings import Settings
from .access import KEY_FAILURES, Access, access_of
from .admission import Admission
from .engine import Engine
from .metrics import Metrics
from .problems import responses
from .stages import Stages
from .tracing import Traces

if TYPE_CHECKING:
    from ..tiles.live import LiveTiles

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass
class Service:
    """The parts of one running application.

    A reload replaces `segmenter`, so a request reads it once and keeps it. The old one ends, with
    its threads, when the last request drops it.
    """

    settings: Settings
    segmenter: Segmenter
    engine: Engine
    admission: Admission
    metrics: Metrics
    concurrency: int
    access: Access
    traces: Traces
    jobs: Jobs
    tiles: "LiveTiles | None" = None
    draining: bool = False
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.metrics.waiting.set_function(lambda: self.admission.waiting)
        self.metrics.reserved.set_function(lambda: self.admission.memory.reserved)
        # Functions, as both may change while the service runs.
        self.metrics.fallback.set_function(lambda: self.segmenter.predictor.fallback is not None)
        self.metrics.out_of_memory.set_function(lambda: self.segmenter.predictor.out_of_memory)
        for status, gauge in self.metrics.jobs.items():
            gauge.set_function(partial(self._jobs_of, status))
        self.metrics.job_bytes.set_function(lambda: self.jobs.crew.bytes)
        self._announce()

    def _jobs_of(self, status: str) -> int:
        return self.jobs.crew.totals.get(status, 0)

    async def recorded(
        self, running: Coroutine[Any, Any, T], stages: Stages, outcome: str = "segmented"
    ) -> T:
        """Await one image's work, and record how long each stage took and how it ended."""
        ended = "unfinished"
        try:
            finished = await running
            ended = outcome
            return finished
        except RooftraceError as error:
            ended = type(error).__name__
            raise
        finally:
            self.metrics.images.labels(ended).inc()
            for stage, seconds in dict(stages.seconds).items():
                self.metrics.stage_duration.labels(stage).observe(seconds)
            self.traces.add(stages)

    def check_ready(self) -> None:
        """Check that the service takes work.

        Raises:
            NotReady: it is about to stop, or its engine has no models.
            QueueFull: the queue is full.
        """
        if self.draining:
            raise NotReady("The service is stopping and takes no new requests. Try again later.")
        self.engine.check()
        self.admission.check()

    async def reload(self, load: Callable[[Settings], Segmenter]) -> None:
        """Load models and keys anew, and use them once the models are verified and warm.

        If either is refused, nothing changes. Old and new models are in memory for a while.
        """
        async with self._reloading:
            outcome = "refused"
            try:
                access = access_of(self.settings)
                self.segmenter = await asyncio.to_thread(load, self.settings)
                self.access.keys = access.keys  # the rates go on
                outcome = "loaded"
                self._announce()
            except Exception as error:  # whatever it is, the old models go on
                trace = None if isinstance(error, StartupError) else error
                version = self.segmenter.manifest.version
                logger.error("reload refused, %s stays: %s", version, error, exc_info=trace)
            finally:
                self.metrics.reloads.labels(outcome).inc()

    def _announce(self) -> None:
        """Write the bundle and its runtimes to the log and to the metrics."""
        manifest, predictor = self.segmenter.manifest, self.segmenter.predictor
        providers = ", ".join(predictor.providers_in_use)
        self.metrics.model.info({"version": manifest.version, "execution_providers": providers})
        logger.info("serving %s on %s (%s)", manifest.version, providers, predictor.choice)
        if predictor.fallback:
            logger.warning("%s", predictor.fallback)


async def _service(request: Request) -> Service:
    # async, as FastAPI calls other functions in a thread.
    return cast(Service, request.app.state.service)


Running = Annotated[Service, Depends(_service)]
"""The type of an endpoint's argument that receives the running service."""


_bearer = HTTPBearer(
    scheme_name="key",
    auto_error=False,
    description="An API key. Needed only if the operator has set `ROOFTRACE_API_KEYS`.",
)


async def _check(
    request: Request,
    service: Running,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> None:
    address = request.client.host if request.client else ""
    request.state.owner = service.access.check(address, given.credentials if given else None)


class Checked(APIRoute):
    """A route that asks for a key where the operator wants one, and says so in the document."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        responses: dict[int | str, dict[str, Any]] | None = None,
        openapi_extra: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        documented = {**_KEY_RESPONSES, **(responses or {})}
        super().__init__(
            path,
            endpoint,
            responses=dict(sorted(documented.items())),
            # {}: it works without a key too. FastAPI itself documents the case with one.
            openapi_extra={**(openapi_extra or {}), "security": [{}]},
            **options,
        )


class RoomFirst(Checked):
    """A route that looks at the queue first, and refuses the request if it is full.

    FastAPI resolves all dependencies of a route first. That was nearly half the cost of a refusal,
    and a burst brings hundreds. So this check is no dependency, and comes before keys and rates.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler with a check for room before it."""
        handle = super().get_route_handler()

        async def handle_if_room(request: Request) -> Response:
            (await _service(request)).admission.check()
            return await handle(request)

        return handle_if_room


_KEY_RESPONSES = responses(*KEY_FAILURES)


def checked_router(tag: str, route_class: type[Checked] = Checked) -> APIRouter:
    """Return a router that rejects requests without a valid API key."""
    return APIRouter(tags=[tag], dependencies=[Security(_check)], route_class=route_class)
