//! A rollout under watch: its step, what is known at it, and what follows from that.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::eprocess::Counts;
use super::error::GuardError;
use super::ladder::FULL;
use super::metric::{Cohort, Metric};
use super::policy::Policy;
use super::record::{RollbackMode, RollbackRecord, percent};
use super::status::{GuardState, GuardStatus};
use super::watch::Watch;
use crate::clock::{Micros, Moment, seconds};
use crate::mutants::mutant;

/// What follows from an observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Why. Of a rollout that was rolled back before, this is the later reason; the first one stays on record.
    pub record: RollbackRecord,
    /// Whether this rolled it back, or it was before and the runs under way must end now.
    pub is_first: bool,
}

/// What the ladder says.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Stay, for these reasons.
    Hold(Vec<String>),
    /// Go on to this rollout.
    Advance(u32),
}

struct State {
    rollout: u32,
    revision: u64,
    /// When the step began, by the monotonic clock.
    since: Micros,
    /// The latest time that was told: earlier ones do not turn it back.
    now: Micros,
    paused: bool,
    record: Option<RollbackRecord>,
    /// The way in which runs under way are ended by now.
    ends: Option<RollbackMode>,
    watches: [Watch; Metric::ALL.len()],
}

impl State {
    fn see(&mut self, now: Micros) {
        self.now = self.now.max(now);
    }

    fn dwell(&self) -> Micros {
        self.now.saturating_sub(self.since)
    }

    fn begin(&mut self, rollout: u32) {
        self.rollout = rollout;
        self.since = self.now;
        self.watches.iter_mut().for_each(Watch::begin);
    }
}

