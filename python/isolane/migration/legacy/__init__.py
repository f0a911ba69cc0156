"""Legacy beside modern: the older WebSocket managers, bridges and getters over isolane's lanes."""

from isolane.migration.legacy.adapter import CompatibilityAdapter, LegacyWebSocketBridge
from isolane.migration.legacy.connections import LegacyConnection
from isolane.migration.legacy.errors import BroadcastDeniedError, CrossUserSendError, LegacyContextError
from isolane.migration.legacy.hybrid import HybridBridge
from isolane.migration.legacy.identity import Bound, bind_context, bound_now
from isolane.migration.legacy.managers import (
    LegacyAgentBridge,
    LegacyEngineProxy,
    LegacyManagerProxy,
    LegacyToolDispatcherProxy,
    get_agent_websocket_bridge,
    get_execution_engine,
    get_legacy_websocket_manager,
    get_tool_dispatcher,
    get_websocket_bridge,
    get_websocket_manager,
)
from isolane.migration.legacy.messages import convert_legacy_message
from isolane.migration.legacy.modern import ModernWebSocketBridge
from isolane.migration.legacy.outcome import SendOutcome
from isolane.migration.legacy.policy import BroadcastPolicy
from isolane.migration.legacy.process import configure_legacy, process_hub, reset_legacy
from isolane.migration.legacy.selector import BridgeSelector

__all__ = [
    "Bound",
    "BridgeSelector",
    "BroadcastDeniedError",
    "BroadcastPolicy",
    "CompatibilityAdapter",
    "CrossUserSendError",
    "HybridBridge",
    "LegacyAgentBridge",
    "LegacyConnection",
    "LegacyContextError",
    "LegacyEngineProxy",
    "LegacyManagerProxy",
    "LegacyToolDispatcherProxy",
    "LegacyWebSocketBridge",
    "ModernWebSocketBridge",
    "SendOutcome",
    "bind_context",
    "bound_now",
    "configure_legacy",
    "convert_legacy_message",
    "get_agent_websocket_bridge",
    "get_execution_engine",
    "get_legacy_websocket_manager",
    "get_tool_dispatcher",
    "get_websocket_bridge",
    "get_websocket_manager",
    "process_hub",
    "reset_legacy",
]
