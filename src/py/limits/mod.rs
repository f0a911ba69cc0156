//! `FairLimiter` and what it hands out.

mod ask;
mod blocking;
mod permit;
mod slot;
mod suspension;
mod waiting;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

pub(crate) use permit::{PyPermit, taken};
pub(crate) use slot::{Slot, SyncSlot};
pub(crate) use suspension::Suspension;
pub(crate) use waiting::PermitAwaitable;

use super::adaptive::AdaptiveController;
use super::context::PyContext;
use super::errors::to_python;
use super::process::{CLOCK, Stamp, lane_of, registry};
use crate::clock::{Clock, Micros, micros, seconds};
use crate::lanes::{LaneHandle, LaneKey};
use crate::limits::{Durations, FairLimiter, Governed, Limit, LimitSettings, MAX_RESOURCES, success_rate};
use crate::metrics::{Id, Live, Scrape};
use crate::owner::Crossing;
use ask::{Asker, Wanted, factor, patience, seconds_of};
use permit::site;
use waiting::{Goal, ask};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of permits or waiters that a caller wrote.
fn number(value: i64, name: &str, least: u32) -> PyResult<u32> {
    match u32::try_from(value) {
        Ok(number) if number >= least => Ok(number),
        _ => {
            let pause = if least == 1 && value == 0 {
                "; set_limit pauses a limiter with 0"
            } else {
                ""
            };
            Err(PyValueError::new_err(format!(
                "{name} must be from {least} to 4294967295, got {value}{pause}"
            )))
        }
    }
}

/// A moment of the core's clock by `time.monotonic()`.
fn on_pythons_clock(py: Python<'_>, moment: Micros) -> PyResult<f64> {
    let now: f64 = py.import("time")?.call_method0("monotonic")?.extract()?;
    let at = CLOCK.monotonic();
    Ok(now + seconds(moment.saturating_sub(at)) - seconds(at.saturating_sub(moment)))
}

/// Permits per user and process, handed out fairly. One decision covers the user's limit, the process's and the named resources
/// that a request needs: it gets all of them or waits. First in, first out within a user and priority; over users start-time
/// fair queueing on the time that permits are held, by weights. One limiter may serve many event loops and threads.
///
/// `total` permits of the process (default 50), `per_user` of one user (5). `queue` and `per_user_queue` bound the waiters (1000
/// and 100; steps of admitted runs are exempt). `timeout` in seconds is the default deadline of a request (2). `borrow` lets a
/// user exceed `per_user` while nobody else waits. `aging` in seconds is the wait after which a request counts as one priority
/// more urgent (default: a quarter of its timeout). `resources` maps names to limits that all users share. `adaptive` puts an
/// `AdaptiveController` in charge of `total`, or some of resources, by name: the lower limit of both holds. `idle` in seconds is
/// when a user without permit and waiter is forgotten (300), `max_users` how many are remembered (10 000).
#[pyclass(frozen, name = "FairLimiter", module = "isolane")]
pub(crate) struct PyFairLimiter {
    inner: Arc<FairLimiter>,
    timeout: f64,
    stamp: Stamp,
}

impl PyFairLimiter {
    pub(crate) fn limiter(&self) -> &FairLimiter {
        &self.inner
    }

    /// The limiter for a desk, if it is of this process.
    pub(crate) fn to_share(&self, py: Python<'_>) -> PyResult<&Arc<FairLimiter>> {
        self.checked(py)
    }

    fn build(settings: LimitSettings, resources: Vec<(Box<str>, u32)>, timeout: f64) -> PyResult<Self> {
        let settings = LimitSettings {
            patience: micros(patience(timeout)?),
            ..settings
        };
        let inner = Arc::new(FairLimiter::with_resources(settings, resources));
        LIVE.add(&inner);
        Ok(Self {
            inner,
            timeout,
            stamp: Stamp::now(),
        })
    }

