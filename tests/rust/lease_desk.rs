//! What the desk of a shared limiter promises, one thing at a time, against calls that the test answers by hand.

use std::sync::{Arc, Mutex};

use isolane::clock::{Micros, ProcessClock, SECOND};
use isolane::cluster::lease::{
    Desk, DeskSettings, Fail, Granted, Kind, OnLost, Operation, Reply, Share, ShareError, Which,
};
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{
    Decision, FairLimiter, Grant, LimitSettings, Parked, Permit, Reason, Refusal, Request, Scope, Ticket,
};

const MILLI: Micros = SECOND / 1_000;
const START: Micros = 100 * SECOND;

#[derive(Default)]
struct Waiter {
    grant: Mutex<Option<Grant>>,
    refusal: Mutex<Option<Refusal>>,
}

impl Parked for Waiter {
    fn grant(&self, grant: Grant) {
        *self.grant.lock().expect("not poisoned") = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        None
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().expect("not poisoned") = Some(refusal);
    }
}

struct Lab {
    limiter: Arc<FairLimiter>,
    desk: Desk,
    lanes: Vec<LaneHandle>,
    fence: u64,
}

type Asked = (Result<Decision, Refusal>, Arc<Waiter>);

impl Lab {
    fn new(limits: (u32, u32), scope: (bool, bool), fail: Fail) -> Self {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lab = Self {
            limiter: Arc::new(FairLimiter::new(LimitSettings::new(limits.0, limits.1))),
            desk: Desk::new(DeskSettings {
                seed: Some(7),
                ..DeskSettings::default()
            }),
            lanes: ["ann", "bob", "cid"]
                .map(|user| registry.lane(&UserId::new(user).expect("valid")))
                .into(),
            fence: 0,
        };
        let share = Share {
            by_user: scope.0,
            by_total: scope.1,
            on_lost: OnLost::Flag,
            fail,
        };
        lab.desk.share(&lab.limiter, "engines", share).expect("shared");
        assert!(lab.desk.take(START).is_empty());
        lab
    }

    fn ask(&self, user: usize, once: bool, now: Micros) -> Asked {
        let waiter = Arc::new(Waiter::default());
        let parked = waiter.clone();
        let request = Request {
            ask_once: once,
            ..Request::new(&self.lanes[user])
        };
        (self.limiter.request(request, now, || parked), waiter)
    }

    fn wait(&self, user: usize, now: Micros) -> (Ticket, Arc<Waiter>) {
        match self.ask(user, false, now) {
            (Ok(Decision::Parked(ticket)), waiter) => (ticket, waiter),
            (other, _) => panic!("it is not at once: {other:?}"),
        }
    }

    fn granted(&self, waiter: &Waiter) -> Option<Permit> {
        let grant = waiter.grant.lock().expect("not poisoned").take()?;
        Some(Permit::new(self.limiter.clone(), grant))
    }

    fn grant_all(&mut self, operation: &Operation, now: Micros) {
        let granted = operation.ids.iter().map(|_| {
            self.fence += 1;
            Granted {
                fence: Some(self.fence),
                which: None,
                retry_ms: 0,
            }
        });
        let reply = Reply::Acquired(granted.collect());
        assert!(self.desk.replied(operation.number, &reply, now));
    }

    fn refuse(&self, operation: &Operation, which: Which, retry_ms: u64, now: Micros) {
        let refused = Granted {
            fence: None,
            which: Some(which),
            retry_ms,
        };
        let reply = Reply::Acquired(vec![refused; operation.ids.len()]);
        assert!(self.desk.replied(operation.number, &reply, now));
    }

    fn permit(&mut self, user: usize, now: Micros) -> Permit {
        let (_, waiter) = self.wait(user, now);
        let asked = self.take(now);
        self.grant_all(&asked[0], now);
        self.granted(&waiter).expect("granted")
    }

    fn take(&self, now: Micros) -> Vec<Operation> {
        self.desk.take(now)
    }

    fn break_once(&self, now: Micros) {
        for operation in self.take(now) {
            self.desk.failed(operation.number, now);
        }
    }
}

