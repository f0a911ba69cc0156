"""One document of flags for all workers, on Redis, and what changes it there."""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from isolane.cluster.errors import PlaneUnavailableError
from isolane.migration.flags.source import FlagText
from isolane.migration.flags.sources import edits
from isolane.migration.flags.sources.errors import FlagChangeRefusedError, FlagFileError, FlagSourceError
from isolane.migration.flags.sources.history import FlagChange
from isolane.migration.flags.sources.reading import as_json, parse, read_bytes
from isolane.migration.flags.sources.writer import DocumentWriter, Edit, FlagFile, changed, document_of, refuse_unnamed

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

POLL_SECONDS = 1.0
CALL_SECONDS = 2.0
"""A document may be long, and nobody's request waits for it."""
TRIES = 50
"""Of a change that others come in between of."""
CHANNEL = "flags"
PLACE = Path("the flags on Redis")

_T = TypeVar("_T")

READ = """
-- KEYS: 1 the document  ARGV: 1 the tag of what is known
local held = redis.call('HMGET', KEYS[1], 'etag', 'revision')
if not held[1] then return {'none'} end
if held[1] == ARGV[1] then return {'same'} end
return {'new', held[1], held[2], redis.call('HGET', KEYS[1], 'text')}
"""

SWAP = """
-- KEYS: 1 the document
-- ARGV: 1 the tag that it must have, or nothing for none  2 its new one  3 its revision  4 its text
local held = redis.call('HGET', KEYS[1], 'etag') or ''
if held == ARGV[2] then return 1 end
if held ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'etag', ARGV[2], 'revision', ARGV[3], 'text', ARGV[4])
return 1
"""


def key_of(prefix: str) -> str:
    """Return the key of the document."""
    return "{" + f"{prefix}:flags" + "}:document"


class Held(NamedTuple):
    """A document as it lies on Redis."""

    etag: str
    revision: int
    text: str


class FlagStore(Protocol):
    """Where a document lies. Its methods wait for the network, and are not called on a loop."""

    def get(self) -> Held | None:
        """Return the document; ``None`` when there is none."""

    def swap(self, etag: str, new: Held) -> bool:
        """Put a document in the place of the one with this tag, or of none. Returns whether it is there now."""


