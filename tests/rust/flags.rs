//! Cohorts: what holds for every rollout, whoever the users are.

use std::sync::atomic::{AtomicBool, Ordering};

use isolane::flags::{Algorithm, Attributes, Bucketing, Decision, Document, FULL, Reason, Step, Store, Unit, is_in};
use proptest::prelude::*;

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL.to_vec())
}

fn salt() -> impl Strategy<Value = String> {
    "[^:\\p{C}]{1,24}"
}

fn store(flags: &str) -> Store {
    let store = Store::new();
    let text = format!(r#"{{"schema":1,"revision":1,"flags":{flags}}}"#);
    store.load(&text, "", false).expect("valid");
    store
}

fn decide(store: &Store, flag: &str, user: &str) -> Decision {
    store.state().decide(flag, Unit::of(user), &Attributes::default())
}

proptest! {
    /// Whoever has it goes on having it while the rollout grows.
    #[test]
    fn cohorts_are_nested(algorithm in algorithm(), salt in salt(), user in ".{1,40}", one in 0..=FULL, other in 0..=FULL) {
        let steps = |rollout: u32| rollout / algorithm.step() * algorithm.step();
        let (less, more) = (steps(one.min(other)), steps(one.max(other)));
        let bucket = Bucketing::new(algorithm, &salt).bucket(&user);
        prop_assert!(bucket < FULL);
        prop_assert!(!is_in(bucket, less) || is_in(bucket, more));
        prop_assert!(!is_in(bucket, 0));
        prop_assert!(is_in(bucket, FULL));
    }

    /// A document's flag puts a user where the algorithm with its salt does, and the salt is the flag's name unless another is
    /// written.
    #[test]
    fn a_flag_decides_by_its_bucket(algorithm in algorithm(), salt in salt(), user in "\\PC{1,40}", percent in 1..100_u32) {
        let rollout = percent * 1_000;
        let flags = serde_json::json!({
            "salted": {"algorithm": algorithm.name(), "salt": salt, "rollout": rollout},
            "plain": {"algorithm": algorithm.name(), "rollout": rollout},
        });
        let store = store(&flags.to_string());
        for (flag, salt) in [("salted", salt.as_str()), ("plain", "plain")] {
            let decision = decide(&store, flag, &user);
            let bucket = Bucketing::new(algorithm, salt).bucket(&user);
            prop_assert_eq!(decision.bucket, Some(bucket));
            prop_assert_eq!(decision.value, is_in(bucket, rollout));
            prop_assert_eq!((decision.step, decision.threshold), (Step::Rollout, Some(rollout)));
        }
    }

    /// Reading never panics, and what is wrong has a place that is a JSON pointer.
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}\",:0-9a-z\\\\ ]{0,80}") {
        if let Err(fault) = Document::read(&text, "") {
            prop_assert!(fault.path.is_empty() || fault.path.starts_with('/'));
            prop_assert!(!fault.problem.is_empty() && !fault.fix.is_empty());
        }
    }
}

/// What may happen to one flag.
#[derive(Debug, Clone)]
enum Change {
    /// A document: its revision, who resumed in it, whether a rollback stands in it.
    Load(u64, Option<u8>, bool),
    /// One that is not valid.
    Broken,
    Latch,
    Release,
    Kill(bool),
    Stale(bool),
    Quarantine,
    ReleaseUser,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (1..6_u64, prop::option::of(0..2_u8), prop::bool::weighted(0.2))
            .prop_map(|(revision, resumed, rollback)| Change::Load(revision, resumed, rollback)),
        1 => Just(Change::Broken),
        2 => Just(Change::Latch),
        1 => Just(Change::Release),
        1 => any::<bool>().prop_map(Change::Kill),
        1 => any::<bool>().prop_map(Change::Stale),
        1 => Just(Change::Quarantine),
        1 => Just(Change::ReleaseUser),
    ]
}

