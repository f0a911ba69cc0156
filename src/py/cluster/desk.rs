//! `LeaseDesk`: what is sent to the store for limits over several processes, and what came back.

use std::sync::Arc;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use super::super::awaitable::{ReadyNone, Stand, Steps, as_next};
use super::super::limits::PyFairLimiter;
use super::super::loops::{FutureSteps, LoopFuture, Step, beside_exception};
use super::super::process::{CLOCK, Stamp};
use crate::clock::{Clock, Micros, SECOND, micros, seconds};
use crate::cluster::lease::{
    Desk, DeskSettings, Fail, Granted, Kind, OnLost, Operation, Reply, Ring, SCRIPTS, Share, Waiting, Which,
};

/// Added to a wait: loops ring up to a millisecond early.
const LATE: Micros = SECOND / 1_000;

/// Something for a `LeaseBackend` to do.
///
/// `number` names it in `replied` and `failed`. `kind` is `acquire`, `renew`, `release` or `restore`. `limit_name` is the limit.
/// `user_id` is whose leases they are, for a backend to hash before it becomes part of a key; it is empty for units of the total
/// that belong to nobody yet. `ids` are the leases, 16 bytes each. `ttl_ms` is for how long they live. `user_limit` and
/// `total_limit` are how many leases the user, and all users together, may have; -1 where they are not counted.
#[pyclass(frozen, get_all, module = "isolane._core")]
pub(crate) struct LeaseOperation {
    number: u64,
    kind: &'static str,
    limit_name: String,
    user_id: String,
    ids: Vec<Py<PyBytes>>,
    ttl_ms: u64,
    user_limit: i64,
    total_limit: i64,
}

impl LeaseOperation {
    fn of(py: Python<'_>, operation: Operation) -> Self {
        let limit = |limit: Option<u32>| limit.map_or(-1, i64::from);
        Self {
            number: operation.number,
            kind: operation.kind.name(),
            limit_name: operation.limit.as_ref().to_owned(),
            user_id: operation.user.as_ref().to_owned(),
            ids: operation.ids.iter().map(|id| PyBytes::new(py, id).unbind()).collect(),
            ttl_ms: operation.ttl_ms,
            user_limit: limit(operation.user_limit),
            total_limit: limit(operation.total_limit),
        }
    }
}

#[pymethods]
impl LeaseOperation {
    /// One that no desk knows, for tests of a backend.
    #[new]
    #[pyo3(signature = (number, kind, limit_name, user_id, ids, ttl_ms, user_limit = -1, total_limit = -1))]
    fn new(
        number: u64,
        kind: &str,
        limit_name: String,
        user_id: String,
        ids: Vec<Py<PyBytes>>,
        ttl_ms: u64,
        user_limit: i64,
        total_limit: i64,
    ) -> PyResult<Self> {
        let all = [Kind::Acquire, Kind::Renew, Kind::Release, Kind::Restore];
        let Some(kind) = all.into_iter().find(|known| known.name() == kind) else {
            return Err(PyValueError::new_err(
                "kind must be 'acquire', 'renew', 'release' or 'restore'",
            ));
        };
        Ok(Self {
            number,
            kind: kind.name(),
            limit_name,
            user_id,
            ids,
            ttl_ms,
            user_limit,
            total_limit,
        })
    }

    fn __repr__(&self) -> String {
        let many = self.ids.len();
        format!(
            "<LeaseOperation {}: {} {many} of {:?}>",
            self.number, self.kind, self.limit_name
        )
    }
}

struct Waker(LoopFuture);

impl Ring for Waker {
    fn ring(&self) {
        self.0.complete();
    }
}

/// Leases of the limiters that a cluster shares: a unit of such a limiter runs only under a lease.
///
/// It sends nothing itself. Whoever carries operations waits with `wait`, takes them with `take`, and says what came of each
/// with `replied` or `failed`. What is answered late, twice or never does no harm.
///
/// A lease lives for `ttl` seconds unless it is renewed, which happens each `renew` seconds. One that nothing runs under is kept
/// for `reuse` seconds for the same user. `call_timeout` in seconds is for whoever carries the operations: one that takes longer
/// has failed. After three failures in a row the store is left alone for a second.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct LeaseDesk {
    inner: Arc<Desk>,
    call_timeout: f64,
    stamp: Stamp,
}

