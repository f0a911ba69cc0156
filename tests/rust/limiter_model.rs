//! The limiter against a model: random requests, releases and retreats of many users, nested and not.
//!
//! After every step: no limit is exceeded, no unit is lost, nobody waits while there is room, and the order within a user is
//! the order of arrival.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use isolane::clock::ProcessClock;
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{Decision, FairLimiter, Grant, LimitSettings, Parked, Permit, Request, Ticket};
use proptest::prelude::*;

#[derive(Default)]
struct Waiting {
    grant: Mutex<Option<Grant>>,
}

impl Parked for Waiting {
    fn grant(&self, grant: Grant) {
        *self.grant.lock().expect("not poisoned") = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        None
    }
}

struct Waiter {
    ticket: Ticket,
    user: usize,
    waiting: Arc<Waiting>,
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize),
    Try(usize),
    Release(usize),
    GiveUp(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..5).prop_map(Step::Ask),
        1 => (0_usize..5).prop_map(Step::Try),
        3 => any::<usize>().prop_map(Step::Release),
        2 => any::<usize>().prop_map(Step::GiveUp),
    ];
    prop::collection::vec(step, 1..120)
}

fn limiter(total: u32, per_user: u32) -> Arc<FairLimiter> {
    let settings = LimitSettings {
        queue: 40,
        user_queue: 15,
        ..LimitSettings::new(total, per_user)
    };
    Arc::new(FairLimiter::new(settings))
}

fn lanes(registry: &Registry, users: usize) -> Vec<LaneHandle> {
    (0..users)
        .map(|user| registry.lane(&UserId::new(&format!("user-{user}")).expect("valid")))
        .collect()
}

fn take(
    waiters: &mut Vec<Waiter>,
    held: &mut Vec<(usize, Permit)>,
    limiter: &Arc<FairLimiter>,
) -> Vec<(usize, Ticket)> {
    let mut granted = Vec::new();
    waiters.retain(|waiter| {
        let Some(grant) = waiter.waiting.grant.lock().expect("not poisoned").take() else {
            return true;
        };
        held.push((waiter.user, Permit::new(limiter.clone(), grant)));
        granted.push((waiter.user, waiter.ticket));
        false
    });
    granted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_and_nobody_waits_in_vain(total in 1_u32..6, per_user in 1_u32..4, steps in steps()) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let (limiter, lanes) = (limiter(total, per_user), lanes(&registry, 5));
        let mut held: Vec<(usize, Permit)> = Vec::new();
        let mut waiters: Vec<Waiter> = Vec::new();
        let request = |user: usize| Request::new(&lanes[user]);
        for step in steps {
            match step {
                Step::Ask(user) => {
                    let waiting = Arc::new(Waiting::default());
                    let parked = waiting.clone();
                    match limiter.request(request(user), 0, || parked) {
                        Ok(Decision::Granted(grant)) => held.push((user, Permit::new(limiter.clone(), grant))),
                        Ok(Decision::Parked(ticket)) => waiters.push(Waiter { ticket, user, waiting }),
                        Err(refusal) => prop_assert!(refusal.retry_after >= 1),
                    }
                }
                Step::Try(user) => {
                    if let Ok(grant) = limiter.try_request(request(user), 0) {
                        held.push((user, Permit::new(limiter.clone(), grant)));
                    }
                }
                Step::Release(at) if !held.is_empty() => {
                    let (_, permit) = held.swap_remove(at % held.len());
                    prop_assert!(permit.release(0));
                    prop_assert!(!permit.release(0), "released once");
                }
                Step::GiveUp(at) if !waiters.is_empty() => {
                    let waiter = waiters.remove(at % waiters.len());
                    prop_assert!(limiter.abandon(waiter.ticket, false, 0).is_some());
                    prop_assert!(limiter.abandon(waiter.ticket, false, 0).is_none());
                }
                Step::Release(_) | Step::GiveUp(_) => {}
            }
            let order: HashMap<usize, Vec<Ticket>> = waiters.iter().fold(HashMap::new(), |mut order, waiter| {
                order.entry(waiter.user).or_insert_with(Vec::new).push(waiter.ticket);
                order
            });
            for (user, ticket) in take(&mut waiters, &mut held, &limiter) {
                prop_assert_eq!(order[&user][0], ticket, "first in, first out within a user");
            }
            let stats = limiter.stats();
            prop_assert_eq!(stats.running as usize, held.len());
            prop_assert!(stats.running <= total);
            prop_assert_eq!(stats.queued, waiters.len());
            for (user, lane) in lanes.iter().enumerate() {
                let running = held.iter().filter(|(holder, _)| *holder == user).count();
                prop_assert!(running <= per_user as usize);
                prop_assert_eq!(limiter.user_stats(Some(lane)).running as usize, running);
                let waits = waiters.iter().any(|waiter| waiter.user == user);
                prop_assert!(
                    !waits || stats.running == total || running == per_user as usize,
                    "user {} waits while there is room", user
                );
            }
        }
        for waiter in waiters {
            limiter.abandon(waiter.ticket, true, 0);
        }
        drop(held);
        limiter.evict(0, 1);
        let stats = limiter.stats();
        prop_assert_eq!((stats.running, stats.queued, stats.users), (0, 0, 0));
        prop_assert_eq!(stats.granted, stats.released);
    }

    /// A tree of nested permits: each node asks for a permit, then runs its children one after the other or all at once, and is
    /// done. Whatever the limits, every node runs, and no more than the limit run at the same time.
    #[test]
    fn nesting_never_deadlocks(
        total in 1_u32..4,
        roots in 1_usize..6,
        shape in prop::collection::vec((0_usize..8, any::<bool>()), 1..24),
        order in prop::collection::vec(any::<usize>(), 400),
    ) {
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let (limiter, lanes) = (limiter(total, total), lanes(&registry, roots));
        let mut nodes = Vec::new();
        for root in 0..roots {
            let first = nodes.len();
            nodes.push(Node::new(root, vec![(root * 1_000 + 1) as u64], None));
            for (at, (parent, _)) in shape.iter().enumerate() {
                let parent = first + parent % (at + 1);
                if nodes[parent].path.len() > 8 {
                    continue;
                }
                let mut path = nodes[parent].path.clone();
                path.push((root * 1_000 + at + 2) as u64);
                let node = nodes.len();
                nodes.push(Node::new(root, path, Some(parent)));
                nodes[parent].children.push(node);
            }
        }
        let all_at_once = shape.iter().filter(|(_, both)| *both).count() * 2 > shape.len();
        let mut order = order.into_iter().cycle();
        let mut idle_rounds = 0;
        while nodes.iter().any(|node| node.state != State::Done) {
            let ready: Vec<usize> = (0..nodes.len()).filter(|at| can_step(&nodes, *at, all_at_once)).collect();
            prop_assert!(!ready.is_empty(), "deadlock with {} of {} nodes done",
                nodes.iter().filter(|node| node.state == State::Done).count(), nodes.len());
            let at = ready[order.next().unwrap_or(0) % ready.len()];
            step_node(&mut nodes, at, &limiter, &lanes);
            prop_assert!(limiter.stats().running <= total);
            idle_rounds += 1;
            prop_assert!(idle_rounds < 10_000);
        }
        limiter.evict(0, 1);
        let stats = limiter.stats();
        prop_assert_eq!((stats.running, stats.queued, stats.users), (0, 0, 0));
    }
}

