"""What the host keeps from the browser: secrets in tool inputs, internals in outputs, paths in errors."""

from __future__ import annotations

import json
import re
from typing import Any

from isolane._core import to_json

REDACTED = "[REDACTED]"
MAX_INPUT_CHARACTERS = 200
MAX_OUTPUT_CHARACTERS = 10_000
MAX_ERROR_CHARACTERS = 300

SECRET_WORD = re.compile(
    r"(?:.*(?:password|passwd|passphrase|secret|token|credential)s?"
    r"|.*(?:api|access|private|encryption|signing)key|keys?|pwd|auth|authorization)\Z"
)
"""A key with such a word is redacted: ``api_key``, ``userPassword``, ``authtoken``; not ``keyword`` or ``author``."""
COUNTED = frozenset({"key", "keys", "token", "tokens"})
"""Words that are no secret when they have a number, as in ``input_tokens``."""
INTERNAL_KEYS = frozenset({"internal_reasoning", "debug_info", "system_prompt"})

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_HOME = re.compile(r"(?:/home|/Users)/[^/\s:'\"]+|/root(?=/)|[A-Za-z]:\\Users\\[^\\\s'\"]+")


def secret_words(key: str) -> set[str]:
    """Return the words of a key that name a secret. Words are told apart by capitals and by what is no letter."""
    return {word.lower() for word in _WORDS.findall(key) if SECRET_WORD.match(word.lower())}


def is_secret(key: str, value: Any = "") -> bool:
    """Return whether a key names a secret, by its whole words."""
    words = secret_words(key)
    return bool(words) and not (isinstance(value, int | float) and words <= COUNTED)


def safe_input(value: Any) -> Any:
    """Return a tool's input as plain JSON data without secrets. Raises ``ValueError`` for what has no JSON form."""
    return _without_secrets(json.loads(to_json(value)))


def safe_output(value: Any) -> Any:
    """Return a result as plain JSON data without internals. Raises ``ValueError`` for what has no JSON form."""
    return _without_internals(json.loads(to_json(value)))


def safe_error(error: Any) -> str:
    """Return the text of an error without home directories."""
    return _HOME.sub("~", str(error))[:MAX_ERROR_CHARACTERS]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


def _without_secrets(value: Any) -> Any:
    match value:
        case dict():
            return {key: REDACTED if is_secret(key, item) else _without_secrets(item) for key, item in value.items()}
        case list():
            return [_without_secrets(item) for item in value]
        case str():
            return _cut(value, MAX_INPUT_CHARACTERS)
    return value


def _without_internals(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_internals(item) for key, item in value.items() if key not in INTERNAL_KEYS}
        case list():
            return [_without_internals(item) for item in value]
        case str():
            return _cut(value, MAX_OUTPUT_CHARACTERS)
    return value