fn kinds(operations: &[Operation]) -> Vec<(Kind, usize)> {
    operations.iter().map(|each| (each.kind, each.ids.len())).collect()
}

#[test]
fn as_many_leases_are_asked_for_as_would_run() {
    let mut lab = Lab::new((3, 2), (true, true), Fail::Local);
    let waiters: Vec<_> = [0, 0, 0, 1, 1].map(|user| lab.wait(user, START).1).into();
    let asked = lab.take(START);
    assert_eq!(
        kinds(&asked),
        [(Kind::Acquire, 2), (Kind::Acquire, 1)],
        "two for ann, whose limit is two, and three in all"
    );
    assert_eq!((&*asked[0].user, &*asked[1].user), ("ann", "bob"));
    assert_eq!((asked[0].user_limit, asked[0].total_limit), (Some(2), Some(3)));
    assert!(lab.take(START).is_empty(), "what is under way is not asked for again");
    assert!(
        waiters.iter().all(|waiter| lab.granted(waiter).is_none()),
        "nobody runs before"
    );
    lab.grant_all(&asked[0], START);
    lab.grant_all(&asked[1], START);
    let running: Vec<_> = waiters.iter().map(|waiter| lab.granted(waiter)).collect();
    let runs: Vec<bool> = running.iter().map(Option::is_some).collect();
    assert_eq!(runs, [true, true, false, true, false]);
    let fences: Vec<_> = running.iter().flatten().filter_map(|permit| permit.lease().0).collect();
    assert_eq!(fences.len(), 3, "each under a lease of its own");
}

#[test]
fn a_lease_serves_the_same_user_again_and_is_then_given_back() {
    let mut lab = Lab::new((3, 2), (true, false), Fail::Local);
    let permit = lab.permit(0, START);
    permit.release(START);
    let (again, _) = lab.ask(0, false, START + 249 * MILLI);
    let Ok(Decision::Granted(grant)) = again else {
        panic!("without a round trip")
    };
    assert!(lab.take(START + 300 * MILLI).is_empty());
    lab.limiter.release(grant, START + 300 * MILLI);
    assert!(lab.take(START + 549 * MILLI).is_empty());
    let given = lab.take(START + 550 * MILLI);
    assert_eq!(kinds(&given), [(Kind::Release, 1)]);
    lab.desk.failed(given[0].number, START + 600 * MILLI);
    let again = lab.take(START + 600 * MILLI);
    assert_eq!(given[0].ids, again[0].ids, "until it is known that it arrived");
    assert!(lab.desk.replied(again[0].number, &Reply::Released, START + 600 * MILLI));
    assert!(lab.take(START + 5 * SECOND).is_empty());
    assert!(matches!(
        lab.ask(0, false, START + 5 * SECOND).0,
        Ok(Decision::Parked(_))
    ));
}

#[test]
fn what_was_granted_after_the_call_had_failed_is_given_back() {
    let mut lab = Lab::new((3, 2), (true, false), Fail::Local);
    let (ticket, _) = lab.wait(0, START);
    let asked = lab.take(START);
    lab.desk.failed(asked[0].number, START + 50 * MILLI);
    let reply = Reply::Acquired(vec![Granted {
        fence: Some(1),
        which: None,
        retry_ms: 0,
    }]);
    assert!(
        !lab.desk.replied(asked[0].number, &reply, START + 60 * MILLI),
        "too late"
    );
    let next = lab.take(START + 200 * MILLI);
    assert_eq!(kinds(&next), [(Kind::Release, 1), (Kind::Acquire, 1)]);
    assert_eq!(next[0].ids, asked[0].ids);
    assert_ne!(next[1].ids, asked[0].ids);
    // The waiter leaves while the second call is under way: its lease is given back as well.
    assert!(lab.limiter.abandon(ticket, false, START + 201 * MILLI).is_some());
    lab.grant_all(&next[1], START + 202 * MILLI);
    let last = lab.take(START + 452 * MILLI);
    assert_eq!(kinds(&last), [(Kind::Release, 1)]);
    assert_eq!(last[0].ids, next[1].ids);
}

