//! Limits over several processes against a model: processes with a limiter and a desk each, and one store between them
//! that loses calls and answers, answers late or twice, and forgets everything.
//!
//! After every step: what runs has a lease, or is counted as without one; while the store is whole no limit is exceeded; and
//! a desk that sleeps has nothing to do. In the end everybody who waits is served, and every lease is given back.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use isolane::clock::{Micros, ProcessClock, SECOND};
use isolane::cluster::lease::{
    Desk, DeskSettings, Fail, Granted, Kind, LeaseId, OnLost, Operation, Reply, Ring, Share, Waiting, Which,
};
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{Decision, FairLimiter, Grant, LimitSettings, Parked, Permit, Refusal, Request, Scope, Ticket};
use proptest::prelude::*;

const USERS: usize = 3;
const MILLI: Micros = SECOND / 1_000;

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

#[derive(Default)]
struct Bell(AtomicBool);

impl Ring for Bell {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a store does, without a store.
#[derive(Default)]
struct Store {
    sets: HashMap<String, HashMap<LeaseId, Micros>>,
    fence: u64,
}

impl Store {
    fn live(&self, set: &str, now: Micros) -> usize {
        let set = self.sets.get(set);
        set.map_or(0, |set| set.values().filter(|until| **until > now).count())
    }

    fn run(&mut self, operation: &Operation, now: Micros) -> Reply {
        let mut sets = Vec::new();
        if let Some(limit) = operation.user_limit {
            sets.push((format!("u:{}", operation.user), limit, Which::User));
        }
        if let Some(limit) = operation.total_limit {
            sets.push(("g".to_owned(), limit, Which::Total));
        }
        for (set, ..) in &sets {
            self.sets
                .entry(set.clone())
                .or_default()
                .retain(|_, until| *until > now);
        }
        let until = now + operation.ttl_ms * MILLI;
        let add = |all: &mut HashMap<String, HashMap<LeaseId, Micros>>, id: &LeaseId| {
            for (set, ..) in &sets {
                all.entry(set.clone()).or_default().insert(*id, until);
            }
        };
        match operation.kind {
            Kind::Acquire => Reply::Acquired(
                operation
                    .ids
                    .iter()
                    .map(|id| {
                        let full = sets.iter().find(|(set, limit, _)| {
                            let set = &self.sets[set];
                            !set.contains_key(id) && set.len() >= *limit as usize
                        });
                        if let Some((set, _, which)) = full {
                            let first = self.sets[set].values().min().copied().unwrap_or(now);
                            return Granted {
                                fence: None,
                                which: Some(*which),
                                retry_ms: (first - now) / MILLI,
                            };
                        }
                        add(&mut self.sets, id);
                        self.fence += 1;
                        Granted {
                            fence: Some(self.fence),
                            which: None,
                            retry_ms: 0,
                        }
                    })
                    .collect(),
            ),
            Kind::Renew => Reply::Renewed(
                operation
                    .ids
                    .iter()
                    .map(|id| {
                        let lives = sets.iter().all(|(set, ..)| self.sets[set].contains_key(id));
                        if lives {
                            add(&mut self.sets, id);
                        }
                        lives
                    })
                    .collect(),
            ),
            Kind::Release => {
                for id in &operation.ids {
                    for (set, ..) in &sets {
                        self.sets.entry(set.clone()).or_default().remove(id);
                    }
                }
                Reply::Released
            }
            Kind::Restore => Reply::Restored(
                operation
                    .ids
                    .iter()
                    .map(|id| {
                        add(&mut self.sets, id);
                        self.fence += 1;
                        self.fence
                    })
                    .collect(),
            ),
        }
    }
}

struct Waiting1 {
    user: usize,
    ticket: Ticket,
    waiter: Arc<Waiter>,
}

struct Process {
    limiter: Arc<FairLimiter>,
    desk: Desk,
    bell: Arc<Bell>,
    /// Until when the desk sleeps; `None` while it does not.
    sleeps: Option<Micros>,
    idle_looks: u32,
    calls: VecDeque<(Operation, bool)>,
    replies: VecDeque<(u64, Reply)>,
    held: Vec<(usize, Permit)>,
    waiting: Vec<Waiting1>,
    fences: Vec<u64>,
    lost: usize,
}

impl Process {
    fn new(limits: (u32, u32), share: Share, seed: u64) -> Self {
        let settings = DeskSettings {
            seed: Some(seed),
            ..DeskSettings::default()
        };
        let process = Self {
            limiter: Arc::new(FairLimiter::new(LimitSettings::new(limits.0, limits.1))),
            desk: Desk::new(settings),
            bell: Arc::default(),
            sleeps: None,
            idle_looks: 0,
            calls: VecDeque::new(),
            replies: VecDeque::new(),
            held: Vec::new(),
            waiting: Vec::new(),
            fences: Vec::new(),
            lost: 0,
        };
        process.desk.share(&process.limiter, "engines", share).expect("shared");
        assert!(process.desk.take(0).is_empty());
        process
    }

