//! The state in force: a value that never changes, replaced as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::document::{Document, FlagFault, TextSet};
use super::read::{MAX_FLAGS, MAX_NAME, MAX_RECORD};
use crate::ids::cut;
use crate::metrics::{FLAGS, GUARD_METRICS, Id};
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Most users that are quarantined.
const MAX_QUARANTINED: usize = 10_000;

/// A rollback that was decided in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Latch {
    record: Arc<str>,
    /// The revision when it was set.
    revision: u64,
    /// Who had resumed the flag then: the same again does not release this one.
    resumed: Option<Box<str>>,
}

type Latches = BTreeMap<Arc<str>, Latch>;

/// All that a decision depends on.
#[derive(Debug, Clone, Default)]
pub struct State {
    document: Arc<Document>,
    latches: Arc<Latches>,
    quarantined: Arc<TextSet>,
    killed: bool,
    stale: bool,
    /// The one that was refused last because it is older. What it turns off is off: whoever stops something after an old copy
    /// was written back must not be refused.
    older: Option<Arc<Document>>,
}

impl State {
    /// The document.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Whether a kill switch is thrown: the process's own, or that of a document.
    pub fn is_killed(&self) -> bool {
        self.killed || self.document.is_killed() || self.older.as_ref().is_some_and(|older| older.is_killed())
    }

    /// Whether the document could not be read anew.
    pub const fn is_stale(&self) -> bool {
        self.stale
    }

    /// How many users are quarantined.
    pub fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// Rollbacks that nobody has resumed from, with their records: those of this process, and those of the document.
    pub fn latched(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let older = self.older.iter().flat_map(|older| older.rolled_back());
        let written = older.chain(self.document.rolled_back());
        let mut all: BTreeMap<_, _> = written
            .map(|(flag, record)| (flag.clone(), Arc::from(record)))
            .collect();
        let own = self.latches.iter();
        all.extend(own.map(|(flag, latch)| (flag.clone(), latch.record.clone())));
        all
    }

    pub(super) fn is_latched(&self, flag: &str) -> bool {
        !self.latches.is_empty() && self.latches.contains_key(flag)
    }

    /// Whether the document that was refused as an older one says that this flag was rolled back.
    pub(super) fn is_rolled_back_by_older(&self, flag: &str) -> bool {
        let older = self.older.as_ref().and_then(|older| older.flag(flag));
        older.is_some_and(|flag| flag.rolled_back.is_some())
    }

    pub(super) fn is_quarantined(&self, user: &str) -> bool {
        !self.quarantined.is_empty() && self.quarantined.contains(user)
    }
}

/// A bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{limit} {what} are kept already")]
pub struct TooMany {
    /// Of what.
    pub what: &'static str,
    /// How many there may be.
    pub limit: usize,
}

/// Where the state in force is.
#[derive(Debug, Default)]
pub struct Store {
    current: Mutex<Arc<State>>,
}

impl Store {
    /// With no flags: each is off.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<State>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state in force.
    pub fn state(&self) -> Arc<State> {
        self.lock().clone()
    }