class SharedFlagSource:
    """Flags from the document that all workers share on Redis.

    It is looked at once a second, and at once when somebody says that it has changed, so that a change is in force on
    all workers within 2 s. While Redis is away the last one stays in force, and decisions say ``STALE``. A document
    that Redis has lost is put there again by the workers that have it.

    ``setup`` gives it the plane. Nobody has a flag before it was read for the first time.

    Args:
        first: what is put there when there is no document: a file, a mapping or JSON.
    """

    def __init__(self, first: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> None:
        self._first = first
        self._plane: Plane | None = None
        self._held: Held | None = None
        self._reached = False
        self._problem = ""
        self._lock = threading.Lock()
        self._changed: Callable[[], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counts = collections.Counter[str]()

    # As a source of flags.

    def read(self) -> FlagText | None:
        """Return the document as it was read last.

        Raises:
            FlagSourceError: Redis is away, or what is to be put there first is no document.
        """
        plane = self._plane
        if plane is None:
            return None
        if plane.state != "up" or not self._reached:
            reason = plane.reason or "it was not read yet"
            raise FlagSourceError(str(PLACE), f"they cannot be read: {reason}", "see to it that Redis can be reached")
        if self._problem:
            raise FlagSourceError(str(PLACE), self._problem, "correct it, or change the flags by `isolane rollout`")
        held = self._held
        return None if held is None else FlagText(held.text, held.etag, str(PLACE))

    async def watch(self, on_change: Callable[[], object]) -> None:
        """Call a function whenever the document, or whether it can be read, has changed, until cancelled."""
        self._changed = on_change
        on_change()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._changed = None

    # As a part of the plane.

    def bind(self, plane: Plane) -> None:
        """Take the document of this plane. ``setup`` does it."""
        if self._plane is plane:
            return
        if self._plane is not None:
            raise ValueError("these flags belong to another plane already: give each application its own source")
        self._plane = plane
        plane.add_scripts({"flags.read": READ, "flags.swap": SWAP})
        ticker = plane.every(POLL_SECONDS, self._poll, "flags")
        plane.listen(CHANNEL, ticker.wake)
        plane.on_state(self._state_changed)
        plane.on_emptied(ticker.wake)
        plane.add(self)

    async def start(self, plane: Plane) -> None:
        """Read the document, so that a worker begins with it."""
        del plane
        self._loop = asyncio.get_running_loop()
        try:
            await self._poll()
        except PlaneUnavailableError:
            logger.warning("the flags cannot be read from Redis yet: nobody has one until they are")

    async def stop(self) -> None:
        """End. What was read stays."""

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        held = self._held
        return {"revision": held.revision if held is not None else 0, "reached": self._reached, **self._counts}

    def _state_changed(self, _: object) -> None:
        if self._changed is not None:
            self._changed()

    async def _poll(self) -> None:
        plane = self._plane
        assert plane is not None  # noqa: S101 - bound before it is a part
        key, known = key_of(plane.prefix), self._held
        answer = await plane.script("flags.read", [key], [known.etag if known else ""], timeout=CALL_SECONDS)
        if answer[0] == b"new":
            found = Held(answer[1].decode(), int(answer[2]), answer[3].decode())
            if known is not None and found.revision < known.revision:
                await self._restore(plane, found.etag, known)
                return
            self.take(found)
        elif answer[0] == b"none":
            if known is not None:
                await self._restore(plane, "", known)
            else:
                await self._begin(plane)
        if not self._reached:
            self._reached = True
            self._state_changed(None)

    async def _restore(self, plane: Plane, etag: str, known: Held) -> None:
        """Put there what was lost there."""
        if await _swap(plane, etag, known):
            self._counts["restored"] += 1
            logger.warning("Redis has lost revision %d of the flags: it is there again", known.revision)

    async def _begin(self, plane: Plane) -> None:
        if self._first is None:
            return
        try:
            text = await asyncio.to_thread(_text_of, self._first)
            held = document_of(PLACE, text.encode())
            problem = ""
        except (ValueError, OSError) as error:
            problem = f"what they are to begin with is no document: {error}"
        if problem:
            if problem != self._problem:
                logger.error("flags: %s", problem)
            self._problem = problem
            return
        self._problem = ""
        new = Held(secrets.token_hex(16), held.revision, text)
        if await _swap(plane, "", new):
            self.take(new)

    def take(self, found: Held) -> None:
        """Note a document that lies there, unless a later one is known. From any thread."""
        with self._lock:
            if self._held is not None and found.revision < self._held.revision:
                return
            is_new = self._held != found
            self._held, self._problem = found, ""
            self._reached = True
        self._counts["changes"] += is_new
        if not is_new or self._changed is None or self._loop is None:
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._changed()
        else:
            self._loop.call_soon_threadsafe(self._state_changed, None)

    def writer(self) -> SharedFlagWriter:
        """Return what changes the document from threads of this process, such as for a guard."""
        if self._plane is None:
            raise ValueError("these flags have no plane yet: setup gives it to them")
        return SharedFlagWriter(_PlaneStore(self._plane, self))


async def _swap(plane: Plane, etag: str, new: Held) -> bool:
    arguments = [etag, new.etag, new.revision, new.text]
    done = await plane.script("flags.swap", [key_of(plane.prefix)], arguments, timeout=CALL_SECONDS)
    if done:
        plane.hint(CHANNEL)
    return bool(done)


class _PlaneStore:
    """The document as threads of a worker reach it, over the plane's own connection."""

    def __init__(self, plane: Plane, source: SharedFlagSource) -> None:
        self._plane = plane
        self._source = source

    def _wait(self, begin: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        loop = self._source._loop  # noqa: SLF001 - of this module
        if loop is None or not loop.is_running():
            raise PlaneUnavailableError("the application does not run, and its plane does not either", "stopped")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError("this waits for Redis: from a coroutine call it by asyncio.to_thread")
        return asyncio.run_coroutine_threadsafe(begin(), loop).result(2 * CALL_SECONDS)

    def get(self) -> Held | None:
        async def get() -> Any:
            return await self._plane.script("flags.read", [key_of(self._plane.prefix)], [""], timeout=CALL_SECONDS)

        answer = self._wait(get)
        if answer[0] == b"none":
            return None
        return Held(answer[1].decode(), int(answer[2]), answer[3].decode())

    def swap(self, etag: str, new: Held) -> bool:
        done = self._wait(lambda: _swap(self._plane, etag, new))
        if done:
            self._source.take(new)
        return done


class UrlFlagStore:
    """The document as a command reaches it that is no worker.

    Args:
        url: of a Redis, a Valkey or a node of a cluster; or several with commas.
        prefix: what keys begin with.
    """

    def __init__(self, url: str, prefix: str = "isolane") -> None:
        self._url = url
        self._prefix = prefix

    def _do(self, *commands: tuple[Any, ...]) -> list[Any]:
        import redis  # noqa: PLC0415 - of the extra

        failed: Exception | None = None
        for url in filter(None, (each.strip() for each in self._url.split(","))):
            for kind in (redis.Redis, redis.RedisCluster):
                try:
                    with kind.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
                        return [client.execute_command(*command) for command in commands]
                except redis.exceptions.MovedError:
                    # A node of a cluster.
                    continue
                except (redis.RedisError, OSError, ValueError) as error:
                    failed = error
                    break
        from isolane.urls import shown  # noqa: PLC0415

        problem = f"Redis at {shown(self._url)} did not do it: {failed}"
        raise FlagFileError(PLACE, problem, "see to it that it can be reached, and is the one of the workers")

    def get(self) -> Held | None:
        """Return the document; ``None`` when there is none."""
        ((etag, revision, text),) = self._do(("HMGET", key_of(self._prefix), "etag", "revision", "text"))
        return None if etag is None else Held(etag.decode(), int(revision), text.decode())

    def swap(self, etag: str, new: Held) -> bool:
        """Put a document in the place of the one with this tag, or of none. Returns whether it is there now."""
        done, *_ = self._do(
            ("EVAL", SWAP, 1, key_of(self._prefix), etag, new.etag, new.revision, new.text),
            ("PUBLISH", f"{self._prefix}:h:{CHANNEL}", "1"),
        )
        return bool(done)


class SharedFlagWriter(DocumentWriter):
    """Changes the document that workers share on Redis: of two changes at once one is made on top of the other.

    Every method waits for the network: from a coroutine call it by ``asyncio.to_thread``.

    Args:
        store: where the document lies, such as ``UrlFlagStore(url)``.
    """

    path = PLACE

    def __init__(self, store: FlagStore) -> None:
        self._store = store

    def read(self) -> FlagFile:
        """Read the document.

        Raises:
            FlagFileError: Redis does not answer, or has none.
        """
        return self._read()[0]

    def _read(self, *, create: bool = False) -> tuple[FlagFile, str]:
        try:
            held = self._store.get()
        except PlaneUnavailableError as error:
            raise _away(error) from error
        if held is not None:
            return document_of(PLACE, held.text.encode()), held.etag
        if create:
            return FlagFile(edits.empty_document(), 0), ""
        raise FlagFileError(
            PLACE, "there are none", "make the document with `isolane rollout set FLAG 0 --create --redis`"
        )

    def _change(
        self, action: str, flag: str, actor: str, reason: str, edit: Edit, *, create: bool = False
    ) -> FlagChange:
        refuse_unnamed(action, actor, reason)
        for _ in range(TRIES):
            held, etag = self._read(create=create)
            change, text = changed(PLACE, held, action, flag, actor, reason, edit)
            try:
                if self._store.swap(etag, Held(secrets.token_hex(16), change.revision, text)):
                    return change
            except PlaneUnavailableError as error:
                raise _away(error) from error
        raise FlagChangeRefusedError(f"others changed the flags {TRIES} times in between; it can be tried again")


def _away(error: PlaneUnavailableError) -> FlagFileError:
    maybe = "; it may have been changed all the same" if error.sent else ""
    return FlagFileError(PLACE, f"Redis does not answer ({error}){maybe}", "try again when it does")


def _text_of(first: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    if isinstance(first, Mapping):
        return json.dumps(dict(first))
    if isinstance(first, str) and first.lstrip().startswith("{"):
        return first
    path = Path(first)
    return as_json(path, parse(path, read_bytes(path)))
