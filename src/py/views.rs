//! What operators are shown, as JSON: see `crate::views`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::engines::PyEngineBook;
use super::limits::PyFairLimiter;
use super::process::{CLOCK, registry};
use crate::clock::{Clock, seconds};
use crate::metrics::Histogram;
use crate::views::{self, RunState, RunsQuery, UsersOrder, UsersQuery};

/// Readings that a pace keeps: of one a second, a minute.
const READINGS: usize = 60;

/// What a user is called where nobody is named: 12 hexadecimal digits of a hash under a key of this process.
#[pyfunction]
pub(crate) fn user_pseudonym(user_id: &str) -> String {
    views::user_pseudonym(user_id)
}

/// From now on users are called by a hash under a key made of these bytes; `None`: under a new one.
#[pyfunction]
#[pyo3(signature = (key))]
pub(crate) fn _set_pseudonym_key(key: Option<&[u8]>) {
    views::set_pseudonym_key(key);
}

/// The users of whom this process holds something, as JSON: `{"total": …, "users": […]}`, those with the most first.
///
/// `sort` is `bytes`, `runs`, `waiting`, `longest`, `engines`, `errors` or `lag`. With `text` those whose pseudonym or revealed
/// name has it. `engines` and `limiters` are those of the application; from `throttle_bytes` on a user counts as throttled;
/// `quarantined` has pseudonyms, and `names` the ids that may be shown, by pseudonym. Looks at every lane.
#[pyfunction]
#[pyo3(signature = (sort, limit, text, *, engines, limiters, throttle_bytes, quarantined, names))]
#[allow(clippy::too_many_arguments)] // named ones, of one caller
pub(crate) fn users_view(
    sort: &str,
    limit: usize,
    text: &str,
    engines: Vec<PyRef<'_, PyEngineBook>>,
    limiters: Vec<PyRef<'_, PyFairLimiter>>,
    throttle_bytes: Option<usize>,
    quarantined: HashSet<String>,
    names: HashMap<String, String>,
) -> PyResult<String> {
    let order = UsersOrder::ALL.iter().find(|(name, _)| *name == sort);
    let Some((_, order)) = order else {
        let known: Vec<_> = UsersOrder::ALL.iter().map(|(name, _)| *name).collect();
        return Err(PyValueError::new_err(format!(
            "sort must be one of {}",
            known.join(", ")
        )));
    };
    let mut counts = HashMap::new();
    for (user, many) in engines.iter().flat_map(|engines| engines.book().by_user()) {
        *counts.entry(user).or_default() += many;
    }
    let mut permits = HashMap::new();
    for (lane, running, waiting) in limiters.iter().flat_map(|limiter| limiter.limiter().busy_users()) {
        let held: &mut (u32, u32) = permits.entry(lane).or_default();
        *held = (held.0 + running, held.1 + waiting);
    }
    let query = UsersQuery {
        order: *order,
        limit,
        text: &text.to_lowercase(),
        engines: counts,
        permits,
        throttle_bytes: throttle_bytes.unwrap_or(usize::MAX),
        quarantined,
        names,
    };
    Ok(views::users(registry(), &query, CLOCK.monotonic()))
}

/// The runs of which this process keeps events, as JSON: `{"total": …, "runs": […]}`, those that go on in front, and of either
/// the latest. `state` is `active`, `ended` or `all`; `user` a pseudonym, or empty for all; with `text` those in whose ids, agent
/// or user it is; `worker` is what this process is called. Looks at every lane.
#[pyfunction]
pub(crate) fn runs_view(state: &str, user: &str, limit: usize, text: &str, worker: &str) -> PyResult<String> {
    let state = match state {
        "active" => RunState::Active,
        "ended" => RunState::Ended,
        "all" => RunState::All,
        _ => return Err(PyValueError::new_err("state must be active, ended or all")),
    };
    let query = RunsQuery {
        state,
        user,
        limit,
        text: &text.to_lowercase(),
        worker,
    };
    Ok(views::runs(registry(), &query, CLOCK.now()))
}

/// One run as JSON, with the tree of its executions and calls of tools and the sockets that read it; `None` when no events of
/// such a run are kept. `run_id` is what the list calls it; `root` the number of its first context, whose permits of the
/// `limiters` are shown as well.
#[pyfunction]
#[pyo3(signature = (run_id, worker, limiters, root))]
pub(crate) fn run_view(
    run_id: &str,
    worker: &str,
    limiters: Vec<PyRef<'_, PyFairLimiter>>,
    root: Option<u64>,
) -> Option<String> {
    let permits: Vec<_> = root
        .map(|root| {
            limiters
                .iter()
                .flat_map(|limiter| limiter.limiter().run_permits(root))
                .collect()
        })
        .unwrap_or_default();
    views::run(registry(), run_id, &permits, worker, CLOCK.now())
}

/// Who is called so, of the users whom this process has a lane for; `None` when nobody is.
#[pyfunction]
pub(crate) fn user_of_pseudonym(pseudonym: &str) -> Option<String> {
    let lanes = registry().all();
    let mut users = lanes.iter().map(|lane| lane.user().as_str());
    users
        .find(|user| views::user_pseudonym(user) == pseudonym)
        .map(str::to_owned)
}

/// How many runs go on, as `running`, and how many have ended since the process began: `completed`, `partial`, `failed`,
/// `cancelled` and `lost`.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, int]")]
pub(crate) fn run_counts(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let counts = views::run_counts(registry());
    let dict = PyDict::new(py);
    for (name, many) in counts {
        dict.set_item(name, many)?;
    }
    Ok(dict)
}

/// How long events take from being published to being handed to a socket, and runs from beginning to end, over the latest
/// readings. Each call of `read` is one reading; 60 are kept.
#[pyclass(frozen, module = "isolane._core")]
pub(crate) struct Pace {
    readings: Mutex<VecDeque<(Histogram, Histogram)>>,
}

fn reading() -> (Histogram, Histogram) {
    let events = &registry().shared().events;
    (events.delay.read(), events.run_time.read())
}

#[pymethods]
impl Pace {
    #[new]
    fn new() -> Self {
        Self {
            readings: Mutex::new(VecDeque::from([reading()])),
        }
    }

    /// Reads, and returns in seconds: `recent_event_p99` since the reading before; `event_p50`, `event_p99`, `run_p50` and
    /// `run_p95` over all that are kept. `None` where there was none.
    #[pyo3(signature = () -> "dict[str, float | None]")]
    fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let now = reading();
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |before: Option<&(Histogram, Histogram)>| {
            before.map_or_else(Default::default, |before| {
                (now.0.since(&before.0), now.1.since(&before.1))
            })
        };
        let (recent, kept) = (since(readings.back()), since(readings.front()));
        readings.push_back(now);
        if readings.len() > READINGS {
            readings.pop_front();
        }
        drop(readings);
        let dict = PyDict::new(py);
        for (name, histogram, part) in [
            ("recent_event_p99", &recent.0, 0.99),
            ("event_p50", &kept.0, 0.5),
            ("event_p99", &kept.0, 0.99),
            ("run_p50", &kept.1, 0.5),
            ("run_p95", &kept.1, 0.95),
        ] {
            dict.set_item(name, histogram.quantile(part).map(seconds))?;
        }
        Ok(dict)
    }
}