/// What should be so after each change.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each is true or not by itself
struct Model {
    revision: u64,
    resumed: Option<u8>,
    rollback: bool,
    /// Whether a rollback stands in the document that was refused last because it is older.
    older_rollback: bool,
    /// The revision and who had resumed when it was set.
    latch: Option<(u64, Option<u8>)>,
    killed: bool,
    stale: bool,
    quarantined: bool,
}

impl Model {
    fn apply(&mut self, store: &Store, change: &Change) {
        match *change {
            Change::Load(revision, resumed, rollback) => {
                let mut flag = serde_json::json!({"rollout": FULL});
                if let Some(number) = resumed {
                    flag["resumed"] = serde_json::json!({"ack": format!("INC-{number}"), "actor": "ann"});
                }
                if rollback {
                    flag["rollback"] = serde_json::json!({"reason": "errors"});
                }
                let text = serde_json::json!({"schema": 1, "revision": revision, "flags": {"flag": flag}});
                let loaded = store.load(&text.to_string(), "", false);
                assert_eq!(loaded.is_ok(), revision >= self.revision);
                self.stale = loaded.is_err();
                self.older_rollback = loaded.is_err() && rollback;
                if loaded.is_ok() {
                    let ends =
                        |(set_at, held): (u64, Option<u8>)| revision > set_at && resumed.is_some() && resumed != held;
                    self.latch = self.latch.filter(|latch| !ends(*latch));
                    (self.revision, self.resumed, self.rollback) = (revision, resumed, rollback);
                }
            }
            Change::Broken => {
                store.load("{", "", false).expect_err("not JSON");
                self.stale = true;
            }
            Change::Latch => {
                store.latch("flag", "errors").expect("one flag");
                self.latch = self.latch.or(Some((self.revision, self.resumed)));
            }
            Change::Release => assert_eq!(store.release("flag"), self.latch.take().is_some()),
            Change::Kill(killed) => {
                store.set_killed(killed);
                self.killed = killed;
            }
            Change::Stale(stale) => {
                store.set_stale(stale);
                self.stale = stale;
                self.older_rollback &= stale;
            }
            Change::Quarantine => {
                store.quarantine("ann").expect("one user");
                self.quarantined = true;
            }
            Change::ReleaseUser => assert_eq!(store.release_user("ann"), std::mem::take(&mut self.quarantined)),
        }
    }

    fn step(&self) -> Step {
        match () {
            () if self.revision == 0 => Step::NotFound,
            () if self.killed => Step::KillSwitch,
            () if self.latch.is_some() || self.rollback || self.older_rollback => Step::Rollback,
            () if self.quarantined => Step::Quarantine,
            () => Step::Rollout,
        }
    }
}

proptest! {
    /// Documents, rollbacks and what operators do, in any order: a rollback ends only when it may.
    #[test]
    fn the_store_is_as_its_model(changes in prop::collection::vec(change(), 1..40)) {
        let (store, mut model) = (Store::new(), Model::default());
        for change in &changes {
            let before = store.state();
            let pinned = before.decide("flag", Unit::of("ann"), &Attributes::default());
            model.apply(&store, change);
            let decision = decide(&store, "flag", "ann");
            prop_assert_eq!(decision.step, model.step(), "after {:?} of {:?}", change, changes);
            prop_assert_eq!(decision.value, model.step() == Step::Rollout);
            prop_assert_eq!(decision.reason == Reason::Stale, model.stale && model.revision > 0);
            prop_assert_eq!(decision.revision, model.revision);
            // Who holds the state of a moment has the answers of that moment.
            prop_assert_eq!(before.decide("flag", Unit::of("ann"), &Attributes::default()), pinned);
        }
    }
}

/// Chi squared of counts that should be equal.
fn chi_squared(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum()
}

