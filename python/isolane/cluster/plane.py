"""The plane: what workers share, and how they find and tell each other."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import hmac
import inspect
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from isolane._core import metric
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.protocols import Command, CommandHandler, HintHandler, Part, PlaneState, StateListener
from isolane.cluster.ticker import Ticker

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.cluster import RedisCluster

    from isolane.cluster.redis import Link, Subscriber

logger = logging.getLogger("isolane.cluster")

BEAT_SECONDS = 3.0
ALIVE_SECONDS = 15.0
"""A worker that was not heard of for so long is dead."""
POLL_SECONDS = 1.0
COMMAND_SECONDS = 60.0
"""What a worker was told and did not read is forgotten then."""
MAX_WAITING_COMMANDS = 10_000
COMMANDS_AT_ONCE = 256
KNOWN_COMMANDS = 4096
STOP_SECONDS = 5.0
RESULTS = ("ok", "timeout", "lost", "refused", "full", "down", "stopped")

BEAT = """
-- KEYS: 1 zset of workers, by when they were heard of  2 the secret, or what it is known by  3 which life of the data
-- ARGV: 1 worker  2 ms that it counts as alive  3 secret  4 a new life
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('SETNX', KEYS[2], ARGV[3])
redis.call('SETNX', KEYS[3], ARGV[4])
return {redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3]), redis.call('ZRANGE', KEYS[1], 0, -1)}
"""


class Plane:
    """What the workers of an application share on a Redis, and this worker's way to it.

    Args:
        source: a URL, or the application's client of ``redis.asyncio``, of which only is taken how it connects.
        prefix: what all keys and channels begin with; workers with the same one belong together.
        key: hides who the users are in names of keys; the same for all workers. Default: made by the first worker, and
            kept in Redis.
        call_timeout: seconds that a call may take.

    Attributes:
        worker: this worker, as others know it.
        prefix: what all keys begin with.
        state: ``starting``, ``up`` or ``down``.
    """

    def __init__(
        self,
        source: str | Redis | RedisCluster | ConnectionPool,
        *,
        prefix: str = "isolane",
        key: str | bytes | None = None,
        call_timeout: float = 0.05,
    ) -> None:
        if not prefix or set(prefix) & set("{}*?[] "):
            raise ValueError(f"the prefix of keys is {prefix!r}; it takes a name without spaces, brackets and * or ?")
        from isolane.cluster.redis import Target  # noqa: PLC0415 - the extra is needed from here on

        self.target = Target(source)
        self.prefix = prefix
        self.call_timeout = call_timeout
        self.state: PlaneState = "starting"
        self.reason = ""
        self._given = key.encode() if isinstance(key, str) else key
        self._secret = self._given
        self._life = ""
        self._complaint = ""
        self._worker = ""
        self._pid = 0
        self._started_in = 0
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._subscriber: Subscriber | None = None
        self._scripts: dict[str, str] = {"plane.beat": BEAT}
        self._handlers: dict[str, HintHandler] = {}
        self._commands: dict[str, CommandHandler] = {}
        self._known: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._read: list[bytes] = []
        self._parts: list[Part] = []
        self._started: list[Part] = []
        self._tickers: list[Ticker] = []
        self._state_listeners: list[StateListener] = []
        self._emptied_listeners: list[Callable[[], None]] = []
        self._processes: tuple[str, ...] = ()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beat_ticker = Ticker(BEAT_SECONDS, self._beat, "heartbeat")
        self._command_ticker = Ticker(POLL_SECONDS, self._collect, "commands")
        self._metrics = _Metrics()
        self._counts = collections.Counter[str]()

    # Who this is.

    @property
    def worker(self) -> str:
        """This worker, as others know it: 16 hexadecimal digits, of this process alone."""
        if self._pid != os.getpid():
            # Also in a child of the process that made the plane.
            self._pid = os.getpid()
            self._worker = secrets.token_hex(8)
        return self._worker

    @property
    def secret(self) -> bytes:
        """What hides the users' ids. Raises ``PlaneUnavailableError`` before it is known."""
        if self._secret is None:
            raise PlaneUnavailableError(self._complaint or "the key of the plane is not known before Redis was reached")
        return self._secret

    def user_key(self, user_id: str) -> str:
        """Return what the user is called in names of keys: 32 hexadecimal digits."""
        return hmac.new(self.secret, user_id.strip().encode(), hashlib.sha256).hexdigest()[:32]

    @property
    def life(self) -> str:
        """Which life of the data this is: another one after Redis lost them. Empty before it is known."""
        return self._life

    def processes(self) -> tuple[str, ...]:
        """Return the workers that were alive when this one last heard of them, itself included."""
        mine = self.worker
        return self._processes if mine in self._processes else (*self._processes, mine)

    # Life.

    @property
    def is_started(self) -> bool:
        """Whether it was started, and not stopped, in this process."""
        return self._link is not None and self._started_in == os.getpid()

    async def start(self) -> None:
        """Connect, and start the parts. A Redis that is not there is waited for in the background."""
        if self.is_started:
            return
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        from isolane.cluster.redis import Link, Subscriber  # noqa: PLC0415

        if self._link is not None:
            self._forget()
        self._started_in = os.getpid()
        self._loop = asyncio.get_running_loop()
        worker = self.worker
        self._set_state("starting", "")
        link = self._link = Link(
            self.target,
            self.key("plane", "procs"),
            call_timeout=self.call_timeout,
            told=self._metrics.call,
            changed=self._link_changed,
            greeted=self._beat_ticker.wake,
            client_name=f"isolane-{worker}",
        )
        link.add_scripts(self._scripts)
        self._subscriber = Subscriber(link)
        for channel, handler in self._handlers.items():
            self._subscriber.listen(self._channel(channel), handler)
        self._subscriber.listen(self._channel(f"w:{worker}"), self._command_ticker.wake)
        await link.start()
        self._subscriber.start()
        # Parts find the plane up when it can be.
        try:
            await self._beat()
        except PlaneUnavailableError:
            pass
        except Exception:
            logger.exception("what answers at %s is no Redis that this worker may use", self.target)
        if self.state != "up":
            self._set_state("down", link.reason or "it does not answer as it should")
        self._beat_ticker.start()
        self._command_ticker.start()
        for ticker in self._tickers:
            ticker.start()
        for part in self._parts:
            await self._start_part(part)

    async def stop(self) -> None:
        """Stop the parts, say goodbye, and cut the connections. Calls that wait are refused.

        Cancelled, it says no goodbye, and cuts them all the same.
        """
        if self._link is None:
            return
        if self._started_in != os.getpid():
            self._forget()
            return
        self._stopping = True
        try:
            while self._started:
                part = self._started.pop()
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await part.stop()
                except Exception:
                    logger.exception("%s did not stop", type(part).__name__)
            await self._say_goodbye()
        finally:
            ending = self._cut()
        if ending:
            await asyncio.wait(ending)

    async def _say_goodbye(self) -> None:
        for ticker in (*self._tickers, self._command_ticker, self._beat_ticker):
            await ticker.stop()
        with contextlib.suppress(PlaneUnavailableError):
            await self.call(
                ("ZREM", self.key("plane", "procs"), self.worker), ("DEL", self.key(f"w:{self.worker}", "cmd"))
            )

    def _cut(self) -> list[asyncio.Task[Any]]:
        """Cut what there is. Returns what comes to its end by itself now."""
        ending: list[asyncio.Task[Any]] = [
            *(task for ticker in (*self._tickers, self._command_ticker, self._beat_ticker) for task in ticker.cancel()),
            *(self._subscriber.cancel() if self._subscriber is not None else []),
            *(self._link.cancel() if self._link is not None else []),
            *self._tasks,
        ]
        for task in self._tasks:
            task.cancel()
        self._link = self._subscriber = None
        self._started.clear()
        self.state = "down"
        self.reason = "stopped"
        self._metrics.state(None)
        self._metrics.processes.set(0)
        # A worker that comes back is another one: what was meant for this one is over.
        self._pid = 0
        self._stopping = False
        return ending

    def _forget(self) -> None:
        """In a child of the process that started it: leave alone what is the parent's."""
        self._link = self._subscriber = None
        self._started.clear()
        self._tasks.clear()
        self._processes = ()
        for ticker in (*self._tickers, self._command_ticker, self._beat_ticker):
            ticker.forget()

    def add(self, part: Part) -> None:
        """Add what lives on the plane: started with it, in this order, and stopped before it."""
        self._parts.append(part)
        if self.is_started:
            self._spawn(self._start_part(part), f"start of {type(part).__name__}")

    async def _start_part(self, part: Part) -> None:
        self._started.append(part)
        try:
            await part.start(self)
        except PlaneUnavailableError as error:
            # It finds its way when there is one.
            logger.debug("%s was started without the plane: %s", type(part).__name__, error)

    def on_state(self, listener: StateListener) -> None:
        """Call the listener with each new state."""
        self._state_listeners.append(listener)

    def on_emptied(self, listener: Callable[[], None]) -> None:
        """Call the listener when Redis has lost its data, after this worker is known there again."""
        self._emptied_listeners.append(listener)

    # What is asked of Redis.

    def key(self, tag: str, *names: str) -> str:
        """Return a key. Keys of one tag are together in a cluster, so that one script may use them."""
        return ":".join(("{" + f"{self.prefix}:{tag}" + "}", *names))

    def call(self, *commands: tuple[Any, ...], timeout: float | None = None) -> asyncio.Future[list[Any]]:
        """Send commands in one round trip; the future has the list of their answers.

        The answer to a command that is wrong is a ``ResponseError`` in the list. Who stops waiting loses nothing: an
        answer that comes later is read, and reaches nobody.

        Raises:
            PlaneUnavailableError: from the future: there was no answer in time, or there will be none.
        """
        link = self._link_here()
        if isinstance(link, PlaneUnavailableError):
            return _failed(link)
        return link.call(commands, timeout)

    def script(
        self, name: str, keys: Sequence[str], arguments: Sequence[Any] = (), timeout: float | None = None
    ) -> asyncio.Future[Any]:
        """Run a script that was added. The future also raises what the script does."""
        link = self._link_here()
        if isinstance(link, PlaneUnavailableError):
            return _failed(link)
        return link.script(name, keys, arguments, timeout)

    def script_command(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Return the command that runs a script, for ``call``: several scripts in one round trip."""
        sha = hashlib.sha1(self._scripts[name].encode(), usedforsecurity=False).hexdigest()
        if self._link is not None:
            return self._link.script_command(name, keys, arguments)
        return ("EVALSHA", sha, len(keys), *keys, *arguments)

    def add_scripts(self, scripts: dict[str, str]) -> None:
        """Make Lua scripts known by names such as ``lease.acquire``. All their keys have one tag."""
        self._scripts.update(scripts)
        if self._link is not None:
            self._link.add_scripts(scripts)

    def _link_here(self) -> Link | PlaneUnavailableError:
        if self._link is None:
            return PlaneUnavailableError("the plane was not started, or was stopped", "stopped")
        if self._started_in != os.getpid():
            return PlaneUnavailableError(
                "the plane was started before this process was forked: its connections are the parent's", "stopped"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the plane belongs to another event loop than this one")
        return self._link

    # Hints.

    def _channel(self, name: str) -> bytes:
        return f"{self.prefix}:h:{name}".encode()

    def hint(self, channel: str, payload: bytes = b"1") -> bool:
        """Tell who listens that there is something new. It may get lost. Returns whether it was handed on."""
        link = self._link_here()
        return not isinstance(link, PlaneUnavailableError) and link.post([self.hint_command(channel, payload)])

    def hint_command(self, channel: str, payload: bytes = b"1") -> tuple[Any, ...]:
        """Return the command of a hint, for ``call``: in one round trip with what it is about."""
        return ("PUBLISH", self._channel(channel), payload)

    def listen(self, channel: str, handler: HintHandler) -> None:
        """Call the handler with each hint of a channel, and with ``b""`` when some may have been lost."""
        if channel in self._handlers:
            raise ValueError(f"somebody listens to {channel!r} already")
        self._handlers[channel] = handler
        if self._subscriber is not None:
            self._subscriber.listen(self._channel(channel), handler)

    def unlisten(self, channel: str) -> None:
        """Call it no more."""
        self._handlers.pop(channel, None)
        if self._subscriber is not None:
            self._subscriber.unlisten(self._channel(channel))

    def every(self, seconds: float, work: Callable[[], Awaitable[None]], name: str) -> Ticker:
        """Call a coroutine function again and again while the plane is started. Its ``wake`` fits as a handler."""
        ticker = Ticker(seconds, work, name)
        self._tickers.append(ticker)
        if self.is_started:
            ticker.start()
        return ticker

    # Workers.

    def send(self, worker: str, kind: str, payload: bytes = b"") -> asyncio.Future[list[Any]]:
        """Tell a worker something. It hears of it once, within a second or so, or never when it is dead."""
        key = self.key(f"w:{worker}", "cmd")
        fields = ("i", secrets.token_hex(16), "k", kind, "f", self.worker, "p", payload)
        link = self._link_here()
        if isinstance(link, PlaneUnavailableError):
            return _failed(link)
        commands = (
            ("XADD", key, "MAXLEN", "~", MAX_WAITING_COMMANDS, "*", *fields),
            ("PEXPIRE", key, int(COMMAND_SECONDS * 1000)),
            self.hint_command(f"w:{worker}"),
        )
        return link.call(commands, strict=True)

    def on_command(self, kind: str, handler: CommandHandler) -> None:
        """Call the handler with each command of a kind that this worker is sent."""
        if kind in self._commands:
            raise ValueError(f"commands of the kind {kind!r} have a handler already")
        self._commands[kind] = handler

    async def _collect(self) -> None:
        """Read what this worker was told, and do it."""
        key = self.key(f"w:{self.worker}", "cmd")
        while len(self._tasks) < COMMANDS_AT_ONCE:
            done = self._read[:]
            forget = [("XDEL", key, *done)] if done else []
            *_, entries = await self.call(*forget, ("XRANGE", key, "-", "+", "COUNT", COMMANDS_AT_ONCE))
            del self._read[: len(done)]
            if isinstance(entries, Exception):
                raise entries
            if not entries:
                return
            for number, fields in entries:
                said = dict(zip(fields[::2], fields[1::2], strict=True))
                self._obey(said.get(b"i", number).decode(), said)
                self._read.append(number)

    def _obey(self, known_by: str, said: dict[bytes, bytes]) -> None:
        if known_by in self._known:
            return
        self._known[known_by] = None
        if len(self._known) > KNOWN_COMMANDS:
            self._known.popitem(last=False)
        command = Command(said.get(b"k", b"").decode(), said.get(b"p", b""), said.get(b"f", b"").decode())
        handler = self._commands.get(command.kind)
        self._counts["commands"] += 1
        if handler is None:
            self._counts["commands_unknown"] += 1
            return
        try:
            doing = handler(command)
        except Exception:
            logger.exception("the command %s failed", command.kind)
            return
        if inspect.isawaitable(doing):
            self._spawn(doing, f"command {command.kind}")

    def _spawn(self, work: Awaitable[Any], name: str) -> None:
        async def run() -> None:
            try:
                await work
            except PlaneUnavailableError:
                self._counts["commands_unavailable"] += 1
            except Exception:
                logger.exception("%s failed", name)

        task = asyncio.create_task(run(), name=f"isolane plane {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # How it is.

    async def _beat(self) -> None:
        """Say that this worker lives, and hear who else does."""
        keys = [self.key("plane", name) for name in ("procs", "secret", "life")]
        if self._given is not None:
            proposed = "known " + hmac.new(self._given, b"isolane", hashlib.sha256).hexdigest()[:16]
        else:
            proposed = "made " + (self._secret or secrets.token_bytes(32)).hex()
        arguments = (self.worker, int(ALIVE_SECONDS * 1000), proposed, secrets.token_hex(8))
        try:
            secret, life, alive = await self.script("plane.beat", keys, arguments)
        except PlaneUnavailableError as error:
            if error.reason == "refused":
                # It answers, and is of no use: full, for one.
                self._set_state("down", str(error))
            raise
        self._processes = tuple(each.decode() for each in alive)
        self._metrics.processes.set(len(self._processes))
        self._learn(secret.decode(), proposed)
        was, self._life = self._life, life.decode()
        if self._link is not None and self._link.state == "up":
            self._set_state("up", "")
        if was and was != self._life:
            self._counts["emptied"] += 1
            logger.warning("Redis has lost its data: what this worker holds is put there again")
            for listener in self._emptied_listeners:
                _tell(listener)

    def _learn(self, found: str, proposed: str) -> None:
        complaint = ""
        kind, _, text = found.partition(" ")
        if self._given is not None:
            if found != proposed:
                complaint = (
                    "other workers have another ISOLANE_CLUSTER_KEY, or none: users are others to them than to this one"
                )
        elif kind == "made":
            self._secret = bytes.fromhex(text)
        else:
            complaint = "other workers have an ISOLANE_CLUSTER_KEY, and this one has none: give it the same"
        if complaint and complaint != self._complaint:
            logger.error(complaint)
        self._complaint = complaint

    def _link_changed(self, state: str, reason: str) -> None:
        if self._stopping:
            return
        if state == "down":
            self._set_state("down", reason)
        elif state == "up":
            # Up once this worker is known there.
            self._beat_ticker.wake()

    def _set_state(self, state: PlaneState, reason: str) -> None:
        self.reason = reason
        if state == self.state:
            return
        was, self.state = self.state, state
        self._counts[f"times_{state}"] += 1
        self._metrics.state(state)
        if state == "up":
            logger.info(
                "this worker (%s) shares with %d others on %s", self.worker, len(self.processes()) - 1, self.target
            )
        elif state == "down":
            logger.warning(
                "Redis at %s cannot be used (%s): this worker goes on by itself until it can", self.target, reason
            )
        if was == state:
            return
        for listener in self._state_listeners:
            _tell(listener, state)

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {
            "state": self.state,
            "reason": self.reason,
            "worker": self.worker,
            "processes": len(self.processes()),
            **({"link": self._link.figures()} if self._link is not None else {}),
            **({"hints_heard": self._subscriber.heard} if self._subscriber is not None else {}),
            **dict(self._counts),
            **{type(part).__name__: part.figures() for part in self._started},
        }


class _Metrics:
    """What is counted of the plane."""

    def __init__(self) -> None:
        calls = metric("isolane_cluster_calls_total")
        self._calls = {result: calls.labels(result) for result in RESULTS}
        self._seconds = metric("isolane_cluster_call_seconds")
        states = metric("isolane_cluster_state")
        self._states = {state: states.labels(state) for state in ("starting", "up", "down")}
        self.processes = metric("isolane_cluster_processes")

    def call(self, result: str, seconds: float) -> None:
        """Count a call."""
        self._calls[result].inc()
        if result == "ok":
            self._seconds.observe(seconds)

    def state(self, state: PlaneState | None) -> None:
        """Say how the plane is; ``None`` when there is none any more."""
        for each, series in self._states.items():
            series.set(1 if each == state else 0)


def _tell(listener: Callable[..., None], *arguments: Any) -> None:
    try:
        listener(*arguments)
    except Exception:
        logger.exception("what follows the state of the plane failed")


def _failed(error: PlaneUnavailableError) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()
    return future
