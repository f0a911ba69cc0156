//! Time as a value: the core is told what time it is, so that tests never sleep.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Microseconds, of a monotonic clock or since the Unix epoch as the name of the value says.
pub type Micros = u64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// Converts a duration given by a person, in seconds. Negative and non-finite values count as zero and as the maximum.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates, which is what is wanted here
pub fn micros(seconds: f64) -> Micros {
    if seconds.is_nan() { 0 } else { (seconds * 1e6) as Micros }
}

/// Converts microseconds to the seconds that people read.
pub fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since an arbitrary moment.
    pub monotonic: Micros,
    /// Microseconds since the Unix epoch.
    pub unix: Micros,
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Microseconds since an arbitrary moment; never goes back.
    fn monotonic(&self) -> Micros;
    /// Microseconds since the Unix epoch.
    fn unix(&self) -> Micros;
    /// Both at once.
    fn now(&self) -> Moment {
        Moment {
            monotonic: self.monotonic(),
            unix: self.unix(),
        }
    }
}

/// The operating system's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Microseconds since the Unix epoch by the operating system, whatever a manual clock says.
pub fn unix_micros_of_system() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// Milliseconds since the Unix epoch by the operating system, whatever a manual clock says: ids must stay unique.
pub fn unix_millis_of_system() -> u64 {
    unix_micros_of_system() / 1_000
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Micros {
        // Starts at one second, so that "a moment ago" is never before zero.
        SECOND + Micros::try_from(start().elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    fn unix(&self) -> Micros {
        unix_micros_of_system()
    }
}

/// A clock that stands still until it is moved. Switched on, it takes the place of the system's from where that stood.
#[derive(Debug, Default)]
pub struct ManualClock {
    on: AtomicBool,
    monotonic: AtomicU64,
    unix: AtomicU64,
}

impl ManualClock {
    /// Stops the time at the present moment.
    pub fn switch_on(&self) {
        self.monotonic.store(SystemClock.monotonic(), Ordering::Relaxed);
        self.unix.store(SystemClock.unix(), Ordering::Relaxed);
        self.on.store(true, Ordering::Release);
    }

    /// Gives the time back to the operating system.
    pub fn switch_off(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// Moves the time forward.
    pub fn advance(&self, by: Micros) {
        self.monotonic.fetch_add(by, Ordering::Relaxed);
        self.unix.fetch_add(by, Ordering::Relaxed);
    }
}

/// The clock of a process: the system's, unless a test has switched the manual one on.
#[derive(Debug, Default)]
pub struct ProcessClock {
    /// The clock that tests switch on and move.
    pub manual: ManualClock,
}

impl ProcessClock {
    /// A clock that follows the system's.
    pub const fn new() -> Self {
        Self {
            manual: ManualClock {
                on: AtomicBool::new(false),
                monotonic: AtomicU64::new(0),
                unix: AtomicU64::new(0),
            },
        }
    }
}

impl ProcessClock {
    /// Milliseconds since the Unix epoch for an id made at `now`: those of the operating system, whatever a manual clock says, or
    /// the ids of the process would stay in its future.
    pub fn millis_for_ids(&self, now: Moment) -> u64 {
        if self.manual.on.load(Ordering::Acquire) {
            unix_millis_of_system()
        } else {
            now.unix / 1_000
        }
    }
}

impl Clock for ProcessClock {
    fn monotonic(&self) -> Micros {
        if self.manual.on.load(Ordering::Acquire) {
            self.manual.monotonic.load(Ordering::Relaxed)
        } else {
            SystemClock.monotonic()
        }
    }

    fn unix(&self) -> Micros {
        if self.manual.on.load(Ordering::Acquire) {
            self.manual.unix.load(Ordering::Relaxed)
        } else {
            SystemClock.unix()
        }
    }

    fn now(&self) -> Moment {
        if self.manual.on.load(Ordering::Acquire) {
            Moment {
                monotonic: self.manual.monotonic.load(Ordering::Relaxed),
                unix: self.manual.unix.load(Ordering::Relaxed),
            }
        } else {
            SystemClock.now()
        }
    }
}

/// A moment as people write it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Year of the Gregorian calendar.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999 999.
    pub micros: u32,
}

impl Civil {
    /// Date and time of microseconds since the Unix epoch.
    #[allow(clippy::cast_possible_truncation)] // each value fits by its modulus; the year until 65 535
    pub fn of(unix: Micros) -> Self {
        let (year, month, day) = civil_from_days(unix / (86_400 * SECOND));
        let second_of_day = unix / SECOND % 86_400;
        Self {
            year: year as u16,
            month: month as u8,
            day: day as u8,
            hour: (second_of_day / 3_600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
            micros: (unix % SECOND) as u32,
        }
    }

    /// `2026-11-22T08:00:00.000000`, always with microseconds.
    #[allow(clippy::cast_possible_truncation)] // two digits fit a byte
    pub fn iso8601(self) -> [u8; 26] {
        let mut out = *b"0000-00-00T00:00:00.000000";
        let century = (self.year / 100 % 100) as u8;
        for (at, value) in [
            (0, century),
            (2, (self.year % 100) as u8),
            (5, self.month),
            (8, self.day),
            (11, self.hour),
            (14, self.minute),
            (17, self.second),
            (20, (self.micros / 10_000) as u8),
            (22, (self.micros / 100 % 100) as u8),
            (24, (self.micros % 100) as u8),
        ] {
            out[at] = b'0' + value / 10;
            out[at + 1] = b'0' + value % 10;
        }
        out
    }
}

/// Appends a moment as ISO 8601 in UTC with microseconds, `2026-11-22T08:00:00.000000Z`.
pub fn write_iso8601(out: &mut String, unix: Micros) {
    out.push_str(str::from_utf8(&Civil::of(unix).iso8601()).unwrap_or_default());
    out.push('Z');
}

/// Days since 1970-01-01 to a proleptic Gregorian date, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days that are not negative.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iso(unix: Micros) -> String {
        let mut out = String::new();
        write_iso8601(&mut out, unix);
        out
    }

    #[test]
    fn moments_are_written_as_iso_8601() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(iso(951_782_400 * SECOND), "2000-02-29T00:00:00.000000Z");
        assert_eq!(iso(1_709_164_800 * SECOND + 42), "2024-02-29T00:00:00.000042Z");
        assert_eq!(iso(1_798_761_599 * SECOND + 999_999), "2026-12-31T23:59:59.999999Z");
    }

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ProcessClock::new();
        clock.manual.switch_on();
        let then = clock.monotonic();
        clock.manual.advance(7 * SECOND);
        assert_eq!(clock.monotonic() - then, 7 * SECOND);
        clock.manual.switch_off();
        assert!(clock.monotonic() < then + 7 * SECOND);
    }

    #[test]
    fn odd_durations_are_bounded() {
        assert_eq!(micros(-1.0), 0);
        assert_eq!(micros(f64::NAN), 0);
        assert_eq!(micros(f64::INFINITY), Micros::MAX);
        assert_eq!(micros(0.25), 250_000);
    }
}