#[test]
fn a_refusal_backs_off_and_no_longer_than_until_the_first_lease_expires() {
    let lab = Lab::new((3, 2), (true, false), Fail::Local);
    let _waiter = lab.wait(0, START);
    let asked = lab.take(START);
    lab.refuse(&asked[0], Which::User, 0, START);
    assert!(lab.take(START + 24 * MILLI).is_empty());
    let asked = lab.take(START + 250 * MILLI);
    assert_eq!(kinds(&asked), [(Kind::Acquire, 1)]);
    lab.refuse(&asked[0], Which::User, 3, START + 250 * MILLI);
    assert!(lab.take(START + 252 * MILLI).is_empty());
    assert_eq!(kinds(&lab.take(START + 253 * MILLI)), [(Kind::Acquire, 1)]);
}

#[test]
fn who_asks_once_hears_the_first_answer() {
    let mut lab = Lab::new((3, 2), (true, false), Fail::Local);
    let (asked, waiter) = lab.ask(0, true, START);
    assert!(matches!(asked, Ok(Decision::Parked(_))), "the cluster is to be asked");
    let (_, patient) = lab.wait(0, START);
    let operations = lab.take(START);
    lab.refuse(&operations[0], Which::User, 0, START);
    let refusal = waiter.refusal.lock().expect("not poisoned").take().expect("refused");
    assert_eq!((refusal.scope, refusal.reason), (Scope::Cluster, Reason::Full));
    assert!(
        patient.refusal.lock().expect("not poisoned").is_none(),
        "others wait on"
    );
    assert_eq!(lab.limiter.stats().queued, 1);
    let operations = lab.take(START + SECOND);
    lab.grant_all(&operations[0], START + SECOND);
    let _first = lab.granted(&patient).expect("granted");
    let _second = lab.permit(0, START + SECOND);
    let (refused, _) = lab.ask(0, true, START + SECOND);
    let refusal = refused.expect_err("the user's own limit is reached");
    assert_eq!((refusal.scope, refusal.reason), (Scope::User, Reason::Full));
}

#[test]
fn without_a_wait_only_what_is_leased_is_given() {
    let mut lab = Lab::new((3, 2), (true, false), Fail::Local);
    let refusal = lab
        .limiter
        .try_request(Request::new(&lab.lanes[0]), START)
        .expect_err("no lease");
    assert_eq!(refusal.scope, Scope::Cluster);
    lab.permit(0, START).release(START);
    assert!(
        lab.limiter
            .try_request(Request::new(&lab.lanes[0]), START + MILLI)
            .is_ok()
    );
}

#[test]
fn leases_are_renewed_together_and_lost_when_they_are_not() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    let (ann, bob) = (lab.permit(0, START), lab.permit(1, START));
    let renewals = lab.take(START + 11 * SECOND);
    assert_eq!(kinds(&renewals), [(Kind::Renew, 1), (Kind::Renew, 1)]);
    let now = START + 11 * SECOND;
    assert!(lab.desk.replied(renewals[0].number, &Reply::Renewed(vec![true]), now));
    let (kept, other) = if &*renewals[0].user == "ann" {
        (&ann, &bob)
    } else {
        (&bob, &ann)
    };
    // Nothing is heard of the other: its holder stops to rely on it before the store forgets it.
    assert!(
        lab.take(START + 27 * SECOND - 1)
            .iter()
            .all(|each| each.kind == Kind::Renew)
    );
    assert!(!other.lease().1);
    lab.take(START + 27 * SECOND);
    assert!(other.lease().1, "lost");
    assert!(!kept.lease().1);
    let lost = lab.desk.lost();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].permit_fence, &*lost[0].limit), (other.fence(), "engines"));
    assert_eq!(Some(lost[0].lease_fence), other.lease().0);
    assert!(lab.desk.lost().is_empty(), "told once");
}

