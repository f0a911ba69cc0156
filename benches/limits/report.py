"""The results as text and as the document."""

from collections.abc import Iterator, Mapping, Sequence

from benches.limits.fairness import CROWDS, ORDERS, Flood, Share
from benches.limits.figures import Summary
from benches.limits.limiters import LIMITERS, OURS
from benches.limits.nesting import Pipelines, Tree
from benches.limits.scenarios import ALL
from benches.limits.thresholds import Verdict

HEAD = """# Benchmark of the limits

Written by `make bench-limits`. Do not edit it: the next run replaces it.

Nothing here depends on how fast a machine is: all runs are in virtual time, and two runs give the same figures. The
controller, the limiter and the engines are those of the package; only the backend and the requests are simulated.
"""
ADAPTIVE = """## The adaptive limit

A station of ten servers stands behind a limiter, with a queue of 200 requests in front that give up after 2 s. Service
times are lognormal with a mean of 100 ms and a coefficient of variation of 0.5, unless the scenario says otherwise.
Arrivals and service times are drawn once for each seed, and all limiters get the same. Everything is relative to an
oracle that knows the number of servers at each moment: goodput is answered requests of the oracle's, latency is that
inside the backend, which is 1.00x when nobody waits there.

A limiter is good when it has both: a goodput of nearly 1, and a latency of nearly 1. A fixed limit that is too high has
the first alone, and what the requests do not wait for in front they wait for inside, where no order is fair and nothing
can be refused any more.

The controller was tuned on seeds 0 to 19. What follows is of seeds {seeds}, on which it was not.
"""
READING = """How to read it, for and against the controller:

- It gives up 1 to 2 % of the goodput in most scenarios, 3 to 4 % with two kinds of work and after an outage, 6 % where
  the backend thrashes. That is the price of its probes. A limit that is too high loses nothing of it, except where the
  backend thrashes.
- Its latency is about a quarter above that of an empty backend. It needs a little queue to know that it is at the knee.
- With Gradient2 at a minimum of 1 and a queue of 1, slow calls (S8) have a lower latency and lose nothing, and windowed
  Vegas is close to it wherever there are ten servers. With two servers (S10) the one has a latency of twelve times,
  the other of six; where the backend thrashes (S7), Gradient2 loses a fifth.
- The defaults of the others are made for limits of 20 to 1000 and for calls of milliseconds. This compares them where
  isolane is used: limits of 2 to 20, calls of seconds, few samples. It does not say that they are bad elsewhere.
- The station is a model. Real backends have caches, batches and rate limits of their own, and their slowness is not
  independent from call to call.
"""
FAIRNESS = """## Fairness

Ten permits, at most five a user, a patience of 2 s. Nine light users ask once a second each; a heavy one asks 200
times a second, under one name or under ten. A call takes 250 ms in the mean, so that 40 a second can be served. The
orders are run on asyncio's event loop in virtual time.

Two shares of time-outs are given: of all requests of light users, and of those that were within their share, which is
to have no other request of one's own waiting and to have had no more permit-seconds in the last 4 s than everybody may
have. With ten keys everybody wants permits all the time; a light user that happens to ask five times in a second, or
has had a few long calls, then waits for its own turn like anybody else. Turns are counted in permit-seconds: counted in
calls, fewer of these would time out, and whoever makes longer calls would get more (see the next table). The
order remembers longer than those 4 s, so that some of the second kind may remain with ten keys.
"""
CROWD = """Users who always wait for more, with ten permits in all: how the permit-seconds are shared. Jain's index is
1 when all have the same, and 1/20 when one of 20 has all; with weights, each share is divided by its weight.
"""
NESTING = """## Nested work

Runs whose steps have steps, all at once, at a limit of {limit} permits; and pipelines through the engine factory. At
ten permits the factory was told to let a run wait 30 s for its first permit: by default it is refused after 2 s, to be
tried again.
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    marks = ["---" if number < left else "--:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, marks, *rows))


def verdict_table(judged: Sequence[Verdict]) -> str:
    """Threshold, measured, met."""
    return _table(
        ("what", "threshold", "measured", "met"),
        [(row.what, row.wanted, row.measured, "yes" if row.met else "**missed**") for row in judged],
        left=2,
    )


def _names(found: Mapping[tuple[str, str], Summary]) -> list[str]:
    return [name for name in LIMITERS if any(limiter == name for _, limiter in found)]


def adaptive_tables(found: Mapping[tuple[str, str], Summary]) -> Iterator[str]:
    """The scenarios, everybody in each of them, and ours in detail."""
    yield _table(("", "scenario"), [(scenario.key, scenario.what) for scenario in ALL], left=2)
    yield "Goodput / p50 / p99, medians over the seeds:"
    keys = [scenario.key for scenario in ALL if (scenario.key, OURS) in found]
    rows = []
    for name in _names(found):
        cells = [found.get((key, name)) for key in keys]
        shown = [f"{cell.goodput:.2f} / {cell.p50:.2f} / {cell.p99:.2f}" if cell else "" for cell in cells]
        rows.append((f"**{name}**" if name == OURS else name, *shown))
    yield _table(("limiter", *keys), rows)
    yield "The controller in detail, medians with the worst seed in brackets:"
    rows = []
    for key in keys:
        ours = found[key, OURS]
        times = ", ".join(
            "never" if middle == float("inf") else f"{middle:.0f} s ({worst:.0f} s)" for middle, worst in ours.converged
        )
        rows.append(
            (
                key,
                str(ours.seeds),
                f"{ours.goodput:.3f} ({ours.goodput_worst:.3f})",
                f"{ours.p50:.2f}x ({ours.p50_worst:.2f}x)",
                f"{ours.p99:.2f}x ({ours.p99_worst:.2f}x)",
                f"{ours.limit:.1f}",
                f"{ours.spread:.2f}",
                times,
            )
        )
    yield _table(("", "seeds", "goodput", "p50", "p99", "mean limit", "deviation", "converged after each change"), rows)


def fairness_tables(floods: Sequence[Flood], shares: Sequence[Share]) -> Iterator[str]:
    """Light users beside a heavy one, and users who always wait."""
    rows = []
    for order in ORDERS:
        row = [f"**{order}**" if order == OURS else order]
        for keys in (1, 10):
            found = next(flood for flood in floods if flood.order == order and flood.keys == keys)
            row += [
                f"{1e3 * found.p50:.0f} / {1e3 * found.p99:.0f} ms",
                f"{100 * found.timed_out:.2f} %, {100 * found.within:.2f} %",
                f"{found.used:.2f}",
            ]
        rows.append(row)
    yield _table(
        (
            "order",
            "one key: light p50 / p99",
            "time-outs, within the share",
            "in use",
            "ten keys: light p50 / p99",
            "time-outs, within the share",
            "in use",
        ),
        rows,
    )
    yield CROWD
    orders = list(dict.fromkeys(share.order for share in shares))
    rows = [
        (crowd.what, *(_share(shares, order, crowd.key) for order in orders))
        for crowd in CROWDS
        if any(share.crowd == crowd.key for share in shares)
    ]
    yield _table(("users", *(f"{order}: Jain, in use" for order in orders)), rows)


def _share(shares: Sequence[Share], order: str, crowd: str) -> str:
    found = [share for share in shares if (share.order, share.crowd) == (order, crowd)]
    return f"{found[0].jain:.4f}, {found[0].used:.3f}" if found else ""


def nesting_tables(trees: Sequence[Tree], runs: Sequence[Pipelines]) -> Iterator[str]:
    """Trees and pipelines."""
    yield _table(
        ("runs of 40 steps, depth 3, fan-out 3", "runs", "finished", "steps that ran", "most at once", "seconds"),
        [
            (tree.way, str(tree.roots), str(tree.finished), str(tree.nodes), str(tree.peak), f"{tree.seconds:.2f}")
            for tree in trees
        ],
    )
    yield _table(
        ("pipelines of 3 steps of 5 s", "runs", "finished", "seen Throttled", "most at once", "seconds"),
        [
            (
                f"{row.permits} permits",
                str(row.pipelines),
                str(row.finished),
                str(row.throttled),
                str(row.peak),
                f"{row.seconds:.2f}",
            )
            for row in runs
        ],
    )


def document(
    found: Mapping[tuple[str, str], Summary],
    floods: Sequence[Flood],
    shares: Sequence[Share],
    trees: Sequence[Tree],
    runs: Sequence[Pipelines],
    judged: Sequence[Verdict],
    seeds: str,
    drawn: str,
    limit: int,
) -> str:
    """The page of the site."""
    met = sum(verdict.met for verdict in judged)
    parts = [HEAD, ADAPTIVE.format(seeds=seeds)]
    if drawn:
        parts.append(f"![The limit over time in three scenarios, and the latency in all, of five limiters]({drawn})")
    parts += adaptive_tables(found)
    parts += [
        READING,
        FAIRNESS,
        *fairness_tables(floods, shares),
        NESTING.format(limit=limit),
        *nesting_tables(trees, runs),
    ]
    parts += ["## Thresholds", f"{met} of {len(judged)} are met. A missed one fails the run.", verdict_table(judged)]
    return "\n\n".join(part.strip() for part in parts) + "\n"
