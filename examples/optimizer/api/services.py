"""What the routes share, and the user on whose behalf they work."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from examples.optimizer.api.problems import ProblemError
from examples.optimizer.auth import Tokens
from examples.optimizer.legacy import LegacyEngine
from examples.optimizer.operations import Operations
from examples.optimizer.storage import UserDatabases


class Mode(StrEnum):
    """Which path new runs take."""

    ISOLATED = "isolated"
    LEGACY = "legacy"


@dataclass(slots=True)
class Services:
    """The parts of one application. Only `mode` changes, by the switch in the page.

    `worker` is how this process is called where there are several, and None where it is alone.
    """

    databases: UserDatabases
    tokens: Tokens
    legacy_engine: LegacyEngine
    operations: Operations
    max_upload_bytes: int
    mode: Mode
    worker: str | None = None
    # The event loop holds tasks weakly; what watches a run must not vanish before the run does.
    _watchers: set[asyncio.Task[None]] = field(default_factory=set)

    def watch(self, watcher: Coroutine[Any, Any, None]) -> None:
        """See a run through to its end in the background."""
        task = asyncio.create_task(watcher)
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    async def close(self) -> None:
        """Stop watching and close the databases."""
        watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await self.databases.close()


def get_services(connection: HTTPConnection) -> Services:
    """The application's services."""
    return cast("Services", connection.app.state.optimizer)


def get_user_id(connection: HTTPConnection) -> str:
    """The signed-in user; raises 401 without one."""
    user_id = get_services(connection).tokens.user_of(connection)
    if user_id is None:
        raise ProblemError(
            HTTPStatus.UNAUTHORIZED, "not_signed_in", "Sign in first: the token is missing or has expired."
        )
    return user_id


ServicesDep = Annotated[Services, Depends(get_services)]
UserId = Annotated[str, Depends(get_user_id)]
