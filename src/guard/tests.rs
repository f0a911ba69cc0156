//! What a guard decides, in a time of its own.

use proptest::prelude::*;

use super::*;
use crate::clock::{Moment, SECOND};

const FIRST: u32 = 100;

fn at(second: u64) -> Moment {
    Moment {
        monotonic: (1_000 + second) * SECOND,
        unix: (2_000_000 + second) * SECOND,
    }
}

fn guard(policy: &str) -> Guard {
    Guard::new("modern", Policy::parse(policy, "").expect("a policy"), at(0))
}

/// A guard at the first step.
fn begun(policy: &str) -> Guard {
    let guard = guard(policy);
    guard.follow(FIRST, 1, at(0));
    guard
}

fn see(guard: &Guard, metric: Metric, bad: u64, seen: u64, second: u64) -> Option<Verdict> {
    let counts = Counts { bad, seen };
    guard
        .observe(metric, counts, Cohort::Modern, at(second))
        .expect("it is taken in")
}

/// Enough good data of everything for the next step.
fn feed(guard: &Guard, second: u64) {
    for metric in [
        Metric::RunError,
        Metric::SlowRun,
        Metric::SlowEvent,
        Metric::DroppedEvent,
    ] {
        assert_eq!(see(guard, metric, 0, 500, second), None);
    }
    let legacy = Counts { bad: 0, seen: 500 };
    guard
        .observe(Metric::SlowRun, legacy, Cohort::Legacy, at(second))
        .expect("it is taken in");
}

fn holds(guard: &Guard, second: u64) -> Vec<String> {
    match guard.tick(at(second)) {
        Step::Hold(holds) => holds,
        Step::Advance(to) => panic!("it advances to {to}"),
    }
}

#[test]
fn samples_and_dwell_together_are_needed() {
    let guard = begun("{}");
    assert!(
        holds(&guard, 100_000)
            .iter()
            .any(|why| why.contains("run_error has 0 of 500"))
    );
    feed(&guard, 100_000);
    assert_eq!(guard.tick(at(100_000)), Step::Advance(1_000));
    guard.follow(1_000, 2, at(100_000));
    feed(&guard, 100_001);
    assert_eq!(holds(&guard, 100_599), ["the step has lasted 599 of 600 s"]);
    assert_eq!(guard.tick(at(100_600)), Step::Advance(5_000));
}

#[test]
fn no_data_of_one_metric_holds() {
    let guard = begun("{}");
    for metric in [Metric::RunError, Metric::SlowEvent, Metric::DroppedEvent] {
        see(&guard, metric, 0, 5_000, 10);
    }
    assert_eq!(holds(&guard, 10_000), ["slow_run has 0 of 500 samples"]);
    see(&guard, Metric::SlowRun, 0, 5_000, 10_000);
    assert_eq!(
        holds(&guard, 10_000),
        ["slow_run has too little to be compared with: 0 of 500 runs of the legacy cohort"]
    );
    assert_eq!(guard.status(at(10_000)).state, GuardState::Collecting);
}

#[test]
fn a_metric_that_needs_no_data_does_not_hold() {
    let guard = begun(
        r#"{"metrics":{"slow_event":{"needs_data":false},"dropped_event":{"enabled":false},"slow_run":{"dry_run":true}}}"#,
    );
    see(&guard, Metric::RunError, 0, 500, 600);
    assert_eq!(guard.tick(at(600)), Step::Advance(1_000));
}

#[test]
fn what_does_not_begin_by_itself_begins_by_hand() {
    let guard = guard("{}");
    assert_eq!(guard.status(at(0)).state, GuardState::Idle);
    assert!(holds(&guard, 9_999)[0].contains("has not begun"));
    assert_eq!(guard.next_by_hand(false, at(9_999)), Ok(FIRST));
}

