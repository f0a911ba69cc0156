//! The limit that fits a backend, found from the latency of its calls: a controller for limits of 1 to 64 and for calls that
//! are slow, few and unequal.
//!
//! It looks for the knee: the most calls in flight that do not wait for each other. Latency is compared with the *baseline*,
//! what a call takes when nothing waits. All is decided at the end of a window of outcomes; the time comes with each sample.
//!
//! The rules, with `m` the median latency of a window, `b` the baseline and `x = m / b`:
//!
//! | rule | |
//! |---|---|
//! | window | closes after `max(24, 2 L)` calls, at most 128, that were admitted after the last change. Cancelled calls do not count |
//! | outage | half of them dropped: `L / 2`, and back to where it was by steps of one half |
//! | drops | more than 1 % dropped: `0.9 L` |
//! | app limited | fewer than half met the limit: hold; `b` follows `m`, by 0.3 down and 0.1 up |
//! | down | smoothed `x` above the tolerance (1.2): `L (0.5 + 0.5 max(0.5, 1.2 / x))` |
//! | up | else `L + min(L / 10, max(1, log10 L))`; by one half at the start, after an outage and after five windows up |
//! | cap | twice the most calls in flight of the last 10 windows, and one |
//! | probe | every 5 to 40 windows one window at `0.6 L`: its median goes into `b` |
//! | search | `x` jumped, or `L` fell by 30 % and `x` stays: halve `L` until the latency stops falling |
//!
//! Where it differs from the controller it was made from, each measured on the tuning seeds of `benches/limits`:
//!
//! - *Search* takes the place of the one window at half the limit, of the descent rule and of the rule for the floor. When the
//!   calls themselves take twice as long, one window at half the limit often looked like a queue that went away, and the
//!   limit sank to the floor for a minute. Two windows of 48 calls, at a half and at a quarter, are compared with each other
//!   and not with the window of the jump, which holds calls from before it. What fell no further is the baseline; `L` is set
//!   by Little's law, `L b / m`.
//! - *The baseline* is the mean of the last five measurements, and one that is more than 18 % off is measured a second time
//!   before it replaces the others: 24 calls with a coefficient of variation of 0.5 have a median that is off by 12 %.
//! - *At the lowest limit* `b` follows `m` by 0.3, since no queue of our making can be there.
//! - *Smoothing* (an even mean of this window and those before) begins anew when the limit changed by more than an eighth: the
//!   latency at 3 calls says little of the latency at 2.
//! - *Steps* are a tenth of the limit and not one: from 2 to 3 would be a half. A jump is `1.5 (1 + 1 / L)` for the same reason.
//! - *A probe* at a limit of 3 goes to 1 every second time: under 2 a backend for one call at a time looks like one for two.
//! - *The start*: above a limit of 2 the baseline is searched for first. Up to there the first four windows are the
//!   baseline, and a window above the tolerance is looked at twice before the fast start ends (at 1.45).

mod baseline;
mod history;
mod measure;
mod settings;
mod steady;
mod window;

use crate::clock::Micros;
use crate::mutants::mutant;
use baseline::Baseline;
use history::History;
pub use history::{Change, Reason};
pub use settings::{ControllerSettings, SettingsError};
pub use window::Outcome;
use window::{LARGEST, Window};

/// Calls of a window at the least.
const SMALLEST: usize = 24;
/// Calls of a window of a search, which decides more.
const SEARCHED: usize = 48;
/// Share of dropped calls that is an outage.
const OUTAGE: f64 = 0.5;
/// Share of calls that must have met the limit for a window to say something of it.
const FULL: f64 = 0.5;
/// Change of the limit, relative, beyond which smoothing begins anew.
const ANEW: f64 = 0.12;
/// Windows between two probes.
const SOONEST: u32 = 5;
const LATEST: u32 = 40;
/// Windows whose calls in flight bound the limit.
const REMEMBERED: usize = 10;

/// What the controller knew when a search began, and what it found since.
#[derive(Debug, Clone, Copy)]
struct Search {
    from: f64,
    slowest: f64,
    last: f64,
    depth: u32,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Steady,
    /// With the median of the first window when a second one is measured.
    Probe(Option<f64>),
    Search(Search),
}

/// What a window came to, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Closed {
    median: f64,
    highest: u32,
}

/// What the controller is doing, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct ControllerState {
    /// `start`, `steady`, `probe` or `search`.
    pub phase: &'static str,
    /// The limit in force.
    pub limit: u32,
    /// The limit outside probes and searches, before it is rounded down.
    pub estimate: f64,
    /// Latency without a queue, in microseconds per unit; none before the first window.
    pub baseline: Option<f64>,
    /// Smoothed latency relative to the baseline; none after a change.
    pub ratio: Option<f64>,
    /// Median latencies of the last ten windows, oldest first, in microseconds per unit.
    pub medians: Vec<f64>,
    /// Outcomes in the window that is open.
    pub collected: usize,
    /// The last sixteen changes of the limit, oldest first.
    pub changes: Vec<Change>,
}

/// Finds the limit. Takes less than 2 KiB, whatever happens.
#[derive(Debug, Clone)]
pub struct Controller {
    settings: ControllerSettings,
    /// The limit outside probes and searches.
    limit: f64,
    /// The limit inside them.
    level: f64,
    phase: Phase,
    window: Window,
    /// Calls that were admitted before this moment saw another limit.
    epoch: Micros,
    baseline: Baseline,
    smoothed: Option<f64>,
    /// Windows that `smoothed` is made of.
    smoothed_over: u32,
    /// The top of the present descent.
    descended_from: Option<f64>,
    /// Up to this limit steps up are fast.
    fast_until: f64,
    /// Whether the fast start is over.
    settled: bool,
    in_outage: bool,
    streak: u32,
    period: u32,
    until_probe: u32,
    deep_probe: bool,
    closed: [Closed; REMEMBERED],
    windows: usize,
    history: History,
}

