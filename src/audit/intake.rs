//! What stands between those who record and the writer: the queue, what happens while the log takes nothing, and counts.
//!
//! Recording never waits: it takes one short lock. The writer holds it only to take a batch and to say what became of it.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::error::AuditError;
pub use super::health::{Health, IntakeSettings, Refused, Status};
use super::keys::Kek;
use super::record::{AuditClass, Entry, OnFailure, PerClass};
use crate::clock::Micros;
use crate::metrics::Id;
use crate::mutants::mutant;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What the writer is asked to do besides writing records.
#[derive(Debug)]
pub(super) enum Ask {
    /// Answer when all that came before is committed.
    Flush,
    /// Sign what there is.
    Checkpoint,
    /// Destroy the keys of a user, for a reason.
    Erase(Box<str>, String),
    /// Wrap the keys anew.
    Rotate(Kek),
}

/// An ask, and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) answer: SyncSender<Result<u64, AuditError>>,
    /// How many records had been taken before: they come first.
    pub(super) after: u64,
}

/// Asks that may wait.
const MAX_ASKED: usize = 64;

/// Whether the writer sleeps, and until what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// Until there is something.
    Idle,
    /// Until there is a full batch.
    Lingering,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Entry>,
    spill: VecDeque<Entry>,
    asked: VecDeque<Asked>,
    /// How many are in the commit under way, and when the first of them was taken.
    flying: usize,
    flying_by_class: PerClass,
    flying_since: Micros,
    last_commit: Micros,
    fault: Option<String>,
    lost: PerClass,
    /// Of those, what no gap record tells yet.
    untold: PerClass,
    /// Of those, what the process was not told yet.
    unseen: PerClass,
    written: u64,
    unkeyed: u64,
    /// Records that the latest checkpoint covers.
    signed: u64,
    /// Records that were taken, and those of them that wait no more.
    taken: u64,
    settled: u64,
    sleep: Sleep,
    closing: bool,
    ended: bool,
    note: Option<String>,
}