#[test]
fn by_force_neither_samples_nor_dwell_are_needed_but_nothing_may_speak_against_it() {
    let guard = begun("{}");
    assert!(matches!(guard.next_by_hand(false, at(1)), Err(GuardError::Held(_))));
    assert_eq!(guard.next_by_hand(true, at(1)), Ok(1_000));
    see(&guard, Metric::RunError, 2, 10, 2);
    assert!(matches!(guard.next_by_hand(true, at(2)), Err(GuardError::Held(_))));
}

#[test]
fn the_top_is_the_top() {
    let guard = begun("{}");
    guard.follow(FULL, 2, at(0));
    feed(&guard, 600);
    assert_eq!(holds(&guard, 600), ["it is at 100 %"]);
    assert_eq!(guard.status(at(600)).next, None);
    assert_eq!(guard.next_by_hand(true, at(600)), Err(GuardError::Complete));
}

#[test]
fn a_breach_is_told_once_and_says_why() {
    let guard = begun("{}");
    guard.follow(5_000, 7, at(5));
    let verdict = see(&guard, Metric::RunError, 10, 20, 9).expect("half of all is too much");
    assert!(verdict.is_first);
    let record = verdict.record;
    assert_eq!(
        (record.metric.as_str(), record.n, record.stage, record.revision),
        ("run_error", 20, 5_000, 7)
    );
    assert_eq!(record.measured, Some(0.5));
    assert_eq!(record.threshold, Some(0.005));
    assert!(record.e_value.is_some_and(|value| value >= 1_000.0));
    assert_eq!(record.at, at(9).unix);
    assert_eq!(record.mode, RollbackMode::Drain);
    assert_eq!(record.reason, "10 of 20 were bad (50 %), where 0.5 % are accepted");
    assert_eq!(see(&guard, Metric::RunError, 10, 10, 10), None);
    assert_eq!(guard.record(), Some(record));
}

#[test]
fn a_rollback_stays_whatever_comes_after_it() {
    let guard = begun("{}");
    see(&guard, Metric::RunError, 20, 20, 1).expect("all of it is too much");
    guard.follow(0, 2, at(2));
    guard.follow(FIRST, 3, at(3));
    feed(&guard, 4);
    assert!(holds(&guard, 100_000)[0].contains("rolled back because of run_error"));
    assert!(matches!(
        guard.next_by_hand(true, at(100_000)),
        Err(GuardError::RolledBack { .. })
    ));
    assert_eq!(guard.status(at(100_000)).state, GuardState::RolledBack);
    let record = guard
        .resume(at(100_001))
        .expect("it is resumed")
        .expect("there was a record");
    assert_eq!(record.metric, "run_error");
    assert_eq!(guard.status(at(100_001)).state, GuardState::Idle);
    assert_eq!(guard.next_by_hand(false, at(100_001)), Ok(FIRST));
    assert_eq!(guard.resume(at(100_002)), Err(GuardError::NothingToResume));
}

#[test]
fn one_violation_of_isolation_aborts_in_every_state() {
    type Reach = fn(&Guard);
    let states: [(&str, Reach); 6] = [
        ("idle", |guard| guard.follow(0, 1, at(1))),
        ("collecting", |_| ()),
        ("healthy", |guard| feed(guard, 700)),
        ("warning", |guard| {
            assert_eq!(see(guard, Metric::RunError, 2, 10, 2), None);
        }),
        ("paused", |guard| assert!(guard.pause())),
        ("at the top", |guard| guard.follow(FULL, 3, at(3))),
    ];
    for (name, reach) in states {
        let guard = begun("{}");
        reach(&guard);
        let verdict = see(&guard, Metric::IsolationViolation, 1, 1, 700).expect(name);
        assert!(verdict.is_first, "{name}");
        assert_eq!(verdict.record.mode, RollbackMode::Abort, "{name}");
        assert_eq!(verdict.record.e_value, None);
        assert_eq!(guard.status(at(700)).state, GuardState::RolledBack, "{name}");
    }
}