/// Watches one flag. It decides; who holds it acts.
pub struct Guard {
    flag: String,
    policy: Policy,
    state: Mutex<State>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("flag", &self.flag)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// Watches a flag that has not been rolled out.
    pub fn new(flag: impl Into<String>, policy: Policy, now: Moment) -> Self {
        let watches = Metric::ALL.map(|metric| Watch::new(metric, &policy));
        Self {
            flag: flag.into(),
            policy,
            state: Mutex::new(State {
                rollout: 0,
                revision: 0,
                since: now.monotonic,
                now: now.monotonic,
                paused: false,
                record: None,
                ends: None,
                watches,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flag.
    pub fn flag(&self) -> &str {
        &self.flag
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes in observations of one metric. Answers what is to be done at once, to one caller alone.
    ///
    /// Of the older side, violations of isolation are only counted: going back to it would not end them.
    pub fn observe(
        &self,
        metric: Metric,
        counts: Counts,
        cohort: Cohort,
        now: Moment,
    ) -> Result<Option<Verdict>, GuardError> {
        let Counts { bad, seen } = counts;
        if bad > seen {
            return Err(GuardError::Counts { bad, seen });
        }
        let mut state = self.state();
        state.see(now.monotonic);
        let watch = &mut state.watches[metric as usize];
        if cohort == Cohort::Legacy {
            watch.observe_baseline(counts);
            return Ok(None);
        }
        let breached = watch.observe(counts) || (metric.is_absolute() && bad > 0);
        if !breached || (state.paused && mutant!(GuardSleepsWhilePaused)) {
            return Ok(None);
        }
        Ok(self.breach(&mut state, metric, now))
    }

    /// Takes in how long a run took. What it waited for is not part of that.
    pub fn observe_run(&self, duration: f64, cohort: Cohort, now: Moment) -> Result<Option<Verdict>, GuardError> {
        let is_slow = self.is_slow(duration, self.policy.slow_run)?;
        self.observe(Metric::SlowRun, one(is_slow), cohort, now)
    }

    /// Takes in how long an event was on its way to a client.
    pub fn observe_delay(&self, delay: f64, cohort: Cohort, now: Moment) -> Result<Option<Verdict>, GuardError> {
        let is_slow = self.is_slow(delay, self.policy.slow_event)?;
        self.observe(Metric::SlowEvent, one(is_slow), cohort, now)
    }

    fn is_slow(&self, duration: f64, limit: Micros) -> Result<bool, GuardError> {
        if !duration.is_finite() || duration < 0.0 {
            return Err(GuardError::Duration(duration));
        }
        Ok(duration > seconds(limit))
    }

    fn breach(&self, state: &mut State, metric: Metric, now: Moment) -> Option<Verdict> {
        let mode = if metric.is_absolute() {
            RollbackMode::Abort
        } else {
            self.policy.mode
        };
        let watch = &state.watches[metric as usize];
        let counts = watch.counts();
        let reason = if metric.is_absolute() {
            "something of one user met another".to_owned()
        } else {
            format!(
                "{} of {} were bad ({}), where {} are accepted",
                counts.bad,
                counts.seen,
                percent(counts.rate()),
                percent(watch.bound()),
            )
        };
        let record = RollbackRecord {
            flag: self.flag.clone(),
            metric: metric.name().to_owned(),
            measured: Some(counts.rate()),
            threshold: Some(if metric.is_absolute() { 0.0 } else { watch.bound() }),
            n: counts.seen,
            e_value: watch.e_value(),
            stage: state.rollout,
            revision: state.revision,
            at: now.unix,
            mode,
            actor: "guard".to_owned(),
            reason,
        };
        Self::roll_back(state, record)
    }

    /// Latches. A rollout that was rolled back before has something to do only when runs that could finish must end now.
    fn roll_back(state: &mut State, record: RollbackRecord) -> Option<Verdict> {
        let is_first = state.record.is_none();
        let is_worse = state.ends.is_none_or(|mode| mode < record.mode);
        if !is_first && !is_worse {
            return None;
        }
        state.ends = state.ends.max(Some(record.mode));
        if is_first && !mutant!(GuardLatchLost) {
            state.record = Some(record.clone());
        }
        Some(Verdict { record, is_first })
    }

    /// Rolls back by hand.
    pub fn roll_back_by_hand(
        &self,
        reason: impl Into<String>,
        actor: impl Into<String>,
        mode: RollbackMode,
        now: Moment,
    ) -> Option<Verdict> {
        let mut state = self.state();
        state.see(now.monotonic);
        let record = RollbackRecord {
            flag: self.flag.clone(),
            metric: "manual".to_owned(),
            measured: None,
            threshold: None,
            n: 0,
            e_value: None,
            stage: state.rollout,
            revision: state.revision,
            at: now.unix,
            mode,
            actor: actor.into(),
            reason: reason.into(),
        };
        Self::roll_back(&mut state, record)
    }

    /// The rollout was rolled back before: by another process, or before this one began. Answers whether that is new.
    pub fn restore(&self, record: RollbackRecord, now: Moment) -> bool {
        let mut state = self.state();
        state.see(now.monotonic);
        if state.record.is_some() {
            return false;
        }
        state.ends = state.ends.max(Some(record.mode));
        state.record = Some(record);
        true
    }

    /// What the document of flags says by now. Another rollout is another step, whoever chose it.
    pub fn follow(&self, rollout: u32, revision: u64, now: Moment) {
        let mut state = self.state();
        state.see(now.monotonic);
        state.revision = revision;
        let rollout = rollout.min(FULL);
        if rollout != state.rollout {
            state.begin(rollout);
        }
    }

    /// Whether the next step of the ladder is due. Time alone is never enough, and neither is data alone.
    pub fn tick(&self, now: Moment) -> Step {
        let mut state = self.state();
        state.see(now.monotonic);
        let holds = self.holds(&state);
        match self.policy.ladder.above(state.rollout) {
            Some(step) if holds.is_empty() => Step::Advance(step),
            _ => Step::Hold(holds),
        }
    }

    /// The next step by hand: without `force` only if nothing holds it, with it also without the samples and the dwell. A
    /// rollout that has not begun needs neither.
    pub fn next_by_hand(&self, force: bool, now: Moment) -> Result<u32, GuardError> {
        let mut state = self.state();
        state.see(now.monotonic);
        if let Some(record) = &state.record {
            return Err(GuardError::RolledBack {
                metric: record.metric.clone(),
            });
        }
        let next = self.policy.ladder.above(state.rollout).ok_or(GuardError::Complete)?;
        let holds: Vec<String> = if state.rollout == 0 {
            Vec::new()
        } else if force {
            let warned = state.watches.iter().filter(|watch| watch.is_warning());
            warned.filter_map(Watch::holds).collect()
        } else {
            self.holds_but_pause(&state)
        };
        if holds.is_empty() {
            Ok(next)
        } else {
            Err(GuardError::Held(holds.join("; ")))
        }
    }

    fn holds(&self, state: &State) -> Vec<String> {
        let mut holds = Vec::new();
        if let Some(record) = &state.record {
            holds.push(format!("it was rolled back because of {}", record.metric));
        }
        if state.paused {
            holds.push("it is paused".to_owned());
        }
        if state.rollout == 0 {
            holds.push("it has not begun: advance(actor=...) begins it".to_owned());
        } else {
            holds.extend(self.holds_but_pause(state));
        }
        holds
    }

    fn holds_but_pause(&self, state: &State) -> Vec<String> {
        let mut holds = Vec::new();
        if self.policy.ladder.above(state.rollout).is_none() {
            holds.push("it is at 100 %".to_owned());
        }
        let dwell = state.dwell();
        if dwell < self.policy.min_dwell && !mutant!(GuardIgnoresDwell) {
            holds.push(format!(
                "the step has lasted {:.0} of {:.0} s",
                seconds(dwell),
                seconds(self.policy.min_dwell)
            ));
        }
        holds.extend(state.watches.iter().filter_map(Watch::holds));
        holds
    }

    /// Keeps the rollout where it is. What would roll it back still does. Answers whether that is new.
    pub fn pause(&self) -> bool {
        !std::mem::replace(&mut self.state().paused, true)
    }

    /// Goes on after a pause, or, when it was rolled back, lets it begin again at the foot of the ladder. Answers the record
    /// of the rollback.
    pub fn resume(&self, now: Moment) -> Result<Option<RollbackRecord>, GuardError> {
        let mut state = self.state();
        state.see(now.monotonic);
        let record = state.record.take();
        if record.is_none() && !state.paused {
            return Err(GuardError::NothingToResume);
        }
        state.paused = false;
        if record.is_some() {
            state.ends = None;
            state.watches.iter_mut().for_each(Watch::forget_baseline);
            state.begin(0);
        }
        Ok(record)
    }

    /// Why it was rolled back, while it is.
    pub fn record(&self) -> Option<RollbackRecord> {
        self.state().record.clone()
    }

    /// How it stands.
    pub fn status(&self, now: Moment) -> GuardStatus {
        let mut state = self.state();
        state.see(now.monotonic);
        let metrics: Vec<_> = state.watches.iter().map(Watch::status).collect();
        let holds = self.holds(&state);
        let kind = if state.record.is_some() {
            GuardState::RolledBack
        } else if state.rollout == 0 {
            GuardState::Idle
        } else if state.watches.iter().any(Watch::is_warning) {
            GuardState::Warning
        } else if state.watches.iter().any(|watch| watch.holds().is_some()) {
            GuardState::Collecting
        } else {
            GuardState::Healthy
        };
        GuardStatus {
            state: kind,
            rollout: state.rollout,
            next: self.policy.ladder.above(state.rollout),
            dwell: state.dwell(),
            paused: state.paused,
            holds,
            metrics,
            record: state.record.clone(),
        }
    }
}

/// One observation.
pub fn one(bad: bool) -> Counts {
    Counts {
        bad: u64::from(bad),
        seen: 1,
    }
}