/// A run with many tasks of its own does not keep the unit from others: it takes its turn like everybody.
#[test]
fn a_run_does_not_hand_its_unit_on_to_itself() {
    let registry = Registry::new(Box::new(ProcessClock::new()));
    let (limiter, lanes) = (limiter(1, 1), lanes(&registry, 2));
    let ask = |user: usize, path: &[u64], task| {
        let waiting = Arc::new(Waiting::default());
        let parked = waiting.clone();
        let request = Request {
            path,
            task,
            admitted: true,
            ..Request::new(&lanes[user])
        };
        (limiter.request(request, 0, || parked).expect("not refused"), waiting)
    };
    let (first, _) = ask(0, &[1], 1);
    let Decision::Granted(first) = first else {
        panic!("the limiter is free")
    };
    let (_, again) = ask(0, &[1], 2);
    let (_, other) = ask(1, &[2], 3);
    let (_, third) = ask(0, &[1], 4);
    limiter.release(first, 0);
    let mut turns = Vec::new();
    for _ in 0..3 {
        for (name, waiting) in [("ann", &again), ("bob", &other), ("ann", &third)] {
            if let Some(grant) = waiting.grant.lock().expect("not poisoned").take() {
                turns.push(name);
                limiter.release(grant, 0);
                break;
            }
        }
    }
    assert_eq!(turns, ["bob", "ann", "ann"]);
}

#[derive(PartialEq)]
enum State {
    New,
    Waiting,
    Running,
    Done,
}

struct Node {
    user: usize,
    path: Vec<u64>,
    parent: Option<usize>,
    children: Vec<usize>,
    state: State,
    waiting: Option<Arc<Waiting>>,
    permit: Option<Permit>,
}

impl Node {
    fn new(user: usize, path: Vec<u64>, parent: Option<usize>) -> Self {
        Self {
            user,
            path,
            parent,
            children: Vec::new(),
            state: State::New,
            waiting: None,
            permit: None,
        }
    }
}

fn can_step(nodes: &[Node], at: usize, all_at_once: bool) -> bool {
    let node = &nodes[at];
    match node.state {
        State::New => node.parent.is_none_or(|parent| {
            let siblings = &nodes[parent].children;
            let earlier_done = siblings
                .iter()
                .take_while(|other| **other != at)
                .all(|other| nodes[*other].state == State::Done);
            nodes[parent].state == State::Running && (all_at_once || earlier_done)
        }),
        State::Waiting => node
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.grant.lock().expect("not poisoned").is_some()),
        State::Running => node.children.iter().all(|child| nodes[*child].state == State::Done),
        State::Done => false,
    }
}

fn step_node(nodes: &mut [Node], at: usize, limiter: &Arc<FairLimiter>, lanes: &[LaneHandle]) {
    let node = &mut nodes[at];
    match node.state {
        State::New => {
            let request = Request {
                path: &node.path,
                task: at + 1,
                admitted: true,
                ..Request::new(&lanes[node.user])
            };
            let waiting = Arc::new(Waiting::default());
            let parked = waiting.clone();
            match limiter.request(request, 0, || parked).expect("the tree is small") {
                Decision::Granted(grant) => {
                    node.permit = Some(Permit::new(limiter.clone(), grant));
                    node.state = State::Running;
                }
                Decision::Parked(_) => {
                    node.waiting = Some(waiting);
                    node.state = State::Waiting;
                }
            }
        }
        State::Waiting => {
            let grant = node
                .waiting
                .take()
                .and_then(|waiting| waiting.grant.lock().expect("not poisoned").take());
            node.permit = grant.map(|grant| Permit::new(limiter.clone(), grant));
            node.state = State::Running;
        }
        State::Running => {
            node.permit = None;
            node.state = State::Done;
        }
        State::Done => {}
    }
}
