"""The rules of a context, in plain Python: both context peers share them."""

import copy
import unicodedata
from datetime import datetime
from typing import Any

EXACT = frozenset(
    {
        *("registry", "placeholder", "default", "temp", "none", "null", "undefined", "0", "1", "xxx", "yyy", "example"),
        *("test", "demo", "sample", "template", "mock", "fake", "dummy"),
    }
)
PREFIXES = (
    *("placeholder_", "registry_", "default_", "temp_", "example_", "demo_", "sample_", "template_", "mock_", "fake_"),
    "test_",
)
PATTERN_MAX_LENGTH = 20
MAX_ID_CHARACTERS = 256
RESERVED = frozenset(
    {"user_id", "thread_id", "run_id", "request_id", "created_at", "db_session", "websocket_client_id"}
)
FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs"})
MAX_DEPTH = 10


def check_id(value: Any, field: str = "id") -> str:
    """Return the id, or raise: required, length, control characters, surrogates, placeholder words and beginnings."""
    if not isinstance(value, str) or not (trimmed := value.strip()):
        raise ValueError(f"Required field {field!r} must be a non-empty string")
    if len(value) > MAX_ID_CHARACTERS:
        raise ValueError(f"Field {field!r} is too long")
    # One call decides the common case.
    if not value.isprintable() and any(unicodedata.category(char) in FORBIDDEN_CATEGORIES for char in value):
        raise ValueError(f"Field {field!r} contains control characters")
    lowered = trimmed.lower()
    if lowered in EXACT:
        raise ValueError(f"Field {field!r} contains forbidden placeholder value")
    if len(trimmed) < PATTERN_MAX_LENGTH and lowered.startswith(PREFIXES):
        raise ValueError(f"Field {field!r} appears to contain placeholder pattern")
    return value


def own_dict(value: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy, or raise for reserved keys."""
    if not value:
        return {}
    if not RESERVED.isdisjoint(value):
        raise ValueError(f"reserved keys: {RESERVED.intersection(value)}")
    return copy.deepcopy(value)


def check_moment(value: datetime) -> datetime:
    """Return the moment, or raise for a naive one."""
    if value.tzinfo is None:
        raise ValueError("created_at must be aware")
    return value


def add_audit_keys(audit: dict[str, Any], created_at: datetime, depth: int, parent: str | None) -> None:
    """Add what every context has in its audit metadata."""
    audit["context_created_at"] = created_at.isoformat()
    audit["context_version"] = "1.0"
    audit["isolation_verified"] = True
    audit["operation_depth"] = depth
    if parent is not None:
        audit["parent_request_id"] = parent


def child_request_id(parent: str, operation: str, taken: dict[str, int], depth: int) -> str:
    """Return `{parent}_{operation}`, with a counter when that was given before."""
    if not operation.strip():
        raise ValueError("operation_name must be a non-empty string")
    if depth >= MAX_DEPTH:
        raise ValueError("Maximum operation depth exceeded")
    name = f"{parent}_{operation}"
    count = taken[name] = taken.get(name, 0) + 1
    return name if count == 1 else f"{name}_{count}"