    /// What whoever carries operations does when it is awake, or woken.
    fn look(&mut self, now: Micros) {
        if let Some(until) = self.sleeps {
            let is_woken = self.bell.0.swap(false, Ordering::Relaxed) || until <= now;
            if !is_woken {
                let operations = self.desk.take(now);
                assert!(
                    operations.is_empty(),
                    "it slept until {until} at {now}, and there was this to send: {operations:?}"
                );
                assert!(self.desk.lost().is_empty(), "it slept, and a lease was lost");
                return;
            }
            let ringer: Arc<dyn Ring> = self.bell.clone();
            self.desk.unpark(&ringer);
            self.sleeps = None;
        }
        loop {
            let operations = self.desk.take(now);
            let lost = self.desk.lost();
            self.idle_looks = if operations.is_empty() && lost.is_empty() {
                self.idle_looks + 1
            } else {
                0
            };
            assert!(self.idle_looks < 4, "it looks again and again, and has nothing to do");
            for lost in lost {
                let named = self
                    .held
                    .iter()
                    .filter(|(_, permit)| permit.fence() == lost.permit_fence);
                for (_, permit) in named {
                    assert!(permit.lease().1, "a permit whose lease is lost says so");
                }
                self.lost += 1;
            }
            self.calls
                .extend(operations.into_iter().map(|operation| (operation, false)));
            self.bell.0.store(false, Ordering::Relaxed);
            match self.desk.wait(self.bell.clone(), now) {
                Waiting::Ready => {}
                Waiting::Until(at) => {
                    self.sleeps = Some(at.unwrap_or(Micros::MAX));
                    self.idle_looks = 0;
                    return;
                }
            }
        }
    }

    /// The store carries the first call out.
    fn deliver(&mut self, store: &mut Store, now: Micros) {
        if let Some((operation, given_up)) = self.calls.pop_front() {
            let reply = store.run(&operation, now);
            if !given_up {
                self.replies.push_back((operation.number, reply));
            }
        }
    }

    fn hear(&mut self, twice: bool, now: Micros) {
        if let Some((number, reply)) = self.replies.pop_front() {
            self.desk.replied(number, &reply, now);
            if twice {
                assert!(!self.desk.replied(number, &reply, now), "it was answered before");
            }
        }
    }

    fn collect(&mut self) {
        let (limiter, held, desk, fences) = (&self.limiter, &mut self.held, &self.desk, &mut self.fences);
        self.waiting.retain(|waiting| {
            if waiting.waiter.refusal.lock().expect("not poisoned").is_some() {
                return false;
            }
            let Some(grant) = waiting.waiter.grant.lock().expect("not poisoned").take() else {
                return true;
            };
            let permit = Permit::new(limiter.clone(), grant);
            note(&permit, desk, fences);
            held.push((waiting.user, permit));
            false
        });
    }

