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
//! - *The start*: above a limit of 2 the baseline is searched for first. Up to there the first windows are the baseline, and
//!   a window above the tolerance is looked at twice before the fast start ends (at 1.45).

mod baseline;
mod history;
mod settings;
mod window;

use crate::clock::Micros;
use crate::mutants::mutant;
use baseline::Baseline;
use history::History;
pub use history::{Change, Reason};
pub use settings::{ControllerSettings, SettingsError};
pub use window::Outcome;
use window::{LARGEST, Summary, Window};

/// Calls of a window at the least.
const SMALLEST: usize = 24;
/// Calls of a window of a search, which decides more.
const SEARCHED: usize = 48;
/// Share of dropped calls that is an outage, and that is too much.
const OUTAGE: f64 = 0.5;
const DROPS: f64 = 0.01;
/// Share of calls that must have met the limit for a window to say something of it.
const FULL: f64 = 0.5;
/// Smoothed `x` that is a jump, at a large limit.
const JUMP: f64 = 1.5;
/// `x` that ends the fast start.
const FAST: f64 = 1.45;
/// `x` that may still be noise while the baseline is of one or two windows.
const UNSURE: f64 = 1.4;
/// A latency that falls to less than this when the limit is halved was a queue.
const FLAT: f64 = 0.8;
/// A measurement of the baseline that is off by more than this factor is repeated.
const OUTLIER: f64 = 1.18;
/// Share of the limit that remains in a probe.
const PROBE: f64 = 0.6;
/// Share of the limit at which a descent becomes a search, and how fast the top of a descent is forgotten.
const FALLEN: f64 = 0.7;
const FORGET: f64 = 0.3;
/// Change of the limit, relative, beyond which smoothing begins anew.
const ANEW: f64 = 0.12;
/// A step up, relative.
const STEP: f64 = 0.1;
/// Windows up in a row after which steps become fast.
const STREAK: u32 = 5;
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

    fn steady(&mut self, now: Micros, median: f64, seen: &Summary) {
        let Some(before) = self.baseline.value() else {
            if self.limit() > 2 && !self.at_minimum() {
                return self.search(now, median);
            }
            return self.baseline.add(median);
        };
        let ratio = median / before;
        self.smoothed_over = self.smoothed.map_or(1, |_| self.smoothed_over.saturating_add(1));
        let smoothed = self.smoothed.map_or(ratio, |smoothed| 0.5 * smoothed + 0.5 * ratio);
        self.smoothed = Some(smoothed);
        if seen.dropped > DROPS && !mutant!(ControllerIgnoresDrops) {
            return self.set(self.limit * 0.9, now, Reason::Drops);
        }
        if seen.full < FULL {
            self.baseline.follow(median, if ratio > 1.0 { 0.1 } else { 0.3 });
            self.descended_from = None;
            return;
        }
        if self.at_minimum() {
            self.baseline.follow(median, 0.3);
        } else if !self.settled && (ratio <= self.settings.tolerance || self.baseline.count() < 3 && ratio < UNSURE) {
            self.baseline.add(median);
        }
        let smoothed = smoothed * before / self.baseline.value().unwrap_or(before);
        self.smoothed = Some(smoothed);
        let fast = self.limit < self.fast_until;
        if fast && smoothed > self.settings.tolerance && self.smoothed_over < 2 {
            return;
        }
        let tolerance = if fast { FAST } else { self.settings.tolerance };
        if smoothed > tolerance && !self.at_minimum() {
            self.lower(now, median, smoothed);
        } else {
            self.raise(now, fast);
        }
        self.count_to_probe(now);
    }

    fn lower(&mut self, now: Micros, median: f64, smoothed: f64) {
        self.settled = true;
        self.streak = 0;
        let top = *self.descended_from.get_or_insert(self.limit);
        let jumped = self.smoothed_over >= 2 && smoothed > JUMP * (1.0 + 1.0 / self.limit);
        if jumped || self.limit <= FALLEN * top {
            return self.search(now, median);
        }
        let share = 0.5 + 0.5 * (self.settings.tolerance / smoothed).max(0.5);
        self.set(self.limit * share, now, Reason::Queueing);
        self.fast_until = self.limit;
    }

    fn raise(&mut self, now: Micros, fast: bool) {
        self.streak = self.streak.saturating_add(1);
        if self.streak > STREAK {
            self.fast_until = f64::INFINITY;
        }
        let limit = self.limit;
        self.descended_from = self.descended_from.map(|top| limit.max(top - FORGET * (top - limit)));
        let one = limit + 1.0;
        let raised = if fast || self.streak > STREAK {
            (limit * 1.5).max(one).min(self.fast_until.max(one))
        } else {
            limit + (STEP * limit).min(limit.log10().max(1.0))
        };
        let highest = self
            .closed
            .iter()
            .map(|closed| closed.highest)
            .max()
            .unwrap_or_default();
        self.set(raised.min(2.0 * f64::from(highest) + 1.0), now, Reason::Raised);
    }

    fn count_to_probe(&mut self, now: Micros) {
        if !self.settled || !matches!(self.phase, Phase::Steady) {
            return;
        }
        self.until_probe = self.until_probe.saturating_sub(1);
        if self.until_probe > 0 || self.at_minimum() {
            return;
        }
        self.deep_probe = !self.deep_probe;
        let level = match self.limit() {
            ..=2 => 1.0,
            3 if self.deep_probe => 1.0,
            limit => (PROBE * f64::from(limit)).round(),
        };
        self.look(Phase::Probe(None), level, now, Reason::Probe);
    }

    fn probed(&mut self, now: Micros, median: f64, first: Option<f64>) {
        let median = first.map_or(median, |first| (first * median).sqrt());
        let before = self.baseline.value().unwrap_or(median);
        let off = median > OUTLIER * before || median < before / OUTLIER;
        if off && first.is_none() {
            self.phase = Phase::Probe(Some(median));
            return;
        }
        if off {
            self.baseline.reset(median);
            self.period = SOONEST;
        } else {
            self.baseline.add(median);
            self.period = (2 * self.period).min(LATEST);
        }
        self.until_probe = self.period;
        self.smoothed = None;
        self.descended_from = None;
        self.look(Phase::Steady, self.limit, now, Reason::ProbeEnd);
    }

    fn search(&mut self, now: Micros, median: f64) {
        let search = Search {
            from: self.limit,
            slowest: median,
            last: median,
            depth: 0,
        };
        self.look(Phase::Search(search), (self.limit * 0.5).ceil(), now, Reason::Search);
    }

    fn searched(&mut self, now: Micros, median: f64, search: Search, seen: &Summary) {
        let before = self.baseline.value();
        // The window of a jump holds calls from before it, so that the first level is compared with none.
        let comparable = search.depth > 0 || before.is_none();
        let mut reason = Reason::BaselineMoved;
        if mutant!(BaselineNeverMoves) {
            reason = Reason::QueueFound;
        } else if seen.full < FULL {
            self.baseline.reset(median.min(search.last));
        } else if before.is_some_and(|before| median <= self.settings.tolerance * before) {
            // Twice, as it is of twice the calls.
            self.baseline.add(median);
            self.baseline.add(median);
            reason = Reason::QueueFound;
        } else if comparable && median >= FLAT * search.last {
            self.baseline.reset((median * search.last).sqrt());
        } else if self.at_minimum() {
            self.baseline.reset(median);
        } else {
            let deeper = Search {
                last: median,
                depth: search.depth + 1,
                ..search
            };
            return self.look(Phase::Search(deeper), (self.level * 0.5).ceil(), now, Reason::Search);
        }
        let baseline = self.baseline.value().unwrap_or(median);
        let fitting = search.from * (self.settings.tolerance * baseline / search.slowest).min(1.0);
        let limit = fitting.max(self.level);
        if limit < search.from {
            self.fast_until = limit;
        }
        self.settled = true;
        if reason == Reason::BaselineMoved {
            self.period = SOONEST;
        }
        self.until_probe = self.period;
        self.descended_from = None;
        self.set(limit, now, reason);
        self.smoothed = None;
        self.epoch = now;
    }
}

#[cfg(test)]
mod tests;
