"""isolane in a FastAPI application: one middleware, four dependencies, a WebSocket route and two probes.

```python
app = FastAPI()
setup(app, authenticate=who_is_it, registry=agents)

@app.post("/agents/execute")
async def execute(request: Request, ctx: Ctx, engine: Engine): ...
```
"""

try:
    from isolane.fastapi.application import Isolane, setup
    from isolane.fastapi.authenticators import JwtAuthenticator, SessionAuthenticator
    from isolane.fastapi.connection import Run, UserConnection
    from isolane.fastapi.contamination import ContaminationMiddleware
    from isolane.fastapi.dependencies import (
        Authenticated,
        Connection,
        Ctx,
        Emitter,
        Engine,
        OptionalCtx,
        require_mfa,
        require_mfa_by,
        require_permissions,
        require_roles,
    )
    from isolane.fastapi.gate import bearer_of
    from isolane.fastapi.middleware import IsolaneMiddleware
    from isolane.fastapi.migration import migration_router
    from isolane.fastapi.principal import NotAuthenticatedError, Principal
    from isolane.fastapi.rollout import Flags, RunModes
    from isolane.fastapi.settings import IsolaneSettings, SettingsConflictError
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"fastapi", "starlette", "pydantic", "pydantic_settings"}:
        raise
    raise ModuleNotFoundError(
        f"isolane.fastapi needs {error.name}, which is not installed: pip install 'isolane[fastapi]'", name=error.name
    ) from error

__all__ = [
    "Authenticated",
    "Connection",
    "ContaminationMiddleware",
    "Ctx",
    "Emitter",
    "Engine",
    "Flags",
    "Isolane",
    "IsolaneMiddleware",
    "IsolaneSettings",
    "JwtAuthenticator",
    "NotAuthenticatedError",
    "OptionalCtx",
    "Principal",
    "Run",
    "RunModes",
    "SessionAuthenticator",
    "SettingsConflictError",
    "UserConnection",
    "bearer_of",
    "migration_router",
    "require_mfa",
    "require_mfa_by",
    "require_permissions",
    "require_roles",
    "setup",
]
