//! The streams and connections of one lane.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};

use foldhash::fast::RandomState;

use super::connection::{Connection, CursorMode, Options};
use super::event::{EventError, Urgency};
use super::failures::{FailedEvent, Failures};
use super::log::{LogBounds, RunLog, StreamView, StreamWriter};
use crate::clock::Micros;
use crate::ids::{RunId, ThreadId};
use crate::lanes::{Account, LaneHandle, Shared};
use crate::mutants::mutant;
use crate::sync::{AtomicIsize, Mutex, MutexGuard};

/// Most logs of one user, ended ones included.
pub const MAX_STREAMS: usize = 256;

/// Close code for a connection that a newer one of the same user replaced.
const REPLACED: u16 = 4504;

#[derive(Default)]
struct Inner {
    logs: HashMap<RunId, Arc<RunLog>, RandomState>,
    /// Ended logs whose run id was used again and which a socket has not read to their end.
    replaced: Vec<Weak<RunLog>>,
    connections: Vec<Arc<Connection>>,
}

/// The event streams of one user and the sockets that read them.
pub struct Streams {
    inner: Mutex<Inner>,
    /// How many connections wait for something to read: publishers look here first.
    parked: AtomicIsize,
    failures: Failures,
    account: Arc<Account>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("bytes", &self.account.bytes())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// How many logs there are, those that are only still read included.
    fn count(&mut self) -> usize {
        // One that was dropped makes no room by being dropped again, whoever holds it.
        let is_kept = |log: &Weak<RunLog>| log.upgrade().is_some_and(|log| !log.is_forgotten());
        self.replaced.retain(is_kept);
        self.logs.len() + self.replaced.len()
    }
}

