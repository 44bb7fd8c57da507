"""The engine of a service whose models run as replicas on a Ray cluster."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, perf_counter, sleep
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..api.admission import Admission, Deadline
from ..api.engine import Answer, Engine
from ..api.stages import Stages
from ..api.uploads import Upload
from ..api.work import Work
from ..errors import InferenceError, NotReady, QueueFull, RooftraceError, StartupError
from ..runtime.predictor import Predictor
from ..scale.cluster import on_cluster  # before ray, which reads its environment as it is imported
from ..segmentation.segmenter import Segmenter
from ..settings import Settings

# isort: split
import ray
from ray import exceptions, serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from .application import (
    APPLICATION,
    CALLS,
    DEPLOYMENT,
    Description,
    deploy,
    most_replicas,
    workers_of,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TRIES = 4
"""Replicas that may end while they work on an image before the image is an error."""
_GONE = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.OutOfMemoryError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
)
"""Ray's errors when a replica has ended, or the machine that held its answer."""
_PATIENCE = 60.0
"""Seconds that an application has to appear on a cluster, and to answer."""
_LOOK = 1.0
"""Seconds between two counts of the replicas."""
_NOTICE = 5.0
"""`redeployed` is called at most once in so many seconds."""
_OBJECTS = 500_000_000
"""Bytes of Ray's object store in a cluster that is begun here: it holds uploads and results."""
_CHUNK = 8
"""Patches of jobs and tiles that go to a replica in one call."""


class RemoteModels:
    """The application on a cluster, as this process sees it.

    `redeployed` is called, in any thread, when replicas have other models than `load` found last.
    """

    def __init__(self, handle: DeploymentHandle[Any], redeployed: Callable[[], None]) -> None:
        self._handle = handle
        self._redeployed = redeployed
        self._noticed = -_NOTICE
        self.concurrency = 1
        self.room = asyncio.Semaphore(1)

    def load(self, settings: Settings) -> Segmenter:
        """Return a segmenter that has its patches predicted by the replicas.

        Raises:
            StartupError: no replica answers.
        """
        try:
            described = cast(Description, self.ask_now("describe", seconds=_PATIENCE))
        except (RooftraceError, TimeoutError) as error:
            raise StartupError(f"no model replica on the Ray cluster answers: {error}") from error
        self.concurrency = described.concurrency
        self.room = asyncio.Semaphore(described.room)
        return Segmenter(described.manifest, RemotePredictor(self, described, settings.deadline))

    def notice(self) -> None:
        """Call `redeployed`, at most every few seconds, as replicas change one by one."""
        if monotonic() - self._noticed > _NOTICE:
            self._noticed = monotonic()
            self._redeployed()

    async def ask(self, method: str, *arguments: object) -> object:
        """Call a replica, and another one if it ends meanwhile. Cancelling cancels its work.

        Raises:
            QueueFull: the queue of the replicas is full.
            NotReady: the application has ended.
            InferenceError: one replica after the other ended.
            RooftraceError: any that the replica returns.
        """
        tries = 0
        while True:
            response = self._handle.options(method_name=method).remote(*arguments)
            try:
                return _value(await response)
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            except Exception as error:
                _check_again(error, tries := tries + 1)

    def ask_now(self, method: str, *arguments: object, seconds: float) -> object:
        """Call as `ask` does, and wait in this thread.

        Raises:
            TimeoutError: there was no answer within `seconds`.
        """
        tries = 0
        while True:
            response = self._handle.options(method_name=method).remote(*arguments)
            try:
                return _value(response.result(timeout_s=seconds))
            except TimeoutError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            except Exception as error:
                _check_again(error, tries := tries + 1)


