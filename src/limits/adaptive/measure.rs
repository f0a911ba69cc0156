//! What a call takes when nothing waits: probes, and the search after a jump.

use super::window::Summary;
use super::{Controller, FULL, LATEST, Phase, Reason, SOONEST, Search};
use crate::clock::Micros;
use crate::mutants::mutant;

/// A latency that falls to less than this when the limit is halved was a queue.
const FLAT: f64 = 0.8;
/// A measurement of the baseline that is off by more than this factor is repeated.
const OUTLIER: f64 = 1.18;

impl Controller {
    pub(super) fn probed(&mut self, now: Micros, median: f64, first: Option<f64>) {
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

    pub(super) fn search(&mut self, now: Micros, median: f64) {
        let search = Search {
            from: self.limit,
            slowest: median,
            last: median,
            depth: 0,
        };
        self.look(Phase::Search(search), (self.limit * 0.5).ceil(), now, Reason::Search);
    }

    pub(super) fn searched(&mut self, now: Micros, median: f64, search: Search, seen: &Summary) {
        let before = self.baseline.value();
        // The window of a jump holds calls from before it, so that the first level is compared with none.
        let comparable = search.depth > 0 || before.is_none();
        let mut reason = Reason::BaselineMoved;
        if mutant!(BaselineNeverMoves) {
            reason = Reason::QueueFound;
        } else if seen.full < FULL {
            self.baseline.reset(median.min(search.last));
            reason = Reason::ProbeEnd;
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
