//! The book of tool calls: which run, until when, and how those that ended did.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;

use foldhash::fast::RandomState;

use crate::clock::Micros;
use crate::lanes::LaneKey;
use crate::metrics::{Cell, Histogram, Id, TOOL_OUTCOMES, TOOLS};
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Tools that are told apart by name. The rest count together.
pub const MAX_TOOLS: usize = 256;
/// The name of the rest.
const OTHER: &str = "_other";
/// The place of calls that never began among the outcomes that a scrape tells.
const REFUSED: usize = 4;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// The tool returned.
    Ok,
    /// The tool raised.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// Whoever waited for it was cancelled.
    Cancelled,
}

impl CallEnd {
    /// Its place among the outcomes that a scrape tells.
    const fn outcome(self) -> usize {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::TimedOut => 2,
            Self::Cancelled => 3,
        }
    }

    /// The end of that name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "ok" => Some(Self::Ok),
            "failed" => Some(Self::Failed),
            "timed_out" => Some(Self::TimedOut),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// The user has too many calls under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{running} tool calls of this user are under way, and {limit} are allowed; wait for some to end")]
pub struct TooManyCalls {
    /// How many there are.
    pub running: u32,
    /// How many there may be.
    pub limit: u32,
}

/// Counts of one tool.
#[derive(Debug, Clone, Default)]
pub struct ToolFigures {
    /// Calls that returned.
    pub ok: u64,
    /// Calls that raised.
    pub failed: u64,
    /// Calls whose deadline passed.
    pub timed_out: u64,
    /// Calls that were cancelled.
    pub cancelled: u64,
    /// Calls that never began.
    pub refused: u64,
    /// How long those that began took, in microseconds.
    pub took: Histogram,
}

/// Counts of all tools.
#[derive(Debug, Clone)]
pub struct DispatchFigures {
    /// By the tool's name.
    pub tools: Vec<(Box<str>, ToolFigures)>,
    /// Calls under way.
    pub running: usize,
    /// The most there were at a time.
    pub peak: usize,
}

#[derive(Debug)]
struct Call {
    user: LaneKey,
    tool: usize,
    began: Micros,
    deadline: Option<Micros>,
}

