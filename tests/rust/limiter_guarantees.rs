//! What a limiter promises, each promise by itself, on a clock that the test moves.
#![cfg(not(feature = "shuttle"))]

use std::sync::{Arc, Mutex};

use isolane::clock::{Micros, ProcessClock, SECOND};
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{
    CallResult, Controller, ControllerSettings, Decision, FairLimiter, Governed, Grant, Limit, LimitSettings, Outcome,
    Parked, Permit, Priority, Reason, Refusal, Request, Scope, Ticket,
};

#[derive(Default)]
struct Waiting(Mutex<Option<Grant>>);

impl Parked for Waiting {
    fn grant(&self, grant: Grant) {
        *self.0.lock().expect("not poisoned") = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        None
    }
}

/// A limiter, the lanes of some users, and who waits under which name.
struct House {
    registry: Registry,
    limiter: Arc<FairLimiter>,
    waiting: Vec<(String, Ticket, Arc<Waiting>)>,
    now: Micros,
}

impl House {
    fn new(settings: LimitSettings, resources: &[(&str, u32)]) -> Self {
        let resources = resources.iter().map(|(name, limit)| ((*name).into(), *limit));
        Self {
            registry: Registry::new(Box::new(ProcessClock::new())),
            limiter: Arc::new(FairLimiter::with_resources(settings, resources)),
            waiting: Vec::new(),
            now: SECOND,
        }
    }

    fn lane(&self, user: &str) -> LaneHandle {
        self.registry.lane(&UserId::new(user).expect("valid"))
    }

