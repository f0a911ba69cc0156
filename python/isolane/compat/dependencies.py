"""The host's ``dependencies``, as far as ``isolane.fastapi`` has no name for it. Needs the extra ``fastapi``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

import isolane.fastapi  # noqa: F401 - the first import: it names the extra where that is missing
from isolane.migration.legacy.factory_adapter import FactoryAdapter

__all__ = ["FactoryAdapterDep", "get_factory_adapter"]


async def get_factory_adapter(conn: HTTPConnection) -> FactoryAdapter:
    """Return the adapter of the application. Raises ``RuntimeError`` when ``app.state.factory_adapter`` is not set."""
    adapter = getattr(conn.app.state, "factory_adapter", None)
    if not isinstance(adapter, FactoryAdapter):
        raise RuntimeError(  # noqa: TRY004 - the application is at fault, not a type
            "the application has no adapter: set app.state.factory_adapter = FactoryAdapter(...) before it starts"
        )
    return adapter


FactoryAdapterDep = Annotated[FactoryAdapter, Depends(get_factory_adapter)]
"""The adapter of the application, in a path operation."""
