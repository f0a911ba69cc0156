"""What a synthetic user does next, and with which log."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from examples.optimizer.check.logs import make_log

_NAMES = ("ada", "bo", "cleo", "dev", "edda", "finn", "gwen", "hana", "ivo", "june", "kofi", "lena")
_SHORT_ROWS = 200
_LONG_ROWS = 6000


class Deed(StrEnum):
    """One thing that a user does."""

    SHORT = "short"
    LONG = "long"
    CANCELLED = "cancelled"
    BROKEN = "broken"
    CROWDED = "crowded"


# Weights: most runs are short. Then a day without trouble, and what trouble there is.
_CALM = ((Deed.SHORT, 85), (Deed.LONG, 15))
_TROUBLE = ((Deed.CANCELLED, 3), (Deed.BROKEN, 2), (Deed.CROWDED, 1))


def user_names(count: int) -> list[str]:
    """Names that sort, and that nobody would type."""
    width = len(str(count))
    return [f"{_NAMES[number % len(_NAMES)]}-{number + 1:0{width}}" for number in range(count)]


@dataclass(slots=True)
class Plan:
    """A user's plan: the same for the same name.

    Attributes:
        name: whose it is.
        pace: seconds from one run to the next, on average.
        trouble: the share of runs that are cancelled, fail, or come several at once.
    """

    name: str
    pace: float
    trouble: float
    _chance: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.name)  # noqa: S311 - a plan, nothing to guard

    def first_pause(self) -> float:
        """How long until the first run, so that not all begin at once."""
        return self._chance.uniform(0, self.pace)

    def pause(self) -> float:
        """How long from this run to the next."""
        return self.pace * self._chance.uniform(0.5, 1.5)

    def patience(self) -> float:
        """After how long a run is cancelled that is to be."""
        return self._chance.uniform(0.2, 0.8)

    def deed(self) -> Deed:
        """What to do next."""
        return self._drawn(_TROUBLE if self._chance.random() < self.trouble else _CALM)

    def _drawn(self, weighted: Sequence[tuple[Deed, int]]) -> Deed:
        return self._chance.choices([deed for deed, _ in weighted], [weight for _, weight in weighted])[0]

    def log(self, deed: Deed) -> bytes:
        """The log that a deed needs."""
        if deed is Deed.BROKEN:
            return make_log(self.name, _SHORT_ROWS) + b"2026-11-16T00:00:00Z,gpt-4o,many,1\n"
        return make_log(self.name, _SHORT_ROWS if deed in {Deed.SHORT, Deed.CROWDED} else _LONG_ROWS)
