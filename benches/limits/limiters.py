"""Who is compared with whom."""

from collections.abc import Callable
from dataclasses import dataclass, field

from isolane import AdaptiveController

from benches.limits.references import Aimd, Envoy, Failsafe, Fixed, Gradient2, Oracle, Vegas, Windowed
from benches.limits.scenarios import Scenario
from benches.limits.station import Limiter

OURS = "isolane"


@dataclass(slots=True)
class Ours:
    """The controller of the package, as it is shipped, with its defaults."""

    controller: AdaptiveController = field(default_factory=AdaptiveController)

    def limit(self, _now: float) -> int:
        return self.controller.limit

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, _running: int) -> None:
        self.controller.sample(latency, inflight, "dropped" if dropped else "ok", 1.0, now)


LIMITERS: dict[str, Callable[[Scenario], Limiter]] = {
    OURS: lambda _: Ours(),
    "fixed 5": lambda _: Fixed(5),
    "fixed 10": lambda _: Fixed(10),
    "fixed 20": lambda _: Fixed(20),
    "fixed 50": lambda _: Fixed(50),
    "AIMD": lambda scenario: Aimd(slow=3 * scenario.mean[0][1]),
    "Vegas, windowed": lambda _: Windowed(Vegas()),
    "Gradient2": lambda _: Windowed(Gradient2()),
    "Gradient2, min 1, queue 1": lambda _: Windowed(Gradient2(size=10, least=1, queue=1)),
    "Envoy": lambda _: Envoy(),
    "failsafe-go": lambda _: Failsafe(),
}
"""By the name in the tables. Each run gets a new one."""


def oracle(scenario: Scenario) -> Oracle:
    """The limiter that knows the number of servers at each moment."""
    return Oracle(lambda now: int(scenario.at(scenario.servers, now)))