    fn check(&self, lanes: &[LaneHandle], (total, per_user): (u32, u32), by: Share, has_looked: bool) {
        let stats = self.limiter.stats();
        let figures = self.desk.figures();
        let share = &figures.shares[0];
        assert_eq!(
            share.held + share.uncovered,
            stats.running as usize,
            "each unit has a lease, or is counted as without one"
        );
        assert_eq!(stats.queued, self.waiting.len());
        let part = |limit: u32| limit.div_ceil(figures.processes).max(1).min(limit);
        for waiting in &self.waiting {
            let running = self.limiter.user_stats(Some(&lanes[waiting.user])).running;
            if running >= per_user || stats.running >= total {
                continue;
            }
            match share.mode {
                "local" => assert!(
                    by.by_user && running >= part(per_user) || by.by_total && stats.running >= part(total),
                    "somebody waits, and this process's part has room"
                ),
                "open" => panic!("somebody waits, and there is room"),
                "whole" if has_looked && !by.by_user => {
                    assert_eq!(share.idle, 0, "somebody waits, and there is a lease");
                }
                _ => {}
            }
        }
    }
}

/// A permit that was just granted.
fn note(permit: &Permit, desk: &Desk, fences: &mut Vec<u64>) {
    let (fence, lost) = permit.lease();
    assert!(!lost || fence.is_some());
    if let Some(fence) = fence {
        fences.push(fence);
    }
    let _ = desk;
}

#[derive(Debug, Clone)]
enum Step {
    Ask {
        process: usize,
        user: usize,
        once: bool,
    },
    Nested {
        process: usize,
        user: usize,
        depth: u64,
    },
    Try {
        process: usize,
        user: usize,
    },
    Release {
        process: usize,
        at: usize,
    },
    GiveUp {
        process: usize,
        at: usize,
    },
    Look(usize),
    Deliver(usize),
    Hear {
        process: usize,
        twice: bool,
    },
    /// The call is carried out, and nobody hears of it.
    LoseReply(usize),
    /// The call never arrives.
    LoseCall(usize),
    /// The call is given up, and carried out later.
    GiveUpCall(usize),
    Settle,
    Pass(Micros),
    Empty,
    Processes(u32),
}

fn steps(faults: bool) -> impl Strategy<Value = Vec<Step>> {
    let process = 0_usize..3;
    let or_pass = move |step: Step| if faults { step } else { Step::Pass(MILLI) };
    let step = prop_oneof![
        8 => (process.clone(), 0..USERS, prop::bool::weighted(0.2))
            .prop_map(|(process, user, once)| Step::Ask { process, user, once }),
        2 => (process.clone(), 0..USERS, 1_u64..4).prop_map(|(process, user, depth)| Step::Nested { process, user, depth }),
        2 => (process.clone(), 0..USERS).prop_map(|(process, user)| Step::Try { process, user }),
        6 => (process.clone(), any::<usize>()).prop_map(|(process, at)| Step::Release { process, at }),
        2 => (process.clone(), any::<usize>()).prop_map(|(process, at)| Step::GiveUp { process, at }),
        4 => process.clone().prop_map(Step::Look),
        6 => process.clone().prop_map(Step::Deliver),
        6 => (process.clone(), prop::bool::weighted(0.2)).prop_map(|(process, twice)| Step::Hear { process, twice }),
        4 => process.clone().prop_map(move |process| or_pass(Step::LoseReply(process))),
        3 => process.clone().prop_map(move |process| or_pass(Step::LoseCall(process))),
        3 => process.clone().prop_map(move |process| or_pass(Step::GiveUpCall(process))),
        6 => Just(Step::Settle),
        6 => (1_u64..60).prop_map(|ms| Step::Pass(ms * MILLI)),
        2 => (300_u64..3_000).prop_map(|ms| Step::Pass(ms * MILLI)),
        1 => (8_000_u64..40_000).prop_map(|ms| Step::Pass(ms * MILLI)),
        1 => Just(or_pass(Step::Empty)),
        1 => (1_u32..5).prop_map(Step::Processes),
    ];
    prop::collection::vec(step, 1..150)
}

struct World {
    processes: Vec<Process>,
    store: Store,
    lanes: Vec<LaneHandle>,
    now: Micros,
    was_emptied: bool,
    limits: (u32, u32),
    share: Share,
}

impl World {
    fn new(processes: usize, limits: (u32, u32), share: Share, seed: u64) -> Self {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        Self {
            processes: (0..processes)
                .map(|at| Process::new(limits, share, seed + at as u64))
                .collect(),
            store: Store::default(),
            lanes: (0..USERS)
                .map(|user| registry.lane(&UserId::new(&format!("user-{user}")).expect("valid")))
                .collect(),
            now: 100 * SECOND,
            was_emptied: false,
            limits,
            share,
        }
    }

