"""The limiters of others that the benchmark compares with: each against vectors computed by hand from its formulas."""

from __future__ import annotations

import math

import pytest

from benches.limits.references import (
    Aimd,
    Average,
    Correlation,
    Envoy,
    Failsafe,
    Fixed,
    Gradient2,
    Oracle,
    Vegas,
    Windowed,
    log_step,
)


@pytest.mark.parametrize(("limit", "step"), [(1, 1), (2, 1), (9.9, 1), (10, 1), (99, 1), (100, 2), (999, 2), (1000, 3)])
def test_the_logarithmic_step_is_at_least_one(limit, step):
    assert log_step(limit) == step


def test_fixed_and_oracle_do_not_learn():
    fixed, oracle = Fixed(7), Oracle(lambda now: 10 if now < 5 else 4)
    fixed.sample(0, 99, 7, True, 7)
    assert (fixed.limit(0), oracle.limit(4.9), oracle.limit(5)) == (7, 10, 4)


def test_aimd():
    limiter = Aimd(slow=5.0, size=20)
    limiter.sample(0, 1, 10, False, 0)  # 2 x 10 >= 20
    assert limiter.size == 21
    limiter.sample(0, 1, 10, False, 0)  # 2 x 10 < 21
    assert limiter.size == 21
    limiter.sample(0, 5.1, 10, False, 0)  # floor(0.9 x 21) = floor(18.9)
    assert limiter.size == 18
    limiter.sample(0, 0.1, 10, True, 0)  # floor(16.2)
    assert limiter.size == 16
    small = Aimd(size=1)
    small.sample(0, 9, 1, True, 0)
    assert small.size == 1


def vegas(size: float) -> Vegas:
    # A jitter of 1, and a probe that is far away.
    return Vegas(size=size, probe=1_000, jitter=lambda: 1.0, quickest=1.0)


@pytest.mark.parametrize(
    ("size", "latency", "inflight", "dropped", "expected"),
    [
        (20, 1.0, 20, False, 26),  # queue 0 <= 1: + beta = 6
        (20, 20 / 19.5, 20, False, 26),  # queue = ceil(20 x 0.025) = 1 <= 1
        (20, 20 / 18.5, 20, False, 21),  # queue = ceil(1.5) = 2 < alpha = 3: + 1
        (20, 1.25, 20, False, 20),  # queue 4, between alpha and beta: hold
        (20, 1.5, 20, False, 19),  # queue = ceil(6.67) = 7 > beta = 6: - 1
        (20, 1.5, 9, False, 20),  # 2 x 9 < 20: hold
        (20, 1.0, 9, True, 19),  # dropped: - 1, used or not
        (200, 1.01, 200, False, 200),  # queue 2 <= 2: + 12, but 200 is the most
        (100, 1.12, 100, False, 100),  # steps of 2; queue = ceil(10.71) = 11, between 6 and 12: hold
        (100, 1.2, 100, False, 98),  # queue 17 > 12: - 2
        (1, 3.0, 1, True, 1),  # never below 1
    ],
)
def test_vegas(size, latency, inflight, dropped, expected):
    limiter = vegas(size)
    limiter.sample(0, latency, inflight, dropped, 0)
    assert limiter.size == pytest.approx(expected)


def test_vegas_learns_a_quicker_call_and_forgets_at_a_probe():
    limiter = vegas(20)
    limiter.sample(0, 0.5, 20, False, 0)
    assert (limiter.quickest, limiter.size) == (0.5, 20)
    probing = Vegas(size=2, probe=1, jitter=lambda: 1.0, quickest=1.0)
    probing.sample(0, 1.0, 2, False, 0)
    assert probing.quickest == 1.0
    probing.sample(0, 7.0, 2, False, 0)  # 1 x 1 x 8 > 2 calls: size grew by 6 before
    assert probing.quickest == 1.0
    for _ in range(6):
        probing.sample(0, 7.0, 0, False, 0)
    assert probing.quickest == 7.0


def gradient2(size: float, average: float, **options: float) -> Gradient2:
    return Gradient2(size=size, average=average, count=10, total=10 * average, **options)