#[derive(Debug)]
struct Tool {
    name: Box<str>,
    figures: ToolFigures,
    /// Its number among the names that a scrape tells.
    number: usize,
    /// What the scrape tells of it, by outcome, once there was one.
    told: [Option<&'static Cell>; TOOL_OUTCOMES.len()],
}

impl Tool {
    fn count(&mut self, outcome: usize) {
        let number = self.number;
        self.told[outcome]
            .get_or_insert_with(|| Id::ToolCalls.at(&[number, outcome]))
            .increment();
    }
}

#[derive(Debug, Default)]
struct Inner {
    calls: HashMap<u64, Call, RandomState>,
    deadlines: BTreeSet<(Micros, u64)>,
    running: HashMap<LaneKey, u32, RandomState>,
    names: HashMap<Box<str>, usize, RandomState>,
    tools: Vec<Tool>,
    last: u64,
    peak: usize,
}

impl Inner {
    fn tool(&mut self, name: &str) -> usize {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let name = if self.tools.len() < MAX_TOOLS { name } else { OTHER };
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        self.tools.push(Tool {
            name: name.into(),
            figures: ToolFigures::default(),
            number: TOOLS.index(name),
            told: [None; TOOL_OUTCOMES.len()],
        });
        self.names.insert(name.into(), self.tools.len() - 1);
        self.tools.len() - 1
    }
}

/// The calls of one factory of dispatchers.
#[derive(Debug)]
pub struct DispatchBook {
    inner: Mutex<Inner>,
    per_user: u32,
}

impl DispatchBook {
    /// A book in which a user has at most `per_user` calls under way.
    pub fn new(per_user: u32) -> Self {
        Self {
            inner: Mutex::default(),
            per_user,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. Answers its number.
    pub fn begin(&self, user: LaneKey, tool: &str, seconds: Option<Micros>, now: Micros) -> Result<u64, TooManyCalls> {
        let mut inner = self.inner();
        let running = inner.running.entry(user).or_insert(0);
        if *running >= self.per_user {
            let refused = TooManyCalls {
                running: *running,
                limit: self.per_user,
            };
            return Err(refused);
        }
        *running += 1;
        inner.last += 1;
        let number = inner.last;
        let deadline = seconds.map(|seconds| now.saturating_add(seconds));
        if let Some(deadline) = deadline {
            inner.deadlines.insert((deadline, number));
        }
        let call = Call {
            user,
            tool: inner.tool(tool),
            began: now,
            deadline,
        };
        inner.calls.insert(number, call);
        inner.peak = inner.peak.max(inner.calls.len());
        Ok(number)
    }

    /// A call ended. Answers how long it took, and `None` when its end was noted before: each call ends once.
    pub fn end(&self, number: u64, end: CallEnd, now: Micros) -> Option<Micros> {
        let mut inner = self.inner();
        let call = inner.calls.remove(&number)?;
        if let Some(deadline) = call.deadline {
            inner.deadlines.remove(&(deadline, number));
        }
        if let Some(running) = inner.running.get_mut(&call.user) {
            *running -= 1;
            if *running == 0 {
                inner.running.remove(&call.user);
            }
        }
        let took = now.saturating_sub(call.began);
        let called = &mut inner.tools[call.tool];
        called.count(end.outcome());
        let figures = &mut called.figures;
        match end {
            CallEnd::Ok => figures.ok += 1,
            CallEnd::Failed => figures.failed += 1,
            CallEnd::TimedOut => figures.timed_out += 1,
            CallEnd::Cancelled => figures.cancelled += 1,
        }
        figures.took.record(took);
        if end == CallEnd::Cancelled && mutant!(CancelledCallNotTold) {
            return None;
        }
        Some(took)
    }

    /// Counts a call that was refused before it began.
    pub fn refuse(&self, tool: &str) {
        let mut inner = self.inner();
        let at = inner.tool(tool);
        inner.tools[at].figures.refused += 1;
        inner.tools[at].count(REFUSED);
    }

    /// Takes the calls whose deadline has passed. They go on being under way until their end is noted.
    pub fn due(&self, now: Micros) -> Vec<u64> {
        let mut inner = self.inner();
        let mut due = Vec::new();
        while let Some((deadline, number)) = inner.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            inner.deadlines.pop_first();
            due.push(number);
        }
        if mutant!(ToolDeadlineIgnored) {
            due.clear();
        }
        due
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Micros> {
        self.inner().deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How many calls are under way.
    pub fn running(&self) -> usize {
        self.inner().calls.len()
    }

    /// Counts.
    pub fn figures(&self) -> DispatchFigures {
        let inner = self.inner();
        DispatchFigures {
            tools: inner
                .tools
                .iter()
                .map(|tool| (tool.name.clone(), tool.figures.clone()))
                .collect(),
            running: inner.calls.len(),
            peak: inner.peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ProcessClock;
    use crate::ids::UserId;
    use crate::lanes::Registry;

    fn keys() -> (Registry, [LaneKey; 2]) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let key = |id: &str| registry.lane(&UserId::new(id).expect("valid")).key();
        let keys = [key("ann"), key("bob")];
        (registry, keys)
    }

    #[test]
    fn a_call_ends_once_and_is_counted_by_how() {
        let (_registry, [ann, _]) = keys();
        let book = DispatchBook::new(8);
        for (end, now) in [
            (CallEnd::Ok, 100),
            (CallEnd::Failed, 200),
            (CallEnd::TimedOut, 300),
            (CallEnd::Cancelled, 400),
        ] {
            let call = book.begin(ann, "search", Some(1_000), 0).expect("room");
            assert_eq!(book.end(call, end, now), Some(now));
            assert_eq!(book.end(call, end, now), None);
        }
        book.refuse("search");
        let figures = book.figures();
        let (name, search) = &figures.tools[0];
        assert_eq!((&**name, search.ok, search.failed), ("search", 1, 1));
        assert_eq!((search.timed_out, search.cancelled, search.refused), (1, 1, 1));
        assert_eq!((search.took.count(), figures.running, figures.peak), (4, 0, 1));
        assert_eq!(book.next_deadline(), None, "what ended has no deadline");
    }

    #[test]
    fn one_user_cannot_take_the_calls_of_another() {
        let (_registry, [ann, bob]) = keys();
        let book = DispatchBook::new(2);
        let first = book.begin(ann, "search", None, 0).expect("room");
        book.begin(ann, "search", None, 0).expect("room");
        assert_eq!(
            book.begin(ann, "search", None, 0),
            Err(TooManyCalls { running: 2, limit: 2 })
        );
        book.begin(bob, "search", None, 0).expect("room");
        book.end(first, CallEnd::Ok, 1);
        book.begin(ann, "search", None, 1).expect("room");
    }

    #[test]
    fn deadlines_come_in_their_order_and_once() {
        let (_registry, [ann, bob]) = keys();
        let book = DispatchBook::new(8);
        let late = book.begin(ann, "search", Some(200), 0).expect("room");
        let soon = book.begin(bob, "search", Some(100), 0).expect("room");
        assert_eq!(book.next_deadline(), Some(100));
        assert_eq!(book.due(99), Vec::<u64>::new());
        assert_eq!(book.due(100), [soon]);
        assert_eq!(book.due(500), [late]);
        assert!(book.due(500).is_empty() && book.running() == 2);
    }

    #[test]
    fn names_of_tools_are_bounded() {
        let book = DispatchBook::new(8);
        for number in 0..MAX_TOOLS + 50 {
            book.refuse(&format!("tool-{number}"));
        }
        let figures = book.figures();
        assert_eq!(figures.tools.len(), MAX_TOOLS + 1);
        assert_eq!(figures.tools[MAX_TOOLS].1.refused, 50);
    }
}
