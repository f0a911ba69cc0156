"""What metrics cost on each hot path, one count beside prometheus_client's, and what a scrape of many series takes."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from isolane import UserContextFactory, UserExecutionContext, _core, sweep_lanes

from benches.python.cases import contexts, engines, events, flags, permits, tools
from benches.python.measure import Case, Run, Side, awaits, calls, now
from benches.python.peers import prometheus

GROUP = "Metrics"
USER = "user-7c21"
BATCH = 200
SERIES = 10_000

OFF = "metrics off"
ON = "metrics on"

VALIDATED = "a context validated"
CLEANED = "a context made and cleaned up"
CHILD = "a child context"
PERMIT = "a free permit"
EVENT = "an event published"
ENGINE = "an engine made and ended"
TOOL = "a tool call"
FLAG = "a decision of a flag"
HOT_PATHS = (VALIDATED, CLEANED, CHILD, PERMIT, EVENT, ENGINE, TOOL, FLAG)

COUNT = "a counter, one more"
COUNT_BY_LABELS = "a counter by its labels, one more"
OBSERVE = "a histogram, one value"
HELD = "isolane, from Python"
PEER = "prometheus_client"
RENDER = "a scrape of {series} series, {text_format}"
FORMATS = ("openmetrics", "prometheus")
OWN_TEXT = "isolane render_metrics"
PEER_TEXT = "prometheus_client generate_latest"

NOTE = (
    "Both sides are the same build, with metrics switched off and on in turns. Figures that the core keeps anyway, as "
    "those of events, are read by a scrape and not counted again: there both sides do the same."
)
COUNT_NOTE = (
    "The cost of the call from Python, which the paths above do not pay: the core counts by itself. prometheus_client "
    "takes a lock for each, and with PROMETHEUS_MULTIPROC_DIR it writes into a file as well."
)
RENDER_NOTE = (
    f"Scaled to {SERIES} series: names are capped, so that a process has fewer. All families have all series that they "
    "can have, and prometheus_client has the same. A series is a line of the text; prometheus_client leaves the times "
    "of creation out, as isolane does. isolane also reads what its rooms keep."
)


@contextlib.contextmanager
def _switched(*, on: bool) -> Iterator[None]:
    before = _core.set_metrics_enabled(on)
    try:
        yield
    finally:
        _core.set_metrics_enabled(before)


def _with(run: Run, *, on: bool) -> Run:
    def switched(loops: int) -> float:
        with _switched(on=on):
            return run(loops)

    return switched


async def _made_and_cleaned(loops: int) -> float:
    taken = 0.0
    for first in range(0, loops, BATCH):
        turns = range(min(BATCH, loops - first))
        start = now()
        for _ in turns:
            context = UserContextFactory.create_context(USER)
            await context.cleanup()
        taken += now() - start
        sweep_lanes()
    return taken


def _hot_paths() -> dict[str, Run]:
    return {
        VALIDATED: calls(lambda: UserExecutionContext(**contexts.IDS)),
        CLEANED: awaits(_made_and_cleaned),
        CHILD: contexts.children(UserExecutionContext, None, contexts.SIBLINGS, read=False),
        PERMIT: awaits(permits.free_slot),
        EVENT: events.with_room(events.isolane_emitter, events.publish_dicts),
        ENGINE: engines.batches(engines.Own, engines.make_and_end),
        TOOL: tools.own_calls(),
        FLAG: flags.looped(flags.decides),
    }


def switched_cases() -> list[Case]:
    """Each hot path without metrics and with them."""
    return [
        Case(
            GROUP,
            name,
            (Side(OFF, _with(run, on=False)), Side(ON, _with(run, on=True))),
            own=True,
            note=NOTE if name == VALIDATED else "",
        )
        for name, run in _hot_paths().items()
    ]


def _by_labels(counter: Any, values: tuple[str, ...]) -> Callable[[], Any]:
    return lambda: counter.labels(*values).inc()


def _bounds(name: str) -> list[float]:
    found: list[float] = next(family["buckets"] for family in _core.metric_families() if family["name"] == name)
    return found


def _observing(histogram: Any) -> Callable[[], Any]:
    return lambda: histogram.observe(0.0017)


def count_cases() -> list[Case]:
    """A counter and a histogram by themselves."""
    values = ("search", "ok")
    own = {
        COUNT: _core.metric("isolane_forced_cleanups_total").inc,
        COUNT_BY_LABELS: _by_labels(_core.metric("isolane_tool_calls_total"), values),
        OBSERVE: _observing(_core.metric("isolane_overhead_seconds")),
    }
    peers: dict[str, Callable[[], Any]] = {}
    if not prometheus.MISSING:
        peers = {
            COUNT: prometheus.counter().inc,
            COUNT_BY_LABELS: _by_labels(prometheus.counter(("tool", "outcome")), values),
            OBSERVE: _observing(prometheus.histogram(_bounds("isolane_overhead_seconds"))),
        }
    return [
        Case(
            GROUP,
            name,
            (Side(HELD, calls(call)), *([Side(PEER, calls(peers[name]))] if peers else [])),
            note=f"{COUNT_NOTE} {prometheus.MISSING}".strip() if name == COUNT else "",
        )
        for name, call in own.items()
    ]


def _lines() -> int:
    return sum(not line.startswith("#") for line in _core.render_metrics().splitlines())


class _Filled:
    """The core's registry with every series that it can have, and the peer's with the same.

    Made once: series are not taken back.
    """

    registry: Any = None
    series = 0

    @classmethod
    @contextlib.contextmanager
    def held(cls) -> Iterator[None]:
        if not cls.series:
            cls._fill()
            cls.series = _lines()
            cls.registry = None if prometheus.MISSING else prometheus.same_series()
        yield

    @staticmethod
    def _fill() -> None:
        for family in _core.metric_families():
            if family["collected"]:
                continue
            metric, kind = _core.metric(family["name"]), family["kind"]
            names = [_names(label, values) for label, values in family["labels"].items()]
            for number, values in enumerate(itertools.product(*names)):
                series = metric.labels(*values) if values else metric
                {"counter": series.inc, "gauge": series.set, "histogram": series.observe}[kind](number)


def _names(label: str, values: list[str] | int) -> list[str]:
    """The values of a closed list, or as many as are told apart."""
    return values if isinstance(values, list) else [f"{label}-{number}" for number in range(values)]


def _scrapes(scrape: Callable[[], Any]) -> Run:
    """Scrapes of all there is, as long as they would take with so many series."""
    return lambda loops: calls(scrape)(loops) * SERIES / _Filled.series


def render_cases() -> list[Case]:
    """A scrape of many series, in both formats."""

    def own(text_format: str) -> Run:
        return _scrapes(lambda: _core.render_metrics(text_format))

    def peer(text_format: str) -> Run:
        generate = prometheus.generate(text_format)
        return _scrapes(lambda: generate(_Filled.registry))

    return [
        Case(
            GROUP,
            RENDER.format(series=SERIES, text_format=text_format),
            (
                Side(OWN_TEXT, own(text_format)),
                *([] if prometheus.MISSING else [Side(PEER_TEXT, peer(text_format))]),
            ),
            around=_Filled.held,
            note=f"{RENDER_NOTE} {prometheus.MISSING}".strip() if text_format == FORMATS[0] else "",
        )
        for text_format in FORMATS
    ]


def cases() -> list[Case]:
    """The hot paths off and on, single counts, scrapes. The scrapes come last: they leave series behind."""
    return [*switched_cases(), *count_cases(), *render_cases()]


def counted_cases() -> list[Case]:
    """Those whose cost is the same each time, for counting instructions."""
    return [*switched_cases(), *count_cases()]