    fn lane(&self, py: Python<'_>, user_id: &str, ctx: Option<&Bound<'_, PyContext>>) -> PyResult<LaneHandle> {
        self.stamp.check(py)?;
        let lane = lane_of(py, user_id)?;
        if let Some(ctx) = ctx {
            let context = ctx.get();
            context.stamp().check(py)?;
            context.check_fence(py)?;
            context
                .core()
                .lane()
                .tag()
                .same_owner(lane.tag(), Crossing::Bind)
                .map_err(|error| to_python(py, error))?;
        }
        Ok(lane)
    }

    fn checked(&self, py: Python<'_>) -> PyResult<&Arc<FairLimiter>> {
        self.stamp.check(py)?;
        Ok(&self.inner)
    }
}

/// The limiters that hand out permits to run, for the metrics.
static LIVE: Live<FairLimiter> = Live::new();

/// How many permits there are, are held and are waited for, and how many users hold one.
pub(super) fn collect(scrape: &mut Scrape) {
    let living = LIVE.living();
    // A user of several limiters is one.
    let busy = living.iter().flat_map(|limiter| limiter.busy_users());
    let served: HashSet<LaneKey> = busy.filter(|(_, held, _)| *held > 0).map(|(user, ..)| user).collect();
    scrape.level(Id::UsersServed, &[], served.len() as f64);
    let loads = living.iter().map(|limiter| limiter.load());
    let (active, limit, waiting) = loads.fold((0, 0, 0), |(active, limit, waiting), (running, total, queued)| {
        (active + u64::from(running), limit + u64::from(total), waiting + queued)
    });
    scrape.level(Id::PermitsActive, &[], active as f64);
    scrape.level(Id::PermitsLimit, &[], limit as f64);
    scrape.level(Id::PermitsWaiting, &[], waiting as f64);
}

/// The parent's limiters are not asked in the child of a fork.
pub(super) fn after_fork_in_child() {
    LIVE.clear();
}

/// Puts the controllers in charge that a caller gave: one for the process's limit, or some by the names of resources.
fn govern(limiter: &FairLimiter, adaptive: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Ok(controller) = adaptive.cast::<AdaptiveController>() {
        limiter.govern(Governed::Total, controller.get().core());
        return Ok(());
    }
    let pairs = PyDict::new(adaptive.py());
    pairs.call_method1("update", (adaptive,))?;
    for (name, controller) in pairs.iter() {
        let name: String = name.extract()?;
        let index = limiter.resource(&name).ok_or_else(|| {
            PyValueError::new_err(format!(
                "adaptive names {name:?}, which is no resource of this limiter; name it in resources too, with its most"
            ))
        })?;
        let controller = controller.cast::<AdaptiveController>().map_err(|_| {
            PyTypeError::new_err("adaptive must be an AdaptiveController, or map names of resources to controllers")
        })?;
        limiter.govern(Governed::Resource(index), controller.get().core());
    }
    Ok(())
}

fn durations<'py>(py: Python<'py>, durations: &Durations) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("count", durations.count)?;
    dict.set_item("avg", durations.mean / 1e6)?;
    dict.set_item("p50", durations.p50.map(seconds))?;
    dict.set_item("p95", durations.p95.map(seconds))?;
    dict.set_item("p99", durations.p99.map(seconds))?;
    Ok(dict)
}

