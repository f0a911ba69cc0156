//! Runs a test under many schedules of its threads, the same ones each time.

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Chosen once; another seed finds other schedules.
const SEED: u64 = 0x1501_a9e5;
/// Schedules of each kind, unless `ISOLANE_SCHEDULES` says otherwise.
const SCHEDULES: usize = 300;
/// Orders of so many steps that a fault may need are looked for by the second scheduler.
const DEPTH: usize = 3;

/// Runs `test` under random schedules, then under those of probabilistic concurrency testing, which change threads seldom
/// and at any place. A thread that waits for ever is a failure as well: shuttle finds the deadlock.
pub(crate) fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    let wanted = std::env::var("ISOLANE_SCHEDULES").ok();
    let schedules = wanted.map_or(SCHEDULES, |number| {
        number.parse().expect("ISOLANE_SCHEDULES is a number")
    });
    let mut config = Config::new();
    // That atomics are all sequentially consistent under it is known, and true of what is tested here.
    config.silence_warnings = true;
    let random = RandomScheduler::new_from_seed(SEED, schedules);
    Runner::new(random, config.clone()).run(test.clone());
    Runner::new(PctScheduler::new_from_seed(SEED, DEPTH, schedules), config).run(test);
}