#[test]
fn what_runs_is_put_back_into_a_store_that_was_emptied() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    let permit = lab.permit(0, START);
    let now = START + 11 * SECOND;
    let renewals = lab.take(now);
    assert!(lab.desk.replied(renewals[0].number, &Reply::Renewed(vec![false]), now));
    let restored = lab.take(now);
    assert_eq!(kinds(&restored), [(Kind::Restore, 1)]);
    assert_eq!(restored[0].ids, renewals[0].ids);
    assert!(lab.desk.replied(restored[0].number, &Reply::Restored(vec![77]), now));
    assert_eq!(permit.lease(), (Some(77), false));
    permit.release(now);
    assert_eq!(kinds(&lab.take(now)), [(Kind::Release, 1)], "nobody else runs under it");
}

#[test]
fn what_runs_after_its_lease_was_lost_is_counted_under_its_old_fence() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    let permit = lab.permit(0, START);
    let now = START + 40 * SECOND;
    let sent = lab.take(now);
    assert_eq!(kinds(&sent), [(Kind::Release, 1), (Kind::Restore, 1)]);
    assert!(lab.desk.replied(sent[1].number, &Reply::Restored(vec![99]), now));
    assert_eq!(permit.lease(), (Some(1), true), "another may have begun since");
}

#[test]
fn without_the_store_each_process_has_its_part_and_lets_go_of_the_rest() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    lab.desk.set_processes(2, START);
    let (_first, _second) = (lab.permit(0, START), lab.permit(0, START));
    let (_, bob) = lab.wait(1, START);
    let mut now = START;
    for _ in 0..3 {
        now += 60 * MILLI;
        for operation in lab.take(now) {
            lab.desk.failed(operation.number, now);
        }
    }
    assert_eq!(lab.desk.mode(), "local");
    let bob = lab.granted(&bob).expect("one of two is this process's");
    assert_eq!(bob.lease(), (None, false));
    let (second, _) = lab.ask(1, false, now);
    assert!(matches!(second, Ok(Decision::Parked(_))), "the other is another's");
    // Leases count until their deadlines; then one of the two is beyond this process's part.
    for second in 1..40 {
        lab.take(now + second * SECOND)
            .into_iter()
            .for_each(|each| lab.desk.failed(each.number, now + second * SECOND));
    }
    assert_eq!(lab.desk.lost().len(), 1);
    now += 41 * SECOND;
    let probe = lab.take(now);
    assert_eq!(
        kinds(&probe),
        [(Kind::Release, 1)],
        "one call alone asks whether the store is back"
    );
    assert!(lab.desk.replied(probe[0].number, &Reply::Released, now));
    assert_eq!(lab.desk.mode(), "whole");
    let restored: usize = lab
        .take(now)
        .iter()
        .filter(|each| each.kind == Kind::Restore)
        .map(|each| each.ids.len())
        .sum();
    assert_eq!(restored, 3, "all that runs is counted again");
}

#[test]
fn without_the_store_a_part_of_the_total_goes_on_to_who_waits() {
    let lab = Lab::new((4, 2), (true, true), Fail::Local);
    lab.desk.set_processes(2, START);
    let waiters: Vec<_> = [0, 1, 2].map(|user| lab.wait(user, START).1).into();
    let mut now = START;
    for _ in 0..3 {
        now += 60 * MILLI;
        lab.break_once(now);
    }
    let running: Vec<_> = waiters.iter().filter_map(|waiter| lab.granted(waiter)).collect();
    assert_eq!(running.len(), 2, "two of four are this process's");
    assert!(running[0].release(now));
    let last = waiters.iter().filter_map(|waiter| lab.granted(waiter)).count();
    assert_eq!(last, 1);
    assert!(running[1].release(now));
}

#[test]
fn a_closed_limit_refuses_and_an_open_one_is_the_process_own() {
    for fail in [Fail::Closed, Fail::Open] {
        let lab = Lab::new((9, 2), (true, false), fail);
        let (_, waiter) = lab.wait(0, START);
        let mut now = START;
        for _ in 0..3 {
            now += 60 * MILLI;
            lab.break_once(now);
        }
        assert_eq!(lab.desk.mode(), if fail == Fail::Open { "open" } else { "closed" });
        let (next, _) = lab.ask(0, false, now);
        if fail == Fail::Open {
            assert!(lab.granted(&waiter).is_some());
            assert!(matches!(next, Ok(Decision::Granted(_))));
            continue;
        }
        let refusal = waiter.refusal.lock().expect("not poisoned").take().expect("refused");
        assert_eq!((refusal.reason, refusal.retry_after), (Reason::Unavailable, 1));
        assert_eq!(next.expect_err("refused").scope, Scope::Cluster);
        assert_eq!(lab.limiter.stats().queued, 0);
    }
}

