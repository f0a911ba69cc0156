"""Users of a test: with ids that no other test has, and contexts that end with it."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterable
from typing import Any

from isolane._core import UserExecutionContext
from isolane.contexts.factory import UserContextFactory
from isolane.security.authentication.principal import Principal

HEADER = "x-isolane-test-user"
"""By which the application of the fixture ``isolane_app`` knows who asks."""

# Not one counter a factory: two factories of one seed must not make the same user.
_numbers = itertools.count(1)


class LabUser:
    """A user of a test.

    Attributes:
        user_id: The id, which no other user of this process has.
        principal: As whom the user signs in.
        headers: With these a request to ``isolane_app`` is the user's.
        contexts: What `context` made.
    """

    def __init__(self, user_id: str, principal: Principal) -> None:
        self.user_id = user_id
        self.principal = principal
        self.headers = {HEADER: user_id}
        self.contexts: list[UserExecutionContext] = []

    def context(self, thread_id: str | None = None, run_id: str | None = None, **fields: Any) -> UserExecutionContext:
        """Make a context of the user, with generated ids where they are left out. It is cleaned up after the test."""
        fields = {"permissions": self.principal.permissions or None, **fields}
        context = UserContextFactory.create_context(self.user_id, thread_id, run_id, **fields)
        self.contexts.append(context)
        return context

    async def aclose(self) -> None:
        """Clean the contexts up."""
        while self.contexts:
            # Cancelled meanwhile, it is cleaned up by the next call.
            await self.contexts[-1].cleanup()
            self.contexts.pop()

    def __repr__(self) -> str:
        return f"LabUser({self.user_id!r})"


class UserFactory:
    """Makes users: ``user_factory("ann")``.

    Args:
        seed: Makes the same ids again, in a process of its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - names, not secrets
        self.users: dict[str, LabUser] = {}

    def __call__(self, name: str = "user", *, roles: Iterable[str] = (), permissions: Iterable[str] = ()) -> LabUser:
        """Make a user whose id begins with `name`.

        Raises:
            ValueError: The name is empty.
        """
        if not name:
            raise ValueError("a user needs a name, which its id begins with, such as ann")
        user_id = f"{name}-{self._random.getrandbits(32):08x}-{next(_numbers)}"
        principal = Principal(user_id, roles=frozenset(roles), permissions=frozenset(permissions))
        user = self.users[user_id] = LabUser(user_id, principal)
        return user

    def many(self, count: int) -> tuple[LabUser, ...]:
        """Make several users."""
        return tuple(self(f"user{number}") for number in range(1, count + 1))

    async def aclose(self) -> None:
        """Clean up the contexts of all users."""
        for user in self.users.values():
            await user.aclose()

    def close(self) -> None:
        """Clean up what can be cleaned up without an event loop, which is all that no task of a context holds."""
        for user in self.users.values():
            while user.contexts:
                # A context whose tasks are on a loop that is closed has nothing left to wait for.
                with contextlib.suppress(StopIteration, RuntimeError):
                    steps = user.contexts.pop().cleanup().__await__()
                    next(steps)
                    steps.close()
