//! `LoopAccount`, the accounts of users, and the table of blockers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDateTime, PyDict, PyList, PyTzInfo};

use super::context::PyContext;
use super::process::{CLOCK, Stamp};
use super::source_lines::place;
use super::trampoline::{AccountedCoroutine, After};
use crate::clock::Clock;
use crate::clock::seconds as seconds_of_micros;
use crate::loopaccount::{
    Account, Accounts, BLOCK, Block, Blocks, Budget, Figures, Longest, Nanos, Overdrawn, Place, Step, Stood, Stopwatch,
    Warning, Who, nanos, seconds,
};
use crate::mutants::mutant;

fn accounts() -> &'static Accounts {
    static ACCOUNTS: OnceLock<Accounts> = OnceLock::new();
    ACCOUNTS.get_or_init(Accounts::default)
}

fn blocks() -> &'static Blocks {
    static BLOCKS: OnceLock<Blocks> = OnceLock::new();
    BLOCKS.get_or_init(Blocks::default)
}

/// In the child of a fork nobody has used the loop yet.
pub(crate) fn after_fork_in_child() {
    Stopwatch::forget_thread();
    accounts().clear();
    blocks().clear();
}

/// What one run has used of the event loop, and what drives its coroutines.
///
/// `loop_seconds` is what all coroutines of this account together may use; without it there is no limit.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct LoopAccount {
    shared: Arc<OfRun>,
    stamp: Stamp,
}

struct OfRun {
    account: Account,
    /// Of all runs of the user.
    user_account: Arc<Account>,
    user: Arc<str>,
    run: Arc<str>,
    budget: Option<Nanos>,
}

fn limit(value: Option<f64>) -> PyResult<Option<Nanos>> {
    match value {
        None => Ok(None),
        Some(value) if value > 0.0 => Ok(Some(nanos(value))),
        Some(value) => Err(PyValueError::new_err(format!(
            "loop_seconds must be more than 0 seconds, or None for no limit, got {value}"
        ))),
    }
}

#[pymethods]
impl LoopAccount {
    #[new]
    #[pyo3(signature = (ctx, *, loop_seconds = None))]
    fn new(py: Python<'_>, ctx: &Bound<'_, PyContext>, loop_seconds: Option<f64>) -> PyResult<Self> {
        let ctx = ctx.get();
        ctx.stamp().check(py)?;
        let identity = ctx.core().identity();
        let shared = OfRun {
            account: Account::default(),
            user_account: accounts().of(identity.user.as_str()),
            user: Arc::from(identity.user.as_str()),
            run: Arc::from(identity.run.as_str()),
            budget: limit(loop_seconds)?,
        };
        Ok(Self {
            shared: Arc::new(shared),
            stamp: Stamp::now(),
        })
    }

    /// Drives an awaitable: what is returned is awaited in its place. `agent` names it in what is reported. `loop_seconds` is
    /// what it may use of the loop; when it has used more, `LoopBudgetExceeded` is thrown into it at its next step.
    #[pyo3(signature = (awaitable, agent, *, loop_seconds = None))]
    fn drive(
        &self,
        py: Python<'_>,
        awaitable: &Bound<'_, PyAny>,
        agent: &str,
        loop_seconds: Option<f64>,
    ) -> PyResult<AccountedCoroutine> {
        self.stamp.check(py)?;
        let meter = Meter {
            run: self.shared.clone(),
            agent: Arc::from(agent),
            used: AtomicU64::new(0),
            of_agent: Budget::new(limit(loop_seconds)?),
            of_run: Budget::new(self.shared.budget),
        };
        AccountedCoroutine::new(awaitable, meter)
    }

    /// What was counted: `wall` and `cpu` in seconds, `steps`, `p50` and `p99` of the steps in seconds, `blocks` (steps of more
    /// than 50 ms), and `longest`, the longest step, as in `loop_blockers` but for the ids. What has no value yet is `None`.
    #[pyo3(signature = () -> "dict[str, typing.Any]")]
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &self.shared.account.figures())
    }
}

