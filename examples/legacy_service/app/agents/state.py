"""The state that all agents read and write."""

from typing import Any

from pydantic import BaseModel, Field

DEFAULT_METADATA: dict[str, Any] = {"sources": [], "language": "en"}


class DeepAgentState(BaseModel):
    """What is known of "the" run."""

    user_request: str = "default_request"
    chat_thread_id: str | None = None
    user_id: str | None = None
    run_id: str | None = None
    research_result: list[str] | None = None
    draft_result: str | None = None
    report_result: str | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=lambda: DEFAULT_METADATA.copy())
    step_count: int = 0

    @property
    def thread_id(self) -> str | None:
        """The thread, by its other name."""
        return self.chat_thread_id
