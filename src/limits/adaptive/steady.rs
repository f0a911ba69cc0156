//! Up and down: what a window says of the limit under which it ran.

use super::window::Summary;
use super::{Controller, FULL, Phase, Reason};
use crate::clock::Micros;
use crate::mutants::mutant;

/// Share of dropped calls that is too much.
const DROPS: f64 = 0.01;
/// Smoothed `x` that is a jump, at a large limit.
const JUMP: f64 = 1.5;
/// `x` that ends the fast start.
const FAST: f64 = 1.45;
/// How many windows of the fast start are measurements of the baseline, and up to which `x` they may be noise.
const FIRST: usize = 4;
const UNSURE: f64 = 1.4;
/// Share of the limit at which a descent becomes a search, and how fast the top of a descent is forgotten.
const FALLEN: f64 = 0.7;
const FORGET: f64 = 0.3;
/// A step up, relative.
const STEP: f64 = 0.1;
/// Windows up in a row after which steps become fast.
const STREAK: u32 = 5;
/// Share of the limit that remains in a probe.
const PROBE: f64 = 0.6;

impl Controller {
    pub(super) fn steady(&mut self, now: Micros, median: f64, seen: &Summary) {
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
        } else if !self.settled && self.baseline.count() < FIRST && ratio < UNSURE {
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
}