/// What a driven coroutine is accounted to.
pub(super) struct Meter {
    run: Arc<OfRun>,
    agent: Arc<str>,
    used: AtomicU64,
    of_agent: Budget,
    of_run: Budget,
}

impl Meter {
    pub(super) fn agent(&self) -> &str {
        &self.agent
    }

    pub(super) fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        shown(py, &self.run.account.figures())
    }

    /// Whose budget is used up, if one is and that was not told yet.
    #[inline]
    pub(super) fn overdrawn(&self) -> Option<(&'static str, Overdrawn)> {
        if let Some(overdrawn) = self.of_agent.overdrawn(self.used.load(Ordering::Relaxed)) {
            return Some(("agent", overdrawn));
        }
        let overdrawn = self.of_run.overdrawn(self.run.account.wall())?;
        Some(("run", overdrawn))
    }

    #[inline]
    pub(super) fn record(&self, step: Step) {
        // One thread at a time steps a coroutine, so nothing comes between the two.
        let used = self.used.load(Ordering::Relaxed).wrapping_add(step.wall);
        self.used.store(used, Ordering::Relaxed);
        self.run.account.record(step);
        self.run.user_account.record(step);
    }

    /// Finds out where a long step ended, when somebody will want to know.
    #[cold]
    pub(super) fn look(&self, py: Python<'_>, step: Step, after: &After<'_, '_>) {
        let is_block = step.wall > BLOCK && !mutant!(BlockNotTold);
        let of_run = self.run.account.is_longest(step);
        let of_user = self.run.user_account.is_longest(step);
        if !is_block && !of_run && !of_user {
            return;
        }
        let place = place(py, after);
        for (account, is_longest) in [(&self.run.account, of_run), (&*self.run.user_account, of_user)] {
            if is_longest {
                account.keep_longest(Longest {
                    wall: step.wall,
                    cpu: step.cpu,
                    agent: self.agent.clone(),
                    place: place.clone(),
                });
            }
        }
        if !is_block {
            return;
        }
        self.run.account.count_block();
        self.run.user_account.count_block();
        let block = Block {
            who: Who {
                user: self.run.user.clone(),
                run: self.run.run.clone(),
                agent: self.agent.clone(),
            },
            place: place.clone(),
            wall: step.wall,
            cpu: step.cpu,
            at: CLOCK.unix(),
        };
        if let Some(warning) = blocks().record(block) {
            self.warn(py, step, place.as_ref(), warning);
        }
    }

    /// Tells whoever reads the log. Nothing of the user is in it.
    fn warn(&self, py: Python<'_>, step: Step, place: Option<&Place>, warning: Warning) {
        static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let at = place.map_or_else(String::new, |place| {
            let word = match place.stood {
                Stood::Suspended => "until it waited at",
                Stood::Raised => "until it failed at",
                Stood::Returned => "and returned from the function at",
            };
            format!(", {word} {}:{} in {}", place.file, place.line, place.function)
        });
        let untold = match warning.untold {
            0 => String::new(),
            many => format!(" ({many} more of this agent since the last warning)"),
        };
        let arguments = (
            "agent %r blocked the event loop for %.0f ms, %.0f ms of them computing%s%s; move it to asyncio.to_thread",
            &*self.agent,
            step.wall as f64 / 1e6,
            step.cpu as f64 / 1e6,
            at,
            untold,
        );
        let told = LOGGER
            .get_or_try_init(py, || {
                let logger = py.import("logging")?.call_method1("getLogger", ("isolane.loop",))?;
                Ok::<_, PyErr>(logger.unbind())
            })
            .and_then(|logger| logger.bind(py).call_method1(intern!(py, "warning"), arguments));
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    }
}