    /// Asks; a permit that is not to be had at once is waited for under `name`.
    fn ask(
        &mut self,
        name: &str,
        user: &str,
        change: impl FnOnce(Request<'_>) -> Request<'_>,
    ) -> Result<Option<Permit>, Refusal> {
        let lane = self.lane(user);
        let waiting = Arc::new(Waiting::default());
        let parked = waiting.clone();
        match self.limiter.request(change(Request::new(&lane)), self.now, || parked)? {
            Decision::Granted(grant) => Ok(Some(Permit::new(self.limiter.clone(), grant))),
            Decision::Parked(ticket) => {
                self.waiting.push((name.to_owned(), ticket, waiting));
                Ok(None)
            }
        }
    }

    fn take(&mut self, user: &str) -> Permit {
        self.ask(user, user, |request| request)
            .expect("not refused")
            .expect("free")
    }

    fn wait(&mut self, name: &str, user: &str) {
        let got = self.ask(name, user, |request| request).expect("not refused");
        assert!(got.is_none(), "{name} was to wait");
    }

    /// Those who have been granted since the last call, by name.
    fn granted(&mut self) -> Vec<(String, Permit)> {
        let mut granted = Vec::new();
        self.waiting.retain(|(name, _, waiting)| {
            let Some(grant) = waiting.0.lock().expect("not poisoned").take() else {
                return true;
            };
            granted.push((name.clone(), Permit::new(self.limiter.clone(), grant)));
            false
        });
        granted
    }

    fn one_granted(&mut self) -> (String, Permit) {
        let mut granted = self.granted();
        assert_eq!(granted.len(), 1, "one is to be granted");
        granted.pop().expect("there is one")
    }
}

fn settings(total: u32, per_user: u32) -> LimitSettings {
    LimitSettings::new(total, per_user)
}

fn priority(level: u8) -> Priority {
    Priority::new(level).expect("1 to 4")
}

/// Serves one permit after the other, each held for as long as `held_by` says, while every user of `backlog` always has two
/// waiters. Answers the permit-seconds of each.
fn share(house: &mut House, users: &[&str], held_by: impl Fn(&str) -> Micros, turns: usize) -> Vec<f64> {
    let mut running = house.take("first");
    for user in users {
        house.wait(user, user);
        house.wait(user, user);
    }
    let mut seconds = vec![0.0; users.len()];
    let mut served = "first".to_owned();
    for _ in 0..turns {
        let held = held_by(&served);
        house.now += held;
        running.release(house.now);
        if let Some(at) = users.iter().position(|user| *user == served) {
            seconds[at] += held as f64;
        }
        (served, running) = house.one_granted();
        let user = served.clone();
        house.wait(&user, &user);
    }
    seconds
}

#[test]
fn time_is_shared_equally_however_long_each_holds_it() {
    let mut house = House::new(settings(1, 1), &[]);
    let users = ["short", "middle", "long"];
    let hold = |user: &str| match user {
        "long" => SECOND,
        "middle" => SECOND / 4,
        _ => SECOND / 20,
    };
    let used = share(&mut house, &users, hold, 4_000);
    let (sum, squares): (f64, f64) = (used.iter().sum(), used.iter().map(|one| one * one).sum());
    let jain = sum * sum / (3.0 * squares);
    assert!(jain >= 0.98, "Jain's index over {used:?} is {jain}");
}

#[test]
fn a_weight_of_two_is_twice_the_time() {
    let mut house = House::new(settings(1, 1), &[]);
    let lane = house.lane("heavy");
    assert!(house.limiter.set_user(&lane, None, Some(2.0), house.now));
    let used = share(&mut house, &["heavy", "light"], |_| SECOND / 10, 3_000);
    let ratio = used[0] / used[1];
    assert!((1.95..2.05).contains(&ratio), "{used:?}");
}

#[test]
fn what_a_permit_was_held_for_counts_and_not_what_was_expected() {
    // Ann is charged one second in advance, as everybody of whom nothing is known, and stays for ten.
    let mut house = House::new(settings(1, 1), &[]);
    let held = house.take("ann");
    house.wait("ann", "ann");
    house.wait("bob", "bob");
    house.now += 10 * SECOND;
    held.release(house.now);
    let mut turns = 0;
    loop {
        let (name, permit) = house.one_granted();
        if name == "ann" {
            break;
        }
        turns += 1;
        house.wait("bob", "bob");
        house.now += SECOND;
        permit.release(house.now);
    }
    assert!((8..=11).contains(&turns), "Bob had {turns} seconds for Ann's ten");
}

#[test]
fn time_that_nobody_else_wanted_is_not_held_against_a_user() {
    let mut house = House::new(settings(1, 1), &[]);
    for _ in 0..20 {
        let permit = house.take("ann");
        house.now += 100 * SECOND;
        permit.release(house.now);
    }
    let held = house.take("other");
    house.wait("ann", "ann");
    house.wait("bob", "bob");
    house.wait("bob again", "bob");
    held.release(house.now);
    assert_eq!(house.one_granted().0, "ann", "first come, first served");
}

#[test]
fn urgent_requests_of_a_user_come_first_and_no_request_waits_for_ever() {
    let mut house = House::new(
        LimitSettings {
            aging: Some(10 * SECOND),
            ..settings(1, 1)
        },
        &[],
    );
    let ask = |house: &mut House, name: &str, level: u8| {
        let got = house.ask(name, "ann", |request| Request {
            priority: priority(level),
            ..request
        });
        assert!(got.expect("not refused").is_none());
    };
    let held = house.take("ann");
    ask(&mut house, "least", 4);
    ask(&mut house, "default", 2);
    ask(&mut house, "most", 1);
    held.release(house.now);
    let (name, mut held) = house.one_granted();
    assert_eq!(name, "most");
    // Urgent ones keep coming, each while the one before it runs. After three times the aging the least urgent has its turn.
    let mut before_least = 0;
    for at in 0..100 {
        ask(&mut house, "urgent", 1);
        house.now += SECOND;
        held.release(house.now);
        let (name, next) = house.one_granted();
        held = next;
        if name == "least" {
            before_least = at;
            break;
        }
    }
    assert!(
        (25..=35).contains(&before_least),
        "after {before_least} s of 30 the least urgent ran"
    );
    assert!(house.limiter.stats().granted > 25);
}

#[test]
fn urgency_orders_nobody_but_the_users_own() {
    let mut house = House::new(settings(1, 1), &[]);
    let held = house.take("other");
    house.wait("bob", "bob");
    let got = house.ask("ann", "ann", |request| Request {
        priority: priority(1),
        ..request
    });
    assert!(got.expect("not refused").is_none());
    held.release(house.now);
    assert_eq!(house.one_granted().0, "bob");
}

#[test]
fn several_resources_come_together_or_not_at_all() {
    let mut house = House::new(settings(10, 10), &[("llm", 1), ("database", 1)]);
    let both = house.limiter.resources(["llm", "database"]).expect("known");
    let llm = house.limiter.resources(["llm"]).expect("known");
    assert_eq!(house.limiter.resources(["llm", "disk"]), Err("disk"));
    let wanting = |house: &mut House, name: &str, user: &str, resources| {
        house
            .ask(name, user, |request| Request { resources, ..request })
            .expect("not refused")
    };
    let held = wanting(&mut house, "ann", "ann", llm).expect("free");
    assert!(wanting(&mut house, "bob", "bob", both).is_none(), "the model is in use");
    let stats = house.limiter.stats();
    let running: Vec<u32> = stats.resources.iter().map(|resource| resource.running).collect();
    assert_eq!(
        (running, stats.running),
        (vec![1, 0], 1),
        "the database is not kept while waiting"
    );
    // Who needs neither is not kept waiting by those who do, be it of the same user.
    let plain = house.take("bob");
    held.release(house.now);
    let (name, permit) = house.one_granted();
    assert_eq!(name, "bob");
    let lane = house.lane("cho");
    let refused = house
        .limiter
        .try_request(
            Request {
                resources: llm,
                ..Request::new(&lane)
            },
            house.now,
        )
        .expect_err("in use");
    assert_eq!((refused.scope, refused.reason), (Scope::Process, Reason::Full));
    assert_eq!((refused.resource.as_deref(), refused.running), (Some("llm"), 1));
    drop((permit, plain));
    let stats = house.limiter.stats();
    assert!(stats.resources.iter().all(|resource| resource.running == 0));
    assert_eq!((stats.running, stats.leaked), (0, 2));
}

#[test]
fn a_child_borrows_what_its_parent_holds_of_a_resource() {
    let mut house = House::new(settings(2, 2), &[("llm", 1)]);
    let llm = house.limiter.resources(["llm"]).expect("known");
    let nested = |house: &mut House, name: &str, path: &'static [u64], task| {
        house
            .ask(name, "ann", |request| Request {
                path,
                task,
                resources: llm,
                ..request
            })
            .expect("not refused")
    };
    let parent = nested(&mut house, "parent", &[1], 1).expect("free");
    let child = nested(&mut house, "child", &[1, 2], 2).expect("lent by the parent");
    assert!(
        nested(&mut house, "sibling", &[1, 3], 3).is_none(),
        "one model is one model"
    );
    assert_eq!(house.limiter.stats().resources[0].running, 1);
    child.release(house.now);
    let (name, sibling) = house.one_granted();
    assert_eq!(name, "sibling");
    // The parent ends first: what it lent goes back when the borrower is done.
    parent.release(house.now);
    assert_eq!(house.limiter.stats().resources[0].running, 1);
    sibling.release(house.now);
    let stats = house.limiter.stats();
    assert_eq!((stats.resources[0].running, stats.running), (0, 0));
}

