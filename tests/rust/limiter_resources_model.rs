//! The limiter with named resources, priorities, borrowed limits, changing limits and nested runs, against what must always
//! hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use isolane::clock::{Micros, ProcessClock, SECOND};
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{
    Decision, FairLimiter, Grant, Limit, LimitSettings, Parked, Priority, Request, ResourceSet, Ticket,
};
use proptest::prelude::*;

#[derive(Default)]
struct Waiting {
    grant: Mutex<Option<Grant>>,
}

impl Waiting {
    fn take(&self) -> Option<Grant> {
        self.grant.lock().expect("not poisoned").take()
    }
}

impl Parked for Waiting {
    fn grant(&self, grant: Grant) {
        *self.grant.lock().expect("not poisoned") = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        None
    }
}

fn lanes(registry: &Registry, users: usize) -> Vec<LaneHandle> {
    (0..users)
        .map(|user| registry.lane(&UserId::new(&format!("user-{user}")).expect("valid")))
        .collect()
}

const NAMES: [&str; 3] = ["llm", "db", "http"];

/// The resources of which a bit is set.
fn chosen(limiter: &FairLimiter, bits: usize) -> ResourceSet {
    let names = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    limiter.resources(names.map(|(_, name)| *name)).expect("known")
}

enum Asked {
    Has(Grant),
    Waits(Ticket, Arc<Waiting>),
    Refused,
}

fn ask(limiter: &FairLimiter, request: Request<'_>, now: Micros) -> Asked {
    let waiting = Arc::new(Waiting::default());
    let parked = waiting.clone();
    match limiter.request(request, now, || parked) {
        Ok(Decision::Granted(grant)) => Asked::Has(grant),
        Ok(Decision::Parked(ticket)) => Asked::Waits(ticket, waiting),
        Err(_) => Asked::Refused,
    }
}

/// One user holds its permits long while nobody waits, then floods with short calls: what it was charged in advance for the
/// long ones, and got back, gives it no head start over who comes next.
#[test]
fn what_was_charged_too_much_is_no_head_start() {
    let registry = Registry::new(Box::new(ProcessClock::new()));
    let lanes = lanes(&registry, 2);
    let limiter = FairLimiter::new(LimitSettings::new(4, 4));
    let mut now = 0;
    let asked = |user: usize, now| {
        ask(
            &limiter,
            Request {
                admitted: true,
                ..Request::new(&lanes[user])
            },
            now,
        )
    };
    for _ in 0..20 {
        let Asked::Has(grant) = asked(0, now) else {
            panic!("free")
        };
        now += 100 * SECOND;
        limiter.release(grant, now);
    }
    let long: Vec<Grant> = (0..4)
        .map(|_| match asked(0, now) {
            Asked::Has(grant) => grant,
            _ => panic!("free"),
        })
        .collect();
    now += 100 * SECOND;
    let mut waiting = VecDeque::new();
    let mut running: VecDeque<Grant> = long.into();
    let flood = |waiting: &mut VecDeque<Arc<Waiting>>, now| {
        while waiting.len() < 50 {
            match asked(0, now) {
                Asked::Waits(_, parked) => waiting.push_back(parked),
                _ => panic!("full"),
            }
        }
    };
    flood(&mut waiting, now);
    let short = SECOND / 100;
    let mut light: Option<(Micros, Arc<Waiting>)> = None;
    for step in 0..40_000 {
        now += short / 4;
        if step == 400 {
            match asked(1, now) {
                Asked::Waits(_, parked) => light = Some((now, parked)),
                _ => panic!("full"),
            }
        }
        let grant = running.pop_front().expect("four run");
        limiter.release(grant, now);
        while let Some(grant) = waiting.front().and_then(|parked| parked.take()) {
            waiting.pop_front();
            running.push_back(grant);
        }
        if let Some((since, parked)) = &light
            && parked.take().is_some()
        {
            let waited = now - since;
            assert!(waited <= 10 * short, "the light user waited {} ms", waited / 1000);
            return;
        }
        flood(&mut waiting, now);
    }
    panic!("the light user waits for ever: {:?}", limiter.stats().queued);
}

