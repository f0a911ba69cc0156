"""The agents, in the order in which they work."""

from .draft import DraftAgent
from .research import ResearchAgent
from .review import ReviewAgent

__all__ = ["DraftAgent", "ResearchAgent", "ReviewAgent"]
