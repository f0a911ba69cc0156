"""The 13 classes of leaks, each as the mistake that somebody has made: a change of one part of the service."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

from isolane import UserExecutionContext

from tests.leaks.service import Api, Pause, Service, logger

Fault = Callable[[Service], None]


@dataclass(frozen=True)
class LeakClass:
    """One class of leaks.

    Attributes:
        name: ``K1`` to ``K13``.
        what: what goes wrong.
        fault: makes it go wrong.
        boundaries: where it is seen at the latest.
        core: faults of ``src/mutants.rs`` of the same class, which tests of the core notice.
    """

    name: str
    what: str
    fault: Fault
    boundaries: tuple[str, ...]
    core: tuple[str, ...] = ()


def put(service: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a method of one object."""
    setattr(service, name, MethodType(function, service))


def connection_reused_after_cancellation(service: Service) -> None:
    async def ask(self: Any, user: str) -> str:
        connection = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = connection
        try:
            writer.write(f"{user}\n".encode())
            return (await reader.readline()).decode().strip()
        finally:
            self.free.append(connection)

    put(service.lines, "ask", ask)


def client_shared_and_given_new_tokens(service: Service) -> None:
    def api(self: Service, user: str) -> Api:
        self.shared_api.token = user
        return self.shared_api

    put(service, "api", api)


def cache_key_without_user(service: Service) -> None:
    async def summary(self: Service, context: UserExecutionContext, query: str) -> str:
        if query not in self.shared_cache:
            self.shared_cache[query] = f"a summary of {self.data[context.user_id]['title']}"
        return self.shared_cache[query]

    put(service, "summary", summary)


def memory_by_thread_alone(service: Service) -> None:
    def remember(self: Service, context: UserExecutionContext, note: str) -> list[str]:
        memory = self.memories.setdefault(context.thread_id, [])
        memory.append(note)
        return memory[-3:]

    put(service, "remember", remember)


def context_variable_survives(service: Service) -> None:
    shared = contextvars.copy_context()

    def start(self: Service, user: str, work: Callable[[], Any]) -> Any:
        if self.current not in shared:
            shared.run(self.current.set, user)
        return asyncio.get_running_loop().create_task(work(), context=shared)

    put(service, "start", start)


def nested_object_shared(service: Service) -> None:
    def preferences(self: Service, user: str) -> dict[str, Any]:
        own = dict(self.defaults)
        own["seen"].append(self.data[user]["note"])
        return own

    put(service, "preferences", preferences)


def told_to_everybody(service: Service) -> None:
    bridge = service.isolane.bridge
    to_one = type(bridge).broadcast_to_user

    async def broadcast_to_user(self: Any, user_id: str, event: Any) -> bool:
        return any([await to_one(self, user, event) for user in service.data])

    put(bridge, "broadcast_to_user", broadcast_to_user)


def identity_from_metadata(service: Service) -> None:
    def identify(self: Service, context: UserExecutionContext, body: dict[str, Any]) -> UserExecutionContext:
        user = body.get("metadata", {}).get("user_id", context.user_id)
        return UserExecutionContext(user, context.thread_id, f"{context.run_id}-of-metadata")

    put(service, "identify", identify)


def emitter_kept_for_the_next_user(service: Service) -> None:
    def on_tab(self: Service, context: UserExecutionContext) -> Any:
        if "tab-1" not in self.tabs:
            self.tabs["tab-1"] = self.tab_emitter(context.user_id)
        return self.tabs["tab-1"]

    put(service, "on_tab", on_tab)
    put(service, "run_of_tab", lambda self, context: {"run_id": f"run-of-tab-{id(self)}"})


def buffer_not_cleared(service: Service) -> None:
    def page(self: Service, user: str) -> str:
        data = " ".join([self.data[user]["tail"]] * self.pages[user]).encode()
        self.buffer[: len(data)] = data
        return self.buffer.decode()

    put(service, "page", page)


def error_with_the_data_of_another(service: Service) -> None:
    def failure(self: Service, user: str) -> Exception:
        last, self.last = self.last or user, user
        logger.info("a request failed after %s", self.data[last]["title"])
        return LookupError(f"nothing is known of {self.data[last]['title']}")

    put(service, "failure", failure)


def thread_local_kept(service: Service) -> None:
    def report(self: Service, user: str) -> str:
        if not hasattr(self.local, "user"):
            self.local.user = user
        return f"for {self.data[self.local.user]['title']}"

    put(service, "report", report)


def tenant_of_whoever_came_last(service: Service) -> None:
    async def tenant(self: Service, user: str, pause: Pause) -> str:
        self.tenant_now = user
        await pause("tenant")
        return self.data[self.tenant_now]["title"]

    put(service, "tenant", tenant)


LEAKS = (
    LeakClass(
        "K1",
        "a pooled connection is used again after a cancellation, and gives the next user the answer of the last",
        connection_reused_after_cancellation,
        ("ws_out",),
        ("SessionNotCompared",),
    ),
    LeakClass("K2", "a shared client is given each user's token", client_shared_and_given_new_tokens, ("ws_out",)),
    LeakClass("K3", "the key of a cache lacks the user", cache_key_without_user, ("ws_out",)),
    LeakClass(
        "K4",
        "memory is kept by thread alone",
        memory_by_thread_alone,
        ("ws_out",),
        ("RunOfAnotherUserAccepted",),
    ),
    LeakClass("K5", "a context variable survives into the next request", context_variable_survives, ("ws_out",)),
    LeakClass(
        "K6",
        "a nested object is shared by a shallow copy",
        nested_object_shared,
        ("ws_out",),
        ("ChildAliasesParent", "DeepCopySharesNested"),
    ),
    LeakClass(
        "K7",
        "what is told to one user is told to all",
        told_to_everybody,
        ("ws_out",),
        ("OwnerNotComparedAtWrite", "OwnerNotComparedAtSubscribe"),
    ),
    LeakClass(
        "K8",
        "the identity is taken from metadata",
        identity_from_metadata,
        ("http_out",),
        ("PlaceholderPrefixPasses",),
    ),
    LeakClass(
        "K9",
        "an emitter is kept for whoever has the connection next",
        emitter_kept_for_the_next_user,
        ("ws_out",),
        ("OwnerNotComparedAtBind", "OwnerNotComparedAtPublish"),
    ),
    LeakClass("K10", "a buffer is used again without being cleared", buffer_not_cleared, ("ws_out",)),
    LeakClass(
        "K11",
        "an error and a log line have the data of another user",
        error_with_the_data_of_another,
        ("error", "log"),
    ),
    LeakClass("K12", "a thread of a pool remembers its first user", thread_local_kept, ("ws_out",)),
    LeakClass(
        "K13",
        "the tenant is whoever came last while others wait",
        tenant_of_whoever_came_last,
        ("ws_out",),
    ),
)