fn duration(value: f64, name: &str) -> PyResult<Micros> {
    if value.is_finite() && value > 0.0 {
        return Ok(micros(value));
    }
    Err(PyValueError::new_err(format!(
        "{name} must be more than 0 seconds, got {value}"
    )))
}

fn lease_id(id: &Bound<'_, PyAny>) -> PyResult<Granted> {
    let (granted, fence, which, retry_ms): (bool, u64, Option<String>, u64) = id.extract()?;
    let which = match which.as_deref() {
        None => None,
        Some("user") => Some(Which::User),
        Some("total") => Some(Which::Total),
        Some(other) => {
            return Err(PyValueError::new_err(format!(
                "a refusal is of 'user' or 'total', got {other:?}"
            )));
        }
    };
    Ok(Granted {
        fence: granted.then_some(fence),
        which,
        retry_ms,
    })
}

fn reply_of(reply: &Bound<'_, PyAny>) -> PyResult<Reply> {
    if reply.is_none() {
        return Ok(Reply::Released);
    }
    let list = reply
        .cast::<PyList>()
        .map_err(|_| PyTypeError::new_err("a reply is None or a list with an entry for each lease"))?;
    let Ok(first) = list.get_item(0) else {
        return Ok(Reply::Renewed(Vec::new()));
    };
    if first.is_instance_of::<PyTuple>() {
        let granted = list.iter().map(|id| lease_id(&id)).collect::<PyResult<_>>()?;
        return Ok(Reply::Acquired(granted));
    }
    if first.is_instance_of::<pyo3::types::PyBool>() {
        return Ok(Reply::Renewed(list.extract()?));
    }
    Ok(Reply::Restored(list.extract()?))
}

#[pymethods]
impl LeaseDesk {
    #[new]
    #[pyo3(signature = (*, ttl = 30.0, renew = 10.0, reuse = 0.25, call_timeout = 0.05))]
    fn new(ttl: f64, renew: f64, reuse: f64, call_timeout: f64) -> PyResult<Self> {
        let settings = DeskSettings {
            ttl: duration(ttl, "ttl")?,
            renew: duration(renew, "renew")?,
            reuse: micros(reuse),
            seed: None,
        };
        duration(call_timeout, "call_timeout")?;
        let most = settings.ttl - Desk::margin(&settings);
        if settings.ttl < SECOND / 10 || settings.renew.saturating_mul(11) / 10 >= most {
            return Err(PyValueError::new_err(format!(
                "renew must be so short that a lease can be renewed before its holder gives it up: less than {:.3} for ttl={ttl}, \
                 which must be 0.1 or more",
                seconds(most) / 1.1
            )));
        }
        Ok(Self {
            inner: Arc::new(Desk::new(settings)),
            call_timeout,
            stamp: Stamp::now(),
        })
    }

    /// The same as given: after so many seconds an operation has failed.
    #[getter]
    fn call_timeout(&self) -> f64 {
        self.call_timeout
    }

