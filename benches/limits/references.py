"""Limiters of others, ported from their sources, for the comparison.

`tests/python/test_limit_references.py` checks them against vectors that were computed by hand.

- Netflix concurrency-limits: `AIMDLimit`, `VegasLimit`, `Gradient2Limit`, `WindowedLimit`
  (<https://github.com/Netflix/concurrency-limits>)
- Envoy: the gradient controller of its adaptive concurrency filter (`gradient_controller.cc`)
- failsafe-go: `adaptivelimiter` (<https://github.com/failsafe-go/failsafe-go>)
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


def log_step(limit: float) -> int:
    """The step of Vegas and failsafe-go: the decimal logarithm of the limit, rounded down, at least 1."""
    return max(1, int(math.log10(limit))) if limit >= 1 else 1


@dataclass(slots=True)
class Fixed:
    """A limit that somebody chose."""

    size: int

    def limit(self, _now: float) -> int:
        return self.size

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, running: int) -> None:
        pass


@dataclass(slots=True)
class Oracle:
    """Knows how many servers there are."""

    servers: Callable[[float], int]

    def limit(self, now: float) -> int:
        return self.servers(now)

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, running: int) -> None:
        pass


@dataclass(slots=True)
class Aimd:
    """One more while it is used; a tenth less after a drop or a slow call."""

    slow: float = 5.0
    size: int = 10
    least: int = 1
    most: int = 200
    backoff: float = 0.9

    def limit(self, _now: float) -> int:
        return self.size

    def sample(self, _now: float, latency: float, inflight: int, dropped: bool, _running: int) -> None:
        if dropped or latency > self.slow:
            self.size = int(self.size * self.backoff)
        elif inflight * 2 >= self.size:
            self.size += 1
        self.size = min(self.most, max(self.least, self.size))


@dataclass(slots=True)
class Vegas:
    """Compares each call with the quickest one since the last probe, and keeps the queue that follows from it short."""

    size: float = 10.0
    most: int = 200
    smoothing: float = 1.0
    probe: int = 30
    quickest: float = 0.0
    count: int = 0
    jitter: Callable[[], float] = field(default_factory=lambda: _jitter(0.5, 1.0))
    spread: float = 0.0

    def __post_init__(self) -> None:
        self.spread = self.jitter()

    def limit(self, _now: float) -> int:
        return max(1, int(self.size))

    def sample(self, _now: float, latency: float, inflight: int, dropped: bool, _running: int) -> None:
        self.count += 1
        if self.spread * self.probe * self.size <= self.count:
            self.spread, self.count, self.quickest = self.jitter(), 0, latency
            return
        if self.quickest == 0 or latency < self.quickest:
            self.quickest = latency
            return
        size, step = self.size, log_step(self.size)
        queue = math.ceil(size * (1 - self.quickest / latency))
        if dropped:
            wanted = size - step
        elif inflight * 2 < size:
            return
        elif queue <= step:
            wanted = size + 6 * step
        elif queue < 3 * step:
            wanted = size + step
        elif queue > 6 * step:
            wanted = size - step
        else:
            return
        wanted = max(1, min(self.most, wanted))
        self.size = (1 - self.smoothing) * size + self.smoothing * wanted


@dataclass(slots=True)
class Gradient2:
    """Compares each call with a long average of all calls; drops are not looked at."""

    size: float = 20.0
    least: int = 20
    most: int = 200
    smoothing: float = 0.2
    queue: int = 4
    tolerance: float = 1.5
    window: int = 600
    warm: int = 10
    count: int = 0
    total: float = 0.0
    average: float = 0.0

    def limit(self, _now: float) -> int:
        return int(self.size)

    def sample(self, _now: float, latency: float, inflight: int, _dropped: bool, _running: int) -> None:
        if self.count < self.warm:
            self.count += 1
            self.total += latency
            self.average = self.total / self.count
        else:
            share = 2 / (self.window + 1)
            self.average += share * (latency - self.average)
        average = self.average
        if average / latency > 2:
            self.average *= 0.95
        if inflight < self.size / 2:
            return
        gradient = max(0.5, min(1.0, self.tolerance * average / latency))
        wanted = self.size * gradient + self.queue
        wanted = (1 - self.smoothing) * self.size + self.smoothing * wanted
        self.size = max(self.least, min(self.most, wanted))


@dataclass(slots=True)
class Windowed:
    """Gives another limiter one sample a window: mean latency, most calls in flight, whether one was dropped."""

    inner: Vegas | Gradient2
    shortest: float = 1.0
    longest: float = 1.0
    enough: int = 10
    until: float = 0.0
    quickest: float = math.inf
    total: float = 0.0
    highest: int = 0
    count: int = 0
    dropped: bool = False

    def limit(self, now: float) -> int:
        return self.inner.limit(now)

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, running: int) -> None:
        self.quickest = min(self.quickest, latency)
        self.total += latency
        self.highest = max(self.highest, inflight)
        self.count += 1
        self.dropped = self.dropped or dropped
        if now <= self.until:
            return
        if self.count >= self.enough:
            self.inner.sample(now, self.total / self.count, self.highest, self.dropped, running)
        self.until = now + min(max(self.quickest * 2, self.shortest), self.longest)
        self.quickest, self.total, self.highest, self.count, self.dropped = math.inf, 0.0, 0, 0, False


@dataclass(slots=True)
class Envoy:
    """Measures the latency at three calls once a minute, and compares each second's median with it."""

    least: int = 3
    most: int = 200
    buffer: float = 0.25
    window: float = 1.0
    interval: float = 60.0
    requests: int = 50
    jitter: Callable[[], float] = field(default_factory=lambda: _jitter(0.0, 0.15))
    size: int = 3
    measured: float | None = None
    held: int = 3
    measuring: bool = True
    epoch: float = 0.0
    latencies: list[float] = field(default_factory=list)
    next_window: float = 1.0
    next_measure: float = math.inf
    at_least: int = 0

    def limit(self, now: float) -> int:
        if not self.measuring and now >= self.next_measure:
            self.measuring, self.held, self.size, self.epoch = True, self.size, self.least, now
            self.latencies.clear()
        return self.size

    def sample(self, now: float, latency: float, _inflight: int, _dropped: bool, _running: int) -> None:
        if now - latency < self.epoch:
            return
        self.latencies.append(latency)
        if self.measuring:
            if len(self.latencies) >= self.requests:
                self.measured = self._median()
                self._set(self.held)
                self.measuring = False
                self.next_measure = now + self.interval * (1 + self.jitter())
                self.next_window = now + self.window
        elif now >= self.next_window and self.measured is not None:
            gradient = max(0.5, min(2.0, self.measured * (1 + self.buffer) / self._median()))
            scaled = self.size * gradient
            self._set(max(self.least, min(self.most, int(scaled + math.sqrt(scaled)))))
            self.next_window = now + self.window

    def _median(self) -> float:
        self.latencies.sort()
        median = self.latencies[min(len(self.latencies) - 1, len(self.latencies) // 2)]
        self.latencies.clear()
        return median

    def _set(self, size: int) -> None:
        stays = self.size == self.least and size == self.least and not self.measuring
        self.at_least = self.at_least + 1 if stays else 0
        self.size = size
        if self.at_least >= 5:
            self.next_measure, self.at_least = 0.0, 0


@dataclass(slots=True)
class Average:
    """A mean that begins as a plain one and forgets afterwards."""

    age: int
    warm: int = 10
    count: int = 0
    total: float = 0.0
    value: float = 0.0

    def add(self, sample: float) -> float:
        if self.count < self.warm:
            self.count += 1
            self.total += sample
            self.value = self.total / self.count
        else:
            share = 2 / (self.age + 1)
            self.value = self.value * (1 - share) + sample * share
        return self.value


@dataclass(slots=True)
class Correlation:
    """How two numbers go together over the last fifty samples."""

    first: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    second: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    enough: int = 10

    def add(self, first: float, second: float) -> tuple[float, float]:
        """The correlation, and the coefficient of variation of the second."""
        self.first.append(first)
        self.second.append(second)
        count = len(self.first)
        if count < self.enough:
            return 0.0, 0.0
        mean_first, mean_second = sum(self.first) / count, sum(self.second) / count
        variance_first = sum(value * value for value in self.first) / count - mean_first**2
        variance_second = sum(value * value for value in self.second) / count - mean_second**2
        if variance_first < 0 or variance_second < 0 or not mean_first or not mean_second:
            return 0.0, 0.0
        varies_first, varies_second = math.sqrt(variance_first) / mean_first, math.sqrt(variance_second) / mean_second
        if varies_first < 0.01 or varies_second < 0.01:
            return 0.0, varies_second
        covariance = sum(a * b for a, b in zip(self.first, self.second, strict=True)) / count - mean_first * mean_second
        return covariance / math.sqrt(variance_first * variance_second), varies_second


@dataclass(slots=True)
class Failsafe:
    """Compares a smoothed 90th percentile with a longer average; asks what throughput and latency do together."""

    size: float = 10.0
    least: int = 1
    most: int = 200
    shortest: float = 1.0
    longest: float = 30.0
    enough: int = 50
    share: float = 0.9
    factor: float = 5.0
    latencies: list[float] = field(default_factory=list)
    highest: int = 0
    until: float = 0.0
    quantiles: deque[float] = field(default_factory=lambda: deque(maxlen=5))
    recent: Average = field(default_factory=lambda: Average(5))
    baseline: Average = field(default_factory=lambda: Average(10))
    throughput: Correlation = field(default_factory=Correlation)
    latency: Correlation = field(default_factory=Correlation)

    def limit(self, _now: float) -> int:
        return int(self.size)

    def sample(self, now: float, latency: float, inflight: int, dropped: bool, running: int) -> None:
        if not dropped:
            self.latencies.append(latency)
            self.highest = max(self.highest, inflight)
        if now <= self.until or len(self.latencies) < self.enough:
            return
        self.latencies.sort()
        quantile = self.latencies[int(self.share * (len(self.latencies) - 1))]
        quickest, highest = self.latencies[0], self.highest
        self.quantiles.append(quantile)
        middle = quantile if len(self.quantiles) < 5 else sorted(self.quantiles)[2]
        self.latencies, self.highest = [], 0
        self.until = now + min(max(quickest * 2, self.shortest), self.longest)
        self.update(self.recent.add(middle), highest, running)

    def update(self, recent: float, inflight: int, running: int) -> None:
        """Decide at the end of a window."""
        gradient = self.baseline.add(recent) / recent
        queue = math.ceil(self.size * (1 - gradient))
        throughput, throughput_varies = self.throughput.add(inflight, inflight / recent)
        latency, _ = self.latency.add(inflight, recent)
        size = int(self.size)
        step, full = log_step(size), running >= size
        worse = throughput < 0 or (latency > 0.5 and (throughput < 0.3 or throughput_varies < 0.2))
        if queue > 6 * step or (full and worse):
            wanted = self.size - step
        elif queue < 3 * step:
            wanted = self.size + step
        else:
            wanted = self.size
        most = inflight * self.factor
        if wanted > most:
            wanted = self.size - step if self.size > most else most
        self.size = max(self.least, min(self.most, wanted))


def _jitter(low: float, high: float) -> Callable[[], float]:
    draws = random.Random("jitter")
    return lambda: draws.uniform(low, high)
