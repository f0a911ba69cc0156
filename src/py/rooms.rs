//! What rooms that keep figures of their own say when somebody asks what was measured.

use std::sync::OnceLock;

use pyo3::prelude::*;

use super::flags::installed_state;
use super::process::registry;
use crate::crossings::{self, Place, Tier};
use crate::events::Connection;
use crate::isolation::Boundary;
use crate::metrics::{FLAGS, Id, Scrape};

/// Events and sockets.
pub(super) fn events(scrape: &mut Scrape) {
    let registry = registry();
    let events = &registry.shared().events;
    for (counts, outcome) in [
        (&events.published, "published"),
        (&events.sent, "sent"),
        (&events.failed, "failed"),
    ] {
        counts
            .each()
            .for_each(|(kind, many)| scrape.count(Id::WsEvents, &[kind, outcome], many));
    }
    for (counts, reason) in [
        (&events.folded, "folded"),
        (&events.shed, "shed"),
        (&events.outdated, "outdated"),
        (&events.forgotten, "forgotten"),
        (&events.skipped, "skipped"),
    ] {
        counts
            .each()
            .for_each(|(kind, many)| scrape.count(Id::WsDropped, &[kind, reason], many));
    }
    let connections = registry.connections();
    let open = connections.iter().map(AsRef::as_ref).map(Connection::close_code);
    scrape.level(Id::WsConnections, &[], open.filter(Option::is_none).count() as f64);
}

/// What boundaries found.
pub(super) fn crossings(scrape: &mut Scrape) {
    let events = &registry().shared().events;
    for each in crossings::figures(events.published.get(), events.sent.get()) {
        scrape.count(Id::BoundaryChecks, &[each.name], each.checks);
        scrape.count(Id::RefusedAttempts, &[each.name], each.refused);
        for (tier, many) in Tier::ALL.into_iter().zip(each.violations) {
            // Also zeros: that there is none is what is looked for.
            if many > 0 || may_find(each.name, tier) {
                scrape.count(Id::IsolationViolations, &[each.name, tier.name()], many);
            }
        }
    }
    for (result, many) in crossings::CONTROL_RESULTS.iter().zip(crossings::controls()) {
        scrape.count(Id::CanaryControls, &[result], many);
    }
}

/// Whether somebody looks for violations of this tier at this place.
fn may_find(place: &str, tier: Tier) -> bool {
    match (Place::named(place), tier) {
        (Some(Place::Scan(_)), Tier::OwnerTag | Tier::Canary | Tier::Secret)
        | (Some(Place::Scan(Boundary::WsOut)), Tier::ForeignRun) => true,
        (Some(Place::Verify), tier) => matches!(
            tier,
            Tier::SharedContainer | Tier::SharedSession | Tier::ReservedKey | Tier::ForeignObject
        ),
        _ => false,
    }
}

/// How far flags are rolled out.
pub(super) fn rollouts(scrape: &mut Scrape) {
    let Some(state) = installed_state() else { return };
    // One number for all flags beyond those that are told apart would say nothing.
    for (flag, rollout) in state.rollouts().filter(|(flag, _)| FLAGS.index(flag) < FLAGS.cap()) {
        scrape.level(Id::RolloutPercent, &[flag], f64::from(rollout) / 1_000.0);
    }
}

static PYTHON: OnceLock<String> = OnceLock::new();

/// Notes which Python it is that loads the extension.
pub(crate) fn note_python(py: Python<'_>) {
    let version = py.version_info();
    PYTHON.get_or_init(|| format!("{}.{}.{}", version.major, version.minor, version.patch));
}

/// What the process is made of.
pub(super) fn build(scrape: &mut Scrape) {
    let python = PYTHON.get().map_or("", String::as_str);
    let made_of = [env!("CARGO_PKG_VERSION"), env!("ISOLANE_RUSTC"), python];
    scrape.level(Id::BuildInfo, &made_of, 1.0);
}
