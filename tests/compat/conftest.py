"""The fixtures of the Python surface."""

from tests.python.conftest import (
    alice,
    bob,
    context,
    new_context,
    new_user,
    no_permit_of_the_process_is_left,
    read_plain,
)

__all__ = ["alice", "bob", "context", "new_context", "new_user", "no_permit_of_the_process_is_left", "read_plain"]
