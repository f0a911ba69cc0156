"""A context as a frozen pydantic model."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from benches.python.peers.rules import add_audit_keys, check_id, child_request_id, own_dict

Id = Annotated[str, AfterValidator(check_id)]
OwnDict = Annotated[dict[str, Any], AfterValidator(own_dict)]


class PydanticContext(BaseModel):
    """The fields of `UserExecutionContext`, checked and copied by validators."""

    model_config = ConfigDict(frozen=True)

    user_id: Id
    thread_id: Id
    run_id: Id
    request_id: Id = Field(default_factory=lambda: str(uuid.uuid4()))
    db_session: Any = None
    websocket_client_id: str | None = None
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    agent_context: OwnDict = Field(default_factory=dict)
    audit_metadata: OwnDict = Field(default_factory=dict)
    operation_depth: int = 0
    parent_request_id: Id | None = None
    _names: dict[str, int] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _add_audit_keys(self) -> "PydanticContext":
        add_audit_keys(self.audit_metadata, self.created_at, self.operation_depth, self.parent_request_id)
        return self

    def create_child_context(self, operation_name: str) -> "PydanticContext":
        """A context below this one, with copies of its data."""
        request_id = child_request_id(self.request_id, operation_name, self._names, self.operation_depth)
        created_at = datetime.now(UTC)
        depth = self.operation_depth + 1
        child = PydanticContext(
            user_id=self.user_id,
            thread_id=self.thread_id,
            run_id=self.run_id,
            request_id=request_id,
            db_session=self.db_session,
            websocket_client_id=self.websocket_client_id,
            created_at=created_at,
            agent_context={
                **self.agent_context,
                "parent_operation": self.agent_context.get("operation_name", "root"),
                "operation_name": operation_name,
                "operation_depth": depth,
            },
            audit_metadata={
                **self.audit_metadata,
                "operation_name": operation_name,
                "child_created_at": created_at.isoformat(),
            },
            operation_depth=depth,
            parent_request_id=self.request_id,
        )
        child._names = self._names
        return child