#[test]
fn a_lower_limit_stops_nobody_and_holds_once_permits_came_back() {
    let mut house = House::new(settings(4, 4), &[("llm", 2)]);
    let held: Vec<Permit> = (0..4).map(|_| house.take("ann")).collect();
    house.wait("bob", "bob");
    house.limiter.set_limit(Limit::Total, 2, house.now);
    assert_eq!(house.limiter.stats().running, 4);
    for permit in &held[..2] {
        permit.release(house.now);
        assert!(house.granted().is_empty());
    }
    held[2].release(house.now);
    assert_eq!(house.one_granted().0, "bob");
    house.limiter.set_limit(Limit::Total, 0, house.now);
    held[3].release(house.now);
    house.wait("cho", "cho");
    assert!(house.granted().is_empty(), "0 pauses");
    house.limiter.set_limit(Limit::Total, 3, house.now);
    assert_eq!(house.one_granted().0, "cho");
}

#[test]
fn a_user_may_have_a_limit_of_its_own() {
    let mut house = House::new(settings(10, 1), &[]);
    let lane = house.lane("ann");
    assert!(house.limiter.set_user(&lane, Some(3), None, house.now));
    let held: Vec<Permit> = (0..3).map(|_| house.take("ann")).collect();
    house.wait("ann", "ann");
    drop(lane);
    house.limiter.evict(0, house.now + SECOND);
    let lane = house.lane("ann");
    assert_eq!(house.limiter.user_stats(Some(&lane)).limit, 3, "it is not forgotten");
    house.limiter.reset_user(&lane, house.now);
    held[0].release(house.now);
    assert!(house.granted().is_empty(), "the common limit is one");
}

