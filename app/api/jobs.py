"""Jobs: their state, their results in any format, and their end."""

import asyncio
from io import BytesIO
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Path, Query, Request, Response

from .. import errors
from ..imaging.decode import decode_image
from ..imaging.encode import write_preview_png
from ..jobs.records import Job
from ..outputs.formats import Format
from ..segmentation.options import Options
from ..segmentation.stream import SegmentedStream
from .answers import FAILURES, IMAGE_FAILURES, Calling, accepted
from .headers import BINARY, RESULT
from .job_list import JobListParameters
from .ogc import PROCESS, JobList, Link, StatusInfo, status_info
from .parameters import JOB_TYPES, ResultParameters, choose_formats
from .problems import problem_of_job, problem_response, responses
from .schemas import EXAMPLE_ID
from .service import Running, Service, checked_router
from .uploads import unless_gone
from .work import choose_possible

router = checked_router("jobs")

_JOB_FAILURES = (errors.NoSuchJob, errors.InvalidOption, errors.JobsAway)
JobId = Annotated[str, Path(description="Id of the job.", examples=[EXAMPLE_ID])]
_LONGEST = 2048
"""Pixels of the longest side of a preview."""


@router.get(
    "/jobs",
    summary="The jobs of this client",
    response_description="The jobs, with a link to further ones",
    responses=responses(errors.InvalidOption, errors.JobsAway),
)
async def jobs(
    request: Request, parameters: Annotated[JobListParameters, Query()], service: Running
) -> JobList:
    """List jobs, the newest first."""
    limit, offset = parameters.limit, parameters.offset
    found: list[Job] = []
    if not parameters.processID or PROCESS in parameters.processID:
        # One more than asked for tells whether there are more.
        found += await asyncio.to_thread(
            service.jobs.find, request.state.owner, parameters.filter(), limit + 1, offset
        )
    links = [Link(href="jobs", rel="self", type="application/json")]
    if len(found) > limit:
        query = [(k, v) for k, v in request.query_params.multi_items() if k != "offset"]
        following = urlencode([*query, ("offset", offset + limit)])
        links.append(Link(href=f"jobs?{following}", rel="next", type="application/json"))
    return JobList(jobs=[status_info(job, "") for job in found[:limit]], links=links)


@router.get(
    "/jobs/{jobID}",
    summary="The state of a job",
    response_description="The job",
    responses=responses(*_JOB_FAILURES),
)
async def job(request: Request, jobID: JobId, service: Running) -> StatusInfo:
    """Return a job's status, progress and times, its image and, once it is done, its totals."""
    return status_info(await _job(request, jobID, service), "../")


@router.delete(
    "/jobs/{jobID}",
    summary="Dismiss a job",
    response_description="The dismissed job",
    responses=responses(*_JOB_FAILURES),
)
async def dismiss(request: Request, jobID: JobId, service: Running) -> StatusInfo:
    """Cancel a job, or remove its results. Nothing of it is kept."""
    job = await asyncio.to_thread(service.jobs.dismiss, jobID, request.state.owner)
    info = status_info(job, "../")
    links = [Link(href="../jobs", rel="up", type="application/json", title="The jobs")]
    return info.model_copy(
        update={"status": "dismissed", "message": "The job was dismissed.", "links": links}
    )


@router.get(
    "/jobs/{jobID}/results",
    summary="The results of a job, in any format",
    response_class=Response,
    responses={
        200: RESULT,
        **responses(*FAILURES, *IMAGE_FAILURES, *_JOB_FAILURES, errors.ResultNotReady),
    },
)
async def results(
    call: Calling, jobID: JobId, parameters: Annotated[ResultParameters, Query()]
) -> Response:
    """Return what `POST /segment` would, bit for bit, without another inference.

    Parameters that decide probabilities, such as `overlap`, are those of the job.
    """
    request, service = call.request, call.service
    job = await _job(request, jobID, service)
    if job.status == "failed" and job.problem:
        problem = problem_of_job(job.problem, request.state.request_id)
        return problem_response(request, problem)
    if job.status != "successful":
        raise errors.ResultNotReady(
            f"The job is {job.status}, at {job.progress} %. Ask jobs/{job.id} until it is "
            "successful."
        )
    kept = service.jobs.kept(job)
    options = kept.options(parameters)
    named = parameters.format or job.format
    document = job.document and parameters.format is None
    accept = "" if document else accepted(request)
    formats = choose_formats(named, accept, JOB_TYPES)
    data = await asyncio.to_thread(kept.upload)

    def begin(max_pixels: int) -> tuple[Format, SegmentedStream]:
        with call.stages.measure("decode"):
            image = decode_image(data, max_pixels=max_pixels, **options.decoding)
            format, notices = choose_possible(formats, image)
        return format, kept.begin(image, options, format, notices, call.deadline.check)

    async with service.admission.admit(len(data)):
        providers = (job.outcome or {}).get("providers", [])
        response = await call.answer(data, begin, providers, document=document)
    if named is None:
        response.headers["Vary"] = "Accept"
    return response


@router.get(
    "/jobs/{jobID}/preview",
    summary="The upload of a job as a picture",
    response_class=Response,
    responses={
        200: {"description": "The picture", "content": {"image/png": {"schema": BINARY}}},
        **responses(*_JOB_FAILURES, errors.QueueFull, errors.DeadlineExceeded),
    },
)
async def preview(call: Calling, jobID: JobId) -> Response:
    """Return the upload as a PNG in the colours that the members see, up to 2048 pixels a side."""
    job = await _job(call.request, jobID, call.service)
    data = await asyncio.to_thread(call.service.jobs.kept(job).upload)

    def drawn(max_pixels: int) -> bytes:
        buffer = BytesIO()
        with call.stages.measure("decode"):
            decoding = Options.parse(job.options).decoding
            image = decode_image(data, max_pixels=max_pixels, **decoding)
        with call.stages.measure("encode"):
            write_preview_png(buffer, image.pixels, image.valid, _LONGEST)
        return buffer.getvalue()

    async with call.service.admission.admit(len(data)):
        picture = await unless_gone(call.request, call.run(data, drawn, "previewed"))
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private"})


async def _job(request: Request, id: str, service: Service) -> Job:
    return await asyncio.to_thread(service.jobs.get, id, request.state.owner)