fn put_step(
    dict: &Bound<'_, PyDict>,
    wall: Nanos,
    cpu: Nanos,
    agent: Option<&str>,
    place: Option<&Place>,
) -> PyResult<()> {
    dict.set_item("agent", agent)?;
    dict.set_item("wall", seconds(wall))?;
    dict.set_item("cpu", seconds(cpu))?;
    dict.set_item("file", place.map(|place| place.file.as_str()))?;
    dict.set_item("line", place.map(|place| place.line))?;
    dict.set_item("function", place.map(|place| place.function.as_str()))?;
    dict.set_item("where", place.map(|place| place.stood.name()))?;
    dict.set_item("stack", place.map(|place| place.stack.clone()).unwrap_or_default())
}

fn shown<'py>(py: Python<'py>, figures: &Figures) -> PyResult<Bound<'py, PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("wall", seconds(figures.wall))?;
    dict.set_item("cpu", seconds(figures.cpu))?;
    dict.set_item("steps", figures.steps())?;
    dict.set_item("blocks", figures.blocks)?;
    dict.set_item("p50", figures.quantile(0.5).map(seconds))?;
    dict.set_item("p99", figures.quantile(0.99).map(seconds))?;
    let longest = match &figures.longest {
        None => None,
        Some(longest) => {
            let shown = PyDict::new(py);
            let agent = Some(&*longest.agent).filter(|agent| !agent.is_empty());
            put_step(&shown, longest.wall, longest.cpu, agent, longest.place.as_ref())?;
            Some(shown)
        }
    };
    dict.set_item("longest", longest)?;
    Ok(dict.into_any())
}

/// Drives an awaitable of a run and accounts for the time of its steps: `await account(work(), ctx, agent="report")`.
///
/// For code that no engine runs, such as a task that an agent starts. `loop_seconds` is what it may use of the loop.
#[pyfunction]
#[pyo3(signature = (awaitable, ctx, *, agent = "task", loop_seconds = None))]
pub(crate) fn account(
    py: Python<'_>,
    awaitable: &Bound<'_, PyAny>,
    ctx: &Bound<'_, PyContext>,
    agent: &str,
    loop_seconds: Option<f64>,
) -> PyResult<AccountedCoroutine> {
    LoopAccount::new(py, ctx, None)?.drive(py, awaitable, agent, loop_seconds)
}

/// What a user, or all users together, have used of the event loops of this process: see `LoopAccount.figures`. Of a user who
/// never used one all figures are 0 or `None`.
#[pyfunction]
#[pyo3(signature = (user_id = None) -> "dict[str, typing.Any]")]
pub(crate) fn loop_account<'py>(py: Python<'py>, user_id: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
    let figures = match user_id {
        Some(user) => accounts().figures(user).unwrap_or_default(),
        None => accounts().total(),
    };
    shown(py, &figures)
}

/// The latest steps that held an event loop of this process for more than 50 ms, latest first, at most 256.
///
/// Each has `user_id`, `run_id`, `agent`, `wall` and `cpu` in seconds, `at` (when it ended, aware UTC), and where the coroutine
/// stood after it: `file`, `line`, `function`, `where` and the `stack` of lines that led there. `where` is `suspended` (the step
/// ended at this `await`, and the time was spent before it), `raised` (an exception came from there) or `returned` (no line is
/// left to ask: it is where the function begins).
#[pyfunction]
#[pyo3(signature = () -> "list[dict[str, typing.Any]]")]
pub(crate) fn loop_blockers(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for block in blocks().latest() {
        let dict = PyDict::new(py);
        dict.set_item("user_id", &*block.who.user)?;
        dict.set_item("run_id", &*block.who.run)?;
        put_step(
            &dict,
            block.wall,
            block.cpu,
            Some(&block.who.agent),
            block.place.as_ref(),
        )?;
        let utc = PyTzInfo::utc(py)?.to_owned();
        dict.set_item(
            "at",
            PyDateTime::from_timestamp(py, seconds_of_micros(block.at), Some(&utc))?,
        )?;
        list.append(dict)?;
    }
    Ok(list)
}