    fn ask(&mut self, process: usize, user: usize, path: &[u64], once: bool) {
        let now = self.now;
        let process = &mut self.processes[process];
        let request = Request {
            path,
            task: path.len() + 1,
            ask_once: once,
            admitted: !path.is_empty(),
            ..Request::new(&self.lanes[user])
        };
        let waiter = Arc::new(Waiter::default());
        let parked = waiter.clone();
        match process.limiter.request(request, now, || parked) {
            Ok(Decision::Granted(grant)) => {
                let permit = Permit::new(process.limiter.clone(), grant);
                note(&permit, &process.desk, &mut process.fences);
                process.held.push((user, permit));
            }
            Ok(Decision::Parked(ticket)) => process.waiting.push(Waiting1 { user, ticket, waiter }),
            Err(refusal) => {
                let is_closed = process.desk.mode() == "closed" && refusal.scope == Scope::Cluster;
                assert!(once || is_closed, "{refusal:?}");
            }
        }
    }

    fn step(&mut self, step: Step) {
        let (now, count) = (self.now, self.processes.len());
        match step {
            Step::Ask { process, user, once } => self.ask(process % count, user, &[], once),
            Step::Nested { process, user, depth } => {
                let root = user as u64 * 1_000 + 1;
                let path: Vec<u64> = (0..depth).map(|level| root + level).collect();
                self.ask(process % count, user, &path, false);
            }
            Step::Try { process, user } => {
                let process = &mut self.processes[process % count];
                if let Ok(grant) = process.limiter.try_request(Request::new(&self.lanes[user]), now) {
                    let permit = Permit::new(process.limiter.clone(), grant);
                    note(&permit, &process.desk, &mut process.fences);
                    process.held.push((user, permit));
                }
            }
            Step::Release { process, at } => {
                let process = &mut self.processes[process % count];
                if !process.held.is_empty() {
                    let (_, permit) = process.held.swap_remove(at % process.held.len());
                    assert!(permit.release(now));
                }
            }
            Step::GiveUp { process, at } => {
                let process = &mut self.processes[process % count];
                process.collect();
                if !process.waiting.is_empty() {
                    let waiting = process.waiting.remove(at % process.waiting.len());
                    assert!(process.limiter.abandon(waiting.ticket, false, now).is_some());
                }
            }
            Step::Look(process) => self.processes[process % count].look(now),
            Step::Deliver(process) => self.processes[process % count].deliver(&mut self.store, now),
            Step::Hear { process, twice } => self.processes[process % count].hear(twice, now),
            Step::LoseReply(process) => {
                let process = &mut self.processes[process % count];
                process.deliver(&mut self.store, now);
                if let Some((number, _)) = process.replies.pop_back() {
                    process.desk.failed(number, now);
                }
            }
            Step::LoseCall(process) => {
                let process = &mut self.processes[process % count];
                if let Some((operation, given_up)) = process.calls.pop_front()
                    && !given_up
                {
                    process.desk.failed(operation.number, now);
                }
            }
            Step::GiveUpCall(process) => {
                let process = &mut self.processes[process % count];
                if let Some((operation, given_up)) = process.calls.front_mut()
                    && !*given_up
                {
                    *given_up = true;
                    let number = operation.number;
                    process.desk.failed(number, now);
                    process.desk.failed(number, now);
                }
            }
            Step::Settle => self.settle(),
            Step::Pass(time) => self.now += time,
            Step::Empty => {
                self.store = Store {
                    fence: self.store.fence,
                    ..Store::default()
                };
                self.was_emptied = true;
            }
            Step::Processes(many) => {
                for process in &self.processes {
                    process.desk.set_processes(many, now);
                }
            }
        }
    }