/// The queue of one log.
#[derive(Debug)]
pub struct Intake {
    state: Mutex<State>,
    /// The writer waits for it.
    work: Condvar,
    /// Who closes waits for it.
    end: Condvar,
    settings: IntakeSettings,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Turn {
    /// Commit these, after a record of what was lost, when something was.
    Write(Vec<Entry>, Option<PerClass>),
    /// Answer.
    Answer(Asked),
    /// A checkpoint is due by time.
    Tick,
    /// Nothing will come any more.
    End,
}

impl Intake {
    /// An empty one.
    pub fn new(settings: IntakeSettings, now: Micros) -> Self {
        let state = State {
            queue: VecDeque::new(),
            spill: VecDeque::new(),
            asked: VecDeque::new(),
            flying: 0,
            flying_by_class: PerClass::default(),
            flying_since: 0,
            last_commit: now,
            fault: None,
            lost: PerClass::default(),
            untold: PerClass::default(),
            unseen: PerClass::default(),
            written: 0,
            unkeyed: 0,
            signed: 0,
            taken: 0,
            settled: 0,
            sleep: Sleep::Awake,
            closing: false,
            ended: false,
            note: None,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            end: Condvar::new(),
            settings,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record, or does with it what its class says while the log takes none. Returns whether a checkpoint waits to be
    /// handed out, or losses to be told.
    pub fn offer(&self, entry: Entry) -> Result<bool, Refused> {
        let mut state = self.lock();
        let Some(reason) = state.trouble(entry.taken, &self.settings) else {
            state.queue.push_back(entry);
            state.taken += 1;
            self.wake(&mut state);
            return Ok(state.has_news());
        };
        let class = entry.class;
        match self.settings.on_failure[class as usize] {
            OnFailure::Refuse => {
                state.lose_as(class, 1, Outcome::Refused);
                Err(Refused { class, reason })
            }
            OnFailure::Spill if !state.ended => {
                if state.spill.len() >= self.settings.spill
                    && let Some(oldest) = state.spill.pop_front()
                {
                    state.lose(oldest.class, 1);
                    state.settled += 1;
                }
                state.spill.push_back(entry);
                state.taken += 1;
                self.wake(&mut state);
                Ok(state.has_news())
            }
            OnFailure::Spill | OnFailure::Drop => {
                state.lose(class, 1);
                Ok(state.has_news())
            }
        }
    }

    /// Wakes the writer if it waits for what is there now.
    fn wake(&self, state: &mut State) {
        let enough = match state.sleep {
            Sleep::Awake => false,
            Sleep::Idle => true,
            Sleep::Lingering => state.queue.len() + state.spill.len() >= self.settings.batch,
        };
        if enough {
            state.sleep = Sleep::Awake;
            self.work.notify_one();
        }
    }

    /// Asks the writer. An answer that cannot be had is one, too.
    pub(super) fn ask(&self, mut asked: Asked) {
        let mut state = self.lock();
        let refused = if state.ended || state.closing {
            Some(AuditError::Closed)
        } else if state.asked.len() >= MAX_ASKED {
            let what = format!("{MAX_ASKED} wait for it already; ask again when they have their answers");
            Some(AuditError::Sick { what })
        } else {
            None
        };
        if let Some(refused) = refused {
            drop(state);
            let _ = asked.answer.try_send(Err(refused));
            return;
        }
        asked.after = state.taken;
        state.asked.push_back(asked);
        state.sleep = Sleep::Awake;
        self.work.notify_one();
    }

    /// How the log is.
    pub fn health(&self, now: Micros) -> Health {
        let state = self.lock();
        let trouble = state.trouble(now, &self.settings);
        let status = match (&trouble, state.ended || state.closing) {
            (_, true) => Status::Closed,
            (Some(_), _) => Status::Sick,
            (None, _) if !state.spill.is_empty() || state.untold != PerClass::default() => Status::Degraded,
            (None, _) => Status::Ok,
        };
        Health {
            status,
            reason: trouble.unwrap_or_default(),
            queued: state.queue.len() + state.flying,
            spilled: state.spill.len(),
            lost: state.lost,
            written: state.written,
            unkeyed: state.unkeyed,
        }
    }

    /// What was lost since this was asked last, when anything was.
    pub fn take_losses(&self) -> Option<PerClass> {
        let lost = std::mem::take(&mut self.lock().unseen);
        (lost != PerClass::default()).then_some(lost)
    }

    /// The latest checkpoint covers so many records.
    pub(super) fn signed(&self, size: u64) {
        self.lock().signed = size;
    }

    /// How many records the latest checkpoint covers; `None` once the log is closed.
    pub fn checkpoint_size(&self) -> Option<u64> {
        let state = self.lock();
        (!state.closing && !state.ended).then_some(state.signed)
    }

    /// So many records were kept without what they say.
    pub(super) fn unkeyed(&self, count: u64) {
        self.lock().unkeyed = count;
    }

    /// A checkpoint that was made and not handed out yet.
    pub fn take_note(&self) -> Option<String> {
        self.lock().note.take()
    }

    /// Takes no more records. Waits until the writer has written those that wait, no longer than that. Returns how many it has
    /// not, or `None` when it is still at it.
    pub fn close(&self, patience: Duration) -> Option<u64> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        state.closing = true;
        state.sleep = Sleep::Awake;
        self.work.notify_one();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (state, _) = self
                .end
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Some(state.untold.iter().sum())
    }

    /// Takes no more records, and waits for nothing.
    pub fn let_go(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.sleep = Sleep::Awake;
        self.work.notify_one();
    }

    /// What the writer does next; waits for it. `room` is how many records may be committed before a checkpoint, `due` how long
    /// it is until one is due by time.
    pub(super) fn next(&self, room: usize, due: Option<Duration>) -> Turn {
        let mut state = self.lock();
        let mut lingered = false;
        loop {
            state.sleep = Sleep::Awake;
            let settled = state.settled;
            if state.asked.front().is_some_and(|asked| asked.after <= settled)
                && let Some(asked) = state.asked.pop_front()
            {
                return Turn::Answer(asked);
            }
            let waiting = state.queue.len() + state.spill.len();
            if waiting > 0 || state.untold != PerClass::default() {
                let at_once = state.closing || !state.asked.is_empty() || state.fault.is_some();
                if lingered || at_once || waiting >= self.settings.batch {
                    return state.take(self.settings.batch.min(room));
                }
                state.sleep = Sleep::Lingering;
                let wait = self.work.wait_timeout(state, self.settings.linger);
                let (woken, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
                state = woken;
                lingered = timeout.timed_out();
                continue;
            }
            if state.fault.is_some() {
                // What is due besides records is tried again.
                return if state.closing { Turn::End } else { Turn::Tick };
            }
            if state.closing {
                return Turn::End;
            }
            state.sleep = Sleep::Idle;
            let Some(due) = due else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (woken, timeout) = self
                .work
                .wait_timeout(state, due)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() && state.sleep == Sleep::Idle {
                state.sleep = Sleep::Awake;
                return Turn::Tick;
            }
        }
    }

    /// What waits at this moment, for a writer that is at something long.
    pub(super) fn take_now(&self, room: usize) -> Option<Turn> {
        let mut state = self.lock();
        let waiting = !state.queue.is_empty() || !state.spill.is_empty();
        waiting.then(|| state.take(self.settings.batch.min(room)))
    }

    /// Records were committed, at that time. `note` is a checkpoint that was made with them; `fault` is why what was due besides
    /// failed.
    pub(super) fn committed(&self, batch: usize, own: usize, now: Micros, note: Option<String>, fault: Option<String>) {
        let mut state = self.lock();
        if !mutant!(AuditRecordsNotMetered) {
            state.flying_by_class[AuditClass::Admin as usize] += own as u64;
            for (class, count) in AuditClass::ALL.iter().zip(state.flying_by_class) {
                self::note(*class, Outcome::Written, count);
            }
        }
        state.landed();
        state.settled += batch as u64;
        state.written += (batch + own) as u64;
        state.last_commit = now;
        state.note = note.or_else(|| state.note.take());
        state.fault = fault;
    }

    /// A commit failed: its records wait again, before all others, and what it would have told of lost ones is untold. Who asked
    /// is answered. Returns whether to try again, after a while.
    pub(super) fn failed(&self, batch: Vec<Entry>, told: Option<PerClass>, reason: &str) -> bool {
        let mut state = self.lock();
        state.landed();
        for entry in batch.into_iter().rev() {
            state.queue.push_front(entry);
        }
        if let Some(told) = told
            && !mutant!(GapNotCounted)
        {
            for (untold, told) in state.untold.iter_mut().zip(told) {
                *untold += told;
            }
        }
        state.fault = Some(reason.to_owned());
        for asked in std::mem::take(&mut state.asked) {
            let refused = AuditError::Sick {
                what: reason.to_owned(),
            };
            let _ = asked.answer.try_send(Err(refused));
        }
        !state.closing
    }

    /// Sleeps until a failed commit is to be tried again.
    pub(super) fn rest(&self) {
        let state = self.lock();
        if !state.closing {
            drop(self.work.wait_timeout(state, self.settings.retry));
        }
    }

    /// The writer has ended. What still waits is lost, and so is what it had in its hands if it failed.
    pub(super) fn ended(&self, reason: &str) {
        let mut state = self.lock();
        let (queue, spill) = (std::mem::take(&mut state.queue), std::mem::take(&mut state.spill));
        for entry in queue.iter().chain(&spill) {
            state.lose(entry.class, 1);
        }
        for (class, count) in AuditClass::ALL.iter().zip(state.flying_by_class) {
            state.lose(*class, count);
        }
        state.landed();
        state.asked.clear();
        state.ended = true;
        state.fault = Some(reason.to_owned());
        self.end.notify_all();
    }

    /// Puts a record before all others, whatever the state: it is the log's own.
    pub(super) fn put_first(&self, entry: Entry) {
        let mut state = self.lock();
        state.queue.push_front(entry);
        state.taken += 1;
    }
}

/// What became of records, in the order of the label's values.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Written,
    Refused,
    Lost,
}

/// Counts in the metrics. A commit has few classes, and the losses are rare.
fn note(class: AuditClass, outcome: Outcome, count: u64) {
    if count > 0 {
        Id::AuditRecords.at(&[class as usize, outcome as usize]).increase(count);
    }
}

impl State {
    /// Why no record can be taken now.
    fn trouble(&self, now: Micros, settings: &IntakeSettings) -> Option<String> {
        if self.closing || self.ended {
            return Some("the log is closed".to_owned());
        }
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        let first = if self.flying > 0 {
            Some(self.flying_since)
        } else {
            self.queue.front().map(|entry| entry.taken)
        };
        if let Some(first) = first {
            let waited = now.saturating_sub(first.max(self.last_commit));
            if waited > settings.patience {
                return Some(format!("its disk has not answered for {} ms", waited / 1_000));
            }
        }
        (self.queue.len() + self.flying >= settings.queue).then(|| "its queue is full".to_owned())
    }

