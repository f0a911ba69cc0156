//! A backend of a few servers in front of which the controller stands, and what must hold for any samples.

use proptest::prelude::*;

use super::*;
use crate::clock::SECOND;

/// A station with `servers` in parallel, always with work waiting: `inflight` calls share it, so that each takes
/// `service * max(1, inflight / servers)`. Latencies go through a fixed cycle around their median.
struct Station {
    controller: Controller,
    now: Micros,
    calls: u64,
}

impl Station {
    fn new(settings: ControllerSettings) -> Self {
        Self {
            controller: Controller::new(settings).expect("valid settings"),
            now: SECOND,
            calls: 0,
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn run(&mut self, calls: u64, servers: u32, service: f64, dropped: bool) {
        for _ in 0..calls {
            let limit = self.controller.limit();
            let queueing = (f64::from(limit) / f64::from(servers)).max(1.0);
            let noise = [0.8, 1.0, 1.25, 0.9, 1.1][(self.calls % 5) as usize];
            let latency = (service * queueing * noise * SECOND as f64) as Micros;
            self.calls += 1;
            self.now += latency / u64::from(limit.max(1));
            // Calls that were admitted after the last change, as all are but the first few.
            self.now = self.now.max(self.controller.epoch + latency);
            let outcome = if dropped { Outcome::Dropped } else { Outcome::Ok };
            self.controller.sample(self.now, latency, limit, outcome, 1.0);
        }
    }

    fn mean_estimate(&mut self, windows: u64, servers: u32, service: f64) -> f64 {
        let mut sum = 0.0;
        for _ in 0..windows {
            self.run(24, servers, service, false);
            sum += self.controller.state().estimate;
        }
        sum / windows as f64
    }
}

fn settings(initial: u32, min: u32, max: u32) -> ControllerSettings {
    ControllerSettings {
        initial,
        min,
        max,
        ..ControllerSettings::default()
    }
}

#[test]
fn settings_out_of_order_are_refused() {
    assert_eq!(Controller::new(settings(1, 0, 5)).err(), Some(SettingsError::NoMinimum));
    assert!(Controller::new(settings(1, 2, 5)).is_err());
    assert!(Controller::new(settings(6, 2, 5)).is_err());
    assert!(Controller::new(settings(5, 5, 5)).is_ok());
    for tolerance in [1.0, 2.1, f64::NAN, f64::INFINITY, -1.0] {
        let wrong = ControllerSettings {
            tolerance,
            ..ControllerSettings::default()
        };
        assert!(Controller::new(wrong).is_err(), "{tolerance}");
    }
}

#[test]
fn it_finds_the_knee_from_below_and_from_above() {
    for servers in [2, 5, 10, 30] {
        for initial in [2, 5, 50] {
            let mut station = Station::new(settings(initial, 1, 64));
            station.run(3_000, servers, 0.1, false);
            let mean = station.mean_estimate(100, servers, 0.1);
            let knee = f64::from(servers);
            assert!(
                (0.9 * knee..1.6 * knee).contains(&mean),
                "{servers} servers from {initial}: {mean}"
            );
        }
    }
}

#[test]
fn a_doubled_service_time_becomes_the_baseline() {
    let mut station = Station::new(ControllerSettings::default());
    station.run(3_000, 10, 0.1, false);
    station.run(600, 10, 0.2, false);
    let baseline = station.controller.state().baseline.unwrap_or_default();
    assert!((170_000.0..230_000.0).contains(&baseline), "{baseline}");
    let mean = station.mean_estimate(50, 10, 0.2);
    assert!((9.0..16.0).contains(&mean), "{mean}");
}

#[test]
fn fewer_servers_are_a_queue_and_not_a_slower_service() {
    let mut station = Station::new(ControllerSettings::default());
    station.run(3_000, 10, 0.1, false);
    station.run(600, 4, 0.1, false);
    let mean = station.mean_estimate(50, 4, 0.1);
    assert!((3.6..6.5).contains(&mean), "{mean}");
    station.run(600, 10, 0.1, false);
    let mean = station.mean_estimate(50, 10, 0.1);
    assert!((9.0..16.0).contains(&mean), "{mean}");
}

#[test]
fn an_outage_halves_the_limit_to_the_floor_and_is_forgotten_after_it() {
    let mut station = Station::new(settings(2, 1, 64));
    station.run(3_000, 10, 0.1, false);
    let before = station.controller.predicted();
    station.run(24 * 6, 10, 1.0, true);
    assert_eq!(station.controller.limit(), 1);
    let last = station.controller.state().changes.last().copied();
    assert_eq!(last.map(|change| change.reason), Some(Reason::Outage));
    station.run(24 * 8, 10, 0.1, false);
    let after = station.controller.predicted();
    assert!(2 * after > before, "{before} before, {after} after");
}

#[test]
fn half_of_a_window_dropped_is_an_outage() {
    let mut station = Station::new(ControllerSettings::default());
    station.run(3_000, 10, 0.1, false);
    for _ in 0..100 {
        station.run(1, 10, 0.1, true);
        station.run(1, 10, 0.1, false);
    }
    let last = station.controller.state().changes.last().copied();
    assert_eq!(last.map(|change| (change.to, change.reason)), Some((1, Reason::Outage)));
}

#[test]
fn one_drop_in_a_window_lowers_the_limit_by_a_tenth() {
    let mut station = Station::new(settings(20, 20, 64));
    station.run(40, 64, 0.1, false);
    station.controller.limit = 30.0;
    station.controller.window.clear();
    station.run(1, 64, 0.1, true);
    station.run(59, 64, 0.1, false);
    let changes = station.controller.state().changes;
    assert_eq!(
        changes.last().map(|change| (change.to, change.reason)),
        Some((27, Reason::Drops))
    );
}

#[test]
fn calls_admitted_before_a_change_do_not_count() {
    let mut station = Station::new(ControllerSettings::default());
    while station.controller.epoch == 0 {
        station.run(1, 10, 0.1, false);
    }
    let epoch = station.controller.epoch;
    for _ in 0..500 {
        station
            .controller
            .sample(epoch + SECOND, SECOND + 1, 64, Outcome::Dropped, 1.0);
    }
    assert_eq!(station.controller.state().collected, 0);
    station.controller.sample(epoch + SECOND, SECOND, 64, Outcome::Ok, 1.0);
    assert_eq!(station.controller.state().collected, 1);
}

#[test]
fn cancelled_calls_say_nothing() {
    let mut controller = Controller::new(ControllerSettings::default()).expect("valid settings");
    for now in 0..1_000 {
        assert!(!controller.sample(now, 1, 2, Outcome::Ignored, 1.0));
    }
    assert_eq!(controller.state().collected, 0);
}

#[test]
fn latency_counts_per_unit_of_work() {
    let mut plain = Station::new(ControllerSettings::default());
    let mut heavy = Controller::new(ControllerSettings::default()).expect("valid settings");
    plain.run(24, 10, 0.1, false);
    for _ in 0..24 {
        heavy.sample(10 * SECOND, 800_000, 2, Outcome::Ok, 8.0);
    }
    let baselines = [&plain.controller, &heavy].map(|controller| controller.state().baseline.unwrap_or_default());
    assert!((baselines[0] / baselines[1] - 1.0).abs() < 0.05, "{baselines:?}");
}

#[test]
fn while_few_calls_meet_the_limit_it_stays() {
    let mut controller = Controller::new(settings(10, 1, 64)).expect("valid settings");
    let mut now = SECOND;
    for _ in 0..5_000 {
        now += 50_000;
        controller.sample(now, 100_000, 2, Outcome::Ok, 1.0);
    }
    assert_eq!(controller.predicted(), 10);
}

#[test]
fn it_is_small() {
    assert!(size_of::<Controller>() < 2_048, "{}", size_of::<Controller>());
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![8 => Just(Outcome::Ok), 2 => Just(Outcome::Dropped), 1 => Just(Outcome::Ignored)]
}

proptest! {
    #[test]
    fn the_limit_stays_between_its_bounds(
        min in 1_u32..8,
        below in 0_u32..8,
        above in 0_u32..100,
        bursts in prop::collection::vec(
            (
                prop_oneof![Just(0_u64), 1..10_000_000_u64, Just(u64::MAX)],
                prop_oneof![Just(0_u64), 1..50_000_000_u64, Just(u64::MAX)],
                prop_oneof![0..200_u32, Just(u32::MAX)],
                outcome(),
                prop_oneof![Just(1.0), Just(0.0), Just(-1.0), Just(f64::NAN), Just(f64::INFINITY), Just(f64::MIN_POSITIVE), 0.1..100.0],
                1_usize..200,
            ),
            1..60,
        ),
    ) {
        let initial = min + below;
        let max = initial + above;
        let mut controller = Controller::new(settings(initial, min, max)).expect("valid settings");
        let mut now = 0_u64;
        for (by, latency, inflight, outcome, units, calls) in bursts {
            now = now.saturating_add(by);
            for _ in 0..calls {
                controller.sample(now, latency, inflight, outcome, units);
                prop_assert!((min..=max).contains(&controller.limit()));
                prop_assert!((min..=max).contains(&controller.predicted()));
            }
            let state = controller.state();
            prop_assert!(state.estimate.is_finite());
            prop_assert!(state.baseline.is_none_or(|baseline| baseline.is_finite() && baseline > 0.0));
            prop_assert!(state.changes.len() <= 16 && state.medians.len() <= 10 && state.collected <= LARGEST);
        }
    }
}