fn limiter(total: u32, per_user: u32, resources: [u32; 3], borrow: bool) -> FairLimiter {
    let settings = LimitSettings {
        queue: 40,
        user_queue: 15,
        borrow,
        ..LimitSettings::new(total, per_user)
    };
    FairLimiter::with_resources(settings, NAMES.iter().map(|name| Box::from(*name)).zip(resources))
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, usize, u8),
    Release(usize),
    GiveUp(usize),
    /// Returned for the length of a wait, and asked for again.
    Suspend(usize),
    SetTotal(u32),
    SetPerUser(u32),
    SetUser(usize, u32),
    ResetUser(usize),
    SetResource(usize, u32),
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0_usize..4, 0_usize..8, 1_u8..5).prop_map(|(user, bits, level)| Step::Ask(user, bits, level)),
        8 => any::<usize>().prop_map(Step::Release),
        4 => any::<usize>().prop_map(Step::GiveUp),
        3 => any::<usize>().prop_map(Step::Suspend),
        1 => (0_u32..6).prop_map(Step::SetTotal),
        1 => (0_u32..4).prop_map(Step::SetPerUser),
        1 => (0_usize..4, 0_u32..4).prop_map(|(user, limit)| Step::SetUser(user, limit)),
        1 => (0_usize..4).prop_map(Step::ResetUser),
        1 => (0_usize..3, 0_u32..4).prop_map(|(resource, limit)| Step::SetResource(resource, limit)),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..150)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    user: usize,
    bits: usize,
    level: u8,
}

struct Flat<'a> {
    limiter: &'a FairLimiter,
    lanes: &'a [LaneHandle],
    now: Micros,
    held: Vec<(Want, Grant)>,
    waiters: Vec<(Want, Ticket, Arc<Waiting>)>,
    total: u32,
    per_user: u32,
    own: [Option<u32>; 4],
    resources: [u32; 3],
    borrow: bool,
}

impl Flat<'_> {
    fn ask(&mut self, want: Want, admitted: bool) {
        let request = Request {
            priority: Priority::new(want.level).expect("valid"),
            resources: chosen(self.limiter, want.bits),
            admitted,
            ..Request::new(&self.lanes[want.user])
        };
        match ask(self.limiter, request, self.now) {
            Asked::Has(grant) => self.held.push((want, grant)),
            Asked::Waits(ticket, parked) => self.waiters.push((want, ticket, parked)),
            Asked::Refused => assert!(!admitted),
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1_000;
        match *step {
            Step::Ask(user, bits, level) => self.ask(Want { user, bits, level }, false),
            Step::Release(at) if !self.held.is_empty() => {
                let (_, grant) = self.held.swap_remove(at % self.held.len());
                self.limiter.release(grant, self.now);
            }
            Step::GiveUp(at) if !self.waiters.is_empty() => {
                let (_, ticket, _) = self.waiters.remove(at % self.waiters.len());
                assert!(self.limiter.abandon(ticket, at % 2 == 0, self.now).is_some());
            }
            Step::Suspend(at) if !self.held.is_empty() => {
                let (want, grant) = self.held.swap_remove(at % self.held.len());
                self.limiter.release_unused(grant, self.now);
                self.collect();
                self.ask(want, true);
            }
            Step::SetTotal(total) => {
                self.total = total;
                self.limiter.set_limit(Limit::Total, total, self.now);
            }
            Step::SetPerUser(limit) => {
                self.per_user = limit;
                self.limiter.set_limit(Limit::PerUser, limit, self.now);
            }
            Step::SetUser(user, limit) => {
                self.own[user] = Some(limit);
                assert!(
                    self.limiter
                        .set_user(&self.lanes[user], Some(limit), Some(2.0), self.now)
                );
            }
            Step::ResetUser(user) => {
                self.own[user] = None;
                self.limiter.reset_user(&self.lanes[user], self.now);
            }
            Step::SetResource(resource, limit) => {
                self.resources[resource] = limit;
                self.limiter.set_limit(Limit::Resource(resource), limit, self.now);
            }
            Step::Forget => {
                self.limiter.evict(0, self.now);
            }
            Step::Release(_) | Step::GiveUp(_) | Step::Suspend(_) => {}
        }
        self.collect();
    }

    /// Those who were granted run. Within a user, class and set of resources they are the first of those who wait.
    fn collect(&mut self) {
        let mut passed_over: Vec<Want> = Vec::new();
        let (waiters, held) = (&mut self.waiters, &mut self.held);
        waiters.retain(|(want, _, parked)| {
            let Some(grant) = parked.take() else {
                passed_over.push(*want);
                return true;
            };
            assert!(!passed_over.contains(want), "first in, first out: {want:?}");
            held.push((*want, grant));
            false
        });
    }

    fn using(&self, resource: usize) -> u32 {
        let users = self.held.iter().filter(|(want, _)| want.bits >> resource & 1 == 1);
        u32::try_from(users.count()).expect("few")
    }

    fn running_of(&self, user: usize) -> u32 {
        u32::try_from(self.held.iter().filter(|(want, _)| want.user == user).count()).expect("few")
    }

    fn in_use(&self) -> Vec<u32> {
        let total = u32::try_from(self.held.len()).expect("few");
        let users = (0..4).map(|user| self.running_of(user));
        std::iter::once(total)
            .chain((0..3).map(|at| self.using(at)))
            .chain(users)
            .collect()
    }

    fn limits(&self) -> Vec<u32> {
        let user = |user: usize| {
            if self.borrow {
                u32::MAX
            } else {
                self.own[user].unwrap_or(self.per_user)
            }
        };
        std::iter::once(self.total)
            .chain(self.resources)
            .chain((0..4).map(user))
            .collect()
    }

    fn check(&self, before: &[u32]) {
        let (in_use, limits) = (self.in_use(), self.limits());
        for ((in_use, limit), before) in in_use.iter().zip(&limits).zip(before) {
            assert!(*in_use <= (*limit).max(*before), "{in_use} of {limit}");
        }
        let stats = self.limiter.stats();
        let counted: Vec<u32> = std::iter::once(stats.running)
            .chain(stats.resources.iter().map(|resource| resource.running))
            .chain(
                self.lanes
                    .iter()
                    .map(|lane| self.limiter.user_stats(Some(lane)).running),
            )
            .collect();
        assert_eq!(counted, in_use);
        assert_eq!(stats.queued, self.waiters.len());
        assert_eq!(stats.granted - stats.released, u64::from(in_use[0]));
        for (want, ..) in &self.waiters {
            let has_room = in_use[0] < self.total
                && (0..3).all(|at| want.bits >> at & 1 == 0 || in_use[1 + at] < self.resources[at]);
            let own = self.own[want.user].unwrap_or(self.per_user);
            let alone = self.waiters.iter().all(|(other, ..)| other.user == want.user);
            let may = in_use[4 + want.user] < own || (self.borrow && alone);
            assert!(!(has_room && may), "{want:?} waits while there is room");
        }
    }
}

