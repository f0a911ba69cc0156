//! One run: what it is made of, and who reads it.

use std::sync::Arc;

use super::pseudonym::{masked, user_pseudonym};
use super::runs::Row;
use crate::clock::{Micros, Moment, seconds};
use crate::events::{OutlineItem, OutlineKind, RunLog, json};
use crate::lanes::{Lane, Registry};
use crate::limits::{HeldState, RunPermit};

/// The run of this id as it is shown, which is the id itself unless that names its user; `None` when there is none.
fn find(registry: &Registry, shown: &str) -> Option<Row> {
    let row = |lane: &Arc<Lane>, log: Arc<RunLog>| Row {
        lane: lane.clone(),
        glance: log.glance(),
        log,
    };
    for lane in registry.all() {
        let pseudonym = user_pseudonym(lane.user().as_str());
        let mut logs = lane.streams().logs().into_iter();
        let found = logs.find(|log| masked(log.run().as_str(), lane.user(), &pseudonym) == shown);
        if let Some(log) = found {
            return Some(row(&lane, log));
        }
    }
    None
}

/// The run with its tree of executions, calls of tools and `permits`, and the sockets that read it, as JSON.
pub fn run(registry: &Registry, shown: &str, permits: &[RunPermit], worker: &str, now: Moment) -> Option<String> {
    let row = find(registry, shown)?;
    let pseudonym = user_pseudonym(row.lane.user().as_str());
    let (items, gone) = row.log.outline();
    let mut out = "{".to_owned();
    row.write(&mut out, &pseudonym, worker, now);
    json::number_member(&mut out, "events_folded", gone);
    json::key(&mut out, "tree");
    out.push('[');
    let since = now.monotonic.saturating_sub(row.glance.opened.monotonic);
    for item in &items {
        json::comma(&mut out);
        write_item(&mut out, item, since);
    }
    for (number, permit) in permits.iter().enumerate() {
        json::comma(&mut out);
        let start = permit.since.saturating_sub(row.glance.opened.monotonic);
        write_permit(&mut out, number + 1, permit, (start, since.saturating_sub(start)));
    }
    out.push(']');
    json::key(&mut out, "sockets");
    out.push('[');
    for connection in row.lane.streams().connections() {
        let Some(lag) = connection.behind(&row.log) else {
            continue;
        };
        let view = connection.view();
        json::comma(&mut out);
        out.push('{');
        json::number_member(&mut out, "lag", lag);
        json::number_member(&mut out, "unread", view.unread);
        json::key(&mut out, "read_seconds");
        json::float(&mut out, seconds(now.monotonic.saturating_sub(view.last_read)));
        out.push('}');
    }
    out.push_str("]}");
    Some(out)
}

fn span_id(span: u32, call: u32) -> String {
    if call == 0 {
        format!("{span}")
    } else {
        format!("{span}.{call}")
    }
}

fn write_permit(out: &mut String, number: usize, permit: &RunPermit, (start, took): (Micros, Micros)) {
    let (name, state) = match permit.state {
        HeldState::Waiting => ("waits for a permit", "waiting"),
        HeldState::Held => ("permit", "running"),
        HeldState::Lent => ("permit, lent to what is nested in it", "running"),
    };
    out.push('{');
    json::text_member(out, "span", &format!("permit-{number}"));
    json::key(out, "parent");
    out.push_str("null");
    json::text_member(out, "kind", "permit");
    json::text_member(out, "name", name);
    json::text_member(out, "state", state);
    json::key(out, "start");
    json::float(out, seconds(start));
    json::key(out, "seconds");
    json::float(out, seconds(took));
    json::number_member(out, "events", 0);
    json::key(out, "error");
    out.push_str("null}");
}

fn write_item(out: &mut String, item: &OutlineItem, now: u64) {
    out.push('{');
    json::text_member(out, "span", &span_id(item.span, item.call));
    json::key(out, "parent");
    match item.parent {
        Some(parent) => json::string(out, &span_id(parent, 0)),
        None => out.push_str("null"),
    }
    json::text_member(
        out,
        "kind",
        if item.kind == OutlineKind::Agent {
            "agent"
        } else {
            "tool"
        },
    );
    json::text_member(out, "name", &item.name);
    json::text_member(out, "state", item.state);
    json::key(out, "start");
    json::float(out, seconds(item.start));
    json::key(out, "seconds");
    json::float(
        out,
        seconds(item.took.unwrap_or_else(|| now.saturating_sub(item.start))),
    );
    json::number_member(out, "events", u64::from(item.events));
    json::key(out, "error");
    match &item.error {
        Some(error) => json::string(out, error),
        None => out.push_str("null"),
    }
    out.push('}');
}
