//! The limiter under every order of its threads that two schedulers think of: `cargo test --features shuttle --test
//! shuttle_limiter`.
//!
//! Each thread does what a task does: it asks, waits until it is told, runs, and returns its permit or gives up.

mod schedules;

use std::sync::Arc;

use isolane::clock::ProcessClock;
use isolane::ids::UserId;
use isolane::lanes::{LaneHandle, Registry};
use isolane::limits::{Decision, FairLimiter, Grant, LimitSettings, Parked, Permit, Request, Ticket};
use schedules::explore;
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

/// Who waits: its thread sleeps until it is told.
#[derive(Default)]
struct Waiter {
    grant: Mutex<Option<Grant>>,
    told: Mutex<bool>,
    bell: Condvar,
}

impl Waiter {
    fn wait(&self) -> Grant {
        let mut told = self.told.lock().expect("not poisoned");
        while !*told {
            told = self.bell.wait(told).expect("not poisoned");
        }
        self.take().expect("who is told has been granted")
    }

    fn take(&self) -> Option<Grant> {
        self.grant.lock().expect("not poisoned").take()
    }
}

impl Parked for Waiter {
    fn grant(&self, grant: Grant) {
        *self.grant.lock().expect("not poisoned") = Some(grant);
    }

    fn wake(&self) -> Option<Grant> {
        *self.told.lock().expect("not poisoned") = true;
        self.bell.notify_one();
        None
    }
}

/// A limiter with the lanes of two users, and a look at how many run.
struct House {
    limiter: Arc<FairLimiter>,
    lanes: Vec<LaneHandle>,
    /// Who runs now: in all, and of each user. What counts is decided by the test, not by the limiter.
    running: std::sync::Mutex<(u32, [u32; 2])>,
    limits: (u32, u32),
}

impl House {
    fn new(total: u32, per_user: u32) -> Arc<Self> {
        let settings = LimitSettings {
            queue: 100,
            user_queue: 100,
            ..LimitSettings::new(total, per_user)
        };
        let registry = Registry::new(Box::new(ProcessClock::new()));
        let lane = |user| registry.lane(&UserId::new(user).expect("valid"));
        Arc::new(Self {
            limiter: Arc::new(FairLimiter::new(settings)),
            lanes: vec![lane("ann"), lane("bob")],
            running: std::sync::Mutex::default(),
            limits: (total, per_user),
        })
    }

    fn ask(&self, user: usize, path: &[u64], task: usize) -> Result<Grant, (Ticket, Arc<Waiter>)> {
        let request = Request {
            path,
            task,
            ..Request::new(&self.lanes[user])
        };
        let waiter = Arc::new(Waiter::default());
        let parked = waiter.clone();
        match self
            .limiter
            .request(request, 0, || parked)
            .expect("the queues are long")
        {
            Decision::Granted(grant) => Ok(grant),
            Decision::Parked(ticket) => Err((ticket, waiter)),
        }
    }

    fn acquire(&self, user: usize, path: &[u64], task: usize) -> Permit {
        let grant = self.ask(user, path, task).unwrap_or_else(|(_, waiter)| waiter.wait());
        Permit::new(self.limiter.clone(), grant)
    }

    /// Runs for a moment, in which other threads have their turn.
    fn run(&self, user: usize) {
        {
            let mut running = self.running.lock().expect("not poisoned");
            running.0 += 1;
            running.1[user] += 1;
            assert!(running.0 <= self.limits.0, "more run than the process may");
            assert!(running.1[user] <= self.limits.1, "more of a user run than it may");
        }
        thread::yield_now();
        let mut running = self.running.lock().expect("not poisoned");
        running.0 -= 1;
        running.1[user] -= 1;
    }

    fn is_as_new(&self) {
        self.limiter.evict(0, 1);
        let stats = self.limiter.stats();
        assert_eq!((stats.running, stats.queued, stats.users), (0, 0, 0));
        assert_eq!(stats.granted, stats.released);
    }
}

fn all(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("the thread ends");
    }
}

#[test]
fn everybody_gets_a_permit_and_the_limits_hold() {
    explore(|| {
        let house = House::new(2, 1);
        let threads = [0, 0, 1, 1].map(|user| {
            let house = house.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    let permit = house.acquire(user, &[], 0);
                    house.run(user);
                    assert!(permit.release(0));
                }
            })
        });
        all(threads.into());
        house.is_as_new();
    });
}

#[test]
fn who_gives_up_while_being_granted_passes_the_permit_on() {
    explore(|| {
        let house = House::new(1, 1);
        let first = house.acquire(0, &[], 0);
        // They ask while the first one runs; it returns the permit at any moment after.
        let impatient = [house.ask(0, &[], 0), house.ask(1, &[], 0)];
        let mut threads: Vec<_> = impatient
            .into_iter()
            .map(|asked| {
                let house = house.clone();
                let (ticket, waiter) = asked.expect_err("somebody runs");
                thread::spawn(move || {
                    if house.limiter.abandon(ticket, false, 0).is_none() {
                        let grant = waiter.take().expect("it was granted before it gave up");
                        house.limiter.release(grant, 0);
                    }
                })
            })
            .collect();
        let patient = house.clone();
        threads.push(thread::spawn(move || drop(patient.acquire(0, &[], 0))));
        first.release(0);
        all(threads);
        house.is_as_new();
    });
}

#[test]
fn runs_with_nested_steps_do_not_block_each_other() {
    explore(|| {
        let house = House::new(1, 1);
        let roots = [0_usize, 1].map(|user| {
            let house = house.clone();
            thread::spawn(move || {
                let root = user as u64 * 10 + 1;
                let permit = house.acquire(user, &[root], user + 1);
                let steps = [1, 2].map(|step| {
                    let house = house.clone();
                    thread::spawn(move || {
                        let task = user * 10 + step;
                        let permit = house.acquire(user, &[root, root + step as u64], task);
                        house.run(user);
                        drop(permit);
                    })
                });
                all(steps.into());
                house.run(user);
                drop(permit);
            })
        });
        all(roots.into());
        house.is_as_new();
    });
}

#[test]
fn a_permit_that_two_threads_return_goes_back_once() {
    explore(|| {
        let house = House::new(2, 2);
        let other = house.acquire(1, &[], 0);
        let permit = Arc::new(house.acquire(0, &[], 0));
        let answers = [permit.clone(), permit].map(|permit| thread::spawn(move || permit.release(0)));
        let released = answers.map(|answer| answer.join().expect("the thread ends"));
        assert_eq!(released.iter().filter(|released| **released).count(), 1);
        assert_eq!(house.limiter.stats().running, 1, "the other's permit is still out");
        drop(other);
        house.is_as_new();
    });
}