fn flat(total: u32, per_user: u32, resources: [u32; 3], borrow: bool, steps: &[Step]) {
    let registry = Registry::new(Box::new(ProcessClock::new()));
    let (limiter, lanes) = (limiter(total, per_user, resources, borrow), lanes(&registry, 4));
    let mut model = Flat {
        limiter: &limiter,
        lanes: &lanes,
        now: 0,
        held: Vec::new(),
        waiters: Vec::new(),
        total,
        per_user,
        own: [None; 4],
        resources,
        borrow,
    };
    for step in steps {
        let before = model.in_use();
        model.step(step);
        model.check(&before);
    }
    let now = model.now;
    for (_, ticket, parked) in model.waiters.drain(..) {
        if limiter.abandon(ticket, true, now).is_none() {
            // One that gave up before it had held this one back.
            limiter.release(parked.take().expect("granted"), now);
        }
    }
    for (_, grant) in model.held.drain(..) {
        limiter.release(grant, now);
    }
    for lane in &lanes {
        limiter.reset_user(lane, now);
    }
    limiter.evict(0, now);
    let stats = limiter.stats();
    assert_eq!((stats.running, stats.queued, stats.users), (0, 0, 0));
    assert_eq!(stats.granted, stats.released);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_and_nobody_waits_in_vain(
        total in 1_u32..6, per_user in 1_u32..4, resources in [1_u32..4, 1_u32..4, 1_u32..4], steps in steps(),
    ) {
        flat(total, per_user, resources, false, &steps);
    }

    /// With limits that may be exceeded while nobody else waits.
    #[test]
    fn who_waits_alone_is_not_held_back(
        total in 1_u32..6, per_user in 1_u32..4, resources in [1_u32..4, 1_u32..4, 1_u32..4], steps in steps(),
    ) {
        flat(total, per_user, resources, true, &steps);
    }

    /// Runs of nested permits that need parts of what the permit above has. Nodes suspend, give up, and end before their
    /// children; whatever the order, every run comes to its end, no unit is used by two at once, and none is lost.
    #[test]
    fn nested_runs_share_what_they_hold(
        total in 1_u32..4,
        per_user in 1_u32..4,
        resources in [1_u32..3, 1_u32..3, 1_u32..3],
        roots in 1_usize..4,
        shape in prop::collection::vec((0_usize..8, 0_usize..8), 1..12),
        order in prop::collection::vec((any::<usize>(), 0_u8..20), 300),
    ) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let (limiter, lanes) = (limiter(total, per_user, resources, false), lanes(&registry, 2));
        let mut runs = Runs::new(&limiter, &lanes, total, resources, roots, &shape);
        for (choice, chance) in order.into_iter().cycle().take(5_000) {
            let ready: Vec<usize> = (0..runs.nodes.len()).filter(|at| runs.can_step(*at)).collect();
            if runs.nodes.iter().all(|node| matches!(node.state, State::Done)) {
                break;
            }
            prop_assert!(!ready.is_empty(), "deadlock: {}", runs.picture());
            runs.step(ready[choice % ready.len()], chance);
            runs.check();
        }
        prop_assert!(runs.nodes.iter().all(|node| matches!(node.state, State::Done)));
        limiter.evict(0, runs.now);
        let stats = limiter.stats();
        prop_assert_eq!((stats.running, stats.queued, stats.users), (0, 0, 0));
        prop_assert!(stats.resources.iter().all(|resource| resource.running == 0));
        prop_assert_eq!(stats.granted, stats.released);
    }
}