#[pymethods]
impl PyFairLimiter {
    #[new]
    #[pyo3(signature = (
        total = 50, per_user = 5, *, queue = 1000, per_user_queue = 100, timeout = 2.0, borrow = false, aging = None,
        resources: "collections.abc.Mapping[str, int] | None" = None,
        adaptive: "AdaptiveController | collections.abc.Mapping[str, AdaptiveController] | None" = None,
        max_users = 10_000, idle = 300.0,
    ))]
    fn new(
        total: i64,
        per_user: i64,
        queue: i64,
        per_user_queue: i64,
        timeout: f64,
        borrow: bool,
        aging: Option<f64>,
        resources: Option<&Bound<'_, PyAny>>,
        adaptive: Option<&Bound<'_, PyAny>>,
        max_users: i64,
        idle: f64,
    ) -> PyResult<Self> {
        let mut named: Vec<(Box<str>, u32)> = Vec::new();
        if let Some(resources) = resources {
            let pairs = PyDict::new(resources.py());
            pairs.call_method1("update", (resources,))?;
            for (name, limit) in pairs.iter() {
                let name: String = name.extract()?;
                let limit = number(limit.extract()?, "the limit of a resource", 0)?;
                named.push((name.into_boxed_str(), limit));
            }
        }
        if named.len() > MAX_RESOURCES {
            return Err(PyValueError::new_err(format!(
                "a limiter has at most {MAX_RESOURCES} named resources, got {}; make several limiters",
                named.len()
            )));
        }
        let settings = LimitSettings {
            queue: number(queue, "queue", 0)? as usize,
            user_queue: number(per_user_queue, "per_user_queue", 0)? as usize,
            borrow,
            aging: aging.map(|aging| seconds_of(aging, "aging").map(micros)).transpose()?,
            max_users: number(max_users, "max_users", 1)? as usize,
            idle: micros(seconds_of(idle, "idle")?),
            ..LimitSettings::new(number(total, "total", 1)?, number(per_user, "per_user", 1)?)
        };
        let limiter = Self::build(settings, named, timeout)?;
        if let Some(adaptive) = adaptive {
            govern(&limiter.inner, adaptive)?;
        }
        Ok(limiter)
    }

    /// Leaves it out of the metrics of permits: what it hands out is something else, such as the slots of engines. Returns
    /// itself.
    fn _unmetered(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        let inner = &slf.get().inner;
        inner.leave_out_of_metrics();
        LIVE.remove(inner);
        slf
    }

    /// `async with limiter.slot(user_id) as permit: …`
    ///
    /// `priority` orders the requests of this user: 1 is the most urgent, 4 the least, 2 the default. `timeout` in seconds
    /// covers the whole wait (default: the limiter's). `cost` is how much the held time counts in the fair order (1).
    /// `resources` names what else is needed, all or nothing. With `ctx`, a permit that a context above it holds is lent.
    /// `admitted=True` marks a step of a run that was admitted before: it is not refused early, it waits. `ask_once=True` waits
    /// for nobody to be done: it is refused when nothing is free, and on a limiter that is shared at the first refusal of the
    /// cluster. Raises `LimitRejected` at once, `LimitTimeout` after the wait.
    #[pyo3(signature = (
        user_id, *, priority = 2, timeout = None, cost = 1.0,
        resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None, admitted = false,
        ask_once = false,
    ))]
    fn slot(
        slf: &Bound<'_, Self>,
        user_id: &str,
        priority: u8,
        timeout: Option<f64>,
        cost: f32,
        resources: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
        admitted: bool,
        ask_once: bool,
    ) -> PyResult<Slot> {
        let asks = (admitted, ask_once);
        let wanted = Wanted::of(slf, user_id, (priority, timeout, cost), resources, ctx, asks)?;
        Ok(Slot::new(slf, wanted))
    }

    /// A permit that is to be released by its holder: `permit = await limiter.acquire(user_id)`. Arguments as for `slot`.
    #[pyo3(signature = (
        user_id, *, priority = 2, timeout = None, cost = 1.0,
        resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None, admitted = false,
        ask_once = false,
    ) -> "collections.abc.Awaitable[Permit]")]
    fn acquire<'py>(
        slf: &Bound<'py, Self>,
        user_id: &str,
        priority: u8,
        timeout: Option<f64>,
        cost: f32,
        resources: Option<&Bound<'py, PyAny>>,
        ctx: Option<&Bound<'py, PyContext>>,
        admitted: bool,
        ask_once: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let asks = (admitted, ask_once);
        let wanted = Wanted::of(slf, user_id, (priority, timeout, cost), resources, ctx, asks)?;
        ask(slf.py(), &slf.get().inner, &wanted, Goal::Caller)
    }

    /// `with limiter.slot_sync(user_id) as permit: …` for threads, which sleep while they wait. Raises `RuntimeError` in a
    /// thread whose event loop runs. Arguments as for `slot`.
    #[pyo3(signature = (
        user_id, *, priority = 2, timeout = None, cost = 1.0,
        resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None, admitted = false,
    ))]
    fn slot_sync(
        slf: &Bound<'_, Self>,
        user_id: &str,
        priority: u8,
        timeout: Option<f64>,
        cost: f32,
        resources: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
        admitted: bool,
    ) -> PyResult<SyncSlot> {
        let wanted = Wanted::of(
            slf,
            user_id,
            (priority, timeout, cost),
            resources,
            ctx,
            (admitted, false),
        )?;
        Ok(SyncSlot::new(slf, wanted))
    }

    /// The same as `acquire` for threads, which sleep while they wait.
    #[pyo3(signature = (
        user_id, *, priority = 2, timeout = None, cost = 1.0,
        resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None, admitted = false,
    ))]
    fn acquire_sync(
        slf: &Bound<'_, Self>,
        user_id: &str,
        priority: u8,
        timeout: Option<f64>,
        cost: f32,
        resources: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
        admitted: bool,
    ) -> PyResult<Py<PyPermit>> {
        let wanted = Wanted::of(
            slf,
            user_id,
            (priority, timeout, cost),
            resources,
            ctx,
            (admitted, false),
        )?;
        blocking::acquire(slf.py(), slf.get(), &wanted)
    }

    /// A permit at once, or `None`.
    #[pyo3(signature = (
        user_id, *, cost = 1.0, resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None,
    ))]
    fn try_slot(
        slf: &Bound<'_, Self>,
        user_id: &str,
        cost: f32,
        resources: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
    ) -> PyResult<Option<PyPermit>> {
        let wanted = Wanted::of(slf, user_id, (2, Some(0.0), cost), resources, ctx, (false, false))?;
        Ok(slf.get().at_once(slf.py(), &wanted).ok())
    }

    /// A permit at once, or `LimitRejected` that says which limit refused and when to come back.
    #[pyo3(signature = (
        user_id, *, cost = 1.0, resources: "str | collections.abc.Sequence[str] | None" = None, ctx = None,
    ))]
    fn slot_nowait(
        slf: &Bound<'_, Self>,
        user_id: &str,
        cost: f32,
        resources: Option<&Bound<'_, PyAny>>,
        ctx: Option<&Bound<'_, PyContext>>,
    ) -> PyResult<PyPermit> {
        let wanted = Wanted::of(slf, user_id, (2, Some(0.0), cost), resources, ctx, (false, false))?;
        slf.get().at_once(slf.py(), &wanted)
    }

    /// Changes limits while the limiter is in use: `total`, `per_user`, or with `user` that user's own `per_user` and `weight`
    /// (default 1; one of 2 gets twice the time), or with `resource` the `limit` of a named resource. Nobody who runs is
    /// stopped: a lower limit holds when enough permits have come back. 0 pauses. A user with settings of its own is remembered
    /// until `reset_user`. Raises `ValueError` for a resource that the limiter does not have.
    #[pyo3(signature = (
        *, total = None, per_user = None, user = None, weight = None, resource = None, limit = None,
    ))]
    fn set_limit(
        &self,
        py: Python<'_>,
        total: Option<i64>,
        per_user: Option<i64>,
        user: Option<&str>,
        weight: Option<f32>,
        resource: Option<&str>,
        limit: Option<i64>,
    ) -> PyResult<()> {
        let limiter = self.checked(py)?;
        let checked = |value: Option<i64>, name| value.map(|value| number(value, name, 0)).transpose();
        let (total, per_user, limit) = (
            checked(total, "total")?,
            checked(per_user, "per_user")?,
            checked(limit, "limit")?,
        );
        let now = CLOCK.monotonic();
        if weight.is_some() && user.is_none() {
            return Err(PyValueError::new_err("weight is a user's: name it with user=…"));
        }
        if resource.is_some() != limit.is_some() {
            return Err(PyValueError::new_err(
                "resource and limit go together: set_limit(resource=\"llm\", limit=8)",
            ));
        }
        let weight = weight.map(|weight| factor(weight, "weight")).transpose()?;
        if user.is_some() && per_user.is_none() && weight.is_none() {
            return Err(PyValueError::new_err(
                "name what is to hold for the user: set_limit(user=…, per_user=3) or weight=2",
            ));
        }
        let resource = resource
            .map(|name| {
                let unknown = ask::resources(limiter, Some(&PyString::new(py, name).into_any()));
                unknown.map(|_| limiter.resource(name))
            })
            .transpose()?
            .flatten();
        let lane = user.map(|user| lane_of(py, user)).transpose()?;
        // All is checked: now it holds.
        if let Some(lane) = &lane
            && !limiter.set_user(lane, per_user, weight, now)
        {
            return Err(PyValueError::new_err(
                "as many users as the limiter remembers have settings of their own; \
                 reset_user some of them, or raise max_users",
            ));
        }
        if let (Some(index), Some(limit)) = (resource, limit) {
            limiter.set_limit(Limit::Resource(index), limit, now);
        }
        if let (None, Some(per_user)) = (&lane, per_user) {
            limiter.set_limit(Limit::PerUser, per_user, now);
        }
        if let Some(total) = total {
            limiter.set_limit(Limit::Total, total, now);
        }
        Ok(())
    }

    /// Takes away the limit and the weight that a user was given.
    fn reset_user(&self, py: Python<'_>, user_id: &str) -> PyResult<()> {
        let limiter = self.checked(py)?;
        if let Some(lane) = registry().find(user_id) {
            limiter.reset_user(&lane, CLOCK.monotonic());
        }
        Ok(())
    }

    /// For engines that are closed by force: takes back all permits of the context's run, whoever holds them.
    fn _revoke(&self, py: Python<'_>, ctx: &Bound<'_, PyContext>) -> PyResult<()> {
        let core = ctx.get().core();
        if let Some(root) = core.lineage().path().first() {
            self.checked(py)?.revoke(core.lane(), *root, CLOCK.monotonic());
        }
        Ok(())
    }

    /// Forgets users that have had neither permit nor waiter for `idle` seconds. Returns how many. What they did stays in the
    /// totals. The limiter does so itself as it is used; this is for tests and for when it is not.
    #[pyo3(signature = (idle = 300.0))]
    fn evict(&self, py: Python<'_>, idle: f64) -> PyResult<usize> {
        let idle = micros(seconds_of(idle, "idle")?);
        Ok(self.checked(py)?.evict(idle, CLOCK.monotonic()))
    }

    /// Counts: over all users, or of one.
    ///
    /// `running`, `queued`, `granted`, `released`, `refused`, `timed_out`, `cancelled`, `leaked` (permits that were collected
    /// without being released), `success_rate` (granted of all that were asked for), `wait` and `hold` (seconds: `avg`, `p50`,
    /// `p95`, `p99`, and their `count`). Over all users also `total`, `per_user`, `peak`, `users`, `evicted`,
    /// `released_twice`, and `resources`. Of one user also `limit`, `weight` and `recent_waits` (the last 64, in seconds); its
    /// percentiles begin with the fourth permit and are `None` before, and after 10 idle seconds.
    #[pyo3(signature = (user_id = None) -> "dict[str, typing.Any]")]
    fn stats<'py>(&self, py: Python<'py>, user_id: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        if let Some(user) = user_id {
            let stats = self.inner.user_stats(registry().find(user).as_ref());
            let rate = success_rate(stats.granted, stats.refused.into(), stats.timed_out.into());
            dict.set_item("limit", stats.limit)?;
            dict.set_item("weight", stats.weight)?;
            dict.set_item("running", stats.running)?;
            dict.set_item("queued", stats.queued)?;
            dict.set_item("granted", stats.granted)?;
            dict.set_item("released", stats.released)?;
            dict.set_item("refused", stats.refused)?;
            dict.set_item("timed_out", stats.timed_out)?;
            dict.set_item("cancelled", stats.cancelled)?;
            dict.set_item("leaked", stats.leaked)?;
            dict.set_item("success_rate", rate)?;
            dict.set_item("wait", durations(py, &stats.wait)?)?;
            dict.set_item("hold", durations(py, &stats.hold)?)?;
            dict.set_item("recent_waits", PyList::new(py, stats.recent_waits)?)?;
            return Ok(dict);
        }
        if let Some(mode) = self.inner.lease_mode() {
            dict.set_item("mode", mode)?;
        }
        let stats = self.inner.stats();
        dict.set_item("total", stats.total)?;
        dict.set_item("per_user", stats.per_user)?;
        dict.set_item("running", stats.running)?;
        dict.set_item("queued", stats.queued)?;
        dict.set_item("users", stats.users)?;
        dict.set_item("granted", stats.granted)?;
        dict.set_item("released", stats.released)?;
        dict.set_item("refused", stats.refused)?;
        dict.set_item("timed_out", stats.timed_out)?;
        dict.set_item("cancelled", stats.cancelled)?;
        dict.set_item("leaked", stats.leaked)?;
        dict.set_item("released_twice", stats.released_twice)?;
        dict.set_item("evicted", stats.evicted)?;
        dict.set_item("peak", stats.peak)?;
        dict.set_item(
            "success_rate",
            success_rate(stats.granted, stats.refused, stats.timed_out),
        )?;
        dict.set_item("wait", durations(py, &stats.wait)?)?;
        dict.set_item("hold", durations(py, &stats.hold)?)?;
        let resources = PyDict::new(py);
        for resource in &stats.resources {
            let of = PyDict::new(py);
            of.set_item("limit", resource.limit)?;
            of.set_item("running", resource.running)?;
            of.set_item("peak", resource.peak)?;
            of.set_item("granted", resource.granted)?;
            resources.set_item(&*resource.name, of)?;
        }
        dict.set_item("resources", resources)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let (running, total, waiting) = self.inner.load();
        format!("<FairLimiter {running}/{total} running, {waiting} waiting>")
    }
}