@pytest.mark.parametrize(
    ("average", "latency", "inflight", "expected"),
    [
        # average = 1 + 2/601 x 0; gradient = min(1, 1.5) = 1: 0.8 x 100 + 0.2 x (100 + 4)
        (1.0, 1.0, 100, 100.8),
        # average = 1 + 2/601 = 1.0033278; gradient = 1.5 x 1.0033278 / 2 = 0.7524958: 80 + 0.2 x (75.24958 + 4)
        (1.0, 2.0, 100, 95.849917),
        # average = 1 + 2/601 x 9 = 1.0299501; gradient = max(0.5, 0.154) = 0.5: 80 + 0.2 x 54
        (1.0, 10.0, 100, 90.8),
        # fewer than half in flight: hold
        (1.0, 10.0, 49, 100.0),
    ],
)
def test_gradient2(average, latency, inflight, expected):
    limiter = gradient2(100, average)
    limiter.sample(0, latency, inflight, False, 0)
    assert limiter.size == pytest.approx(expected, rel=1e-6)


def test_gradient2_warms_up_with_a_plain_mean_ignores_drops_and_decays_a_long_average():
    limiter = Gradient2(size=100)
    for latency in (1.0, 2.0, 6.0):
        limiter.sample(0, latency, 0, True, 0)
    assert (limiter.average, limiter.size) == (3.0, 100)
    long = gradient2(100, 10.0)
    long.sample(0, 1.0, 0, False, 0)
    # 10 - 2/601 x 9 = 9.9700499, more than twice the latency: x 0.95
    assert long.average == pytest.approx(9.4715474, rel=1e-6)
    assert gradient2(20, 1.0, least=20).limit(0) == 20
    floor = gradient2(20, 1.0, least=20)
    floor.sample(0, 10.0, 20, False, 0)  # 16 + 0.2 x 14 = 18.8, but 20 is the least
    assert floor.size == 20


def test_a_window_gives_the_mean_the_most_and_whether_one_was_dropped():
    given = []
    windowed = Windowed(_Recorder(given))  # type: ignore[arg-type]
    windowed.until = 1.0
    for number in range(10):
        windowed.sample(0.1 * number, 0.1, number, number == 3, 0)
    assert given == []
    windowed.sample(1.5, 1.2, 4, False, 0)  # 10 x 0.1 + 1.2 = 2.2 over 11
    assert given == [(pytest.approx(0.2), 9, True)]
    # The next one lasts a second again: twice the quickest, 0.2 s, at least 1 s.
    assert windowed.until == pytest.approx(2.5)
    windowed.sample(2.6, 0.3, 1, False, 0)  # one sample is too few: forgotten
    assert len(given) == 1
    assert windowed.count == 0


class _Recorder:
    def __init__(self, given: list[tuple[float, int, bool]]) -> None:
        self.given = given

    def sample(self, _now: float, latency: float, inflight: int, dropped: bool, _running: int) -> None:
        self.given.append((latency, inflight, dropped))


def envoy(size: int, measured: float) -> Envoy:
    return Envoy(size=size, measured=measured, measuring=False, next_window=1.0, next_measure=1e9, jitter=lambda: 0.0)


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        (1.25, 12),  # gradient 1: 9 + sqrt(9)
        (2.5, 6),  # gradient 0.5: int(4.5 + 2.1213)
        (100.0, 6),  # never below 0.5
        (0.1, 22),  # gradient 2: int(18 + 4.2426)
    ],
)
def test_envoy(latency, expected):
    limiter = envoy(9, 1.0)
    limiter.sample(200.0, latency, 9, False, 9)
    assert limiter.limit(200.0) == expected


def test_envoy_measures_at_three_calls_and_ignores_what_was_admitted_before():
    limiter = envoy(40, 1.0)
    limiter.next_measure = 60.0
    assert limiter.limit(59.9) == 40
    assert limiter.limit(60.0) == 3
    limiter.sample(61.0, 1.5, 3, False, 3)  # admitted at 59.5
    assert limiter.latencies == []
    for number in range(50):
        limiter.sample(70.0 + number, 2.0 + number, 3, False, 3)
    assert (limiter.measured, limiter.limit(119.0), limiter.measuring) == (27.0, 40, False)
    assert limiter.next_measure == pytest.approx(119.0 + 60.0)


