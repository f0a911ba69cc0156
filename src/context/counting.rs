//! How many contexts were made, live, and ended how; and what their runs came to.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use super::runs::RunOutcome;
use super::state::ContextState;
use crate::clock::Micros;
use crate::metrics::{AGENTS, Cell, Id, Scrape};
use crate::mutants::mutant;

/// Contexts that were made and have not ended. Kept whether or not metrics are: a switch in between would make it wrong.
static ALIVE: AtomicI64 = AtomicI64::new(0);
/// The first number of this process: contexts with a lower one are a parent's, from before a fork.
static FIRST: AtomicU64 = AtomicU64::new(0);

static CREATED: LazyLock<[&Cell; 2]> = LazyLock::new(|| [0, 1].map(|entry| Id::ContextsCreated.at(&[entry])));
static CLOSED: LazyLock<[&Cell; 4]> = LazyLock::new(|| [0, 1, 2, 3].map(|end| Id::ContextsClosed.at(&[end])));

/// A context was made.
#[inline]
pub(super) fn made(is_child: bool) {
    ALIVE.fetch_add(1, Ordering::Relaxed);
    CREATED[usize::from(is_child)].increment();
}

/// A context ended, in this state; `None` when nobody cleaned it up.
#[inline]
pub(super) fn ended(number: u64, state: Option<ContextState>) {
    if number < FIRST.load(Ordering::Relaxed) {
        return;
    }
    if !mutant!(EndedContextStaysActive) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
    CLOSED[match state {
        Some(ContextState::PartialFailure) => 1,
        Some(ContextState::Failed) => 2,
        Some(_) => 0,
        None => 3,
    }]
    .increment();
}

/// A run of an agent ended. One that was refused a permit took no time that could be told.
pub(super) fn run_ended(agent: &str, outcome: RunOutcome, duration: Micros) {
    if !crate::metrics::enabled() {
        return;
    }
    let agent = AGENTS.index(agent);
    Id::Runs.at(&[agent, outcome as usize]).increment();
    if outcome != RunOutcome::Refused {
        Id::RunDuration.at(&[agent]).observe_micros(duration);
    }
}

/// How many contexts live.
pub fn collect(scrape: &mut Scrape) {
    scrape.level(Id::ContextsActive, &[], ALIVE.load(Ordering::Relaxed).max(0) as f64);
}

/// Begins anew in the child of a fork; `next` is the number of its first context.
pub(super) fn after_fork_in_child(next: u64) {
    FIRST.store(next, Ordering::Relaxed);
    ALIVE.store(0, Ordering::Relaxed);
}
