"""``ClusterLimits``: limits that count over all workers, by leases. The core decides; this carries what it asks for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from isolane._core import FairLimiter, LeaseDesk, lease_scripts, metric
from isolane._core import LeaseOperation as CoreOperation
from isolane.cluster.errors import PlaneUnavailableError
from isolane.cluster.protocols import LeaseBackend, LeaseKind, LeaseOperation
from isolane.cluster.redis.leases import RedisLeaseBackend
from isolane.pools.manager import ResourcePoolManager

if TYPE_CHECKING:
    from isolane.cluster.plane import Plane

logger = logging.getLogger("isolane.cluster")

Fail = Literal["local", "open", "closed"]
OnLost = Literal["cancel", "flag"]

LEASES = metric("isolane_leases")
RESULTS = metric("isolane_lease_results_total")
MODE = metric("isolane_lease_mode")

LEVELS = ("held", "idle", "asking", "uncovered")
MODES = ("whole", "local", "open", "closed")
COUNTS = ("asked", "granted", "refused", "begun", "renewed", "restored", "released", "lost", "covered")

COUNT_SECONDS = 1.0
STOP_SECONDS = 1.0
"""How long the end of the application waits for its leases to be given back; what is left runs out."""
MAX_NAME = 64


class LeaseLoss(NamedTuple):
    """A lease that was lost while something ran under it.

    Attributes:
        limit: the name of the limit.
        user_id: whose it was.
        permit_fence: ``Permit.fence`` of what runs under it.
        lease_fence: the number that the lease had; whoever has the place now has a larger one.
    """

    limit: str
    user_id: str
    permit_fence: int
    lease_fence: int


LossHandler = Callable[[LeaseLoss], Coroutine[Any, Any, Any] | None]


class _Shared(NamedTuple):
    limiter: FairLimiter
    name: str
    user: bool
    total: bool
    on_lost: OnLost
    fail: Fail
    lost: LossHandler | None


class ClusterLimits:
    """Shares limiters with the other workers: a part of the plane.

    A request may run when the limiter allows it and this worker holds a lease for it. Who waits does so in the limiter,
    in its order, and holds nothing.

    Args:
        ttl: seconds that a lease counts without being renewed: how long a place of a worker that died stays taken.
        renew: seconds between renewals.
        reuse: seconds for which a lease that came back is kept for the user's next request.
        call_timeout: seconds that a call may take; three that take longer turn to the limit's ``fail``.
        backend: keeps the leases. Default: the plane's Redis.
    """

    def __init__(
        self,
        *,
        ttl: float = 30.0,
        renew: float = 10.0,
        reuse: float = 0.25,
        call_timeout: float = 0.05,
        backend: LeaseBackend | None = None,
    ) -> None:
        self._settings = {"ttl": ttl, "renew": renew, "reuse": reuse, "call_timeout": call_timeout}
        self._call_timeout = call_timeout
        self._given = backend
        self._backend: LeaseBackend | None = None
        self._desk = self._make_desk()
        self._shared: dict[str, _Shared] = {}
        self._driver: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._telling: set[asyncio.Task[Any]] = set()
        self._mode = "whole"
        self._broken = False
        self._is_counting = False
        self._counted: dict[tuple[str, str], int] = {}
        self._plane: Plane | None = None
        self._is_stopped = False

    def _make_desk(self) -> LeaseDesk:
        return LeaseDesk(**self._settings)

    def share(
        self,
        limiter: FairLimiter | ResourcePoolManager,
        name: str,
        *,
        user: bool = True,
        total: bool = False,
        on_lost: OnLost = "flag",
        fail: Fail = "local",
        lost: LossHandler | None = None,
    ) -> None:
        """Let the limits of a limiter count over all workers that share one under this name.

        Args:
            limiter: its own ``per_user`` and ``total`` are the limits; all workers should have the same. Of a
                ``ResourcePoolManager`` it is ``per_user``, and with ``total`` the size of its pool.
            name: the same in all workers.
            user: whether each user's limit counts over all workers.
            total: whether the limit of all users does.
            on_lost: of what runs under a lease that was lost: ``flag`` sets ``Permit.is_lost``, ``cancel`` says to
                ``lost`` that it is to end.
            fail: what holds while the leases cannot be reached: ``local`` a share of the limit for each worker,
                ``open`` the limiter's own limits, ``closed`` nothing new.
            lost: is told of each lease that was lost. A coroutine that it returns is run.

        Raises:
            ValueError: a name that is taken or none, neither ``user`` nor ``total``, or ``total`` of a manager with
                several pools.
        """
        if not name or len(name) > MAX_NAME or not name.isascii() or not name.isprintable() or set(name) & set("{}: "):
            raise ValueError(
                f"the name of a shared limit has 1 to {MAX_NAME} ASCII characters without braces, colons and spaces"
            )
        if name in self._shared:
            raise ValueError(f"a limit is shared as {name!r} already; take another name, or unshare that one first")
        if isinstance(limiter, ResourcePoolManager):
            limiter = limiter.limiter_to_share(total=total)
        shared = _Shared(limiter, name, user, total, on_lost, fail, lost)
        if not self._is_stopped:
            self._share(shared)
        self._shared[name] = shared

    def unshare(self, name: str) -> None:
        """Let the limits of a limiter count in this worker only again. Its leases are given back."""
        shared = self._shared.pop(name, None)
        if shared is not None:
            self._measure()
            for level in LEVELS:
                LEASES.labels(name, level).set(0)
            for count in COUNTS:
                self._counted.pop((name, count), None)
            if not self._is_stopped:
                self._desk.unshare(shared.limiter)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, plane: Plane) -> None:
        """Begin. Called by the plane, which may be down."""
        self._plane = plane
        if self._given is not None:
            self._backend = self._given
        else:
            plane.add_scripts({f"lease_{name}": text for name, text in lease_scripts().items()})
            self._backend = RedisLeaseBackend(plane, plane.prefix)
        if not self._is_counting:
            self._is_counting = True
            plane.every(COUNT_SECONDS, self._count, "lease figures")
        if self._is_stopped:
            self._is_stopped = False
            for each in self._shared.values():
                self._share(each)
        # Before the first look only each limiter's own limits hold.
        self._look()
        self._driver = asyncio.create_task(self._drive(), name="isolane leases")

    def _share(self, each: _Shared) -> None:
        self._desk.share(
            each.limiter, each.name, user=each.user, total=each.total, on_lost=each.on_lost, fail=each.fail
        )

    async def stop(self) -> None:
        """Give everything back. Called by the plane, which may be down."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.cancel()
            await asyncio.wait([driver])
        if self._sending:
            await asyncio.wait(set(self._sending), timeout=STOP_SECONDS)
        self._measure()
        left = self._desk.close()
        for name in self._shared:
            for level in LEVELS:
                LEASES.labels(name, level).set(0)
        self._counted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._give_back(left)
        # Until it is started again, as test suites do: a limiter without anybody who asks for leases would stand still.
        self._desk = self._make_desk()
        self._is_stopped = True

    async def _give_back(self, left: Sequence[CoreOperation]) -> None:
        """Carry out what is left at the end, as often as it takes: to give back twice is as once."""
        while left:
            try:
                replies = await self._run(left)
            except PlaneUnavailableError:
                return
            left = [each for each, reply in zip(left, replies, strict=True) if isinstance(reply, Exception)]
            await asyncio.sleep(0.01)

    async def _count(self) -> None:
        if self._plane is not None and self._plane.state == "up":
            # While it is down, the last that were known.
            self._desk.set_processes(max(1, len(self._plane.processes())))
        self._measure()

    def _measure(self) -> None:
        figures = self._desk.figures()
        for mode in MODES:
            MODE.labels(mode).set(mode == figures["mode"])
        for limit, of in figures["limits"].items():
            for level in LEVELS:
                LEASES.labels(limit, level).set(of[level])
            for count in COUNTS:
                grown = of.get(count, 0) - self._counted.get((limit, count), 0)
                if grown > 0:
                    RESULTS.labels(limit, count).inc(grown)
                self._counted[limit, count] = of.get(count, 0)

    # -- carrying ----------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        while True:
            try:
                await self._desk.wait()
                self._look()
            except Exception:
                # Nobody else would carry anything: it must go on.
                if not self._broken:
                    self._broken = True
                    logger.exception("what carries leases failed; it goes on, and this is said once")
                await asyncio.sleep(0.1)

    def _look(self) -> None:
        for limit, user_id, permit_fence, lease_fence in self._desk.lost():
            self._tell(LeaseLoss(limit, user_id, permit_fence, lease_fence))
        operations = self._desk.take()
        if operations:
            task = asyncio.create_task(self._send(operations), name="isolane lease operations")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        self._note_mode()

    async def _send(self, operations: Sequence[CoreOperation]) -> None:
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._call_timeout * 2):
                replies = await self._run(operations)
        except Exception as error:  # noqa: BLE001 - whatever it is, the desk is told that nothing came
            if not isinstance(error, (TimeoutError, PlaneUnavailableError)):
                logger.warning("an operation with leases failed: %s", error)
        finally:
            for index, operation in enumerate(operations):
                reply = replies[index] if index < len(replies) else None
                if index >= len(replies) or isinstance(reply, Exception):
                    self._desk.failed(operation.number)
                else:
                    self._desk.replied(operation.number, reply)
            self._note_mode()

    async def _run(self, operations: Sequence[CoreOperation]) -> list[Any]:
        backend, plane = self._backend, self._plane
        if backend is None or plane is None:
            raise PlaneUnavailableError("the plane was not started", "stopped")
        return await backend.run(
            [
                LeaseOperation(
                    each.number,
                    cast("LeaseKind", each.kind),
                    each.limit_name,
                    plane.user_key(each.user_id) if each.user_id else "",
                    each.ids,
                    each.ttl_ms,
                    each.user_limit,
                    each.total_limit,
                )
                for each in operations
            ]
        )

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, loss: LeaseLoss) -> None:
        shared = self._shared.get(loss.limit)
        logger.warning(
            "a lease of the limit %s was lost, and something runs under it: this worker was cut off or stood still for "
            "longer than a lease lasts",
            loss.limit,
        )
        if shared is None or shared.lost is None:
            return
        try:
            coroutine = shared.lost(loss)
        except Exception:
            logger.exception("what is told of lost leases failed")
            return
        if coroutine is not None:
            task = asyncio.create_task(coroutine, name="isolane lost lease")
            self._telling.add(task)
            task.add_done_callback(self._told)

    def _told(self, task: asyncio.Task[Any]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("what is told of lost leases failed", exc_info=task.exception())

    def _note_mode(self) -> None:
        mode = self._desk.mode
        if mode != self._mode:
            logger.warning("limits of all workers: the mode was %s and is %s now", self._mode, mode)
            self._mode = mode

    @property
    def mode(self) -> str:
        """``whole`` while leases are asked for, else what holds instead: ``local``, ``open`` or ``closed``."""
        return self._desk.mode

    def figures(self) -> dict[str, Any]:
        """Return counts for operators."""
        return {"mode": self.mode, **self._desk.figures()}