    /// From here on the limiter's limits hold over all processes that share one of this `name`: with `user` that of each user,
    /// with `total` the one over all users. With both, each lease counts for both, in one decision. Units that run already run
    /// on without a lease. Until the first `take` or `wait` of the desk only the limiter's own limits hold. `fail` is what holds while the store does not answer: `local`, this process's part of the limit;
    /// `open`, the whole limit in this process; `closed`, nothing new runs. `on_lost` is kept for whoever reads `lost`: it is
    /// in `figures`. Raises `ValueError` for a limiter or a name that is shared already.
    #[pyo3(signature = (limiter, name, *, user = true, total = false, on_lost = "flag", fail = "local"))]
    fn share(
        &self,
        py: Python<'_>,
        limiter: &Bound<'_, PyFairLimiter>,
        name: &str,
        user: bool,
        total: bool,
        on_lost: &str,
        fail: &str,
    ) -> PyResult<()> {
        self.stamp.check(py)?;
        let on_lost = [OnLost::Flag, OnLost::Cancel]
            .into_iter()
            .find(|known| known.name() == on_lost);
        let fail = [Fail::Local, Fail::Open, Fail::Closed]
            .into_iter()
            .find(|known| known.name() == fail);
        let (Some(on_lost), Some(fail)) = (on_lost, fail) else {
            return Err(PyValueError::new_err(
                "on_lost must be 'flag' or 'cancel', and fail 'local', 'open' or 'closed'",
            ));
        };
        let share = Share {
            by_user: user,
            by_total: total,
            on_lost,
            fail,
        };
        let limiter = limiter.get().to_share(py)?;
        self.inner
            .share(limiter, name, share)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// From here on only the limiter's own limits hold; its leases are given back. Returns whether it was shared here.
    fn unshare(&self, py: Python<'_>, limiter: &Bound<'_, PyFairLimiter>) -> PyResult<bool> {
        self.stamp.check(py)?;
        Ok(self.inner.unshare(limiter.get().to_share(py)?, CLOCK.monotonic()))
    }

    /// Waits until there is something to send or to read from `lost`, or until a time has come: then `take` is to be called.
    #[pyo3(signature = () -> "collections.abc.Awaitable[None]")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.stamp.check(py)?;
        let waker = Arc::new(Waker(LoopFuture::new(py)?));
        let now = CLOCK.monotonic();
        let until = match self.inner.wait(waker.clone(), now) {
            Waiting::Ready => return Ok(ReadyNone::shared(py)?.into_any()),
            Waiting::Until(until) => until,
        };
        let mut waiting = DeskAwaitable {
            desk: self.inner.clone(),
            waker,
            steps: FutureSteps::default(),
            timer: None,
        };
        if let Some(at) = until {
            let left = seconds(at.saturating_sub(now) + LATE);
            waiting.timer = Some(waiting.waker.0.complete_after(py, left)?);
        }
        Ok(Bound::new(py, waiting)?.into_any())
    }

    /// What is to be sent now, in this order: what is given back comes before what is asked for.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<LeaseOperation>> {
        self.stamp.check(py)?;
        let operations = self.inner.take(CLOCK.monotonic());
        Ok(operations
            .into_iter()
            .map(|operation| LeaseOperation::of(py, operation))
            .collect())
    }

    /// The store answered. `reply` is for `acquire` a list with `(granted, fence, which, retry_ms)` for each lease, where `which` is
    /// `user`, `total` or `None`; for `renew` a list of `bool`; for `restore` a list of fences; for `release` `None`. Returns
    /// whether it was waited for: an answer that comes late, or twice, changes nothing. One that does not fit counts as failed.
    fn replied(&self, py: Python<'_>, number: u64, reply: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.stamp.check(py)?;
        let now = CLOCK.monotonic();
        match reply_of(reply) {
            Ok(reply) => Ok(self.inner.replied(number, &reply, now)),
            Err(error) => {
                self.inner.failed(number, now);
                Err(error)
            }
        }
    }

    /// Nothing came back in time, or the connection broke.
    fn failed(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.failed(number, CLOCK.monotonic());
        Ok(())
    }

    /// So many processes share the limits, which says what this one's part is.
    fn set_processes(&self, py: Python<'_>, processes: u32) -> PyResult<()> {
        self.stamp.check(py)?;
        self.inner.set_processes(processes, CLOCK.monotonic());
        Ok(())
    }

    /// Permits whose leases were lost since this was asked last: the limit's name, the user's id, the permit's `fence`, and the
    /// fence of the lease. Of a run with nested permits the outermost is named.
    fn lost(&self, py: Python<'_>) -> PyResult<Vec<(String, String, u64, u64)>> {
        self.stamp.check(py)?;
        let lost = self.inner.lost().into_iter();
        Ok(lost
            .map(|lost| {
                let (limit, user) = (lost.limit.as_ref().to_owned(), lost.user.as_ref().to_owned());
                (limit, user, lost.permit_fence, lost.lease_fence)
            })
            .collect())
    }

    /// `whole` while the store answers; else what holds meanwhile: `local`, `open` or `closed`, the strictest of all shared
    /// limiters.
    #[getter]
    fn mode(&self) -> &'static str {
        self.inner.mode()
    }

    /// Counts. `limits` has those of each limit by its name.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let figures = self.inner.figures();
        let dict = PyDict::new(py);
        dict.set_item("mode", figures.mode)?;
        dict.set_item("processes", figures.processes)?;
        dict.set_item("under_way", figures.under_way)?;
        dict.set_item("sent", figures.sent)?;
        dict.set_item("failures", figures.failures)?;
        dict.set_item("late", figures.late)?;
        dict.set_item("opened", figures.opened)?;
        let limits = PyDict::new(py);
        for share in figures.shares {
            let of = PyDict::new(py);
            of.set_item("mode", share.mode)?;
            of.set_item("on_lost", share.on_lost)?;
            of.set_item("held", share.held)?;
            of.set_item("idle", share.idle)?;
            of.set_item("asking", share.asking)?;
            of.set_item("uncovered", share.uncovered)?;
            of.set_item("giving_back", share.giving_back)?;
            for (name, count) in share.counts {
                of.set_item(name, count)?;
            }
            limits.set_item(share.limit.as_ref(), of)?;
        }
        dict.set_item("limits", limits)?;
        Ok(dict)
    }

    /// Ends all sharing. Returns the operations that give every lease back; nobody waits for their answers.
    fn close(&self, py: Python<'_>) -> PyResult<Vec<LeaseOperation>> {
        self.stamp.check(py)?;
        let operations = self.inner.close(CLOCK.monotonic());
        Ok(operations
            .into_iter()
            .map(|operation| LeaseOperation::of(py, operation))
            .collect())
    }

    fn __repr__(&self) -> String {
        format!("<LeaseDesk {}>", self.inner.mode())
    }
}

