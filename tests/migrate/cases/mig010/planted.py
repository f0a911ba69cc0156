"""Middlewares whose context is not the endpoint's."""

import contextvars
from contextvars import ContextVar

import structlog
from fastapi import FastAPI
from starlette.middleware import base
from starlette.middleware.base import BaseHTTPMiddleware

app = FastAPI()
current_user: ContextVar[str] = ContextVar("current_user")
trace = contextvars.ContextVar("trace", default="")


class Sets(BaseHTTPMiddleware):  # MIG010
    async def dispatch(self, request, call_next):
        current_user.set(request.user)
        return await call_next(request)


class Reads(base.BaseHTTPMiddleware):  # MIG010
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x"] = trace.get()
        return response


class Logs(BaseHTTPMiddleware):  # MIG010
    async def dispatch(self, request, call_next):
        structlog.contextvars.bind_contextvars(path=request.url.path)
        return await call_next(request)


@app.middleware("http")
async def function(request, call_next):  # MIG010
    token = trace.set("1")
    try:
        return await call_next(request)
    finally:
        trace.reset(token)