/// 40 000 users of several kinds of ids, in 100 parts: chi squared with 99 degrees of freedom is above 148.2 once in a thousand
/// times. The ids and salts are fixed, so this either holds or does not.
#[test]
fn users_are_spread_evenly() {
    for algorithm in Algorithm::ALL {
        for (salt, prefix) in [("modern_execution", "user-"), ("hybrid", "auth0|"), ("x", "")] {
            let bucketing = Bucketing::new(algorithm, salt);
            let mut counts = [0; 100];
            for number in 0..40_000 {
                let bucket = bucketing.bucket(&format!("{prefix}{number}"));
                counts[(bucket / 1_000) as usize] += 1;
            }
            let spread = chi_squared(&counts);
            assert!(
                (55.0..148.2).contains(&spread),
                "{algorithm:?} {salt} {prefix}: {spread}"
            );
        }
    }
}

/// Whether a user has one flag says nothing about another: the four cells of both are as their products.
#[test]
fn flags_are_independent() {
    for algorithm in Algorithm::ALL {
        let salts = [
            "modern_execution",
            "hybrid_websocket_mode",
            "modern_execution2",
            "a",
            "b",
        ];
        for (at, first) in salts.iter().enumerate() {
            for second in &salts[at + 1..] {
                let (first, second) = (Bucketing::new(algorithm, first), Bucketing::new(algorithm, second));
                let mut cells = [[0_u32; 2]; 2];
                for number in 0..20_000 {
                    let user = format!("user-{number}");
                    let is_on = |bucketing: &Bucketing| usize::from(is_in(bucketing.bucket(&user), 25_000));
                    cells[is_on(&first)][is_on(&second)] += 1;
                }
                let total = 20_000.0;
                let mut chi = 0.0;
                for row in 0..2 {
                    for column in 0..2 {
                        let in_row = f64::from(cells[row][0] + cells[row][1]);
                        let in_column = f64::from(cells[0][column] + cells[1][column]);
                        let expected = in_row * in_column / total;
                        chi += (f64::from(cells[row][column]) - expected).powi(2) / expected;
                    }
                }
                // One degree of freedom: above 10.83 once in a thousand times.
                assert!(chi < 10.83, "{algorithm:?} {chi} {cells:?}");
            }
        }
    }
}

/// Tells readers to end, also when the test fails.
struct EndsOnDrop<'a>(&'a AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Documents are replaced while others decide: each decision is by one document as a whole, and revisions never go back.
#[test]
fn decisions_beside_loads_see_one_document() {
    // In a document of revision r both flags are on for everybody when r is even, and off when it is odd.
    let text = |revision: u64| {
        let rollout = if revision.is_multiple_of(2) { FULL } else { 0 };
        format!(
            r#"{{"schema":1,"revision":{revision},"flags":{{"one":{{"rollout":{rollout}}},"two":{{"rollout":{rollout}}}}}}}"#
        )
    };
    let store = Store::new();
    store.load(&text(1), "", false).expect("valid");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = EndsOnDrop(&done);
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut latest, mut seen) = (0, 0_u32);
                    while !done.load(Ordering::Acquire) {
                        let state = store.state();
                        let known = Attributes::default();
                        let one = state.decide("one", Unit::of("ann"), &known);
                        let two = state.decide("two", Unit::of("ben"), &known);
                        assert_eq!((one.revision, one.value), (two.revision, two.value));
                        assert_eq!(one.value, one.revision.is_multiple_of(2));
                        assert!(one.revision >= latest);
                        latest = one.revision;
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for revision in 2..2_000 {
            store.load(&text(revision), "", false).expect("valid");
            store.load(&text(revision - 1), "", false).expect_err("older");
            store.set_stale(false);
        }
        drop(ends);
        for reader in readers {
            assert!(reader.join().expect("no reader panics") > 0);
        }
    });
    assert_eq!(store.state().document().revision(), 1_999);
}

/// Changes of several threads at once: none is lost.
#[test]
fn changes_beside_each_other_all_count() {
    let store = &Store::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0..200 {
                    store
                        .quarantine(&format!("user-{thread}-{number}"))
                        .expect("below the bound");
                    store
                        .latch(&format!("flag-{thread}-{number}"), "{}")
                        .expect("below the bound");
                }
            });
        }
    });
    let state = store.state();
    assert_eq!((state.quarantined(), state.latched().len()), (800, 800));
}
