"""Endpoints about the service itself: health, loaded models, metrics."""

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST

from .. import errors
from .problems import responses
from .schemas import Health, MemberInfo, ModelsInfo, Readiness
from .service import Running, checked_router

router = APIRouter(tags=["service"])
checked = checked_router("service")


@router.get("/health", include_in_schema=False)
async def health() -> RedirectResponse:
    """Redirect to readiness."""
    return RedirectResponse("health/ready")


@router.get(
    "/health/live", summary="Is the process alive?", response_description="The process lives"
)
async def live() -> Health:
    """Answer 200 while the process lives."""
    return Health(status="live")


@router.get(
    "/health/ready",
    summary="Does the service take work?",
    response_description="It does",
    responses=responses(errors.QueueFull, errors.NotReady),
)
async def ready(service: Running) -> Readiness:
    """Answer 200 while models are loaded and the queue takes work, else 503."""
    service.check_ready()
    segmenter = service.segmenter
    return Readiness(
        status="ready",
        model=segmenter.manifest.version,
        execution_providers=segmenter.predictor.providers_in_use,
        fallback=segmenter.predictor.fallback,
        jobs="away" if service.jobs.is_away else "ready",
        waiting=service.admission.waiting,
    )


@checked.get("/models", summary="The loaded ensemble", response_description="The ensemble")
async def models(service: Running) -> ModelsInfo:
    """Describe the members, their weights and what each really runs on."""
    manifest, predictor = service.segmenter.manifest, service.segmenter.predictor
    members = [
        MemberInfo(**dict(member), execution_provider=predictor.providers[member.name])
        for member in manifest.members
    ]
    described = {**dict(manifest), "version": manifest.version, "members": members}
    return ModelsInfo(**described, fallback=predictor.fallback)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "The metrics",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def metrics(service: Running) -> Response:
    """Return counters, gauges and histograms in Prometheus' text format."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
