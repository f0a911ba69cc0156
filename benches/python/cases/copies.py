"""The deep copy of JSON-like data that contexts make, against `copy.deepcopy`."""

import copy

from isolane import _core

from benches.python.cases.data import nodes, tree
from benches.python.measure import Case, Side, calls

GROUP = "Deep copy"
NAME = f"deep copy of {nodes(tree())} values"
OWN = "isolane"
PEER = "copy.deepcopy"
MISSING = (
    "this build has no isolane._core._deep_copy, so the copy cannot be timed alone; "
    "the cases `created` with values contain it"
)


def cases() -> list[Case]:
    """One tree; skipped while the extension does not export its copy."""
    data = tree()
    own = getattr(_core, "_deep_copy", None)
    peer = Side(PEER, calls(lambda: copy.deepcopy(data)))
    if own is None:
        return [Case(GROUP, NAME, (peer,), skipped=MISSING)]
    return [Case(GROUP, NAME, (Side(OWN, calls(lambda: own(data))), peer))]
