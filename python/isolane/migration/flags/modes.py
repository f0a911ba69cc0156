"""How one run is executed and how its events reach the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ExecutionMode = Literal["legacy", "modern"]
"""Which code runs an agent."""

BridgeMode = Literal["legacy", "hybrid", "modern"]
"""What carries events: the old bridge, both (the modern log is the source), or the modern log alone."""


@dataclass(frozen=True, slots=True)
class RunModes:
    """The modes of one run, which stay what they were when it began.

    Attributes:
        execution: `legacy` or `modern`.
        bridge: `legacy`, `hybrid` or `modern`; `modern` exactly when `execution` is.
        revision: Of the document that decided; 0 without a document.
    """

    execution: ExecutionMode
    bridge: BridgeMode
    revision: int

    @property
    def is_modern(self) -> bool:
        """Whether the run is executed the modern way."""
        return self.execution == "modern"
