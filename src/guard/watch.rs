//! One metric at one step of a rollout.

use super::baseline::Baseline;
use super::eprocess::{Counts, EProcess};
use super::metric::Metric;
use super::policy::{CONFIDENCE, MetricPolicy, Policy};
use super::status::{MetricState, MetricStatus};
use crate::mutants::mutant;

#[derive(Debug, Clone)]
pub(super) struct Watch {
    metric: Metric,
    policy: MetricPolicy,
    /// Natural logarithm of the evidence that ends the rollout.
    enough: f64,
    min_samples: u64,
    evidence: EProcess,
    /// What the older side does, at all steps together: it does not change with the step.
    baseline: Baseline,
    breached: bool,
}

impl Watch {
    pub(super) fn new(metric: Metric, policy: &Policy) -> Self {
        let own = policy.metrics[metric as usize];
        let mut watch = Self {
            metric,
            policy: own,
            enough: -policy.alpha.ln(),
            min_samples: policy.min_samples,
            evidence: EProcess::new(own.bound),
            baseline: Baseline::new(CONFIDENCE),
            breached: false,
        };
        watch.follow_baseline();
        watch
    }

    /// A step begins: what was seen at the one before counts no more.
    pub(super) fn begin(&mut self) {
        self.evidence = EProcess::new(self.policy.bound);
        self.breached = false;
        self.follow_baseline();
    }

    pub(super) fn forget_baseline(&mut self) {
        self.baseline = Baseline::new(CONFIDENCE);
        self.follow_baseline();
    }

    /// Takes in what was seen on the newer side. Answers whether that has just become too much.
    pub(super) fn observe(&mut self, counts: Counts) -> bool {
        if !self.policy.enabled {
            return false;
        }
        self.evidence.observe(counts);
        // Good ones only ever speak for the rollout.
        if counts.bad == 0 || self.breached {
            return false;
        }
        self.breached = self.metric.is_absolute() || self.evidence.log_evidence() >= self.enough;
        self.breached && !self.policy.dry_run
    }

    /// Takes in what was seen on the older side.
    pub(super) fn observe_baseline(&mut self, counts: Counts) {
        if !self.policy.follows_baseline {
            self.baseline.count(counts);
            return;
        }
        for at in 0..counts.seen {
            self.baseline.observe(at < counts.bad);
        }
        self.follow_baseline();
    }

    fn follow_baseline(&mut self) {
        if self.policy.follows_baseline {
            let upper = if mutant!(GuardIgnoresBaseline) {
                0.0
            } else {
                self.baseline.upper()
            };
            self.evidence.move_bound(self.policy.bound.max(upper));
        }
    }

    pub(super) fn bound(&self) -> f64 {
        self.evidence.bound()
    }

    pub(super) fn counts(&self) -> Counts {
        self.evidence.counts()
    }

    pub(super) fn e_value(&self) -> Option<f64> {
        (!self.metric.is_absolute()).then(|| self.evidence.evidence())
    }

    pub(super) fn state(&self) -> MetricState {
        if !self.policy.enabled {
            return MetricState::Off;
        }
        if self.breached {
            return MetricState::Breached;
        }
        if self.metric.is_absolute() {
            return MetricState::Healthy;
        }
        let counts = self.counts();
        // Half of the way to proof, as the logarithm of the evidence goes.
        if self.evidence.log_evidence() >= self.enough / 2.0 {
            return MetricState::Warning;
        }
        if counts.seen < self.min_samples || !self.is_informed() {
            return MetricState::Collecting;
        }
        if counts.rate() > self.bound() {
            return MetricState::Warning;
        }
        MetricState::Healthy
    }

    /// Whether the bound is one that was given, or rests on enough of the older side.
    fn is_informed(&self) -> bool {
        let is_given = !self.policy.follows_baseline || self.bound() <= self.policy.bound;
        is_given || (self.evidence.can_tell() && self.baseline.counts().seen >= self.min_samples)
    }

    /// Why this metric keeps the rollout from the next step.
    pub(super) fn holds(&self) -> Option<String> {
        if self.policy.dry_run {
            return None;
        }
        let name = self.metric.name();
        let counts = self.counts();
        match self.state() {
            MetricState::Off | MetricState::Healthy => None,
            MetricState::Breached => Some(format!("{name} is breached")),
            MetricState::Warning => Some(format!(
                "{name} is not clear: {} of {} were bad",
                counts.bad, counts.seen
            )),
            MetricState::Collecting if !self.policy.needs_data || mutant!(GuardNeedsNoData) => None,
            MetricState::Collecting if counts.seen < self.min_samples => {
                Some(format!("{name} has {} of {} samples", counts.seen, self.min_samples))
            }
            MetricState::Collecting => Some(format!(
                "{name} has too little to be compared with: {} of {} runs of the legacy cohort",
                self.baseline.counts().seen,
                self.min_samples
            )),
        }
    }

    pub(super) fn status(&self) -> MetricStatus {
        let counts = self.counts();
        let legacy = self.baseline.counts();
        MetricStatus {
            metric: self.metric,
            state: self.state(),
            bad: counts.bad,
            seen: counts.seen,
            bound: self.bound(),
            e_value: self.e_value(),
            dry_run: self.policy.dry_run,
            legacy_bad: legacy.bad,
            legacy_seen: legacy.seen,
        }
    }

    pub(super) fn is_warning(&self) -> bool {
        !self.policy.dry_run && matches!(self.state(), MetricState::Warning | MetricState::Breached)
    }
}