enum State {
    New,
    Waiting(Ticket, Arc<Waiting>),
    Running(Grant),
    Suspended,
    Done,
}

struct Node {
    user: usize,
    bits: usize,
    path: Vec<u64>,
    above: Option<usize>,
    state: State,
    pauses: u8,
}

struct Runs<'a> {
    limiter: &'a FairLimiter,
    lanes: &'a [LaneHandle],
    total: u32,
    resources: [u32; 3],
    nodes: Vec<Node>,
    now: Micros,
}

impl<'a> Runs<'a> {
    fn new(
        limiter: &'a FairLimiter,
        lanes: &'a [LaneHandle],
        total: u32,
        resources: [u32; 3],
        roots: usize,
        shape: &[(usize, usize)],
    ) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for root in 0..roots {
            let first = nodes.len();
            let number = |at: usize| (root * 1_000 + at + 1) as u64;
            let node = |above: Option<usize>, path: Vec<u64>, bits: usize| Node {
                user: root % 2,
                bits,
                path,
                above,
                state: State::New,
                pauses: 2,
            };
            nodes.push(node(None, vec![number(0)], shape[0].1));
            for (at, (above, bits)) in shape.iter().enumerate() {
                let above = first + above % (at + 1);
                let mut path = nodes[above].path.clone();
                path.push(number(at + 1));
                // A part of what the node above has: to wait for more while one holds something can deadlock by itself.
                let bits = bits & nodes[above].bits;
                nodes.push(node(Some(above), path, bits));
            }
        }
        Self {
            limiter,
            lanes,
            total,
            resources,
            nodes,
            now: 0,
        }
    }

    /// Whether a node has a permit, though it may not have looked yet.
    fn holds(&self, at: usize) -> bool {
        match &self.nodes[at].state {
            State::Running(_) => true,
            State::Waiting(_, parked) => parked.grant.lock().expect("not poisoned").is_some(),
            _ => false,
        }
    }

    fn below(&self, at: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.above == Some(at))
    }

    fn can_step(&self, at: usize) -> bool {
        match &self.nodes[at].state {
            State::New => self.nodes[at]
                .above
                .is_none_or(|above| matches!(self.nodes[above].state, State::Running(_) | State::Suspended)),
            State::Waiting(_, parked) => parked.grant.lock().expect("not poisoned").is_some(),
            State::Running(_) => self.below(at).all(|node| matches!(node.state, State::Done)),
            State::Suspended => true,
            State::Done => false,
        }
    }

    /// Those below that have not begun never will.
    fn skip_below(&mut self, at: usize) {
        for below in 0..self.nodes.len() {
            if self.nodes[below].above == Some(at) && matches!(self.nodes[below].state, State::New) {
                self.nodes[below].state = State::Done;
                self.skip_below(below);
            }
        }
    }

    fn ask(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let request = Request {
            path: &node.path,
            task: at + 1,
            admitted: true,
            resources: chosen(self.limiter, node.bits),
            ..Request::new(&self.lanes[node.user])
        };
        node.state = match ask(self.limiter, request, self.now) {
            Asked::Has(grant) => State::Running(grant),
            Asked::Waits(ticket, parked) => State::Waiting(ticket, parked),
            Asked::Refused => panic!("an admitted step is not refused"),
        };
    }

    fn end(&mut self, at: usize, next: State) {
        if let State::Running(grant) = std::mem::replace(&mut self.nodes[at].state, next) {
            self.limiter.release(grant, self.now);
        }
    }

    fn step(&mut self, at: usize, chance: u8) {
        self.now += 1_000;
        // Now and then somebody gives up, pauses, or does not wait for those below.
        if chance < 3 {
            let others: Vec<usize> = (0..self.nodes.len())
                .filter(|at| !matches!(self.nodes[*at].state, State::New | State::Done | State::Suspended))
                .collect();
            if let Some(other) = others.get(at % others.len().max(1)).copied() {
                return self.surprise(other, chance);
            }
        }
        match &self.nodes[at].state {
            State::New | State::Suspended => self.ask(at),
            State::Waiting(_, parked) => {
                let grant = parked.take().expect("it can step");
                self.nodes[at].state = State::Running(grant);
            }
            State::Running(_) => self.end(at, State::Done),
            State::Done => {}
        }
    }

    fn surprise(&mut self, at: usize, chance: u8) {
        match (&self.nodes[at].state, chance) {
            (State::Waiting(ticket, parked), _) => {
                let (ticket, parked) = (*ticket, parked.clone());
                if self.limiter.abandon(ticket, false, self.now).is_none() {
                    let grant = parked.take().expect("granted");
                    self.nodes[at].state = State::Running(grant);
                }
                self.end(at, State::Done);
                self.skip_below(at);
            }
            (State::Running(_), 0) if self.nodes[at].pauses > 0 => {
                self.nodes[at].pauses -= 1;
                self.end(at, State::Suspended);
            }
            (State::Running(_), 1) => {
                self.end(at, State::Done);
                self.skip_below(at);
            }
            _ => {}
        }
    }

    fn check(&self) {
        let holders: Vec<usize> = (0..self.nodes.len()).filter(|at| self.holds(*at)).collect();
        let stats = self.limiter.stats();
        assert!(stats.running <= self.total);
        // Which of them share a unit depends on who was granted first; each run with a holder has one at least.
        let mut runs: Vec<u64> = holders.iter().map(|at| self.nodes[*at].path[0]).collect();
        runs.sort_unstable();
        runs.dedup();
        assert!(
            (runs.len()..=holders.len()).contains(&(stats.running as usize)),
            "{} units: {}",
            stats.running,
            self.picture()
        );
        for (at, limit) in self.resources.iter().enumerate() {
            let uses = |node: &&usize| self.nodes[**node].bits >> at & 1 == 1;
            let running = stats.resources[at].running;
            assert!(running <= *limit);
            assert!(
                holders.iter().filter(uses).count() >= running as usize,
                "lost: {}",
                self.picture()
            );
        }
        for (at, node) in self.nodes.iter().enumerate() {
            if !matches!(node.state, State::Waiting(..)) || holders.contains(&at) || node.bits != 0 {
                continue;
            }
            let mut lender = node.above;
            while let Some(above) = lender.filter(|above| !self.holds(*above)) {
                lender = self.nodes[above].above;
            }
            let lends = |lender: usize| {
                let path = &self.nodes[lender].path;
                let below = |other: &usize| *other != lender && self.nodes[*other].path.starts_with(path);
                holders.iter().any(below)
            };
            assert!(
                lender.is_none_or(lends),
                "{at} waits beside a unit that is lent to nobody: {}",
                self.picture()
            );
        }
    }

    fn picture(&self) -> String {
        let node = |(at, node): (usize, &Node)| {
            let state = match node.state {
                State::New => "new",
                State::Waiting(..) => "waiting",
                State::Running(_) => "running",
                State::Suspended => "suspended",
                State::Done => return String::new(),
            };
            format!("{at} under {:?} needs {:03b} {state}; ", node.above, node.bits)
        };
        self.nodes.iter().enumerate().map(node).collect()
    }
}
