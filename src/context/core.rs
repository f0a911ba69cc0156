//! One context: who it belongs to, where it stands, what it ran, how it ended.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::audit::{AuditEntry, AuditTrail};
use super::counting;
use super::fence::{Fence, Fenced};
use super::identity::{ContextError, Identity};
use super::lineage::Lineage;
use super::runs::{RunBook, RunFault, RunOutcome, RunRecord};
use super::state::{ContextState, IllegalMove, conclude, derive, is_legal};
use super::trace::TraceContext;
use crate::clock::{Clock, Micros, Moment};
use crate::ids;
use crate::lanes::LaneHandle;
use crate::mutants::mutant;

/// Numbers of contexts, never used twice in a process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// Something that cannot be done with a context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextFault {
    /// A move that the table of states does not have.
    #[error(transparent)]
    Move(#[from] IllegalMove),
    /// A run that cannot be recorded.
    #[error(transparent)]
    Run(#[from] RunFault),
    /// The run was ended by force.
    #[error(transparent)]
    Fenced(#[from] Fenced),
}

/// What changes in the life of a context. `P` is what callers attach to runs.
struct Life<P> {
    ended: Option<ContextState>,
    /// Made with the first run: most contexts of a static page never run anything.
    runs: Option<Box<RunBook<P>>>,
    /// What happened after the creation.
    trail: Option<Box<AuditTrail>>,
    last_activity: Micros,
    detached: bool,
    /// Where it stands in a trace, when that is elsewhere than the context above.
    trace: Option<Arc<TraceContext>>,
}

/// The part of a context that is not Python.
pub struct ContextCore<P> {
    number: u64,
    identity: Identity,
    lineage: Lineage,
    lane: LaneHandle,
    /// The context above, which shows what this one waits for.
    parent: Option<Arc<Self>>,
    created: Micros,
    created_monotonic: Micros,
    life: Mutex<Life<P>>,
    /// Of the engine that made it, or that ended it by force.
    fence: OnceLock<Arc<Fence>>,
}

impl<P> fmt::Debug for ContextCore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextCore")
            .field("number", &self.number)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl<P> ContextCore<P> {
    /// A context without a parent in this process, created at `now`.
    pub fn root(identity: Identity, lane: LaneHandle, depth: u32, parent: Option<ids::RequestId>, now: Moment) -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::make(number, identity, Lineage::root(number, depth, parent), lane, None, now)
    }

    fn make(
        number: u64,
        identity: Identity,
        lineage: Lineage,
        lane: LaneHandle,
        parent: Option<Arc<Self>>,
        now: Moment,
    ) -> Self {
        let life = Life {
            ended: None,
            runs: None,
            trail: None,
            last_activity: now.monotonic,
            detached: false,
            trace: None,
        };
        counting::made(parent.is_some());
        Self {
            number,
            identity,
            lineage,
            lane,
            parent,
            created: now.unix,
            created_monotonic: now.monotonic,
            life: Mutex::new(life),
            fence: OnceLock::new(),
        }
    }

    /// A context below this one: same user, thread and run, a new request id.
    pub fn child(self: &Arc<Self>, operation: &str, now: Moment) -> Result<Self, ContextError> {
        if self.state() == ContextState::Cleaned {
            return Err(ContextError {
                field: "operation_name",
                value: super::shown(operation),
                rule: "cleaned",
                message: "The context was cleaned up, it can have no children".to_owned(),
                fix: "Create the child before cleanup(), or create a new context".to_owned(),
            });
        }
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let (lineage, request) = self.lineage.child(&self.identity.request, operation, number)?;
        self.life()
            .trail
            .get_or_insert_default()
            .record(now.unix, "child_created", request.shared().clone());
        let identity = Identity {
            request,
            ..self.identity.clone()
        };
        Ok(Self::make(
            number,
            identity,
            lineage,
            self.lane.clone(),
            Some(self.clone()),
            now,
        ))
    }

    fn life(&self) -> MutexGuard<'_, Life<P>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the context, and all below it, behind a fence. The first one stays.
    pub fn guard(&self, fence: &Arc<Fence>) {
        self.fence.get_or_init(|| fence.clone());
    }

    /// Lets a write of this context pass, unless it or a context above it is behind a fence that is up.
    pub fn pass(&self) -> Result<(), Fenced> {
        let mut at = Some(self);
        while let Some(context) = at {
            if let Some(fence) = context.fence.get() {
                fence.pass()?;
            }
            at = context.parent.as_deref();
        }
        Ok(())
    }

    /// Where it stands in a trace: its own place, else that of the nearest context above it that has one.
    pub fn trace(&self) -> Option<Arc<TraceContext>> {
        let mut at = Some(self);
        while let Some(context) = at {
            let own = context.life().trace.clone();
            if own.is_some() {
                return own;
            }
            at = context.parent.as_deref().filter(|_| !mutant!(TraceNotInherited));
        }
        None
    }

    /// Puts it into a trace, or back to where the context above it stands. Answers its own place before.
    pub fn set_trace(&self, trace: Option<Arc<TraceContext>>) -> Option<Arc<TraceContext>> {
        std::mem::replace(&mut self.life().trace, trace)
    }

    /// A number that no other context of the process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The validated ids.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The place in the tree of the run.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The user's lane.
    pub fn lane(&self) -> &LaneHandle {
        &self.lane
    }

    /// When it was created, in microseconds since the Unix epoch.
    pub fn created(&self) -> Micros {
        self.created
    }

    /// How long ago it was created.
    pub fn age(&self, clock: &dyn Clock) -> Micros {
        clock.monotonic().saturating_sub(self.created_monotonic)
    }

    /// How long ago something last happened in it.
    pub fn idle(&self, clock: &dyn Clock) -> Micros {
        clock.monotonic().saturating_sub(self.life().last_activity)
    }

    /// Something happened.
    pub fn touch(&self, clock: &dyn Clock) {
        self.life().last_activity = clock.monotonic();
    }

    /// Where it is in its life.
    pub fn state(&self) -> ContextState {
        let life = self.life();
        life.ended
            .unwrap_or_else(|| derive(life.runs.as_ref().map(|runs| runs.counts()).unwrap_or_default()))
    }

    /// Reads the runs.
    pub fn with_runs<R>(&self, read: impl FnOnce(&RunBook<P>) -> R) -> R {
        let life = self.life();
        match &life.runs {
            Some(runs) => read(runs),
            None => read(&RunBook::default()),
        }
    }

    fn running(life: &mut Life<P>, to: ContextState) -> Result<&mut RunBook<P>, IllegalMove> {
        if let Some(from) = life.ended.filter(|_| !mutant!(EndedContextRuns)) {
            return Err(IllegalMove { from, to });
        }
        Ok(life.runs.get_or_insert_default())
    }

    /// Records that a run began.
    pub fn start_run(&self, id: &str, agent: &str, payload: P, clock: &dyn Clock) -> Result<(), ContextFault> {
        let mut life = self.life();
        Self::running(&mut life, ContextState::Executing)?.start(
            id,
            agent,
            clock.unix(),
            clock.monotonic(),
            payload,
        )?;
        life.last_activity = clock.monotonic();
        Self::note(&mut life, "run_started", id, clock);
        Ok(())
    }

    /// Records that a run ended. What is handed back is to be dropped by the caller, who holds no lock.
    pub fn end_run(
        &self,
        id: &str,
        outcome: RunOutcome,
        clock: &dyn Clock,
        note: impl FnOnce(&mut P),
    ) -> Result<Option<RunRecord<P>>, ContextFault> {
        let mut life = self.life();
        let runs = Self::running(&mut life, ContextState::Active)?;
        let dropped = runs.end(id, outcome, clock.unix(), clock.monotonic(), note)?;
        life.last_activity = clock.monotonic();
        let event = if outcome == RunOutcome::Success {
            "run_succeeded"
        } else {
            "run_failed"
        };
        Self::note(&mut life, event, id, clock);
        Ok(dropped)
    }

    /// Notes that one run of this context started another.
    pub fn add_child_run(&self, id: &str, child: &str) -> Result<(), ContextFault> {
        Ok(Self::running(&mut self.life(), ContextState::Executing)?.add_child(id, child)?)
    }

    fn and_above(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |context| context.parent.as_deref())
    }

    /// A run began to wait for a permit, which shows as Throttled here and in the contexts above, unless something else
    /// executes in them. A context that has ended waits for nothing.
    pub fn park(&self) {
        for context in self.and_above() {
            if let Ok(runs) = Self::running(&mut context.life(), ContextState::Throttled) {
                runs.park();
            }
        }
    }

    /// A run no longer waits for a permit.
    pub fn unpark(&self) {
        for context in self.and_above() {
            if let Ok(runs) = Self::running(&mut context.life(), ContextState::Active) {
                runs.unpark();
            }
        }
    }

    /// Marks the context as one that outlives its request.
    pub fn detach(&self, clock: &dyn Clock) -> Result<(), ContextFault> {
        let mut life = self.life();
        if let Some(from) = life.ended {
            return Err(IllegalMove {
                from,
                to: ContextState::Active,
            }
            .into());
        }
        life.detached = true;
        Self::note(&mut life, "detached", self.identity.request.as_str(), clock);
        Ok(())
    }

    /// Whether the context outlives its request.
    pub fn is_detached(&self) -> bool {
        self.life().detached
    }

    /// Ends the context: runs that have not ended are failures, and the state follows from the runs. Ending twice is nothing.
    /// What is handed back is to be dropped by the caller, who holds no lock.
    pub fn conclude(&self, clock: &dyn Clock) -> (ContextState, Vec<RunRecord<P>>) {
        self.end(None, clock)
    }

    /// Ends the context as failed, for a reason that the audit record keeps, whatever its runs came to.
    pub fn fail(&self, reason: &str, clock: &dyn Clock) -> (ContextState, Vec<RunRecord<P>>) {
        self.end(Some(reason), clock)
    }

    fn end(&self, failed: Option<&str>, clock: &dyn Clock) -> (ContextState, Vec<RunRecord<P>>) {
        let mut life = self.life();
        if let Some(state) = life.ended {
            return (state, Vec::new());
        }
        let mut dropped = Vec::new();
        let mut counts = super::RunCounts::default();
        if let Some(runs) = &mut life.runs {
            let outcome = if mutant!(UnfinishedRunSucceeds) {
                RunOutcome::Success
            } else {
                RunOutcome::Cancelled
            };
            for id in runs.unfinished() {
                if let Ok(Some(record)) = runs.end(&id, outcome, clock.unix(), clock.monotonic(), |_| ()) {
                    dropped.push(record);
                }
            }
            counts = runs.counts();
        }
        let state = if failed.is_some() {
            ContextState::Failed
        } else {
            conclude(counts)
        };
        life.ended = Some(state);
        if let Some(reason) = failed {
            Self::note(&mut life, "failed", reason, clock);
        } else {
            Self::note(&mut life, "concluded", state.name(), clock);
        }
        (state, dropped)
    }

    /// The last move: resources are freed. What is handed back is to be dropped by the caller, who holds no lock.
    pub fn clean(&self, clock: &dyn Clock) -> Vec<RunRecord<P>> {
        let (_, mut dropped) = self.conclude(clock);
        let mut life = self.life();
        if let Some(from) = life.ended.filter(|from| is_legal(*from, ContextState::Cleaned)) {
            life.ended = Some(ContextState::Cleaned);
            counting::ended(self.number, Some(from));
            Self::note(&mut life, "cleaned", self.identity.request.as_str(), clock);
            if let Some(runs) = &mut life.runs {
                dropped.extend(runs.forget_history());
            }
        }
        dropped
    }

    fn note(life: &mut Life<P>, event: &'static str, subject: &str, clock: &dyn Clock) {
        life.trail
            .get_or_insert_default()
            .record(clock.unix(), event, subject.into());
    }

    /// Adds a line to the audit record.
    pub fn record(&self, event: &'static str, subject: &str, clock: &dyn Clock) {
        Self::note(&mut self.life(), event, subject, clock);
    }

    /// The audit record, oldest line first, and how many lines fell out.
    pub fn audit(&self) -> (Vec<AuditEntry>, u64) {
        let created = AuditEntry {
            at: self.created,
            event: "created",
            subject: self.identity.request.shared().clone(),
        };
        let life = self.life();
        let rest = life.trail.iter().flat_map(|trail| trail.entries()).cloned();
        (
            std::iter::once(created).chain(rest).collect(),
            life.trail.as_ref().map_or(0, |trail| trail.dropped()),
        )
    }
}

