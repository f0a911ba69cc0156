"""A context as a plain frozen dataclass."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from benches.python.peers.rules import add_audit_keys, check_id, check_moment, child_request_id, own_dict


@dataclass(frozen=True)
class DataclassContext:
    """The fields of `UserExecutionContext`, checked and copied in `__post_init__`."""

    user_id: str
    thread_id: str
    run_id: str
    request_id: str = ""
    db_session: Any = None
    websocket_client_id: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    agent_context: dict[str, Any] = field(default_factory=dict)
    audit_metadata: dict[str, Any] = field(default_factory=dict)
    operation_depth: int = 0
    parent_request_id: str | None = None
    names: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_id(self.user_id, "user_id")
        check_id(self.thread_id, "thread_id")
        check_id(self.run_id, "run_id")
        if self.request_id:
            check_id(self.request_id, "request_id")
        else:
            object.__setattr__(self, "request_id", str(uuid.uuid4()))
        if self.parent_request_id is not None:
            check_id(self.parent_request_id, "parent_request_id")
        check_moment(self.created_at)
        object.__setattr__(self, "agent_context", own_dict(self.agent_context))
        audit = own_dict(self.audit_metadata)
        add_audit_keys(audit, self.created_at, self.operation_depth, self.parent_request_id)
        object.__setattr__(self, "audit_metadata", audit)

    def create_child_context(self, operation_name: str) -> "DataclassContext":
        """A context below this one, with copies of its data."""
        request_id = child_request_id(self.request_id, operation_name, self.names, self.operation_depth)
        created_at = datetime.now(UTC)
        depth = self.operation_depth + 1
        return DataclassContext(
            self.user_id,
            self.thread_id,
            self.run_id,
            request_id,
            self.db_session,
            self.websocket_client_id,
            created_at,
            {
                **self.agent_context,
                "parent_operation": self.agent_context.get("operation_name", "root"),
                "operation_name": operation_name,
                "operation_depth": depth,
            },
            {
                **self.audit_metadata,
                "operation_name": operation_name,
                "child_created_at": created_at.isoformat(),
            },
            depth,
            self.request_id,
            self.names,
        )
