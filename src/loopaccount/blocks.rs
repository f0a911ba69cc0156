//! Who held the loop so long that everybody else waited.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Nanos;
use crate::clock::{Micros, SECOND};
use crate::metrics::Id;
use crate::mutants::mutant;

/// A step that takes longer blocked the loop.
pub const BLOCK: Nanos = 50_000_000;
/// Blocks that are kept, the latest ones.
pub const MAX_BLOCKS: usize = 256;
/// An agent is warned about once in this time.
const WARN_EVERY: Micros = 10 * SECOND;
/// Agents whose last warning is remembered.
const MAX_WARNED: usize = 256;

/// What the coroutine did at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stood {
    /// It waits there: the step ended at this `await`, and the time was spent before it.
    Suspended,
    /// An exception was raised there and ended the coroutine.
    Raised,
    /// It returned in the step. No frame is left to ask, so this is where the function begins.
    Returned,
}

impl Stood {
    /// The word that Python is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Raised => "raised",
            Self::Returned => "returned",
        }
    }
}

/// A line of source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the interpreter names it.
    pub file: String,
    /// The line, from 1 on.
    pub line: u32,
    /// The function, with the names around it.
    pub function: String,
    /// What happened there.
    pub stood: Stood,
    /// The lines above it, from the agent's own function inwards, each as `file:line function`.
    pub stack: Vec<String>,
}

#[cfg(test)]
impl Place {
    pub(super) fn at_line(line: u32) -> Self {
        Self {
            file: "agent.py".to_owned(),
            line,
            function: "run".to_owned(),
            stood: Stood::Suspended,
            stack: Vec::new(),
        }
    }
}

/// Whose coroutine it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: Arc<str>,
    /// The run.
    pub run: Arc<str>,
    /// The name of the agent.
    pub agent: Arc<str>,
}

/// A step that blocked the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Whose step it was.
    pub who: Who,
    /// Where the coroutine stood after it.
    pub place: Option<Place>,
    /// What it took.
    pub wall: Nanos,
    /// Of that, on the processor.
    pub cpu: Nanos,
    /// When it ended, in microseconds since the Unix epoch.
    pub at: Micros,
}

/// That a block is to be told to whoever runs the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// Blocks of the same agent since the last warning that were not told.
    pub untold: u64,
}

struct Warned {
    at: Micros,
    untold: u64,
}

#[derive(Default)]
struct State {
    latest: VecDeque<Block>,
    warned: HashMap<Arc<str>, Warned>,
    /// Agents that found no place among those remembered share one.
    others: Option<Warned>,
}

/// The latest blocks of the process.
#[derive(Default)]
pub struct Blocks(Mutex<State>);

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks")
            .field("kept", &self.state().latest.len())
            .finish()
    }
}

impl Blocks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a block. Answers whether it is to be told.
    pub fn record(&self, block: Block) -> Option<Warning> {
        Id::LoopBlocks.only().increment();
        let mut state = self.state();
        let warning = due(&mut state, &block.who.agent, block.at);
        if state.latest.len() == MAX_BLOCKS && !mutant!(BlocksUnbounded) {
            state.latest.pop_front();
        }
        state.latest.push_back(block);
        warning
    }

    /// The blocks, latest first.
    pub fn latest(&self) -> Vec<Block> {
        self.state().latest.iter().rev().cloned().collect()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.state() = State::default();
    }
}

/// Whether a block of an agent is to be told at `now`.
fn due(state: &mut State, agent: &Arc<str>, now: Micros) -> Option<Warning> {
    if !state.warned.contains_key(agent) && state.warned.len() >= MAX_WARNED {
        state
            .warned
            .retain(|_, warned| now.saturating_sub(warned.at) < WARN_EVERY);
    }
    let is_known = state.warned.contains_key(agent);
    let has_room = state.warned.len() < MAX_WARNED;
    let held = if is_known {
        state.warned.get_mut(agent)
    } else if has_room {
        None
    } else {
        state.others.as_mut()
    };
    if let Some(held) = held {
        if now.saturating_sub(held.at) < WARN_EVERY {
            held.untold += 1;
            return None;
        }
        held.at = now;
        return Some(Warning {
            untold: std::mem::take(&mut held.untold),
        });
    }
    let fresh = Warned { at: now, untold: 0 };
    if has_room {
        state.warned.insert(agent.clone(), fresh);
    } else {
        state.others = Some(fresh);
    }
    Some(Warning { untold: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(agent: &str, at: Micros) -> Block {
        Block {
            who: Who {
                user: Arc::from("ann"),
                run: Arc::from("run-1"),
                agent: Arc::from(agent),
            },
            place: Some(Place::at_line(3)),
            wall: 60_000_000,
            cpu: 1,
            at,
        }
    }

    #[test]
    fn the_latest_blocks_are_kept_and_no_more() {
        let blocks = Blocks::default();
        for at in 0..MAX_BLOCKS as u64 + 10 {
            blocks.record(block("a", at));
        }
        let latest = blocks.latest();
        assert_eq!((latest.len(), latest[0].at), (MAX_BLOCKS, MAX_BLOCKS as u64 + 9));
    }

    #[test]
    fn an_agent_is_told_about_now_and_then_and_the_rest_is_counted() {
        let blocks = Blocks::default();
        assert_eq!(blocks.record(block("a", SECOND)), Some(Warning { untold: 0 }));
        assert_eq!(blocks.record(block("a", 2 * SECOND)), None);
        assert_eq!(blocks.record(block("b", 2 * SECOND)), Some(Warning { untold: 0 }));
        assert_eq!(blocks.record(block("a", 3 * SECOND)), None);
        assert_eq!(blocks.record(block("a", 11 * SECOND)), Some(Warning { untold: 2 }));
        assert_eq!(blocks.record(block("a", 12 * SECOND)), None);
    }

    #[test]
    fn warnings_of_many_agents_are_bounded_together() {
        let blocks = Blocks::default();
        let told = (0..MAX_WARNED + 50)
            .filter(|at| blocks.record(block(&at.to_string(), SECOND)).is_some())
            .count();
        assert_eq!(told, MAX_WARNED + 1, "those that have no place share one");
        assert_eq!(blocks.record(block("late", 20 * SECOND)), Some(Warning { untold: 0 }));
    }
}