/// Waits for a desk to have something to do.
#[pyclass(frozen, module = "isolane._core", name = "_DeskAwaitable")]
pub(crate) struct DeskAwaitable {
    desk: Arc<Desk>,
    waker: Arc<Waker>,
    steps: FutureSteps,
    timer: Option<Py<PyAny>>,
}

impl DeskAwaitable {
    /// Waits no longer. A waker that another wait has parked since is left alone.
    fn stop(&self, py: Python<'_>) {
        let own: Arc<dyn Ring> = self.waker.clone();
        self.desk.unpark(&own);
        if let Some(timer) = &self.timer {
            self.waker.0.cancel_timer(py, timer);
        }
    }

    fn after<'py>(&self, py: Python<'py>, step: PyResult<Step<'py>>) -> PyResult<Stand<'py>> {
        match step {
            Ok(Step::Pending(future)) => Ok(Stand::Pending(future)),
            Ok(Step::Done) => {
                self.stop(py);
                Ok(Stand::Answered(py.None().into_bound(py)))
            }
            Err(error) => {
                self.stop(py);
                Err(error)
            }
        }
    }
}

impl Steps for DeskAwaitable {
    fn step<'py>(slf: &Bound<'py, Self>) -> PyResult<Stand<'py>> {
        let (py, waiting) = (slf.py(), slf.get());
        waiting.after(py, waiting.steps.next(py, &waiting.waker.0))
    }
}

impl Drop for DeskAwaitable {
    fn drop(&mut self) {
        Python::try_attach(|py| beside_exception(py, || self.stop(py)));
    }
}

#[pymethods]
impl DeskAwaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    fn send<'py>(slf: &Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Steps::next(slf)
    }

    #[pyo3(signature = (*exception))]
    fn throw<'py>(&self, py: Python<'py>, exception: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        as_next(self.after(py, self.steps.throw(py, &self.waker.0, exception))?)
    }

    /// Waits no longer.
    fn close(&self, py: Python<'_>) {
        self.stop(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // While the desk holds the waker as well, its future is reached from there.
        if Arc::strong_count(&self.waker) == 1 {
            self.waker.0.traverse(&visit)?;
        }
        self.timer.as_ref().map_or(Ok(()), |timer| visit.call(timer))?;
        self.steps.traverse(&visit)
    }
}

/// The scripts in Lua that carry out each kind of operation on Redis or Valkey, by the kind's name.
///
/// KEYS are the set of the user, the set of all, and the last fence, with one hash tag. ARGV are `ttl_ms`, `user_limit`,
/// `total_limit`, and the ids. `acquire` answers for each id `[granted, fence, which, retry_ms]`, where `which` is 1 for the user's
/// limit, 2 for the total, or 0; `renew` 1 or 0; `restore` a fence.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, str]")]
pub(crate) fn lease_scripts(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    for (name, text) in SCRIPTS {
        dict.set_item(name, text)?;
    }
    Ok(dict)
}