    /// Whether there is something that the process is to be told.
    fn has_news(&self) -> bool {
        self.note.is_some() || self.unseen != PerClass::default()
    }

    /// The commit under way has ended, well or not.
    fn landed(&mut self) {
        self.flying = 0;
        self.flying_by_class = PerClass::default();
    }

    fn lose(&mut self, class: AuditClass, count: u64) {
        self.lose_as(class, count, Outcome::Lost);
    }

    fn lose_as(&mut self, class: AuditClass, count: u64, outcome: Outcome) {
        note(class, outcome, count);
        if count > 0 {
            Id::AuditLost.at(&[class as usize]).increase(count);
        }
        self.lost[class as usize] += count;
        self.unseen[class as usize] += count;
        if !mutant!(GapNotCounted) {
            self.untold[class as usize] += count;
        }
    }

    /// The oldest of queue and ring, in the order in which they were taken.
    fn take(&mut self, count: usize) -> Turn {
        let mut batch = Vec::with_capacity(count.min(self.queue.len() + self.spill.len()));
        while batch.len() < count {
            let of_queue = match (self.queue.front(), self.spill.front()) {
                (None, None) => break,
                (Some(queued), Some(spilled)) => queued.taken <= spilled.taken,
                (queued, _) => queued.is_some(),
            };
            let next = if of_queue { &mut self.queue } else { &mut self.spill };
            batch.extend(next.pop_front());
        }
        self.flying = batch.len();
        for entry in &batch {
            self.flying_by_class[entry.class as usize] += 1;
        }
        if let Some(first) = batch.first() {
            self.flying_since = first.taken;
        }
        let told = std::mem::take(&mut self.untold);
        Turn::Write(batch, (told != PerClass::default()).then_some(told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Severity;

    fn entry(class: AuditClass, taken: Micros) -> Entry {
        Entry {
            class,
            severity: Severity::Info,
            user: None,
            body: String::new(),
            unix: taken,
            taken,
        }
    }

    fn taken(turn: Turn) -> (Vec<Micros>, Option<PerClass>) {
        match turn {
            Turn::Write(batch, lost) => (batch.iter().map(|entry| entry.taken).collect(), lost),
            other => panic!("a batch, not {other:?}"),
        }
    }

    fn intake() -> Intake {
        let settings = IntakeSettings {
            spill: 2,
            linger: Duration::ZERO,
            ..IntakeSettings::default()
        };
        Intake::new(settings, 0)
    }

    #[test]
    fn a_record_that_waited_too_long_makes_the_log_sick_until_a_commit() {
        let intake = intake();
        intake.offer(entry(AuditClass::Permission, 1_000)).expect("it is well");
        assert!(intake.offer(entry(AuditClass::Admin, 251_000)).is_ok(), "just in time");
        let refused = intake.offer(entry(AuditClass::Admin, 251_001)).expect_err("too late");
        assert!(refused.reason.contains("has not answered"), "{refused}");
        assert_eq!(intake.health(251_001).status, Status::Sick);
        // The ring keeps the newest; what is for it counts as taken.
        for at in [252_000, 253_000, 254_000] {
            assert!(intake.offer(entry(AuditClass::Lifecycle, at)).is_ok());
        }
        assert!(intake.offer(entry(AuditClass::Debug, 255_000)).is_ok());
        assert_eq!(intake.health(255_000).lost, [0, 0, 1, 1, 1]);
        // Under way, it is still the same record that waits.
        let (batch, lost) = taken(intake.next(256, None));
        assert_eq!(batch, [1_000, 251_000, 253_000, 254_000]);
        assert_eq!(lost, Some([0, 0, 1, 1, 1]));
        assert_eq!(intake.health(600_000).status, Status::Sick);
        intake.committed(4, 1, 600_000, None, None);
        assert_eq!(intake.health(600_000).status, Status::Ok);
        assert!(intake.offer(entry(AuditClass::Admin, 600_001)).is_ok());
    }

    #[test]
    fn what_a_failed_commit_had_comes_first_again_and_its_losses_are_told_later() {
        let intake = intake();
        for at in 1..=3 {
            intake.offer(entry(AuditClass::Permission, at)).expect("it is well");
        }
        let Turn::Write(batch, lost) = intake.next(2, None) else {
            panic!("a batch");
        };
        assert!(intake.failed(batch, lost, "the disk is full"));
        let refused = intake.offer(entry(AuditClass::Isolation, 4)).expect_err("it is sick");
        assert_eq!(refused.reason, "the disk is full");
        let Turn::Write(batch, lost) = intake.next(2, None) else {
            panic!("a batch");
        };
        assert_eq!(lost, Some([0, 1, 0, 0, 0]));
        intake.failed(batch, lost, "the disk is full");
        let (batch, lost) = taken(intake.next(256, None));
        assert_eq!((batch, lost), (vec![1, 2, 3], Some([0, 1, 0, 0, 0])));
    }

    #[test]
    fn what_a_writer_that_failed_had_in_its_hands_is_lost_and_told() {
        let intake = intake();
        for class in [AuditClass::Permission, AuditClass::Lifecycle, AuditClass::Permission] {
            assert_eq!(intake.offer(entry(class, 1)), Ok(false));
        }
        let (batch, _) = taken(intake.next(2, None));
        assert_eq!((batch.len(), intake.take_losses()), (2, None));
        intake.ended("its writer failed");
        assert_eq!(intake.health(1).lost, [2, 0, 0, 1, 0]);
        assert_eq!(intake.take_losses(), Some([2, 0, 0, 1, 0]));
        assert_eq!(intake.take_losses(), None);
        // What is lost without an error is told to who records next.
        assert_eq!(intake.offer(entry(AuditClass::Debug, 2)), Ok(true));
    }

    #[test]
    fn more_asks_than_may_wait_are_told_so() {
        let intake = intake();
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        for _ in 0..=MAX_ASKED {
            intake.ask(Asked {
                ask: Ask::Flush,
                answer: answer.clone(),
                after: 0,
            });
        }
        let refused = answered.recv().expect("one of them").expect_err("it is one too many");
        assert!(refused.to_string().contains("64 wait for it already"), "{refused}");
    }

    #[test]
    fn an_answer_waits_for_what_was_taken_before_and_for_nothing_else() {
        let intake = intake();
        intake.offer(entry(AuditClass::Permission, 1)).expect("it is well");
        let (answer, _answered) = std::sync::mpsc::sync_channel(1);
        intake.ask(Asked {
            ask: Ask::Flush,
            answer,
            after: 0,
        });
        let (batch, _) = taken(intake.next(256, None));
        assert_eq!(batch, [1]);
        intake.offer(entry(AuditClass::Permission, 2)).expect("it is well");
        intake.committed(1, 0, 1, None, None);
        assert!(
            matches!(intake.next(256, None), Turn::Answer(_)),
            "before what came after it"
        );
    }
}