#[test]
fn a_user_may_borrow_while_nobody_else_waits() {
    let mut house = House::new(
        LimitSettings {
            borrow: true,
            ..settings(3, 1)
        },
        &[],
    );
    let held: Vec<Permit> = (0..3).map(|_| house.take("ann")).collect();
    house.wait("ann", "ann");
    house.wait("bob", "bob");
    held[0].release(house.now);
    assert_eq!(house.one_granted().0, "bob", "who is below its limit comes first");
}

#[test]
fn what_cannot_be_had_in_time_is_refused_at_once() {
    let mut house = House::new(settings(1, 1), &[]);
    for _ in 0..20 {
        let permit = house.take("ann");
        house.now += 5 * SECOND;
        permit.release(house.now);
    }
    let held = house.take("ann");
    let refused = house
        .ask("ann", "ann", |request| Request {
            patience: Some(2 * SECOND),
            ..request
        })
        .expect_err("too late");
    assert_eq!((refused.scope, refused.reason), (Scope::User, Reason::Predicted));
    assert_eq!(refused.retry_after, 5);
    let patient = house.ask("ann", "ann", |request| Request {
        patience: Some(20 * SECOND),
        ..request
    });
    assert!(patient.expect("in time").is_none());
    let step = house.ask("step", "ann", |request| Request {
        patience: Some(SECOND),
        admitted: true,
        ..request
    });
    assert!(step.expect("a step of an admitted run waits").is_none());
    drop(held);
}

#[test]
fn a_long_line_of_one_user_is_not_counted_against_another() {
    let mut house = House::new(settings(2, 2), &[]);
    for _ in 0..20 {
        let permit = house.take("ann");
        house.now += SECOND / 4;
        permit.release(house.now);
    }
    let held = [house.take("ann"), house.take("ann")];
    for _ in 0..80 {
        house.wait("ann", "ann");
    }
    let got = house.ask("bob", "bob", |request| Request {
        patience: Some(SECOND),
        ..request
    });
    assert!(got.expect("not refused").is_none());
    held[0].release(house.now);
    assert_eq!(house.granted().len(), 1);
    held[1].release(house.now);
    assert!(
        house.granted().iter().any(|(name, _)| name == "bob") || house.waiting.iter().all(|(name, ..)| name != "bob")
    );
}

#[test]
fn users_are_forgotten_when_idle_and_never_while_they_run() {
    let mut house = House::new(settings(10, 2), &[]);
    let busy = house.take("busy");
    for at in 0..100 {
        house.take(&format!("user-{at}")).release(house.now);
    }
    assert_eq!(house.limiter.stats().users, 101);
    house.now += 299 * SECOND;
    house.take("somebody").release(house.now);
    assert_eq!(house.limiter.stats().users, 102);
    house.now += 2 * SECOND;
    for _ in 0..4 {
        house.take("somebody").release(house.now);
    }
    let stats = house.limiter.stats();
    assert_eq!((stats.users, stats.evicted), (2, 100));
    assert_eq!(stats.granted, 106, "the totals keep what they did");
    busy.release(house.now);
    assert_eq!(house.limiter.stats().running, 0);
}

#[test]
fn no_more_users_are_remembered_than_allowed() {
    let mut house = House::new(
        LimitSettings {
            max_users: 50,
            ..settings(10, 2)
        },
        &[],
    );
    for at in 0..1_000 {
        house.take(&format!("user-{at}")).release(house.now);
        assert!(house.limiter.stats().users <= 51);
    }
}

#[test]
fn percentiles_are_kept_in_bounded_room() {
    let mut house = House::new(settings(1, 1), &[]);
    for at in 1..=100_u64 {
        let permit = house.take("ann");
        house.wait("ann", "ann");
        house.now += at * 10_000;
        permit.release(house.now);
        house.one_granted().1.release(house.now);
    }
    let lane = house.lane("ann");
    let stats = house.limiter.user_stats(Some(&lane));
    assert_eq!((stats.granted, stats.released, stats.wait.count), (200, 200, 200));
    let p99 = stats.wait.p99.expect("there were waits");
    assert!((975_000..=1_250_000).contains(&p99), "{p99}");
    assert_eq!(stats.recent_waits.len(), 64);
    let last = stats.recent_waits[63];
    assert!((last - 1.0).abs() < 0.01, "the last wait was a second, not {last}");
    let total = house.limiter.stats().hold;
    assert!(
        (975_000..=1_010_000).contains(&total.p99.expect("there were holds")),
        "{total:?}"
    );
}

