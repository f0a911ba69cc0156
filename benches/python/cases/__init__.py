"""What is measured. Each module has one `cases()`."""

from benches.python.cases import (
    contamination,
    contexts,
    copies,
    dashboard,
    engines,
    events,
    flags,
    flat,
    memory,
    metrics,
    permits,
    sanitize,
    sockets,
    tools,
    tracing,
    trampoline,
)
from benches.python.measure import Case


def all_cases(*, thorough: bool) -> list[Case]:
    """All cases, in the order in which they are printed."""
    return [
        *contexts.cases(),
        *copies.cases(),
        *permits.cases(),
        *events.cases(),
        *engines.cases(),
        *contamination.cases(),
        *trampoline.cases(),
        *sanitize.cases(),
        *sockets.cases(),
        *tools.cases(),
        *flags.cases(),
        *flat.cases(),
        *tracing.cases(),
        *dashboard.cases(),
        *metrics.cases(),
        *memory.cases(thorough=thorough),
    ]