    /// Replaces the state. What was there is dropped after the lock was let go.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut held = self.lock();
        let mut state = State::clone(&held);
        let answer = change(&mut state);
        let old = std::mem::replace(&mut *held, Arc::new(state));
        drop(held);
        drop(old);
        answer
    }

    /// Reads a document and puts it in force. Answers its revision. When it is not valid, or older than the one in force and
    /// not `force`d, the one in force stays, and its decisions say that they are stale.
    pub fn load(&self, text: &str, origin: &str, force: bool) -> Result<u64, FlagFault> {
        // Read before the lock is taken: it may be long.
        let read = Document::read(text, origin);
        self.put(read, force)
    }

    /// Puts a document in force that was read before, or says why it was not.
    pub fn put(&self, read: Result<Document, FlagFault>, force: bool) -> Result<u64, FlagFault> {
        self.change(|state| {
            let taken = read.and_then(|document| {
                let (revision, current) = (document.revision, state.document.revision);
                if revision < current && !force && !mutant!(OlderRevisionTaken) {
                    let problem = format!("revision {revision} is older than {current}, which is in force");
                    let fix = "Write the document again with a higher revision; force=True takes it as it is";
                    state.older = Some(Arc::new(document));
                    return Err(FlagFault::new("/revision", problem, fix));
                }
                Ok(document)
            });
            let Ok(document) = taken else {
                state.stale = true;
                return taken.map(|document| document.revision);
            };
            let resumed = |flag: &str, latch: &Latch| {
                let resumed = document.flag(flag).and_then(|flag| flag.resumed.as_ref());
                document.revision > latch.revision && resumed.is_some() && resumed != latch.resumed.as_ref()
            };
            if state.latches.iter().any(|(flag, latch)| resumed(flag, latch)) {
                Arc::make_mut(&mut state.latches).retain(|flag, latch| !resumed(flag, latch));
            }
            let revision = document.revision;
            // What a process finds rolled back when it starts it did not roll back.
            if state.document.revision > 0 {
                let is_new = |flag: &str| {
                    let before = state.document.flag(flag).is_some_and(|flag| flag.rolled_back.is_some());
                    !before && !state.is_latched(flag) || mutant!(RollbackCountedAgain)
                };
                for (flag, record) in document.rolled_back().filter(|(flag, _)| is_new(flag)) {
                    count_rollback(flag, record);
                }
            }
            state.document = Arc::new(document);
            state.older = None;
            state.stale = false;
            Ok(revision)
        })
    }

    /// Decisions say from now on that they are stale, or no longer: what is in force is what the source has then.
    pub fn set_stale(&self, stale: bool) {
        self.change(|state| {
            state.stale = stale;
            if !stale {
                state.older = None;
            }
        });
    }

    /// Throws the process's kill switch, or takes it back.
    pub fn set_killed(&self, killed: bool) {
        self.change(|state| state.killed = killed);
    }

    /// Rolls a flag back until it is released or a later document says who resumed. The first record stays.
    pub fn latch(&self, flag: &str, record: &str) -> Result<(), TooMany> {
        let (flag, record) = (cut(flag, MAX_NAME), cut(record, MAX_RECORD));
        self.change(|state| {
            if state.latches.contains_key(flag) {
                return Ok(());
            }
            // Only names that no document has can fill this up.
            if state.latches.len() >= MAX_FLAGS && !state.document.contains(flag) {
                return Err(TooMany {
                    what: "rolled back flags",
                    limit: MAX_FLAGS,
                });
            }
            if state.document.flag(flag).is_none_or(|flag| flag.rolled_back.is_none()) {
                count_rollback(flag, record);
            }
            let latch = Latch {
                record: record.into(),
                revision: state.document.revision,
                resumed: state.document.flag(flag).and_then(|flag| flag.resumed.clone()),
            };
            Arc::make_mut(&mut state.latches).insert(flag.into(), latch);
            Ok(())
        })
    }

    /// Takes a rollback of this process back. Answers whether there was one.
    pub fn release(&self, flag: &str) -> bool {
        self.change(|state| state.is_latched(flag) && Arc::make_mut(&mut state.latches).remove(flag).is_some())
    }

    /// Every flag is off for this user from now on.
    pub fn quarantine(&self, user: &str) -> Result<(), TooMany> {
        self.change(|state| {
            if state.quarantined.contains(user) {
                return Ok(());
            }
            if state.quarantined.len() >= MAX_QUARANTINED {
                return Err(TooMany {
                    what: "quarantined users",
                    limit: MAX_QUARANTINED,
                });
            }
            Arc::make_mut(&mut state.quarantined).insert(user.into());
            Ok(())
        })
    }

    /// Ends the quarantine of a user. Answers whether there was one.
    pub fn release_user(&self, user: &str) -> bool {
        self.change(|state| state.is_quarantined(user) && Arc::make_mut(&mut state.quarantined).remove(user))
    }
}

/// Counts a rollback by what asked for it, as its record says.
fn count_rollback(flag: &str, record: &str) {
    #[derive(serde::Deserialize)]
    struct Said {
        metric: String,
    }
    let said = serde_json::from_str::<Said>(record).map_or_else(|_| String::new(), |said| said.metric);
    let metric = GUARD_METRICS.iter().position(|known| *known == said);
    Id::Rollbacks
        .at(&[FLAGS.index(flag), metric.unwrap_or(GUARD_METRICS.len() - 1)])
        .increment();
}

#[cfg(test)]
mod tests {
    use super::super::evaluate::{Attributes, Unit};
    use super::*;

