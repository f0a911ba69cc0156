"""Middlewares of plain ASGI, and things that have set and get as well."""

from contextvars import ContextVar

from starlette.middleware.base import BaseHTTPMiddleware

current = ContextVar("current")
settings = {}


class Plain:
    async def __call__(self, scope, receive, send):
        current.set(scope)


class Headers(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        settings.get("x")
        request.headers.get("x")
        return await call_next(request)


class Shadow(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next, current=None):
        current.get("x")
        return await call_next(request)
