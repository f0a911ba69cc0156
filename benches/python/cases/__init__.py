"""What is measured. Each module has one `cases()`."""

from benches.python.cases import contexts, engines, events, permits
from benches.python.measure import Case


def all_cases() -> list[Case]:
    """All cases, in the order in which they are printed."""
    return [*contexts.cases(), *permits.cases(), *events.cases(), *engines.cases()]