    fn text(revision: u64, flag: &str) -> String {
        format!(r#"{{"schema":1,"revision":{revision},"flags":{{"flag":{flag}}}}}"#)
    }

    fn is_on(store: &Store) -> bool {
        store.state().is_on("flag", Unit::of("ann"), &Attributes::default())
    }

    #[test]
    fn what_is_not_valid_or_older_leaves_what_is_in_force() {
        let store = Store::new();
        assert_eq!(store.load(&text(5, r#"{"rollout":100000}"#), "file", false), Ok(5));
        let broken = store
            .load(&text(6, r#"{"rollout":-1}"#), "", false)
            .expect_err("refused");
        assert_eq!(broken.path, "/flags/flag/rollout");
        assert!(is_on(&store) && store.state().is_stale() && store.state().document().origin() == "file");
        let older = store
            .load(&text(4, r#"{"rollout":0}"#), "", false)
            .expect_err("refused");
        assert_eq!(older.path, "/revision");
        assert!(is_on(&store) && store.state().is_stale());
        assert_eq!(
            store.load(&text(5, r#"{"rollout":100000}"#), "", false),
            Ok(5),
            "the same again"
        );
        assert!(!store.state().is_stale());
        assert_eq!(store.load(&text(4, r#"{"rollout":0}"#), "", true), Ok(4), "forced");
        assert!(!is_on(&store));
    }

    #[test]
    fn a_rollback_stays_until_somebody_resumes_after_it() {
        const RESUMED: &str = r#"{"rollout":100000,"resumed":{"ack":"INC-1","actor":"ann"}}"#;
        const AGAIN: &str = r#"{"rollout":100000,"resumed":{"ack":"INC-2","actor":"ann"}}"#;
        let store = Store::new();
        store.load(&text(1, RESUMED), "", false).expect("valid");
        store.latch("flag", "first").expect("few");
        store.latch("flag", "second").expect("few");
        assert_eq!(
            store.state().latched().get("flag").map(|record| &**record),
            Some("first")
        );
        for (revision, flag) in [(1, AGAIN), (2, RESUMED), (3, r#"{"rollout":100000}"#)] {
            store.load(&text(revision, flag), "", false).expect("valid");
            assert!(!is_on(&store), "revision {revision} resumes nothing that came after it");
        }
        store.load(&text(4, AGAIN), "", false).expect("valid");
        assert!(is_on(&store) && store.state().latched().is_empty());
        let both = r#"{"rollout":100000,"rollback":{"reason":"x"},"resumed":{"ack":"INC-2","actor":"ann"}}"#;
        store.load(&text(5, both), "", false).expect("valid");
        assert!(!is_on(&store), "of both the rollback counts");
        assert_eq!(
            store.state().latched().get("flag").map(|record| &**record),
            Some(r#"{"reason":"x"}"#)
        );
        assert!(!store.release("flag"), "it stands in the document");
    }

    #[test]
    fn what_an_older_document_turns_off_is_off() {
        let store = Store::new();
        let on = r#"{"rollout":100000}"#;
        store.load(&text(42, on), "", false).expect("valid");
        let killed = format!(r#"{{"schema":1,"revision":4,"kill_switch":true,"flags":{{"flag":{on}}}}}"#);
        let rolled_back = text(5, r#"{"rollout":0,"rollback":{"reason":"x"}}"#);
        for (stop, is_killed) in [(killed.as_str(), true), (rolled_back.as_str(), false)] {
            store.load(stop, "", false).expect_err("older");
            assert!(!is_on(&store) && store.state().is_killed() == is_killed);
            assert_eq!(store.state().latched().contains_key("flag"), !is_killed);
            assert_eq!(store.state().document().revision(), 42);
            store.load("{", "", false).expect_err("half written");
            assert!(!is_on(&store), "what cannot be read takes nothing back");
            store.load(&text(6, on), "", false).expect_err("older");
            assert!(is_on(&store), "it was taken back");
            store.load(stop, "", false).expect_err("older");
            store.set_stale(false);
            assert!(is_on(&store), "the source has again what is in force");
            store.load(stop, "", false).expect_err("older");
            store.load(&text(42, on), "", false).expect("the same again");
            assert!(is_on(&store));
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let store = Store::new();
        store.load(&text(1, "{}"), "", false).expect("valid");
        for number in 0..MAX_FLAGS {
            store.latch(&format!("other-{number}"), "").expect("below the bound");
        }
        assert!(store.latch("one-more", "").is_err());
        store
            .latch("flag", "")
            .expect("a flag of the document can always be rolled back");
        let users: TextSet = (0..MAX_QUARANTINED).map(|number| number.to_string().into()).collect();
        store.change(|held| held.quarantined = Arc::new(users));
        assert!(store.quarantine("one-more").is_err());
        store.quarantine("7").expect("is there already");
    }
}