impl Controller {
    /// A controller that has seen nothing. Refuses settings that are out of order.
    pub fn new(settings: ControllerSettings) -> Result<Self, SettingsError> {
        let settings = settings.check()?;
        let limit = f64::from(settings.initial);
        Ok(Self {
            settings,
            limit,
            level: limit,
            phase: Phase::Steady,
            window: Window::new(),
            epoch: 0,
            baseline: Baseline::default(),
            smoothed: None,
            smoothed_over: 0,
            descended_from: None,
            fast_until: f64::INFINITY,
            settled: false,
            in_outage: false,
            streak: 0,
            period: SOONEST,
            until_probe: SOONEST,
            deep_probe: false,
            closed: [Closed::default(); REMEMBERED],
            windows: 0,
            history: History::default(),
        })
    }

    /// The limit in force now: that of a probe or a search while one runs.
    pub fn limit(&self) -> u32 {
        match self.phase {
            Phase::Steady => self.whole(self.limit),
            Phase::Probe(_) | Phase::Search(_) => self.whole(self.level),
        }
    }

    /// The limit that it takes for the best, probes and searches apart.
    pub fn predicted(&self) -> u32 {
        self.whole(self.limit)
    }

    /// What it was made with.
    pub fn settings(&self) -> ControllerSettings {
        self.settings
    }

    /// Takes the end of one call: when, how long it took since its admission, how many were in flight at its admission, itself
    /// included, what it came to, and how many units of work it was; a number that is not positive counts as one. Answers
    /// whether the limit changed.
    pub fn sample(&mut self, now: Micros, latency: Micros, inflight: u32, outcome: Outcome, units: f64) -> bool {
        if outcome == Outcome::Ignored {
            return false;
        }
        if now.saturating_sub(latency) < self.epoch && !mutant!(ControllerCountsStale) {
            return false;
        }
        let limit = self.limit();
        self.window
            .add(latency, units, inflight, limit, outcome == Outcome::Dropped);
        if self.window.len() < self.size() {
            return false;
        }
        self.close(now);
        self.limit() != limit
    }

    /// What it is doing, for people.
    pub fn state(&self) -> ControllerState {
        let closed = self.windows.min(REMEMBERED);
        let medians = (self.windows - closed..self.windows).map(|number| self.closed[number % REMEMBERED].median);
        ControllerState {
            phase: match self.phase {
                Phase::Probe(_) => "probe",
                Phase::Search(_) => "search",
                Phase::Steady if self.settled => "steady",
                Phase::Steady => "start",
            },
            limit: self.limit(),
            estimate: self.limit,
            baseline: self.baseline.value(),
            ratio: self.smoothed,
            medians: medians.filter(|median| *median > 0.0).collect(),
            collected: self.window.len(),
            changes: self.history.iter().collect(),
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, and the result is clamped
    fn whole(&self, limit: f64) -> u32 {
        if mutant!(ControllerUnbounded) {
            return limit as u32 + 1;
        }
        (limit as u32).clamp(self.settings.min, self.settings.max)
    }

    /// How many outcomes close the open window.
    fn size(&self) -> usize {
        let smallest = match self.phase {
            Phase::Search(_) if self.settled => SEARCHED,
            _ => SMALLEST,
        };
        (self.limit() as usize).saturating_mul(2).clamp(smallest, LARGEST)
    }

    fn at_minimum(&self) -> bool {
        self.limit() <= self.settings.min
    }

    /// Changes what the limit is made of, and notes the change that comes of it.
    fn change(&mut self, now: Micros, reason: Reason, by: impl FnOnce(&mut Self)) {
        let from = self.limit();
        by(self);
        let to = self.limit();
        if to != from {
            self.epoch = now;
            self.history.push(Change {
                at: now,
                from,
                to,
                reason,
            });
        }
    }

    fn set(&mut self, limit: f64, now: Micros, reason: Reason) {
        let before = self.limit();
        let (min, max) = (f64::from(self.settings.min), f64::from(self.settings.max));
        self.change(now, reason, |controller| {
            controller.phase = Phase::Steady;
            controller.limit = limit.clamp(min, max);
        });
        if f64::from(self.limit().abs_diff(before)) > ANEW * f64::from(before) {
            self.smoothed = None;
        }
    }

    /// One window at another limit.
    fn look(&mut self, phase: Phase, level: f64, now: Micros, reason: Reason) {
        self.change(now, reason, |controller| {
            controller.phase = phase;
            controller.level = level;
        });
        self.epoch = now;
    }

    fn close(&mut self, now: Micros) {
        let seen = self.window.close();
        self.closed[self.windows % REMEMBERED] = Closed {
            median: seen.median.unwrap_or_default(),
            highest: seen.highest,
        };
        // Never wraps in practice; the remainder stays right when it does.
        self.windows = self.windows.checked_add(1).unwrap_or(REMEMBERED);
        let answered = seen.dropped < OUTAGE || mutant!(ControllerIgnoresDrops);
        let Some(median) = seen.median.filter(|_| answered) else {
            return self.outage(now);
        };
        self.in_outage = false;
        match self.phase {
            Phase::Probe(first) => self.probed(now, median, first),
            Phase::Search(search) => self.searched(now, median, search, &seen),
            Phase::Steady => self.steady(now, median, &seen),
        }
    }

    fn outage(&mut self, now: Micros) {
        if !self.in_outage {
            self.in_outage = true;
            self.fast_until = self.limit;
        }
        self.smoothed = None;
        self.descended_from = None;
        self.set(self.limit * 0.5, now, Reason::Outage);
    }
}

#[cfg(test)]
mod tests;