def test_envoy_measures_again_after_five_windows_at_the_minimum():
    limiter = envoy(3, 0.001)
    for number in range(4):
        limiter.sample(200.0 + 10 * number, 1.0, 3, False, 3)
    assert limiter.limit(231.0) == 3
    assert not limiter.measuring
    limiter.sample(240.0, 1.0, 3, False, 3)
    limiter.limit(240.1)
    assert limiter.measuring


def test_the_averages_of_failsafe_begin_plain():
    average = Average(5)
    assert [average.add(value) for value in (1.0, 2.0, 6.0)] == [1.0, 1.5, 3.0]
    warm = Average(5, count=10, total=10.0, value=1.0)
    assert warm.add(4.0) == pytest.approx(1.0 * (1 - 2 / 6) + 4.0 * 2 / 6)


def test_the_correlation_of_failsafe():
    correlation = Correlation(enough=3)
    assert correlation.add(1.0, 2.0) == (0.0, 0.0)
    assert correlation.add(2.0, 4.0) == (0.0, 0.0)
    together, varies = correlation.add(3.0, 6.0)
    assert together == pytest.approx(1.0)
    assert varies == pytest.approx(math.sqrt(8 / 3) / 4)  # deviation of 2, 4, 6 over their mean
    flat = Correlation(enough=3)
    for first in (1.0, 2.0, 3.0):
        found = flat.add(first, 5.0)
    assert found == (0.0, pytest.approx(0.0))


def failsafe(size: float, baseline: float) -> Failsafe:
    # Averages that have long seen the same.
    limiter = Failsafe(size=size)
    limiter.baseline.count, limiter.baseline.value = 10, baseline
    return limiter


@pytest.mark.parametrize(
    ("recent", "inflight", "expected"),
    [
        (1.0, 20, 21),  # gradient 1, queue 0 < 3: + 1
        # baseline = 1 x 9/11 + 2 x 2/11 = 13/11; queue = ceil(20 x (1 - 13/22)) = 9 > 6: - 1
        (2.0, 20, 19),
        # baseline = 9/11 + 1.25 x 2/11 = 1.0454545; queue = ceil(20 x 0.1636) = 4: hold
        (1.25, 20, 20),
        # + 1 would be more than 5 x 2 in flight, and 20 is as well: - 1
        (1.0, 2, 19),
    ],
)
def test_failsafe(recent, inflight, expected):
    limiter = failsafe(20, 1.0)
    limiter.update(recent, inflight, 0)
    assert limiter.size == expected


def test_failsafe_lowers_a_full_limit_when_throughput_falls_with_load():
    limiter = failsafe(20, 1.0)
    # Throughput falls as calls in flight grow: 10/1, 12/1.5, 14/2, ...
    for number in range(12):
        limiter.throughput.add(10 + 2 * number, (10 + 2 * number) / (1 + 0.5 * number))
        limiter.latency.add(10 + 2 * number, 1 + 0.5 * number)
    limiter.update(1.0, 20, running=20)
    assert limiter.size == 19
    idle = failsafe(20, 1.0)
    idle.throughput, idle.latency = limiter.throughput, limiter.latency
    idle.update(1.0, 20, running=19)
    assert idle.size == 21


def test_failsafe_takes_the_ninetieth_percentile_of_a_window_without_the_dropped():
    limiter = Failsafe()
    for _ in range(50):
        limiter.sample(0.0, 1.0, 99, True, 5)
    assert limiter.highest == 0
    for number in range(50):
        limiter.sample(2.0, 1.0 + number, number % 7, False, 5)
    # Of 1 to 50 the one at 0.9 x 49 = 44: 45.
    assert list(limiter.quantiles) == [45.0]
    assert limiter.recent.value == 45.0
    assert limiter.until == pytest.approx(2.0 + 2.0)
    assert limiter.latencies == []
