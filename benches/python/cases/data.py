"""The values that the cases use."""

import json
from typing import Any

PAYLOAD: dict[str, Any] = {
    "status": "running",
    "step": 7,
    "total_steps": 12,
    "progress_percentage": 58.3,
    "rows": 148213,
    "models": ["small-1", "large-2", "vision-3"],
    "cost": {"input": 12.75, "output": 31.5, "currency": "USD"},
    "note": "Priced the calls of the week by model and hour",
    "done": False,
    "retry": None,
}
"""About 265 bytes of JSON."""

PAYLOAD_BYTES = len(json.dumps(PAYLOAD, separators=(",", ":")))


def tree() -> dict[str, Any]:
    """An agent context of about 60 values in nested dictionaries and lists."""
    return {
        "request": {"text": "Optimise the usage of last week", "language": "en", "budget": 120.5, "urgent": False},
        "options": {"depth": 3, "strict": True, "formats": ["md", "html"], "limits": {"rows": 1000, "seconds": 30}},
        "history": [{"role": "user", "text": f"message {n}", "tokens": n * 17, "seen": True} for n in range(6)],
        "models": {f"model-{n}": {"input": n * 0.25, "output": n * 0.75} for n in range(4)},
        "tags": ["weekly", "cost", "report"],
        "state": {"step": None, "done": []},
    }


def nodes(value: Any) -> int:
    """How many values there are in a tree, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(nodes(each) for each in inner)