#[test]
fn a_violation_ends_the_runs_that_a_rollback_lets_finish() {
    let guard = begun("{}");
    see(&guard, Metric::RunError, 20, 20, 1).expect("all of it is too much");
    let verdict = see(&guard, Metric::IsolationViolation, 1, 1, 2).expect("the runs must end now");
    assert!(!verdict.is_first);
    assert_eq!(verdict.record.mode, RollbackMode::Abort);
    assert_eq!(guard.record().map(|record| record.metric), Some("run_error".to_owned()));
    assert_eq!(see(&guard, Metric::IsolationViolation, 1, 1, 3), None);
}

#[test]
fn a_violation_of_the_older_side_is_counted_and_rolls_nothing_back() {
    let guard = begun("{}");
    let told = guard.observe(Metric::IsolationViolation, one(true), Cohort::Legacy, at(1));
    assert_eq!(told, Ok(None));
    let status = guard.status(at(1));
    assert_eq!(status.metrics[Metric::IsolationViolation as usize].legacy_bad, 1);
    assert_ne!(status.state, GuardState::RolledBack);
}

#[test]
fn what_is_paused_does_not_advance_and_is_rolled_back() {
    let guard = begun("{}");
    feed(&guard, 600);
    assert!(guard.pause() && !guard.pause());
    assert_eq!(holds(&guard, 600), ["it is paused"]);
    assert!(see(&guard, Metric::RunError, 20, 20, 601).is_some());
    let guard = begun("{}");
    guard.pause();
    assert_eq!(guard.resume(at(1)), Ok(None));
    assert!(!guard.status(at(1)).paused);
}

