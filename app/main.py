"""Assemble the service: settings and models in, an ASGI application out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from . import __version__
from .api import health, page, problems, processes, routes, tiles
from .api import jobs as job_routes
from .api.access import access_of
from .api.admission import Admission
from .api.cors import Cors
from .api.engine import Engine
from .api.metrics import Metrics
from .api.middleware import Head, OriginForm, RequestLog
from .api.service import Service
from .api.tracing import Traces
from .extras import check_extra
from .imaging.proj import check_proj
from .jobs.jobs import Jobs
from .loading import load_models
from .memory import memory_of
from .runtime.cores import usable_cores
from .segmentation.segmenter import Segmenter
from .settings import Settings

if TYPE_CHECKING:
    from .tiles.live import LiveTiles


def create_app(
    settings: Settings,
    *,
    load: Callable[[Settings], Segmenter] = load_models,
    open_engine: Callable[[Admission], Engine] = Engine,
) -> FastAPI:
    """Return the application. It loads the models when it starts, and does not start without them.

    Raises:
        SettingsError: the memory budget is too small for one request; the API keys can't be
            used; or a package for traces, tiles or shared jobs is missing.
        StartupError: PROJ's data don't fit.
    """
    check_proj()
    metrics = Metrics()
    memory = memory_of(settings)
    access = access_of(settings)
    traces = Traces(settings.traces)
    live = open_tiles(settings)
    database = settings.database.get_secret_value() if settings.database else None
    jobs = Jobs(
        settings.jobs,
        database=database,
        budget=settings.job_budget,
        retention=settings.job_retention,
        models=lambda: app.state.service.segmenter,
        memory=memory,
        ended=lambda outcome: metrics.jobs_ended.labels(outcome).inc(),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        segmenter = load(settings)
        concurrency = settings.concurrency or (settings.workers or usable_cores()) + 1
        admission = Admission(
            concurrency=concurrency, max_waiting=settings.max_waiting, memory=memory
        )
        app.state.service = service = Service(
            settings=settings,
            segmenter=segmenter,
            engine=open_engine(admission),
            admission=admission,
            metrics=metrics,
            concurrency=concurrency,
            access=access,
            traces=traces,
            jobs=jobs,
            tiles=live,
        )
        jobs.start()
        service.engine.start()
        lag = asyncio.create_task(metrics.watch_event_loop())
        del segmenter  # after a reload nothing here may keep the old one in memory
        yield
        lag.cancel()
        await asyncio.to_thread(jobs.close)
        await asyncio.to_thread(service.engine.close)
        admission.close()
        service.segmenter.close()
        traces.close()
        if live:
            live.close()

    app = FastAPI(
        title="Rooftrace",
        version=__version__,
        summary="Building masks from satellite and aerial imagery",
        lifespan=lifespan,
        telemetry=traces.fastapi_config,
        generate_unique_id_function=lambda route: route.name,  # the methods of generated clients
        servers=[{"url": "."}],  # relative to the document, so any path prefix of a proxy works
        redirect_slashes=False,  # its redirects go to the request's Host, which a client chooses
        docs_url=None,  # served below from local files, as a browser may have no internet
        redoc_url=None,
    )
    app.add_middleware(Head)
    app.add_middleware(problems.Unforeseen)
    app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestLog, metrics=metrics)
    app.add_middleware(OriginForm)  # the last is the outermost
    problems.install(app)
    app.include_router(routes.router)
    app.include_router(processes.router)
    app.include_router(processes.executions)
    app.include_router(job_routes.router)
    app.include_router(health.router)
    app.include_router(health.checked)
    app.include_router(tiles.router)
    page.install(app, settings)
    app.mount("/swagger", page.Files({}, packages=[("fastapi_swagger", "resources")]))

    # Relative addresses: a proxy may serve this under any path.
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            title="Rooftrace",
            openapi_url="openapi.json",
            swagger_js_url="swagger/swagger-ui-bundle.js",
            swagger_css_url="swagger/swagger-ui.css",
            swagger_favicon_url="swagger/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "persistAuthorization": True},
        )

    return app


def open_tiles(settings: Settings) -> "LiveTiles | None":
    """Return the live tiles that the settings ask for.

    Raises:
        SettingsError: the packages that they need are not installed.
    """
    if not settings.tile_sources:
        return None
    check_extra("ROOFTRACE_TILE_SOURCES", "tiles", "httpx2", "morecantile")
    from .tiles.cache import Cache
    from .tiles.live import LiveTiles

    cache = Cache(settings.tile_cache, settings.tile_max_age)
    return LiveTiles(settings.tile_sources, settings.tile_timeout, cache)
