"""What lives as long as the process."""

from collections import defaultdict

from app.agents.state import DeepAgentState
from isolane import UserExecutionContext

state = DeepAgentState()  # MIG005
contexts = [UserExecutionContext.from_request("ann", "t", "r")]  # MIG005


class Engine:
    state: DeepAgentState = DeepAgentState()  # MIG005
    runs = []  # MIG005
    seen: dict = {}  # MIG005
    counts = defaultdict(int)  # MIG005
    added = []  # MIG005

    def run(self, run, state=DeepAgentState()):  # MIG005
        self.runs.append(run)
        self.seen[run] = state
        self.counts[run] += 1
        self.added += [run]


class Base:
    transcript = []  # MIG005


class Child(Base):
    def note(self, line):
        self.transcript.append(line)
