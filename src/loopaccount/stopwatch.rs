//! What measures a step: wall time always, processor time where that is worth a system call.

use std::cell::Cell;
use std::sync::OnceLock;

use quanta::Clock;

use super::Nanos;
use crate::mutants::mutant;

/// A step that takes longer has its processor time read. A shorter one counts its wall time: reading the clock of a thread is
/// a system call of about 0.3 µs.
pub const LONG: Nanos = 1_000_000;

/// What one step took, without what coroutines that are accounted themselves took inside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// How long it held the thread.
    pub wall: Nanos,
    /// How long it used the processor; of a step of up to [`LONG`], its wall time.
    pub cpu: Nanos,
    /// Whether another coroutine was measured inside: then this step is counted there.
    pub passed_on: bool,
}

/// What is known of this thread between two steps.
struct Thread {
    /// Ticks of the coroutines that were measured inside the present step.
    inner: Cell<u64>,
    /// Processor time of the same.
    inner_cpu: Cell<Nanos>,
    /// The processor time at the last reading.
    cpu: Cell<Nanos>,
    /// When that was, in ticks.
    cpu_at: Cell<u64>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread { inner: Cell::new(0), inner_cpu: Cell::new(0), cpu: Cell::new(0), cpu_at: Cell::new(0) }
    };
}

/// A step that has begun.
#[derive(Debug)]
pub struct Begun {
    at: u64,
    cpu: Nanos,
    outer: u64,
    outer_cpu: Nanos,
}

/// Measures steps by the processor's counter where that runs evenly, else by the monotonic clock. It knows of steps inside of
/// steps, and takes the inner ones out of the outer.
#[derive(Debug)]
pub struct Stopwatch {
    clock: Clock,
    /// [`LONG`] in ticks.
    long: u64,
}

impl Stopwatch {
    /// The one of the process. The first call finds out how fast the counter runs, which takes about a millisecond.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Stopwatch> = OnceLock::new();
        SHARED.get_or_init(|| {
            let clock = Clock::new();
            let in_a_second = clock.delta_as_nanos(0, super::SECOND).max(1);
            let long = u128::from(LONG) * u128::from(super::SECOND) / u128::from(in_a_second);
            Self {
                clock,
                long: u64::try_from(long).unwrap_or(u64::MAX),
            }
        })
    }

    /// A step begins in this thread. The processor time is read when it was not for a millisecond.
    #[inline]
    pub fn begin(&self) -> Begun {
        THREAD.with(|thread| {
            let mut at = self.clock.raw();
            if at.wrapping_sub(thread.cpu_at.get()) > self.long {
                thread.cpu.set(cpu_of_thread());
                thread.cpu_at.set(at);
                at = self.clock.raw();
            }
            Begun {
                at,
                cpu: thread.cpu.get(),
                outer: thread.inner.replace(0),
                outer_cpu: thread.inner_cpu.replace(0),
            }
        })
    }

    /// The step ends, in the same thread.
    #[inline]
    pub fn end(&self, begun: Begun) -> Step {
        let end = self.clock.raw();
        THREAD.with(|thread| {
            // Never negative: the counters of two processors may differ by a little.
            let ticks = end.saturating_sub(begun.at);
            let wall = self.clock.delta_as_nanos(0, ticks);
            let mut cpu = wall;
            if ticks > self.long {
                let read = cpu_of_thread();
                cpu = read.saturating_sub(begun.cpu).min(wall);
                thread.cpu.set(read);
                thread.cpu_at.set(end);
            }
            let inner = thread.inner.replace(begun.outer.saturating_add(ticks));
            let inner_cpu = thread.inner_cpu.replace(begun.outer_cpu.saturating_add(cpu));
            if inner == 0 || mutant!(InnerStepsCountTwice) {
                return Step {
                    wall,
                    cpu,
                    passed_on: false,
                };
            }
            Step {
                wall: self.clock.delta_as_nanos(0, ticks.saturating_sub(inner)),
                cpu: cpu.saturating_sub(inner_cpu),
                passed_on: true,
            }
        })
    }

    /// Forgets the step that this thread is in. In the child of a fork it may never end.
    pub fn forget_thread() {
        THREAD.with(|thread| {
            for cell in [&thread.inner, &thread.inner_cpu, &thread.cpu, &thread.cpu_at] {
                cell.set(0);
            }
        });
    }
}

/// Processor time of this thread.
#[cfg(unix)]
fn cpu_of_thread() -> Nanos {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Nanos::try_from(time.tv_sec).unwrap_or_default();
    let rest = Nanos::try_from(time.tv_nsec).unwrap_or_default();
    seconds * super::SECOND + rest
}

/// Elsewhere it is not read, and wall time counts for it.
#[cfg(not(unix))]
fn cpu_of_thread() -> Nanos {
    Stopwatch::shared()
        .clock
        .delta_as_nanos(0, Stopwatch::shared().clock.raw())
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_step_that_sleeps_takes_wall_time_and_no_processor_time() {
        let watch = Stopwatch::shared();
        let begun = watch.begin();
        sleep(Duration::from_millis(20));
        let step = watch.end(begun);
        assert!(step.wall >= 20_000_000, "{step:?}");
        assert!(step.cpu < step.wall / 2, "{step:?}");
        assert!(!step.passed_on);
    }

    #[test]
    fn a_step_that_computes_takes_processor_time() {
        let watch = Stopwatch::shared();
        let begun = watch.begin();
        let until = Instant::now() + Duration::from_millis(20);
        let mut turns = 0_u64;
        while Instant::now() < until {
            turns += 1;
        }
        let step = watch.end(begun);
        assert!(step.cpu > 1_000_000 && step.cpu <= step.wall, "{step:?} after {turns}");
    }

    #[test]
    fn what_is_measured_inside_is_taken_out_of_the_outside() {
        let watch = Stopwatch::shared();
        let started = Instant::now();
        let outer = watch.begin();
        let mut inside = 0;
        for _ in 0..2 {
            let inner = watch.begin();
            sleep(Duration::from_millis(20));
            inside += watch.end(inner).wall;
        }
        sleep(Duration::from_millis(5));
        let outer = watch.end(outer);
        let whole = u64::try_from(started.elapsed().as_nanos()).expect("short");
        assert!(outer.passed_on);
        assert!(inside >= 40_000_000 && outer.wall >= 5_000_000, "{outer:?}");
        // A thousandth for the difference of the two clocks.
        assert!(
            outer.wall + inside <= whole + whole / 1_000,
            "{outer:?}, {inside} inside, {whole} in all"
        );
        let after = watch.begin();
        assert!(!watch.end(after).passed_on, "a step that follows has nothing inside");
    }
}
