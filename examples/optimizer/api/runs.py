"""Runs: started in the background, read by their owner only."""

import asyncio
import logging
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from isolane import ExecutionResult
from isolane.fastapi import Ctx, Engine
from pydantic import BaseModel, Field
from sqlalchemy import select
from starlette.responses import Response

from examples.optimizer.agents import PIPELINE
from examples.optimizer.agents.step import AnalysisRequest
from examples.optimizer.api.problems import not_found
from examples.optimizer.api.services import Mode, Services, ServicesDep, UserId
from examples.optimizer.parsing import LogRows, Role, inspect_log
from examples.optimizer.report import render_markdown
from examples.optimizer.storage import Report, Run, Upload, forget_calls, keep_run_place, whole

router = APIRouter()

_log = logging.getLogger(__name__)
# The chart is an image: were it opened on its own, it could still load and run nothing.
_CHART_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class StartRun(BaseModel):
    """Which upload to analyse, with the user's answers: columns for roles, or the one model of the log."""

    upload_id: str
    roles: dict[Role, str] = Field(default_factory=dict)
    model: str | None = Field(default=None, max_length=200)


class StartedRun(BaseModel):
    """A run that has begun."""

    run_id: str
    mode: Mode


class RunAnswer(BaseModel):
    """A run as its owner sees it."""

    run_id: str
    file_name: str
    mode: Mode
    state: str
    error: str | None
    created_at: str


class ReportAnswer(BaseModel):
    """A report, as written and as rendered."""

    run_id: str
    markdown: str
    html: str


@router.post("/api/runs", status_code=HTTPStatus.ACCEPTED)
async def start_run(body: StartRun, services: ServicesDep, user_id: UserId, ctx: Ctx, engine: Engine) -> StartedRun:
    """Run data → optimization → report over an upload; the events tell how it goes."""
    request = await _analysis_request(services, user_id, body)
    if services.mode is Mode.LEGACY:
        run_id = f"legacy_{uuid.uuid4().hex}"
        await _record(services, user_id, run_id, request.file_name, Mode.LEGACY)
        services.watch(_run_legacy(services, user_id, run_id, request))
        return StartedRun(run_id=run_id, mode=Mode.LEGACY)
    await _record(services, user_id, ctx.run_id, request.file_name, Mode.ISOLATED)
    if services.worker:
        async with services.databases.session(user_id) as session:
            await keep_run_place(session, ctx.run_id, services.worker)
    ctx.detach()
    task = engine.start_agent_pipeline(list(PIPELINE), request=request)
    services.watch(_await_isolated(services, user_id, ctx.run_id, task))
    return StartedRun(run_id=ctx.run_id, mode=Mode.ISOLATED)


async def _analysis_request(services: Services, user_id: str, body: StartRun) -> AnalysisRequest:
    async with services.databases.session(user_id) as session:
        upload = await session.get(Upload, body.upload_id)
    if upload is None:
        raise not_found("upload")
    path = Path(upload.path)
    layout = await asyncio.to_thread(inspect_log, path)
    roles = {**layout.roles, **body.roles}
    model = body.model.strip() if body.model else None
    if model:
        roles.pop(Role.MODEL, None)
    return AnalysisRequest(path, upload.file_name, LogRows(path, layout, roles, model).roles, model)


@whole
async def _record(services: Services, user_id: str, run_id: str, file_name: str, mode: Mode) -> None:
    async with services.databases.session(user_id) as session:
        session.add(Run(run_id=run_id, file_name=file_name, mode=mode))
        await session.commit()


async def _await_isolated(services: Services, user_id: str, run_id: str, task: asyncio.Task[ExecutionResult]) -> None:
    # Waiting, not awaiting: a cancelled run is an outcome to record, a cancelled watcher is the end of the application.
    await asyncio.wait({task})
    await _finish(services, user_id, run_id, _error_of(task))


def _error_of(task: asyncio.Task[ExecutionResult]) -> str | None:
    if task.cancelled():
        return "The run was cancelled."
    error = task.exception() or task.result().error
    return None if error is None else str(error) or type(error).__name__


async def _run_legacy(services: Services, user_id: str, run_id: str, request: AnalysisRequest) -> None:
    error = None
    try:
        await services.legacy_engine.run(user_id, run_id, request)
    except Exception as failure:  # noqa: BLE001 - whatever it is, the run has to end
        # The bridge has told the sockets; without this the run would stay "running" for ever.
        _log.warning("legacy run %s failed", run_id, exc_info=True)
        error = str(failure)
    await _finish(services, user_id, run_id, error)


@whole
async def _finish(services: Services, user_id: str, run_id: str, error: str | None) -> None:
    async with services.databases.session(user_id) as session:
        if run := await session.get(Run, run_id):
            run.state = "failed" if error else "completed"
            run.error = error
        await forget_calls(session, run_id)


async def _owned_run(run_id: str, services: ServicesDep, user_id: UserId) -> Run:
    """The user's run. It is looked up in the user's own database: there is nothing else that it could find."""
    async with services.databases.session(user_id) as session:
        run = await session.get(Run, run_id)
    if run is None:
        raise not_found("run")
    return run


OwnedRun = Annotated[Run, Depends(_owned_run)]


async def _report_of(run: OwnedRun, services: ServicesDep, user_id: UserId) -> Report:
    if run.mode == Mode.LEGACY:
        report = await services.legacy_engine.latest_report()
    else:
        async with services.databases.session(user_id) as session:
            report = await session.get(Report, run.run_id)
    if report is None:
        raise not_found("report")
    return report


OwnedReport = Annotated[Report, Depends(_report_of)]


@router.get("/api/runs")
async def list_runs(services: ServicesDep, user_id: UserId) -> list[RunAnswer]:
    """The user's latest runs, the newest first."""
    async with services.databases.session(user_id) as session:
        runs = await session.scalars(select(Run).order_by(Run.created_at.desc()).limit(20))
        return [_answer(run) for run in runs]


@router.get("/api/runs/{run_id}")  # noqa: FAST003 - the dependency takes it
async def get_run(run: OwnedRun) -> RunAnswer:
    """One run."""
    return _answer(run)


@router.get("/api/runs/{run_id}/report")  # noqa: FAST003 - the dependency takes it
async def get_report(report: OwnedReport) -> ReportAnswer:
    """The report of a run."""
    html = await asyncio.to_thread(render_markdown, report.markdown)
    return ReportAnswer(run_id=report.run_id, markdown=report.markdown, html=html)


@router.get("/api/runs/{run_id}/chart.svg")  # noqa: FAST003 - the dependency takes it
async def get_chart(report: OwnedReport) -> Response:
    """The chart of a run's report."""
    return Response(report.chart, media_type="image/svg+xml", headers={"Content-Security-Policy": _CHART_POLICY})


def _answer(run: Run) -> RunAnswer:
    return RunAnswer(
        run_id=run.run_id,
        file_name=run.file_name,
        mode=Mode(run.mode),
        state=run.state,
        error=run.error,
        created_at=run.created_at,
    )