impl<P> Drop for ContextCore<P> {
    fn drop(&mut self) {
        let life = self.life.get_mut().unwrap_or_else(PoisonError::into_inner);
        if life.ended == Some(ContextState::Cleaned) {
            return;
        }
        // A child may be let go: it ends with the context above it. A root is to be cleaned up.
        let state = self.parent.is_some().then(|| {
            let counts = life.runs.as_ref().map(|runs| runs.counts());
            life.ended.unwrap_or_else(|| conclude(counts.unwrap_or_default()))
        });
        counting::ended(self.number, state);
    }
}

/// Contexts of the parent are no longer counted in the child of a fork.
pub fn after_fork_in_child() {
    counting::after_fork_in_child(NEXT_NUMBER.load(Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ProcessClock;
    use crate::context::{Ids, PlaceholderPolicy};
    use crate::lanes::Registry;

    fn context(registry: &Registry) -> Arc<ContextCore<()>> {
        let ids = Ids {
            user: "ann",
            thread: "thread-1",
            run: "run-1",
            request: Some("req-1"),
        };
        let identity = Identity::new(ids, &PlaceholderPolicy::default()).expect("valid");
        let lane = registry.lane(&identity.user);
        Arc::new(ContextCore::root(identity, lane, 0, None, registry.clock().now()))
    }

    #[test]
    fn the_state_follows_the_runs_to_the_end() {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let (ctx, clock) = (context(&registry), registry.clock());
        assert_eq!(ctx.state(), ContextState::Active);
        ctx.park();
        assert_eq!(ctx.state(), ContextState::Throttled);
        ctx.unpark();
        ctx.start_run("a", "data", (), clock).expect("starts");
        ctx.park();
        assert_eq!(ctx.state(), ContextState::Executing);
        ctx.unpark();
        ctx.end_run("a", RunOutcome::Success, clock, |()| ()).expect("ends");
        ctx.start_run("b", "data", (), clock).expect("starts");
        let (state, _) = ctx.conclude(clock);
        assert_eq!(
            state,
            ContextState::PartialFailure,
            "the unfinished run counts as failed"
        );
        assert!(matches!(
            ctx.start_run("c", "data", (), clock),
            Err(ContextFault::Move(_))
        ));
        ctx.clean(clock);
        ctx.clean(clock);
        assert_eq!(ctx.state(), ContextState::Cleaned);
        assert!(ctx.child("late", clock.now()).is_err());
        let (audit, _) = ctx.audit();
        assert_eq!(audit.first().map(|entry| entry.event), Some("created"));
        assert_eq!(audit.iter().filter(|entry| entry.event == "cleaned").count(), 1);
    }

    #[test]
    fn a_child_belongs_to_the_same_lane() {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let ctx = context(&registry);
        let child = ctx.child("data", registry.clock().now()).expect("child");
        assert_eq!(child.identity().request.as_str(), "req-1_data");
        assert_eq!(child.lineage().parent().map(ids::RequestId::as_str), Some("req-1"));
        assert_eq!(&child.lineage().path()[..], &[ctx.number(), child.number()]);
        assert!(
            child
                .lane()
                .tag()
                .same_owner(ctx.lane().tag(), crate::owner::Crossing::Verify)
                .is_ok()
        );
    }
}