class RayEngine(Engine):
    """Hands whole images to the replicas, and knows how many there are."""

    def __init__(self, models: RemoteModels, admission: Admission) -> None:
        super().__init__(admission)
        self._models = models
        self._replicas = 1
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="replicas", daemon=True)

    async def segment(
        self, segmenter: Segmenter, work: Work, upload: Upload, stages: Stages, deadline: Deadline
    ) -> Answer:
        """Have a replica segment an upload, once the replicas' queue has room for it.

        Batches may have more files than that queue takes, so the rest wait here. This wait, and the
        time that Ray itself takes, count as `queue`.
        """
        asked = work, upload, deadline.seconds, deadline.remaining
        began = perf_counter()
        async with deadline.limit(), self._models.room:
            found = await self._models.ask("segment", *asked)
        answer, seconds = cast(tuple[Answer | RooftraceError, dict[str, float]], found)
        stages.add_remote(seconds, began)
        if isinstance(answer, RooftraceError):
            raise answer
        if answer.version != segmenter.manifest.version:
            self._models.notice()
        return answer

    def start(self) -> None:
        """Begin to count the replicas."""
        self._watcher.start()

    def check(self) -> None:
        """Check that a replica runs.

        Raises:
            NotReady: none does.
        """
        if not self._replicas:
            raise NotReady("No model replica runs at the moment. Try again later.")

    def close(self) -> None:
        """Stop counting."""
        self._closing.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._closing.wait(_LOOK):
            try:
                application = serve.status().applications[APPLICATION]
                states = application.deployments[DEPLOYMENT].replica_states
            except Exception as error:  # the replicas may still work
                logger.debug("the replicas can't be counted: %s", error)
                continue
            running = sum(number for state, number in states.items() if state == "RUNNING")
            if running != self._replicas:
                self._replicas = running
                logger.info("%d model replicas run", running)
            self.admission.concurrency = max(1, running) * self._models.concurrency


class RemotePredictor(Predictor):
    """Has patches of jobs and tiles predicted by the replicas, several in one call.

    Jobs and tiles go through an image in bands, which this process keeps. Images of requests go to
    a replica whole.
    """

    def __init__(self, models: RemoteModels, described: Description, seconds: float) -> None:
        super().__init__(CALLS, _CHUNK)
        self._models = models
        self._version = described.manifest.version
        self._seconds = seconds
        self.members = tuple(member.name for member in described.manifest.members)
        self.providers = described.providers
        self.choice = described.choice
        self.fallback = described.fallback
        self.batch_size = CALLS * _CHUNK

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            found = self._models.ask_now(
                "predict", self._version, member, patches, seconds=self._seconds
            )
        except NotReady:  # the replicas may have other models by now
            self._models.notice()
            raise
        except TimeoutError as error:
            raise NotReady(
                f"No model replica answered within {self._seconds:g} seconds. Try again later."
            ) from error
        return cast(NDArray[np.float32], found)


def _find() -> DeploymentHandle[Any]:
    """Wait for the application on the cluster, and return its handle.

    Raises:
        StartupError: it is not there in time.
    """
    until = monotonic() + _PATIENCE
    while True:
        try:
            return serve.get_app_handle(APPLICATION)
        except Exception as error:  # of several kinds, before Serve has begun and after
            if monotonic() > until:
                raise StartupError(
                    f"the Ray cluster has no application {APPLICATION!r}: {error} "
                    "docs/scale.md says how it is deployed."
                ) from error
            sleep(_LOOK)


def _value(found: T) -> T:
    """Return a replica's answer, or raise it if it is an error."""
    if isinstance(found, RooftraceError):
        raise found
    return found


def _check_again(error: Exception, tries: int) -> None:
    """Return if another replica may be asked after an error; else raise.

    Raises:
        QueueFull: the queue of the replicas is full.
        NotReady: the application has ended.
        InferenceError: one replica after the other ended.
        Exception: the error itself, where it is not Ray's.
    """
    if isinstance(error, BackPressureError):
        raise QueueFull("The model replicas have as many requests as may wait. Try again shortly.")
    if isinstance(error, DeploymentUnavailableError):
        raise NotReady("The models could not be deployed on the Ray cluster. Try again later.")
    if not isinstance(error, _GONE):
        raise error
    name = type(error).__name__  # the message is long, and Ray's own log has it
    logger.warning("a model replica ended in the middle of an image, try %d: %s", tries, name)
    if tries == _TRIES:
        raise InferenceError(f"{tries} model replicas in turn ended while they were at this image")


@contextmanager
def remote_models(settings: Settings, redeployed: Callable[[], None]) -> Iterator[RemoteModels]:
    """Connect to the cluster that the settings name, or begin one, for the length of the context.

    Raises:
        InvalidOption: there is no cluster at the address.
        StartupError: no cluster can be begun; or there is no application on it, or no replica.
    """
    cpus = most_replicas(settings) * workers_of(settings)
    bodies = max(_OBJECTS, 2 * settings.max_upload_bytes)
    with on_cluster(settings.ray_address, cpus=cpus, objects=bodies):
        try:
            if settings.ray_address is None:
                deploy(settings)
                logger.info("a Ray cluster was begun: %s", ray.get_runtime_context().gcs_address)
            yield RemoteModels(_find(), redeployed)
        finally:
            if settings.ray_address is None:
                serve.shutdown()  # type: ignore[no-untyped-call]