#[test]
fn a_metric_that_is_only_told_rolls_nothing_back() {
    let guard = begun(r#"{"metrics":{"run_error":{"dry_run":true}}}"#);
    assert_eq!(see(&guard, Metric::RunError, 20, 20, 1), None);
    let status = guard.status(at(1));
    assert_eq!(status.metrics[Metric::RunError as usize].state, MetricState::Breached);
    assert_ne!(status.state, GuardState::RolledBack);
}

#[test]
fn another_rollout_is_another_step_whoever_chose_it() {
    let guard = begun("{}");
    feed(&guard, 600);
    guard.follow(FIRST, 9, at(600));
    assert_eq!(guard.tick(at(600)), Step::Advance(1_000));
    guard.follow(2_500, 10, at(600));
    let status = guard.status(at(600));
    assert_eq!((status.dwell, status.next, status.metrics[1].seen), (0, Some(5_000), 0));
}

#[test]
fn durations_that_are_none_are_refused() {
    let guard = begun("{}");
    for duration in [f64::NAN, -0.001, f64::INFINITY, f64::NEG_INFINITY] {
        for observe in [Guard::observe_run, Guard::observe_delay] {
            let error = observe(&guard, duration, Cohort::Modern, at(1)).expect_err("it is refused");
            assert!(error.to_string().contains("0 or more seconds"), "{error}");
        }
    }
    assert!(guard.status(at(1)).metrics.iter().all(|metric| metric.seen == 0));
    assert_eq!(guard.observe_run(0.0, Cohort::Modern, at(1)), Ok(None));
    assert_eq!(guard.observe_run(2.000_001, Cohort::Modern, at(1)), Ok(None));
    let slow = &guard.status(at(1)).metrics[Metric::SlowRun as usize];
    assert_eq!((slow.bad, slow.seen), (1, 2));
    let many = guard.observe(Metric::RunError, Counts { bad: 2, seen: 1 }, Cohort::Modern, at(1));
    assert_eq!(many, Err(GuardError::Counts { bad: 2, seen: 1 }));
}

#[test]
fn time_that_goes_back_changes_nothing() {
    let guard = begun("{}");
    feed(&guard, 600);
    feed(&guard, 0);
    assert_eq!(guard.status(at(0)).dwell, 600 * SECOND);
    assert_eq!(guard.tick(at(0)), Step::Advance(1_000));
}

#[test]
fn a_rollback_of_another_process_is_taken_over() {
    let (first, second) = (begun("{}"), begun("{}"));
    let record = see(&first, Metric::RunError, 20, 20, 1)
        .expect("all of it is too much")
        .record;
    let text = serde_json::to_string(&record).expect("it is JSON");
    let read: RollbackRecord = serde_json::from_str(&text).expect("it is a record");
    // The last bit of a number may be lost in a text.
    let about = |record: &RollbackRecord| record.e_value.map(f64::log10).map(f64::round);
    assert_eq!(about(&read), about(&record));
    assert_eq!(
        RollbackRecord {
            e_value: None,
            ..read.clone()
        },
        RollbackRecord {
            e_value: None,
            ..record
        }
    );
    assert!(second.restore(read.clone(), at(2)));
    assert!(!second.restore(read, at(3)));
    assert_eq!(second.status(at(3)).state, GuardState::RolledBack);
    assert_eq!(see(&second, Metric::RunError, 20, 20, 4), None);
}

#[test]
fn by_hand_it_is_rolled_back_with_a_name_and_a_reason() {
    let guard = begun("{}");
    let verdict = guard.roll_back_by_hand("too many tickets", "ops", RollbackMode::Drain, at(3));
    let record = verdict.expect("it is rolled back").record;
    assert_eq!((record.metric.as_str(), record.actor.as_str()), ("manual", "ops"));
    assert_eq!(
        guard.roll_back_by_hand("again", "ops", RollbackMode::Drain, at(4)),
        None
    );
    let worse = guard.roll_back_by_hand("end them", "ops", RollbackMode::Abort, at(5));
    assert!(worse.is_some_and(|verdict| !verdict.is_first));
}

#[test]
fn as_slow_as_the_older_side_is_not_too_slow() {
    let guard = begun("{}");
    let legacy = |bad, seen| guard.observe(Metric::SlowRun, Counts { bad, seen }, Cohort::Legacy, at(1));
    legacy(200, 2_000).expect("it is taken in");
    assert_eq!(see(&guard, Metric::SlowRun, 100, 1_000, 2), None);
    let status = guard.status(at(2));
    let bound = status.metrics[Metric::SlowRun as usize].bound;
    assert!(bound > 0.1 && bound < 0.15, "{bound}");
    assert!(see(&guard, Metric::SlowRun, 150, 300, 3).is_some());
}

proptest! {
    /// Whatever is told in whatever order: what was rolled back stays so, it is told as first once, and a step is only
    /// advanced with all samples and the dwell.
    #[test]
    fn nothing_undoes_a_rollback_and_nothing_advances_early(
        steps in prop::collection::vec((0_usize..9, 0_u64..30, 0_u64..3_000), 1..60)
    ) {
        let guard = begun(r#"{"min_samples":20,"min_dwell_seconds":600}"#);
        let (mut since, mut latest, mut rolled_back) = (0, 0, false);
        for (kind, many, second) in steps {
            latest = latest.max(second);
            match kind {
                0..=4 => {
                    let bad = if kind == 0 { u64::from(many == 7) } else { many / 6 };
                    let verdict = see(&guard, Metric::ALL[kind], bad, many.max(1), second);
                    prop_assert!(!(rolled_back && verdict.as_ref().is_some_and(|verdict| verdict.is_first)));
                    rolled_back |= verdict.is_some();
                }
                5 => drop(guard.observe(Metric::SlowRun, Counts { bad: 0, seen: many }, Cohort::Legacy, at(second))),
                6 => drop(guard.pause()),
                7 => {
                    let before = guard.status(at(second));
                    if let Step::Advance(next) = guard.tick(at(second)) {
                        prop_assert!(!rolled_back && !before.paused);
                        prop_assert!(latest - since >= 600);
                        prop_assert!(before.metrics.iter().skip(1).all(|metric| metric.seen >= 20));
                        guard.follow(next, 2, at(second));
                        since = latest;
                    }
                }
                _ => {
                    let resumed = guard.status(at(second)).record.is_none() && guard.resume(at(second)).is_ok();
                    prop_assert!(!(resumed && rolled_back));
                }
            }
            prop_assert_eq!(guard.record().is_some(), rolled_back);
        }
    }
}
