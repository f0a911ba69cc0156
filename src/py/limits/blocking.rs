//! Waiting in a thread, without an event loop.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::super::errors::{limit_timeout, to_python};
use super::super::loops::is_any_running;
use super::super::process::CLOCK;
use super::PyFairLimiter;
use super::ask::{Asker, Wanted, deadline};
use super::lock;
use super::permit::{PyPermit, site};
use crate::clock::Clock;
use crate::limits::{Decision, Grant, Parked, Refusal, Ticket};
use crate::mutants::mutant;

/// How often a sleeping thread looks for signals, such as Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);

/// A thread that sleeps until it is told.
#[derive(Default)]
struct Sleeper {
    grant: Mutex<Option<Grant>>,
    refusal: Mutex<Option<Refusal>>,
    bell: Condvar,
}

impl Sleeper {
    /// Sleeps until it is told, or for `at_most`.
    fn sleep(&self, at_most: Duration) -> Option<Grant> {
        let grant = lock(&self.grant);
        let (mut grant, _) = self
            .bell
            .wait_timeout_while(grant, at_most, |grant| grant.is_none() && lock(&self.refusal).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        grant.take()
    }
}

impl Parked for Sleeper {
    fn grant(&self, grant: Grant) {
        *lock(&self.grant) = Some(grant);
    }

    fn refuse(&self, refusal: Refusal) {
        *lock(&self.refusal) = Some(refusal);
    }

    fn wake(&self) -> Option<Grant> {
        // With the lock that it sleeps on, or it would miss a refusal between its look and its sleep.
        drop(lock(&self.grant));
        self.bell.notify_one();
        None
    }
}

/// Gives a permit to the calling thread, which sleeps until there is one.
pub(super) fn acquire(py: Python<'_>, limiter: &PyFairLimiter, wanted: &Wanted) -> PyResult<Py<PyPermit>> {
    limiter.stamp.check(py)?;
    if is_any_running(py) {
        return Err(PyRuntimeError::new_err(
            "this would block the running event loop: use `async with limiter.slot(…)`, or call it in a thread",
        ));
    }
    let ctx = wanted.ctx.as_ref();
    let asker = Asker::of(py, ctx.map(|ctx| ctx.bind(py)));
    let sleeper = Arc::new(Sleeper::default());
    let parked = sleeper.clone();
    let now = CLOCK.monotonic();
    let over = deadline(now, wanted.patience);
    let decision = limiter
        .inner
        .request(asker.request(wanted), now, || parked)
        .map_err(|refusal| to_python(py, refusal))?;
    let grant = match decision {
        Decision::Granted(grant) => grant,
        Decision::Parked(ticket) => {
            if let Some(ctx) = ctx {
                ctx.get().core().park();
            }
            let grant = wait(py, limiter, &sleeper, ticket, wanted.timeout);
            if let Some(ctx) = ctx {
                ctx.get().core().unpark();
            }
            grant?
        }
    };
    let ctx = ctx.map(|ctx| ctx.clone_ref(py));
    let limits = limiter.inner.clone();
    Py::new(
        py,
        PyPermit::new(
            limits,
            grant,
            asker.task,
            ctx,
            (wanted.timeout, over, wanted.priority),
            site(py),
        ),
    )
}

fn wait(
    py: Python<'_>,
    limiter: &PyFairLimiter,
    sleeper: &Arc<Sleeper>,
    ticket: Ticket,
    timeout: f64,
) -> PyResult<Grant> {
    let patience = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::MAX);
    let began = Instant::now();
    let ended = loop {
        let nap = patience.saturating_sub(began.elapsed()).min(LOOK);
        if let Some(grant) = py.detach(|| sleeper.sleep(nap)) {
            return Ok(grant);
        }
        let refused = lock(&sleeper.refusal).take();
        if let Some(refusal) = refused {
            return Err(to_python(py, refusal));
        }
        if let Err(interrupted) = py.check_signals()
            && !mutant!(InterruptNotHeard)
        {
            break Err(interrupted);
        }
        if began.elapsed() >= patience {
            break Ok(());
        }
    };
    let refusal = limiter.inner.abandon(ticket, ended.is_ok(), CLOCK.monotonic());
    match (ended, refusal) {
        (Ok(()), Some(refusal)) => Err(limit_timeout(py, &refusal, timeout)),
        // Granted between the last look and now.
        (Ok(()), None) => lock(&sleeper.grant)
            .take()
            .ok_or_else(|| PyRuntimeError::new_err("a grant got lost; this is a defect of isolane")),
        (Err(interrupted), refusal) => {
            if refusal.is_none()
                && let Some(grant) = lock(&sleeper.grant).take()
            {
                limiter.inner.release_unused(grant, CLOCK.monotonic());
            }
            Err(interrupted)
        }
    }
}
