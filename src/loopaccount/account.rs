//! What a run or a user has used of the loop.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::blocks::Place;
use super::{Nanos, Step};
use crate::metrics::{BUCKETS, Histogram, bucket_of};
use crate::mutants::mutant;

/// The histogram counts in units of 16 ns, so that its places begin at 1 µs and end at 13 s.
const UNIT_BITS: u32 = 4;

/// The longest step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Longest {
    /// What it took.
    pub wall: Nanos,
    /// Of that, on the processor.
    pub cpu: Nanos,
    /// Whose step it was.
    pub agent: Arc<str>,
    /// Where the coroutine stood after it.
    pub place: Option<Place>,
}

/// Steps and their times.
///
/// One thread writes at a time: the one that holds the interpreter. So a sum is read and written back, which costs less than
/// adding to it in one go; readers may be anywhere.
#[derive(Debug)]
pub struct Account {
    wall: AtomicU64,
    cpu: AtomicU64,
    steps: AtomicU64,
    blocks: AtomicU64,
    longest: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
    longest_place: Mutex<Option<Longest>>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            wall: AtomicU64::new(0),
            cpu: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            longest_place: Mutex::new(None),
        }
    }
}

#[inline]
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl Account {
    /// Counts a step. One that was passed on to an inner coroutine is counted there; here only its time is.
    #[inline]
    pub fn record(&self, step: Step) {
        add(&self.wall, step.wall);
        add(&self.cpu, step.cpu);
        if step.wall > self.longest.load(Ordering::Relaxed) {
            self.longest.store(step.wall, Ordering::Relaxed);
        }
        if step.passed_on {
            return;
        }
        add(&self.steps, 1);
        let bucket = &self.buckets[bucket_of(step.wall >> UNIT_BITS)];
        bucket.store(bucket.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }

    /// The time that all steps took.
    #[inline]
    pub fn wall(&self) -> Nanos {
        self.wall.load(Ordering::Relaxed)
    }

    /// Whether a step that was just recorded is the longest, and its place is worth a look.
    pub fn is_longest(&self, step: Step) -> bool {
        step.wall >= self.longest.load(Ordering::Relaxed)
    }

    /// Keeps where the longest step was.
    pub fn keep_longest(&self, longest: Longest) {
        let mut held = self.longest_place.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|held| held.wall <= longest.wall) || mutant!(LongestStepIsTheLast) {
            *held = Some(longest);
        }
    }

    /// Counts a step that blocked the loop.
    pub fn count_block(&self) {
        add(&self.blocks, 1);
    }

    /// What was counted so far.
    pub fn figures(&self) -> Figures {
        let steps = self.steps.load(Ordering::Relaxed);
        let wall = self.wall();
        let longest = self.longest.load(Ordering::Relaxed);
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Figures {
            wall,
            cpu: self.cpu.load(Ordering::Relaxed),
            blocks: self.blocks.load(Ordering::Relaxed),
            longest: longest_or_short(
                self.longest_place
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
                longest,
            ),
            steps: Histogram::of(buckets, steps, wall >> UNIT_BITS, longest.div_ceil(1 << UNIT_BITS)),
        }
    }
}

/// The place of the longest step is kept for long steps alone: of a shorter one only the time is known.
fn longest_or_short(held: Option<Longest>, wall: Nanos) -> Option<Longest> {
    held.or_else(|| {
        (wall > 0).then(|| Longest {
            wall,
            cpu: wall,
            agent: Arc::from(""),
            place: None,
        })
    })
}

/// An account as it is read.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The time that all steps took.
    pub wall: Nanos,
    /// Of that, on the processor: exact for long steps, wall time for short ones.
    pub cpu: Nanos,
    /// Steps that blocked the loop.
    pub blocks: u64,
    /// The longest step.
    pub longest: Option<Longest>,
    steps: Histogram,
}

impl Figures {
    /// How many steps there were.
    pub fn steps(&self) -> u64 {
        self.steps.count()
    }

    /// The time that a part `q` of the steps did not exceed, at most a quarter more than exact and never more than the
    /// longest. `None` without a step.
    pub fn quantile(&self, q: f64) -> Option<Nanos> {
        let longest = self.longest.as_ref().map_or(0, |longest| longest.wall);
        self.steps.quantile(q).map(|value| (value << UNIT_BITS).min(longest))
    }

    /// Adds another account.
    pub fn merge(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.blocks += other.blocks;
        self.steps.merge(&other.steps);
        let mine = self.longest.as_ref().map_or(0, |longest| longest.wall);
        if other.longest.as_ref().is_some_and(|longest| longest.wall > mine) {
            self.longest = other.longest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(wall: Nanos) -> Step {
        Step {
            wall,
            cpu: wall / 2,
            passed_on: false,
        }
    }

    #[test]
    fn times_are_exact_and_percentiles_near() {
        let account = Account::default();
        assert_eq!(account.figures().quantile(0.5), None);
        for micros in 1..=1_000 {
            account.record(step(micros * 1_000));
        }
        let figures = account.figures();
        assert_eq!(
            (figures.wall, figures.cpu, figures.steps()),
            (500_500_000, 250_250_000, 1_000)
        );
        let half = figures.quantile(0.5).expect("steps");
        assert!((500_000..=626_000).contains(&half), "{half}");
        assert_eq!(figures.quantile(1.0), Some(1_000_000));
    }

    #[test]
    fn a_step_that_was_passed_on_counts_its_own_time_alone() {
        let account = Account::default();
        account.record(Step {
            passed_on: true,
            ..step(10)
        });
        assert_eq!((account.wall(), account.figures().steps()), (10, 0));
    }

    #[test]
    fn the_longest_step_stays_the_longest() {
        let account = Account::default();
        for (wall, line) in [(3_000_000, 3), (9_000_000, 9), (5_000_000, 5)] {
            account.record(step(wall));
            assert_eq!(account.is_longest(step(wall)), line != 5);
            account.keep_longest(Longest {
                wall,
                cpu: 0,
                agent: Arc::from("a"),
                place: Some(Place::at_line(line)),
            });
        }
        let longest = account.figures().longest.expect("there are steps");
        assert_eq!((longest.wall, longest.place.expect("kept").line), (9_000_000, 9));
    }

    #[test]
    fn merged_accounts_are_as_if_one_had_counted_all() {
        let (left, right, both) = (Account::default(), Account::default(), Account::default());
        for wall in (1..200).map(|at| at * at * 1_000) {
            if wall % 3 == 0 {
                left.record(step(wall));
            } else {
                right.record(step(wall));
            }
            both.record(step(wall));
        }
        let mut merged = left.figures();
        merged.merge(right.figures());
        let both = both.figures();
        assert_eq!(
            (merged.wall, merged.cpu, merged.steps()),
            (both.wall, both.cpu, both.steps())
        );
        assert_eq!(merged.longest, both.longest);
        for q in [0.0, 0.5, 0.99, 1.0] {
            assert_eq!(merged.quantile(q), both.quantile(q));
        }
    }
}
