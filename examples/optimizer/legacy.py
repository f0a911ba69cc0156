"""THE THING NOT TO DO: the singleton path, kept to show what it leaks.

One engine, one bridge and one mutable state serve every user of the process. The work is the same as in `agents`; only
what stands behind a step differs: it reads the state anew each time, so that a second user who starts in between
becomes the owner of whatever the first one does next, and the bridge tells everything to everyone.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi.encoders import jsonable_encoder
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.websockets import WebSocket, WebSocketDisconnect

from examples.optimizer.agents.data import load_log
from examples.optimizer.agents.optimization import optimise
from examples.optimizer.agents.report import report
from examples.optimizer.agents.step import AnalysisRequest
from examples.optimizer.storage import Report, UserDatabases

# No user can sign in under this name: it holds a character that names may not hold.
_EVERYONE = "\0everyone"


@dataclass
class DeepAgentState:
    """The state of "the" run, overwritten by whoever comes next."""

    user_id: str = ""
    run_id: str = ""
    agent_name: str = ""
    span_id: str = ""


STATE = DeepAgentState()


class BroadcastBridge:
    """One bridge for the process: every event goes to every socket."""

    def __init__(self) -> None:
        self._sockets: set[WebSocket] = set()
        self._sent = 0

    async def serve(self, socket: WebSocket) -> None:
        """Keep a socket until it closes."""
        self._sockets.add(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            pass
        finally:
            self._sockets.discard(socket)

    async def broadcast(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Send one event, under the name of whoever the state belongs to by now."""
        self._sent += 1
        event = {
            "type": event_type,
            "agent_name": STATE.agent_name,
            "run_id": STATE.run_id,
            "timestamp": datetime.now(UTC).isoformat(),
            "event_id": uuid.uuid4().hex,
            "request_id": STATE.span_id,
            "payload": {**jsonable_encoder(payload), "user_id": STATE.user_id},
            "seq": self._sent,
        }
        for socket in tuple(self._sockets):
            try:
                await socket.send_json(event)
            except (RuntimeError, WebSocketDisconnect):
                self._sockets.discard(socket)

    async def notify_agent_thinking(self, content: str, /, metadata: Mapping[str, Any] | None = None) -> None:
        await self.broadcast("agent_thinking", {"reasoning": content, "status": "thinking", **(metadata or {})})

    async def notify_tool_executing(self, *, tool_name: str, params: Mapping[str, Any]) -> None:
        await self.broadcast("tool_executing", {"tool_name": tool_name, "parameters": params, "status": "executing"})

    async def notify_tool_completed(self, *, tool_name: str, result: Any) -> None:
        await self.broadcast("tool_completed", {"tool_name": tool_name, "result": result, "status": "completed"})

    async def send_custom_event(self, event_type: str, payload: Mapping[str, Any], /) -> None:
        await self.broadcast(event_type, payload)


BRIDGE = BroadcastBridge()


class SharedStep:
    """A step that owns nothing: user and run are those of the global state at the moment of asking."""

    events = BRIDGE

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @property
    def user_id(self) -> str:
        return STATE.user_id

    @property
    def run_id(self) -> str:
        return STATE.run_id


class LegacyEngine:
    """One engine for the process, with one database for everyone."""

    def __init__(self, databases: UserDatabases) -> None:
        self._databases = databases

    async def prepare(self) -> None:
        """Create the one database."""
        await self._databases.prepare(_EVERYONE)

    async def run(self, user_id: str, run_id: str, request: AnalysisRequest) -> None:
        """Run the pipeline, starting with taking over the state of whoever runs already."""
        STATE.user_id, STATE.run_id = user_id, run_id
        async with self._databases.session(_EVERYONE) as session:
            step = SharedStep(session)
            log = await _execute("data", lambda: load_log(step, request))
            optimization = await _execute("optimization", lambda: optimise(step))
            await _execute("report", lambda: report(step, log, optimization))

    async def latest_report(self) -> Report | None:
        """The report of the state's run: whoever asks gets the one written last."""
        async with self._databases.session(_EVERYONE) as session:
            return await session.get(Report, STATE.run_id)


async def _execute(agent_name: str, work: Callable[[], Any]) -> Any:
    STATE.agent_name, STATE.span_id = agent_name, uuid.uuid4().hex
    await BRIDGE.broadcast("agent_started", {"status": "started"})
    try:
        result = await work()
    except Exception as error:
        await BRIDGE.broadcast(
            "agent_error", {"status": "error", "error_message": str(error), "error_type": type(error).__name__}
        )
        raise
    await BRIDGE.broadcast("agent_completed", {"status": "completed", "result": result})
    return result