#[test]
fn units_of_the_total_come_in_chunks() {
    let mut lab = Lab::new((40, 40), (false, true), Fail::Local);
    lab.desk.set_processes(4, START);
    let (_, waiter) = lab.wait(0, START);
    let asked = lab.take(START);
    assert_eq!(kinds(&asked), [(Kind::Acquire, 5)], "40 / (2 * 4)");
    assert_eq!(
        (&*asked[0].user, asked[0].user_limit, asked[0].total_limit),
        ("", None, Some(40))
    );
    lab.grant_all(&asked[0], START);
    let first = lab.granted(&waiter).expect("granted");
    let (Ok(Decision::Granted(second)), _) = lab.ask(1, false, START) else {
        panic!("of the same chunk")
    };
    first.release(START);
    lab.limiter.release(second, START);
    assert!(lab.take(START + 999 * MILLI).is_empty());
    let back = lab.take(START + 1_000 * MILLI);
    assert!(back.iter().all(|each| each.kind == Kind::Release));
    assert_eq!(back.iter().map(|each| each.ids.len()).sum::<usize>(), 5);
}

#[test]
fn a_lease_on_the_shelf_is_given_back_at_once_when_the_total_keeps_another_waiting() {
    let mut lab = Lab::new((2, 2), (true, true), Fail::Local);
    lab.permit(0, START).release(START);
    let _bob = lab.wait(1, START);
    let asked = lab.take(START);
    assert_eq!(kinds(&asked), [(Kind::Acquire, 1)]);
    lab.refuse(&asked[0], Which::Total, 29_000, START);
    assert_eq!(
        kinds(&lab.take(START)),
        [(Kind::Release, 1), (Kind::Acquire, 1)],
        "in one round trip"
    );
}

#[test]
fn before_anybody_carries_operations_nobody_waits_for_leases() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    lab.desk = Desk::new(DeskSettings::default());
    lab.limiter = Arc::new(FairLimiter::new(LimitSettings::new(9, 2)));
    lab.desk
        .share(&lab.limiter, "engines", share_of_users())
        .expect("shared");
    let (Ok(Decision::Granted(early)), _) = lab.ask(0, false, START) else {
        panic!("there is nobody to ask")
    };
    let early = Permit::new(lab.limiter.clone(), early);
    assert_eq!(early.lease(), (None, false));
    assert_eq!(kinds(&lab.take(START)), [(Kind::Restore, 1)], "from here on it counts");
    lab.wait(0, START);
    early.release(START);
}

#[test]
fn to_stop_sharing_gives_everything_back_and_lets_the_process_own_limits_hold() {
    let mut lab = Lab::new((9, 2), (true, false), Fail::Local);
    let permit = lab.permit(0, START);
    let (_, waiter) = lab.wait(0, START);
    assert_eq!(
        lab.desk.share(&lab.limiter, "other", share_of_users()),
        Err(ShareError::Shared)
    );
    let other = Arc::new(FairLimiter::new(LimitSettings::new(1, 1)));
    assert_eq!(
        lab.desk.share(&other, "engines", share_of_users()),
        Err(ShareError::Name)
    );
    let _ = lab.take(START);
    let given = lab.desk.close(START);
    assert!(given.iter().all(|each| each.kind == Kind::Release));
    assert!(lab.granted(&waiter).is_some());
    assert_eq!(permit.lease(), (None, false));
    assert!(permit.release(START));
    assert_eq!(lab.desk.share(&other, "new", share_of_users()), Err(ShareError::Closed));
}

fn share_of_users() -> Share {
    Share {
        by_user: true,
        by_total: false,
        on_lost: OnLost::Cancel,
        fail: Fail::Local,
    }
}
