//! Simulated rollouts: healthy ones are never rolled back, harmful ones soon.
//!
//! Nothing of the guard was tuned on these seeds.

use isolane::clock::{Moment, SECOND};
use isolane::guard::{Cohort, Counts, EProcess, Guard, GuardState, Metric, Policy, Step, one};

const SEEDS: [u64; 5] = [0x5EED_0001, 77, 20_260_214, 0xC0FF_EE00, 9_000_000_001];
const ROLLOUTS: u64 = 300;
const REQUESTS: u64 = 20_000;

/// `SplitMix64` of Steele, Lea and Flood (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn is_bad(&mut self, rate: f64) -> bool {
        ((self.next() >> 11) as f64) < rate * (1_u64 << 53) as f64
    }
}

fn moment(second: u64) -> Moment {
    Moment {
        monotonic: (second + 1) * SECOND,
        unix: (second + 1) * SECOND,
    }
}

/// After how many requests a rollout with this rate of errors is rolled back, if it is.
fn requests_until_rollback(random: &mut Random, rate: f64) -> Option<u64> {
    let guard = Guard::new("modern", Policy::default(), moment(0));
    guard.follow(100, 1, moment(0));
    (1..=REQUESTS).find(|second| {
        let bad = random.is_bad(rate);
        guard
            .observe(Metric::RunError, one(bad), Cohort::Modern, moment(*second))
            .expect("it is taken in")
            .is_some()
    })
}

struct Simulated {
    rolled_back: usize,
    median: Option<u64>,
}

fn simulate(seed: u64, rate: f64) -> Simulated {
    let mut random = Random(seed ^ rate.to_bits());
    let mut ends: Vec<u64> = (0..ROLLOUTS)
        .filter_map(|_| requests_until_rollback(&mut random, rate))
        .collect();
    ends.sort_unstable();
    Simulated {
        rolled_back: ends.len(),
        median: (ends.len() as u64 == ROLLOUTS).then(|| ends[ends.len() / 2]),
    }
}

#[test]
fn healthy_rollouts_are_never_rolled_back() {
    for seed in SEEDS {
        for rate in [0.001, 0.003, 0.005] {
            let simulated = simulate(seed, rate);
            // At the bound itself the chance is at most one in a thousand each.
            let allowed = if rate < 0.004 { 0 } else { 2 };
            assert!(
                simulated.rolled_back <= allowed,
                "seed {seed}, rate {rate}: {}",
                simulated.rolled_back
            );
        }
    }
}

#[test]
fn harmful_rollouts_are_caught_soon() {
    for seed in SEEDS {
        for (rate, limit) in [(0.2, 20), (0.05, 150), (0.02, 750)] {
            let median = simulate(seed, rate).median.expect("each is rolled back");
            assert!(median <= limit, "seed {seed}, rate {rate}: {median}");
        }
    }
}

/// One request of a healthy service a second, all metrics, up the whole ladder; the older side is as slow as the newer one.
#[test]
fn a_healthy_rollout_reaches_all_users_and_no_sooner_than_it_may() {
    for seed in SEEDS {
        let mut random = Random(seed);
        for _ in 0..20 {
            let guard = Guard::new("modern", Policy::default(), moment(0));
            guard.follow(100, 1, moment(0));
            let mut arrived = None;
            for second in 1..=REQUESTS {
                let now = moment(second);
                let mut see = |metric, rate, cohort| {
                    let told = guard.observe(metric, one(random.is_bad(rate)), cohort, now);
                    assert_eq!(told, Ok(None), "seed {seed}, second {second}");
                };
                see(Metric::RunError, 0.001, Cohort::Modern);
                see(Metric::SlowRun, 0.05, Cohort::Modern);
                see(Metric::SlowRun, 0.05, Cohort::Legacy);
                see(Metric::SlowEvent, 0.002, Cohort::Modern);
                see(Metric::DroppedEvent, 0.0, Cohort::Modern);
                if let Step::Advance(next) = guard.tick(now) {
                    guard.follow(next, 1, now);
                    arrived = (next == 100_000).then_some(second).or(arrived);
                }
            }
            let arrived = arrived.expect("it reaches all users");
            assert!(arrived >= 6 * 600, "seed {seed}: {arrived}");
            assert_eq!(guard.status(moment(REQUESTS)).state, GuardState::Healthy);
        }
    }
}

/// The bound follows the older side while both are watched: even where both are slow, it is no reason to roll back.
#[test]
fn as_slow_as_the_older_side_is_never_rolled_back() {
    for seed in SEEDS {
        let mut random = Random(seed);
        for rate in [0.01, 0.08, 0.3] {
            for _ in 0..60 {
                let guard = Guard::new("modern", Policy::default(), moment(0));
                for second in 0..REQUESTS / 4 {
                    for cohort in [Cohort::Legacy, Cohort::Modern] {
                        let slow = one(random.is_bad(rate));
                        let told = guard.observe(Metric::SlowRun, slow, cohort, moment(second));
                        assert_eq!(told, Ok(None), "seed {seed}, rate {rate}, second {second}");
                    }
                }
            }
        }
    }
}

#[test]
fn twice_as_slow_as_the_older_side_is_rolled_back() {
    for seed in SEEDS {
        let mut random = Random(seed);
        let guard = Guard::new("modern", Policy::default(), moment(0));
        let caught = (0..REQUESTS).find(|second| {
            let legacy = one(random.is_bad(0.1));
            guard
                .observe(Metric::SlowRun, legacy, Cohort::Legacy, moment(*second))
                .expect("it is taken in");
            let modern = one(random.is_bad(0.2));
            let told = guard.observe(Metric::SlowRun, modern, Cohort::Modern, moment(*second));
            told.expect("it is taken in").is_some()
        });
        assert!(caught.is_some_and(|second| second < 5_000), "seed {seed}: {caught:?}");
    }
}

/// Looking after each observation or now and then makes no difference to what is true.
#[test]
fn evidence_does_not_depend_on_when_it_is_looked_at() {
    let (mut often, mut once) = (EProcess::new(0.005), EProcess::new(0.005));
    let mut random = Random(SEEDS[0]);
    let mut counts = Counts::default();
    for _ in 0..5_000 {
        let bad = random.is_bad(0.01);
        often.observe(one(bad));
        assert!(often.log_evidence().is_finite());
        counts.bad += u64::from(bad);
        counts.seen += 1;
    }
    once.observe(counts);
    assert!((often.log_evidence() - once.log_evidence()).abs() < 1e-6);
}
