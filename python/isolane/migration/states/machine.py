"""Machines of states as tables: what is not in the table cannot happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MAX_HISTORY = 256
"""Moves that a machine remembers; of more the oldest is forgotten."""


class IllegalMoveError(RuntimeError):
    """A move that is not in the table of its machine. Nothing has changed.

    Attributes:
        machine: the name of the machine.
        state: where it is.
        trigger: what was to happen.
        allowed: what may happen there.
    """

    def __init__(self, machine: str, state: str, trigger: str, allowed: Iterable[str]) -> None:
        self.machine, self.state, self.trigger, self.allowed = machine, state, trigger, tuple(allowed)
        known = ", ".join(self.allowed) or "nothing: it has ended"
        super().__init__(f"{machine} is in {state}, where {trigger!r} cannot happen; allowed are {known}")


@dataclass(frozen=True, slots=True)
class Move:
    """One row of a table: in ``source``, ``trigger`` leads to ``target``."""

    source: str
    trigger: str
    target: str


@dataclass(frozen=True)
class Table:
    """A machine as it is drawn.

    Attributes:
        name: of the machine.
        start: where it begins.
        moves: the rows.
        groups: composite states, with the states in each; a state may be in one.
    """

    name: str
    start: str
    moves: tuple[Move, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = [(move.source, move.trigger) for move in self.moves]
        if len(set(rows)) != len(rows):
            raise ValueError(f"{self.name} has two rows for one state and trigger")
        grouped = [state for states in self.groups.values() for state in states]
        if len(set(grouped)) != len(grouped) or not set(grouped) <= set(self.states):
            raise ValueError(f"the groups of {self.name} name a state twice, or one that is not there")

    @property
    def states(self) -> tuple[str, ...]:
        """All states, in the order in which the rows name them."""
        return tuple(dict.fromkeys([self.start, *(each for move in self.moves for each in (move.source, move.target))]))

    @property
    def finals(self) -> tuple[str, ...]:
        """States that nothing leads out of."""
        sources = {move.source for move in self.moves}
        return tuple(state for state in self.states if state not in sources)

    def group_of(self, state: str) -> str | None:
        """Return the composite state that a state is in."""
        return next((name for name, states in self.groups.items() if state in states), None)

    def mermaid(self) -> str:
        """Draw it, as text of mermaid."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield "stateDiagram-v2"
        yield f"    [*] --> {self.start}"
        for name, states in self.groups.items():
            yield f"    state {name} {{"
            yield from (
                f"        {move.source} --> {move.target}: {move.trigger}"
                for move in self.moves
                if move.source in states and move.target in states
            )
            yield "    }"
        yield from (
            f"    {move.source} --> {move.target}: {move.trigger}"
            for move in self.moves
            if self.group_of(move.source) is None or self.group_of(move.source) != self.group_of(move.target)
        )
        yield from (f"    {state} --> [*]" for state in self.finals)


class Machine:
    """Something that is in one state of a table, and moves by its rows alone.

    Subclasses set ``table``.

    Args:
        on_move: called after each move. What it raises is raised to whoever moved the machine, which has moved.
    """

    table: Table

    def __init__(self, on_move: Callable[[Move], object] | None = None) -> None:
        self._state = self.table.start
        self._history: list[Move] = []
        self._on_move = on_move

    @property
    def state(self) -> str:
        """Where it is."""
        return self._state

    @property
    def phase(self) -> str:
        """The composite state in which it is, or the state where there is none."""
        return self.table.group_of(self._state) or self._state

    @property
    def is_over(self) -> bool:
        """Whether nothing leads out of its state."""
        return self._state in self.table.finals

    @property
    def history(self) -> tuple[Move, ...]:
        """The latest 256 moves, the oldest first."""
        return tuple(self._history)

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may happen in its state."""
        return tuple(move.trigger for move in self.table.moves if move.source == self._state)

    def move(self, trigger: str) -> str:
        """Let something happen. Returns the state after it.

        Raises:
            IllegalMoveError: it cannot happen in this state. The machine stays where it is.
        """
        for move in self.table.moves:
            if (move.source, move.trigger) == (self._state, trigger):
                self._state = move.target
                self._history.append(move)
                del self._history[:-MAX_HISTORY]
                if self._on_move is not None:
                    self._on_move(move)
                return self._state
        raise IllegalMoveError(self.table.name, self._state, trigger, self.allowed)

    def __repr__(self) -> str:
        return f"<{self.table.name} in {self._state}>"


def rows(*moves: tuple[str, str, str]) -> tuple[Move, ...]:
    """Write a table as tuples of source, trigger and target."""
    return tuple(Move(*move) for move in moves)