impl PyFairLimiter {
    fn at_once(&self, py: Python<'_>, wanted: &Wanted) -> PyResult<PyPermit> {
        let asker = Asker::of(py, wanted.ctx.as_ref().map(|ctx| ctx.bind(py)));
        let now = CLOCK.monotonic();
        let grant = self
            .inner
            .try_request(asker.request(wanted), now)
            .map_err(|refusal| to_python(py, refusal))?;
        let ctx = wanted.ctx.as_ref().map(|ctx| ctx.clone_ref(py));
        let request = (self.timeout, now, wanted.priority);
        Ok(PyPermit::new(
            self.inner.clone(),
            grant,
            asker.task,
            ctx,
            request,
            site(py),
        ))
    }
}

static DEFAULT: RwLock<Option<(Stamp, Py<PyFairLimiter>)>> = RwLock::new(None);

/// The limiter of the process, which contexts and engine factories use unless they are given another: 50 permits, 5 per user.
#[pyfunction]
pub(crate) fn default_limiter(py: Python<'_>) -> PyResult<Py<PyFairLimiter>> {
    {
        let held = DEFAULT.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, limiter)) = held.as_ref().filter(|(stamp, _)| stamp.is_current()) {
            return Ok(limiter.clone_ref(py));
        }
    }
    let limiter = Py::new(py, PyFairLimiter::build(LimitSettings::new(50, 5), Vec::new(), 2.0)?)?;
    set_default_limiter(py, Some(limiter.clone_ref(py)))?;
    Ok(limiter)
}

/// Replaces the limiter of the process. To be called at start-up: permits that are held stay with the old one. With `None` the
/// next who asks for it makes one of 50 and 5. Returns the one before, or `None` where nobody had asked for it.
#[pyfunction]
pub(crate) fn set_default_limiter(
    py: Python<'_>,
    limiter: Option<Py<PyFairLimiter>>,
) -> PyResult<Option<Py<PyFairLimiter>>> {
    if let Some(limiter) = &limiter {
        limiter.get().stamp.check(py)?;
    }
    let new = limiter.map(|limiter| (Stamp::now(), limiter));
    let old = std::mem::replace(&mut *DEFAULT.write().unwrap_or_else(PoisonError::into_inner), new);
    Ok(old.filter(|(stamp, _)| stamp.is_current()).map(|(_, limiter)| limiter))
}
