"""What a user is called where the id must not be: in alerts, logs, traces and the dashboard."""

from __future__ import annotations

from isolane._core import _set_pseudonym_key, user_pseudonym

MIN_KEY_BYTES = 16
MAX_KEY_BYTES = 32


def pseudonym(user_id: str) -> str:
    """Return 12 hexadecimal digits of a keyed hash of the id: the same for the same user, everywhere in the process.

    The key is made at the start of the process, so the next process calls everybody something else, unless
    ``set_pseudonym_key`` gave it a key.
    """
    try:
        return user_pseudonym(user_id)
    except UnicodeEncodeError:
        # Half of a pair of surrogates, which no id of a context has.
        return user_pseudonym(ascii(user_id))


def set_pseudonym_key(key: bytes | None) -> None:
    """Set the key of the hash, so that other processes with the same key call users the same; ``None``: a new one.

    Call it at the start: who was called something before is called something else afterwards. Keep the key as you keep
    a password: with it and a list of ids anybody can tell who is who.

    Raises:
        TypeError: the key is no bytes.
        ValueError: it has fewer than 16 bytes or more than 32.
    """
    if key is not None:
        if not isinstance(key, bytes):
            raise TypeError("the key of pseudonyms is bytes: encode it")
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            raise ValueError(f"the key of pseudonyms has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, got {len(key)}")
    _set_pseudonym_key(key)