    /// Everything that is under way arrives, and everybody looks, until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            let now = self.now;
            for process in &mut self.processes {
                process.look(now);
                while !process.calls.is_empty() {
                    process.deliver(&mut self.store, now);
                }
                while !process.replies.is_empty() {
                    process.hear(false, now);
                }
                process.collect();
            }
        }
        for process in &self.processes {
            process.check(&self.lanes, self.limits, self.share, true);
        }
    }

    fn check(&mut self) {
        for process in &mut self.processes {
            process.collect();
            process.check(&self.lanes, self.limits, self.share, false);
        }
        let opened = self.processes.iter().any(|process| process.desk.figures().opened > 0);
        if opened || self.was_emptied {
            return;
        }
        // A process that slept past its leases notices when it looks.
        let now = self.now;
        for process in &mut self.processes {
            process.look(now);
        }
        let sound = |user: Option<usize>| {
            let held = self.processes.iter().flat_map(|process| &process.held);
            // Those that share a unit of their run share its lease.
            let mut fences: Vec<u64> = held
                .filter(|(holder, _)| user.is_none_or(|user| user == *holder))
                .filter_map(|(_, permit)| match permit.lease() {
                    (Some(fence), false) => Some(fence),
                    _ => None,
                })
                .collect();
            fences.sort_unstable();
            fences.dedup();
            fences.len()
        };
        if self.share.by_user {
            for user in 0..USERS {
                assert!(
                    sound(Some(user)) <= self.limits.1 as usize,
                    "more than the user may run"
                );
            }
        }
        if self.share.by_total {
            assert!(sound(None) <= self.limits.0 as usize, "more than all may run");
        }
    }

    /// The store is whole again: everybody is served, and then nothing is left.
    fn drain(&mut self) {
        for _ in 0..4_000 {
            self.settle();
            if self.processes.iter().all(|process| process.waiting.is_empty()) {
                break;
            }
            let now = self.now;
            for process in &mut self.processes {
                for (_, permit) in process.held.drain(..) {
                    permit.release(now);
                }
            }
            self.now += 20 * MILLI;
        }
        for process in &self.processes {
            assert!(process.waiting.is_empty(), "somebody waits, and there is room");
        }
        let now = self.now;
        for process in &mut self.processes {
            for (_, permit) in process.held.drain(..) {
                permit.release(now);
            }
        }
        for _ in 0..60 {
            self.settle();
            self.now += 50 * MILLI;
        }
        for process in &self.processes {
            let figures = process.desk.figures();
            let share = &figures.shares[0];
            assert_eq!((share.held, share.idle, share.asking, share.uncovered), (0, 0, 0, 0));
            assert_eq!(process.limiter.stats().running, 0);
            assert_eq!(figures.mode, "whole");
        }
        assert_eq!(self.store.live("g", self.now), 0, "a lease was not given back");
        for user in 0..USERS {
            assert_eq!(
                self.store.live(&format!("u:user-{user}"), self.now),
                0,
                "a lease was not given back"
            );
        }
    }
}

fn shares() -> impl Strategy<Value = Share> {
    let scopes = prop_oneof![3 => Just((true, false)), 3 => Just((true, true)), 2 => Just((false, true))];
    let fails = prop_oneof![3 => Just(Fail::Local), 1 => Just(Fail::Open), 1 => Just(Fail::Closed)];
    (scopes, fails).prop_map(|((by_user, by_total), fail)| Share {
        by_user,
        by_total,
        on_lost: OnLost::Flag,
        fail,
    })
}

fn run(world: &mut World, steps: Vec<Step>) {
    for step in steps {
        world.step(step);
        world.check();
    }
    world.drain();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_over_processes(
        processes in 1_usize..4, total in 1_u32..5, per_user in 1_u32..4, share in shares(), seed in any::<u32>(),
        steps in steps(false),
    ) {
        let mut world = World::new(processes, (total, per_user), share, u64::from(seed));
        run(&mut world, steps);
    }

    #[test]
    fn faults_of_the_store_leave_nobody_waiting_and_nothing_behind(
        processes in 1_usize..4, total in 1_u32..5, per_user in 1_u32..4, share in shares(), seed in any::<u32>(),
        steps in steps(true),
    ) {
        let mut world = World::new(processes, (total, per_user), share, u64::from(seed));
        run(&mut world, steps);
    }
}
