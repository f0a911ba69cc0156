"""Flags of the host's own vendor, through any OpenFeature client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from isolane.migration.flags.source import FlagText
from isolane.migration.flags.sources.edits import WHOLE
from isolane.migration.flags.sources.errors import FlagSourceError

if TYPE_CHECKING:
    from openfeature.client import OpenFeatureClient

FLAGS = ("modern_execution", "hybrid_websocket_mode")
PREFIX = "openfeature."
MISSING = "isolane's OpenFeatureSource needs {name}, which is not installed: pip install 'isolane[openfeature]'"


class OpenFeatureSource:
    """Asks an OpenFeature client, so that the host keeps its vendor, its rules and its percentages.

    The client is asked for each flag as a boolean, with the user's id as targeting key, when a run first asks for one;
    the answers are pinned with the run. What isolane decides before rules stays in force before the vendor's answer:
    kill switch, roll-backs of the guard, quarantine. Of a client that has no answer, whatever the reason, the answer is
    no. The provider must answer from memory, as those do that evaluate in the process: it is asked on the loop.

    A roll-back is in force in this process only. OpenFeature has no way to write: turn the flag off at the vendor.

    Args:
        client: such as ``openfeature.api.get_client()``.
        flags: what to ask for; the vendor's flags have the same names.
        attributes_of: the user's further attributes, such as the tier, for the vendor's rules. Default: none.

    Raises:
        ModuleNotFoundError: the extra ``openfeature`` is not installed.
    """

    def __init__(
        self,
        client: OpenFeatureClient,
        flags: Sequence[str] = FLAGS,
        *,
        attributes_of: Callable[[str], Mapping[str, Any]] | None = None,
    ) -> None:
        try:
            from openfeature.evaluation_context import EvaluationContext  # noqa: PLC0415 - an extra
            from openfeature.event import ProviderEvent  # noqa: PLC0415
            from openfeature.provider import ProviderStatus  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(MISSING.format(name=error.name), name=error.name) from error
        if not flags or isinstance(flags, str):
            raise ValueError("name the flags that the vendor is asked for, such as ['modern_execution']")
        self._context = EvaluationContext
        self._events = tuple(ProviderEvent)
        self._stale = (ProviderStatus.STALE, ProviderStatus.ERROR, ProviderStatus.FATAL)
        self._not_ready = ProviderStatus.NOT_READY
        self.client = client
        self.flags = tuple(flags)
        self._attributes_of = attributes_of

    @property
    def is_stale(self) -> bool:
        """Whether the provider says that it has lost its own source."""
        return self.client.get_provider_status() in self._stale

    def attributes_of(self, user_id: str) -> dict[str, str]:
        """Ask the client for all flags of a user. Raises what the host's ``attributes_of`` raises."""
        more = self._attributes_of(user_id) if self._attributes_of is not None else {}
        context = self._context(targeting_key=user_id, attributes=dict(more))
        found = {str(name): str(value) for name, value in more.items() if not str(name).startswith(PREFIX)}
        for flag in self.flags:
            # The client does not raise: what fails is its default.
            found[PREFIX + flag] = "true" if self.client.get_boolean_value(flag, False, context) is True else "false"
        return found

    def read(self) -> FlagText:
        """Return a document in which each flag is what the client answers.

        Raises:
            FlagSourceError: the provider is not ready yet.
        """
        if self.client.get_provider_status() is self._not_ready:
            raise FlagSourceError(
                "the OpenFeature provider", "it is not ready", "wait for it: openfeature.api.set_provider_and_wait(...)"
            )
        flags = {
            flag: {"state": "on", "rollout": 0, "rules": [{"if": {PREFIX + flag: ["true"]}, "rollout": WHOLE}]}
            for flag in self.flags
        }
        return FlagText(json.dumps({"schema": 1, "revision": 1, "flags": flags}), origin="OpenFeature")

    async def watch(self, on_change: Callable[[], object]) -> None:
        """Have a function called on the loop at each event of the provider, until cancelled."""
        loop = asyncio.get_running_loop()

        def told(_: object) -> None:
            # The SDK calls from threads of its own, also when the loop has been closed.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(on_change)

        added = []
        try:
            for event in self._events:
                self.client.add_handler(event, told)
                added.append(event)
            await loop.create_future()
        finally:
            for event in added:
                self.client.remove_handler(event, told)