impl Streams {
    /// No stream yet. The bytes of the logs also count in `all`.
    pub fn new(all: Arc<Account>) -> Self {
        Self {
            inner: Mutex::default(),
            parked: AtomicIsize::new(0),
            failures: Failures::default(),
            account: Arc::new(Account::under(all)),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event of the user was not accepted.
    pub fn note_failed(&self, failed: FailedEvent) {
        self.failures.add(failed);
    }

    /// The latest events of the user that were not accepted, the oldest first.
    pub fn failed(&self) -> Vec<FailedEvent> {
        self.failures.list()
    }

    /// Bytes of all logs of the user.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Opens the stream of a run, or joins it while it has not ended. A run id that is used again after its stream ended
    /// gets a new incarnation of the log.
    pub fn open(
        lane: &LaneHandle,
        run: &RunId,
        thread: &ThreadId,
        bounds: LogBounds,
    ) -> Result<StreamWriter, EventError> {
        let streams = lane.streams();
        loop {
            let (replaced, writer, connections) = {
                let mut inner = streams.inner();
                let old = inner.logs.get(run).cloned();
                if let Some(writer) = old.as_ref().and_then(RunLog::join) {
                    return Ok(writer);
                }
                if old.as_ref().is_some_and(|old| old.is_mirror() && !old.is_over()) {
                    return Err(EventError::Elsewhere);
                }
                if inner.count() >= MAX_STREAMS {
                    drop(inner);
                    if streams.drop_oldest_ended() {
                        continue;
                    }
                    return Err(EventError::Budget {
                        what: "the user's number of streams",
                        scope: "user",
                        limit: MAX_STREAMS,
                    });
                }
                lane.shared().claim_run(run, lane.user())?;
                let log = Arc::new(RunLog::new(lane.clone(), run.clone(), thread.clone(), bounds));
                // Before anybody finds the log: one without a writer is about to end.
                let writer = log.writer();
                inner.logs.insert(run.clone(), log);
                lane.shared().events.opened.increment();
                // Sockets may have to read the earlier incarnation to its end.
                inner.replaced.extend(old.as_ref().map(Arc::downgrade));
                (old, writer, inner.connections.clone())
            };
            for connection in connections {
                if mutant!(LaterRunNotFollowed) {
                    break;
                }
                connection.follow(writer.log());
            }
            // Nobody reads the earlier incarnation: it need not wait for its retention.
            if let Some(replaced) = replaced.filter(|replaced| Arc::strong_count(replaced) == 1) {
                replaced.forget();
            }
            lane.shared().replica.opened(writer.log());
            streams.wake(Urgency::Now);
            return Ok(writer);
        }
    }

    /// Makes the mirror of a log that `worker` writes, which takes the place of an earlier incarnation. Refused where this
    /// worker has that very log, or writes the run itself.
    pub fn mirror(
        lane: &LaneHandle,
        run: &RunId,
        thread: &ThreadId,
        epoch: &str,
        worker: &str,
        bounds: LogBounds,
    ) -> Result<Arc<RunLog>, EventError> {
        let streams = lane.streams();
        loop {
            let mut inner = streams.inner();
            if let Some(old) = inner.logs.get(run) {
                if **old.epoch() == *epoch {
                    return Err(EventError::invalid(
                        "this worker has that incarnation of the run's log already; feed the mirror that there is",
                    ));
                }
                if !old.is_mirror() && !old.is_over() {
                    return Err(EventError::invalid(
                        "this worker publishes the run itself; a run has one writer, end it before it is mirrored",
                    ));
                }
            }
            if inner.count() >= MAX_STREAMS {
                drop(inner);
                if streams.drop_oldest_ended() {
                    continue;
                }
                return Err(EventError::Budget {
                    what: "the user's number of streams",
                    scope: "user",
                    limit: MAX_STREAMS,
                });
            }
            lane.shared().claim_run(run, lane.user())?;
            let log = RunLog::mirror_of(lane.clone(), run.clone(), thread.clone(), epoch, worker, bounds);
            let log = Arc::new(log);
            streams.put(inner, &log);
            return Ok(log);
        }
    }

    /// Puts a mirror into the place of its earlier incarnation.
    pub(super) fn replace(lane: &LaneHandle, log: &Arc<RunLog>) {
        let streams = lane.streams();
        streams.put(streams.inner(), log);
    }

    /// Puts a mirror into its place, and has the sockets follow it.
    fn put(&self, mut inner: MutexGuard<'_, Inner>, log: &Arc<RunLog>) {
        let old = inner.logs.insert(log.run().clone(), log.clone());
        inner.replaced.extend(old.as_ref().map(Arc::downgrade));
        let connections = inner.connections.clone();
        drop(inner);
        for connection in connections {
            connection.follow(log);
        }
        match old {
            // Its writer is gone, or has begun anew: whoever reads it goes on in the other one.
            Some(old) if old.is_mirror() && !old.is_over() => old.supersede(),
            Some(old) if Arc::strong_count(&old) == 1 => drop(old.forget()),
            _ => {}
        }
        self.wake(Urgency::Now);
    }

    /// The stream of a run.
    pub fn find(&self, run: &str) -> Option<Arc<RunLog>> {
        self.inner().logs.get(run).cloned()
    }

    pub(super) fn remove(&self, log: &RunLog, shared: &Shared) {
        let mut inner = self.inner();
        if inner
            .logs
            .get(log.run())
            .is_some_and(|held| std::ptr::eq(&raw const **held, log))
        {
            inner.logs.remove(log.run());
            if inner.logs.is_empty() {
                // An idle lane keeps no room for runs.
                inner.logs = HashMap::default();
            }
            shared.release_run(log.run());
        }
    }

    /// The unexpired logs.
    pub fn logs(&self) -> Vec<Arc<RunLog>> {
        self.inner().logs.values().cloned().collect()
    }

    /// All unexpired streams, in the order in which they were opened.
    pub fn views(&self) -> Vec<StreamView> {
        let mut views: Vec<_> = self.logs().iter().map(|log| log.view()).collect();
        views.sort_by_key(|view| view.serial);
        views
    }

    /// Drops the log that ended first, to make room. Answers whether there was one.
    pub(super) fn drop_oldest_ended(&self) -> bool {
        loop {
            let oldest = {
                let inner = self.inner();
                // One that another thread is dropping makes its room there: to wait for it would be a spin.
                let is_kept = |log: &RunLog| !log.is_forgotten() || mutant!(RoomSpins);
                let ended = |log: &RunLog| log.ended_at().filter(|_| is_kept(log));
                let known = inner.logs.values().filter_map(|log| Some((ended(log)?, log)));
                let known = known.min_by_key(|(at, _)| *at).map(|(at, log)| (at, log.clone()));
                let replaced = inner.replaced.iter().filter_map(Weak::upgrade);
                let replaced = replaced.filter_map(|log| Some((ended(&log)?, log)));
                let oldest = known.into_iter().chain(replaced).min_by_key(|(at, _)| *at);
                oldest.map(|(_, log)| log)
            };
            let Some(log) = oldest else { return false };
            if log.forget() {
                return true;
            }
        }
    }

    /// Folds a live log of the user that is larger than the one that needs room. Answers whether one could be folded.
    pub(super) fn fold_larger(&self, needy: &RunLog, bytes: usize, now: Micros) -> bool {
        self.logs()
            .iter()
            .filter(|log| !std::ptr::eq(&raw const ***log, needy) && !log.is_over())
            .any(|log| log.try_fold_some(bytes, now))
    }

    /// Attaches a socket to which everything is handed out at once, and which acknowledges nothing.
    pub fn attach(lane: &LaneHandle, mode: CursorMode, max: usize, now: Micros) -> Arc<Connection> {
        Self::attach_with(lane, mode, Options::default(), max, now)
    }

    /// Attaches a socket. One connection more than `max` replaces the one of which there was no sign for longest.
    pub fn attach_with(
        lane: &LaneHandle,
        mode: CursorMode,
        options: Options,
        max: usize,
        now: Micros,
    ) -> Arc<Connection> {
        // A client must not see what has expired, whoever has swept last.
        lane.shared().sweep_logs();
        let connection = Arc::new(Connection::new(lane.clone(), mode, options, now));
        let mut replaced = Vec::new();
        // Read before the lock is taken: the order is connection first.
        let mut others: Vec<_> = {
            let connections = lane.streams().inner().connections.clone();
            connections
                .into_iter()
                .map(|connection| (connection.last_sign(), connection))
                .collect()
        };
        others.sort_by_key(|(sign, _)| *sign);
        {
            let mut inner = lane.streams().inner();
            for (_, other) in others {
                if inner.connections.len() < max.max(1) {
                    break;
                }
                inner.connections.retain(|held| !Arc::ptr_eq(held, &other));
                replaced.push(other);
            }
            inner.connections.push(connection.clone());
        }
        for old in replaced {
            old.close(REPLACED);
        }
        connection
    }

    /// Frees the cursor of a socket, and nothing else.
    pub fn detach(connection: &Arc<Connection>) {
        connection
            .lane()
            .streams()
            .inner()
            .connections
            .retain(|held| !Arc::ptr_eq(held, connection));
        connection.wake();
    }

    /// The sockets.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.inner().connections.clone()
    }

    pub(super) fn parked(&self, by: isize) {
        self.parked.fetch_add(by, Ordering::SeqCst);
    }

    /// Wakes the connections that wait for something to read.
    pub fn wake(&self, urgency: Urgency) {
        if self.parked.load(Ordering::SeqCst) == 0 {
            return;
        }
        for connection in self.connections() {
            connection.wake_for(urgency);
        }
    }
}