#[test]
fn a_permit_is_freed_exactly_once_and_its_fence_grows() {
    let mut house = House::new(settings(2, 2), &[]);
    let first = house.take("ann");
    let second = house.take("ann");
    assert!(second.fence() > first.fence());
    assert!(first.release(house.now));
    assert!(!first.release(house.now));
    drop(second);
    let stats = house.limiter.stats();
    assert_eq!((stats.running, stats.released_twice, stats.leaked), (0, 1, 1));
}

#[test]
fn a_limit_follows_its_backend() {
    let controller = Controller::new(ControllerSettings {
        initial: 8,
        min: 2,
        max: 64,
        ..ControllerSettings::default()
    });
    let controller = Arc::new(Mutex::new(controller.expect("in order")));
    let mut house = House::new(settings(50, 50), &[("llm", 20)]);
    let index = house.limiter.resource("llm").expect("known");
    house.limiter.govern(Governed::Resource(index), controller);
    assert_eq!(house.limiter.stats().resources[0].limit, 8, "the lower of both holds");
    let llm = house.limiter.resources(["llm"]).expect("known");
    let lane = house.lane("ann");
    // Every call is dropped by the backend: the limit goes down to the floor and no further.
    for _ in 0..400 {
        let request = Request {
            resources: llm,
            ..Request::new(&lane)
        };
        let permits: Vec<Permit> = std::iter::from_fn(|| house.limiter.try_request(request, house.now).ok())
            .map(|grant| Permit::new(house.limiter.clone(), grant))
            .collect();
        house.now += SECOND;
        for permit in permits {
            assert!(permit.record(CallResult {
                outcome: Outcome::Dropped,
                units: 1.0
            }));
            permit.release(house.now);
        }
    }
    assert_eq!(house.limiter.stats().resources[0].limit, 2);
    assert_eq!(house.limiter.stats().total, 50, "nobody governs the process's limit");
}

#[test]
fn a_long_line_for_a_resource_is_refused_early_too() {
    let mut house = House::new(settings(100, 100), &[("llm", 1)]);
    let llm = house.limiter.resources(["llm"]).expect("known");
    let asking = |house: &mut House, patience: Option<Micros>| {
        house.ask("ann", "ann", |request| Request {
            resources: llm,
            patience,
            ..request
        })
    };
    for _ in 0..20 {
        let permit = asking(&mut house, None).expect("not refused").expect("free");
        house.now += SECOND;
        permit.release(house.now);
    }
    let held = asking(&mut house, None).expect("not refused").expect("free");
    for _ in 0..5 {
        assert!(asking(&mut house, None).expect("not refused").is_none());
    }
    let refused = asking(&mut house, Some(2 * SECOND)).expect_err("six seconds are before it");
    assert_eq!(
        (refused.reason, refused.resource.as_deref()),
        (Reason::Predicted, Some("llm"))
    );
    assert_eq!(refused.retry_after, 6);
    drop(held);
}

#[test]
fn a_run_that_is_revoked_holds_nothing_and_returns_nothing() {
    let mut house = House::new(settings(3, 3), &[("llm", 1)]);
    let llm = house.limiter.resources(["llm"]).expect("known");
    let nested = |house: &mut House, name: &str, path: &'static [u64], task, resources| {
        house
            .ask(name, "ann", |request| Request {
                path,
                task,
                resources,
                ..request
            })
            .expect("not refused")
            .expect("free")
    };
    let root = nested(&mut house, "root", &[1], 1, llm);
    let lent = nested(&mut house, "lent", &[1, 2], 2, llm);
    let beside = nested(&mut house, "beside", &[1, 3], 3, isolane::limits::ResourceSet::NONE);
    assert_eq!(house.limiter.stats().running, 2);
    let other = house.take("bob");
    house.wait("bob", "bob");
    let lane = house.lane("ann");
    house.limiter.revoke(&lane, 1, house.now);
    let (name, next) = house.one_granted();
    assert_eq!(name, "bob");
    let stats = house.limiter.stats();
    assert_eq!((stats.running, stats.resources[0].running), (2, 0));
    for permit in [&lent, &root, &beside] {
        permit.release(house.now);
        assert_eq!(house.limiter.stats().running, 2, "late returns change nothing");
    }
    drop((other, next));
    let stats = house.limiter.stats();
    assert_eq!((stats.running, stats.resources[0].running), (0, 0));
    assert_eq!(stats.granted, stats.released);
}
