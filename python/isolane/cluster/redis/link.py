"""The connections of one process and loop to Redis: one server, or the nodes of a cluster. Nobody else uses them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.redis.call import Call, Command, Piece, cannot_now, pack
from isolane.cluster.redis.line import CONNECT_SECONDS, Line, LineState, send
from isolane.cluster.redis.target import Address, Target

MAX_CALLS = 10_000
MAX_BYTES = 32 * 1024 * 1024
MAX_REDIRECTS = 5
MAP_SECONDS = 0.5
"""The nodes of a cluster are not asked for more often than that."""
SLOTS = 16_384
WITHOUT_KEY = frozenset({"PING", "PUBLISH", "TIME", "INFO", "SCRIPT", "CLUSTER", "CLIENT", "ECHO", "WAIT"})
SECOND_WORD = frozenset({"OBJECT", "XINFO", "XGROUP", "MEMORY"})
WITH_COUNT = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})


NOT_SHARED = frozenset(
    {
        *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "MONITOR", "SYNC"),
        *(
            "PSYNC",
            "QUIT",
            "RESET",
            "SELECT",
            "AUTH",
            "HELLO",
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH",
            "UNWATCH",
            "ASKING",
        ),
        *("BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "BZMPOP"),
    }
)
"""They change the connection, or make those wait who come later."""


def _name(command: Command) -> str:
    word = command[0]
    return (word.decode() if isinstance(word, bytes) else str(word)).upper()


def _is_for_one(command: Command) -> bool:
    name = _name(command)
    if name in {"XREAD", "XREADGROUP"}:
        return "BLOCK" in command
    return name in NOT_SHARED or (name == "CLIENT" and command[1] == "REPLY")


def key_of(command: Command) -> bytes | None:
    """Return the first key of a command; ``None`` where any server will do."""
    name = _name(command)
    if name in WITHOUT_KEY:
        return None
    if name in WITH_COUNT:
        at = 3 if int(command[2]) else 0
    elif name in {"XREAD", "XREADGROUP"}:
        at = next(n for n, word in enumerate(command) if word in {"STREAMS", b"STREAMS", "streams"}) + 1
    else:
        at = 2 if name in SECOND_WORD else 1
    if not at or at >= len(command):
        return None
    key = command[at]
    return key if isinstance(key, bytes) else str(key).encode()


def _redirection(reply: ResponseError) -> tuple[bool, int, str, int] | None:
    """Whether the slot moved for good, which it is, and where to; ``None`` for another error."""
    if isinstance(reply, AskError):
        return isinstance(reply, MovedError), int(reply.slot_id), reply.host, int(reply.port)
    # Older releases of redis-py know it in clients of clusters only.
    kind, _, rest = str(reply).partition(" ")
    if kind not in {"MOVED", "ASK"}:
        return None
    slot, _, place = rest.partition(" ")
    host, _, port = place.rpartition(":")
    return kind == "MOVED", int(slot), host, int(port)


class Link:
    """Calls of Redis, each one round trip with a deadline.

    Args:
        target: where the server is.
        home: a key; the server that has it says how the link is.
        call_timeout: seconds that a call may take, unless it says otherwise.
        told: is told of each call that somebody waited for how it went, and after how many seconds.
        changed: is told when the state changes, and why.
        greeted: is told of each new connection to that server.
        client_name: what ``CLIENT LIST`` of the server says.
    """

    def __init__(
        self,
        target: Target,
        home: str,
        *,
        call_timeout: float = 0.05,
        told: Callable[[str, float], None] | None = None,
        changed: Callable[[LineState, str], None] | None = None,
        greeted: Callable[[], None] | None = None,
        client_name: str = "isolane",
    ) -> None:
        self.target = target
        self.call_timeout = call_timeout
        self.is_cluster = False
        self.held = 0
        self.held_bytes = 0
        self.refused = 0
        self._home = key_slot(home.encode())
        self._told = told
        self._changed = changed
        self._greeted = greeted
        self._client_name = client_name
        self._scripts: dict[str, tuple[str, str]] = {}
        self._by_sha: dict[str, str] = {}
        self._main: Line | None = None
        self._seed = 0
        self._nodes: dict[Address, Line] = {}
        self._slots: list[Address | None] = [None] * SLOTS
        self._state: LineState = "starting"
        self._mapper: asyncio.Task[None] | None = None
        self._map_wanted = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    # Life.

    async def start(self) -> None:
        """Begin to connect, and wait for the first attempt, which may fail."""
        self._main = Line(self, self._seed_connection, str(self.target))
        self._main.start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._main.tried.wait(), CONNECT_SECONDS + 1)
        if self.is_cluster:
            line = self._line(self._home)
            if line is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(line.tried.wait(), CONNECT_SECONDS + 1)

    async def stop(self) -> None:
        """Cut the connections. What is still waited for is refused."""
        if ending := self.cancel():
            await asyncio.wait(ending)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cut the connections. Returns what comes to its end now."""
        ending = list(self._ending)
        if self._mapper is not None:
            self._mapper.cancel()
            ending.append(self._mapper)
            self._mapper = None
        for line in (self._main, *self._nodes.values()):
            if line is not None:
                ending += line.cancel()
        self._nodes.clear()
        self._main = None
        return ending

    @property
    def state(self) -> LineState:
        """Whether calls are answered."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is down."""
        line = self._line(self._home) if self._main is not None else None
        return line.reason if line is not None else "stopped"

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        lines = [line for line in (self._main, *self._nodes.values()) if line is not None]
        return {
            "server": str(self.target),
            "cluster": self.is_cluster,
            "nodes": {line.name: line.state for line in self._nodes.values()},
            "connections": sum(line.connections for line in lines),
            "waiting": self.held,
            "waiting_bytes": self.held_bytes,
            "refused": self.refused,
        }

    def cut(self) -> None:
        """Cut all connections; they are made again."""
        for line in (self._main, *self._nodes.values()):
            if line is not None:
                line.cut()

    # What is asked.

    def call(
        self, commands: Sequence[Command], timeout: float | None = None, *, strict: bool = False
    ) -> asyncio.Future[list[Any]]:
        """Send the commands in one round trip.

        The list has an answer for each; a wrong command's is a ``ResponseError``, which with ``strict`` is raised by
        the future. That also raises ``PlaneUnavailableError``.
        """
        return self._ask(commands, timeout, strict=strict)

    def script_command(self, name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Command:
        """Return the command that runs a script, for ``call``."""
        return ("EVALSHA", self._scripts[name][0], len(keys), *keys, *arguments)

    def script(
        self, name: str, keys: Sequence[str], arguments: Sequence[Any] = (), timeout: float | None = None
    ) -> asyncio.Future[Any]:
        """Run a script that was added. The future raises what the script raises, or ``PlaneUnavailableError``."""
        return self._ask([self.script_command(name, keys, arguments)], timeout, single=True, strict=True)

    def add_scripts(self, scripts: dict[str, str]) -> None:
        """Make scripts known by their names. The server loads them when they are first used, and after it lost them."""
        for name, text in scripts.items():
            sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            known = self._scripts.get(name)
            if known is not None and known[0] != sha:
                raise ValueError(f"there is another script of the name {name!r}")
            self._scripts[name] = (sha, text)
            self._by_sha[sha] = text

    def post(self, commands: Sequence[Command]) -> bool:
        """Send the commands, and wait for nothing. Returns whether they were taken."""
        if self.held >= MAX_CALLS or self.held_bytes >= MAX_BYTES or self._state == "down" or self._main is None:
            return False
        self._ask(commands, None)
        return True

    def _ask(
        self, commands: Sequence[Command], timeout: float | None, *, single: bool = False, strict: bool = False
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        for command in commands:
            if _is_for_one(command):
                raise ValueError(
                    f"{command[0]} is nothing for a connection of all: it has other answers than one, or waits"
                )
        packed = [pack(command) for command in commands]
        size = sum(map(len, packed))
        call = Call(loop, len(commands), timeout or self.call_timeout, self._ended, single=single, strict=strict)
        if self.held >= MAX_CALLS or self.held_bytes + size > MAX_BYTES:
            self.refused += 1
            call.fail(PlaneUnavailableError(f"{self.held} calls wait for Redis already", "full"))
            return call.future
        if not commands:
            call.future.set_result([])
            return call.future
        for piece, line in self._pieces(call, commands, packed):
            self._submit(piece, line)
        return call.future

    def _pieces(self, call: Call, commands: Sequence[Command], packed: list[bytes]) -> list[tuple[Piece, Line]]:
        main = self._main
        if main is None:
            call.fail(PlaneUnavailableError("the plane was not started, or was stopped", "stopped"))
            return []
        if not self.is_cluster:
            return [(Piece(call, commands, range(len(commands)), packed=packed), main)]
        by_line: dict[Line, list[int]] = {}
        for at, command in enumerate(commands):
            by_line.setdefault(self._line(self._slot(command)) or main, []).append(at)
        return [
            (Piece(call, [commands[at] for at in mine], mine, packed=[packed[at] for at in mine]), line)
            for line, mine in by_line.items()
        ]

    def _ended(self, call: Call, result: str) -> None:
        if self._told is not None:
            self._told(result, asyncio.get_running_loop().time() - call.started)
        if result == "timeout" and call.line is not None:
            call.line.missed()

    def _submit(self, piece: Piece, line: Line) -> None:
        self.held += 1
        self.held_bytes += piece.size
        line.submit(piece)

    def _release(self, piece: Piece) -> None:
        self.held -= 1
        self.held_bytes -= piece.size

    # What lines say.

    async def greet(self, line: Line, connection: AbstractConnection) -> None:
        """Do what a new connection begins with. Raises when it is of no use."""
        # A server that does not let this client name itself, or has no clusters, is as good.
        commands: list[Command] = [("CLIENT", "SETNAME", self._client_name)]
        commands += [("SCRIPT", "LOAD", text) for _, text in self._scripts.values()]
        commands += [("CLUSTER", "SLOTS"), ("PING",)]
        await send(connection, [pack(command) for command in commands])
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        if isinstance(replies[-1], Exception):
            raise replies[-1]
        nodes = replies[-2]
        if line is self._main and isinstance(nodes, list):
            if not nodes:
                raise RedisError("no node of the cluster has slots")
            self.is_cluster = True
            self._take_map(nodes)

    def question(self, done: Callable[[asyncio.Future[Any]], None]) -> Piece:
        """Return a question whose answer shows that the server answers in time."""
        call = Call(asyncio.get_running_loop(), 1, self.call_timeout, lambda *_: None, single=True)
        call.future.add_done_callback(done)
        piece = Piece(call, [("PING",)], range(1))
        self.held += 1
        self.held_bytes += piece.size
        return piece

    def connected(self, line: Line) -> None:
        """Note that there is a new connection."""
        if line is self._line(self._home) and self._greeted is not None:
            self._greeted()

    def changed(self, line: Line) -> None:
        """Note that a line is up, or down."""
        if line is not self._main and line.state == "down":
            self._map_wanted.set()
        self._compare()

    def answered(self, line: Line, piece: Piece, at: int, reply: Any) -> None:
        """Take the answer to a command of a piece."""
        if at == len(piece.commands) - 1:
            self._release(piece)
        if piece.call.done:
            return
        if isinstance(reply, ResponseError):
            again = self._elsewhere(line, piece, at, reply)
            if again is not None and piece.tries < MAX_REDIRECTS:
                # Behind the others: what is sent again keeps its order.
                self._submit(*again)
                return
        piece.call.answer(piece.at[at], reply)

    def dropped(self, piece: Piece, error: PlaneUnavailableError | None) -> None:
        """Take back a piece that will not be answered. Without an error nobody waits for it."""
        self._release(piece)
        if error is not None:
            piece.call.fail(error)

    def _elsewhere(self, line: Line, piece: Piece, at: int, reply: ResponseError) -> tuple[Piece, Line] | None:
        """What is sent again, and where to."""
        command, tries = piece.commands[at], piece.tries + 1
        if isinstance(reply, NoScriptError):
            text = self._by_sha.get(command[1])
            if text is None:
                return None
            return Piece(piece.call, [("EVAL", text, *command[2:])], [piece.at[at]], tries=tries), line
        there = _redirection(reply)
        if there is not None:
            moved, slot, host, port = there
            address = (host or self.target.host(), port)
            if moved:
                self._slots[slot] = address
                self._map_wanted.set()
            again = Piece(piece.call, [command], [piece.at[at]], tries=tries, asking=not moved)
            return again, self._node(address)
        if isinstance(reply, ReadOnlyError):
            # A replica by now: the name of the server may stand for another one.
            line.reset("it is a replica, which takes no writes")
        if cannot_now(reply):
            self._map_wanted.set()
        return None

    # The nodes of a cluster.

    def _seed_connection(self) -> AbstractConnection:
        """Try the places that are known one after the other."""
        seed, self._seed = self._seed, self._seed + 1
        known = sorted(self._nodes)
        at = seed % (self.target.seeds + len(known))
        if at < self.target.seeds:
            return self.target.connection(seed=at, connect_seconds=CONNECT_SECONDS)
        return self.target.connection(known[at - self.target.seeds], connect_seconds=CONNECT_SECONDS)

    def any_connection(self) -> AbstractConnection:
        """Return a connection that is not connected yet, to a server that is believed to be there."""
        for address, line in self._nodes.items():
            if line.state == "up":
                return self.target.connection(address, connect_seconds=CONNECT_SECONDS)
        return self._seed_connection()

    def _slot(self, command: Command) -> int:
        key = key_of(command)
        return self._home if key is None else key_slot(key)

    def _line(self, slot: int) -> Line | None:
        address = self._slots[slot] if self.is_cluster else None
        return self._main if address is None else self._node(address)

    def _node(self, address: Address) -> Line:
        line = self._nodes.get(address)
        if line is None:
            make = functools.partial(self.target.connection, address, connect_seconds=CONNECT_SECONDS)
            line = self._nodes[address] = Line(self, make, f"{address[0]}:{address[1]}")
            line.start()
        return line

    def _take_map(self, nodes: list[Any]) -> None:
        slots: list[Address | None] = [None] * SLOTS
        for first, last, primary, *_ in nodes:
            host = primary[0].decode() if primary[0] else self.target.host()
            slots[first : last + 1] = [(host, int(primary[1]))] * (last + 1 - first)
        self._slots = slots
        there = set(slots)
        for gone in [address for address in self._nodes if address not in there]:
            task = asyncio.create_task(self._nodes.pop(gone).stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for address in there:
            if address is not None:
                self._node(address)
        if self._mapper is None:
            self._mapper = asyncio.create_task(self._follow_map(), name="isolane redis nodes")
        self._compare()

    async def _follow_map(self) -> None:
        """Ask where the slots are, whenever there is a sign that they moved."""
        while True:
            await self._map_wanted.wait()
            self._map_wanted.clear()
            if self._main is not None:
                call = Call(asyncio.get_running_loop(), 1, CONNECT_SECONDS, lambda *_: None, single=True)
                self._submit(Piece(call, [("CLUSTER", "SLOTS")], range(1)), self._main)
                with contextlib.suppress(PlaneUnavailableError, ResponseError):
                    nodes = await call.future
                    if nodes:
                        self._take_map(nodes)
            await asyncio.sleep(MAP_SECONDS)
            if any(line.state == "down" for line in self._nodes.values()):
                self._map_wanted.set()

    def _compare(self) -> None:
        """How the link is: as the server that has the home key."""
        line = self._line(self._home) if self._main is not None else None
        if line is not None and line.state != self._state:
            self._state = line.state
            if self._changed is not None:
                self._changed(line.state, line.reason)
