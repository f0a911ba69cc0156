//! Runs, those that go on first.

use std::cmp::Reverse;
use std::sync::Arc;

use super::pseudonym::{Pseudonyms, masked, user_pseudonym};
use crate::clock::{Micros, Moment, seconds, write_iso8601};
use crate::events::{Glance, Outcome, RunLog, json};
use crate::lanes::{Lane, Registry};

/// Which runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Those that go on.
    Active,
    /// Those that have ended and are remembered.
    Ended,
    /// Both.
    All,
}

/// Which runs are asked for.
#[derive(Debug)]
pub struct RunsQuery<'a> {
    /// Which.
    pub state: RunState,
    /// Of the user of this pseudonym alone; empty for all.
    pub user: &'a str,
    /// At most so many.
    pub limit: usize,
    /// Only those in whose ids, agent or user this text is. In lower case.
    pub text: &'a str,
    /// What this process is called.
    pub worker: &'a str,
}

pub(super) struct Row {
    pub(super) lane: Arc<Lane>,
    pub(super) log: Arc<RunLog>,
    pub(super) glance: Glance,
}

impl Row {
    fn duration(&self, now: Micros) -> Micros {
        let until = self.glance.ended.map_or(now, |(_, at)| at);
        until.saturating_sub(self.glance.opened.monotonic)
    }

    /// Events that wait for the socket that is furthest behind.
    fn lag(&self) -> u64 {
        let connections = self.lane.streams().connections();
        let behind = connections.iter().filter_map(|connection| connection.behind(&self.log));
        behind.max().unwrap_or(0)
    }

    /// The members of a run, without the braces.
    pub(super) fn write(&self, out: &mut String, pseudonym: &str, worker: &str, now: Moment) {
        let glance = &self.glance;
        let user = self.lane.user();
        json::text_member(out, "run", &masked(self.log.run().as_str(), user, pseudonym));
        json::text_member(out, "user", pseudonym);
        json::text_member(out, "thread", &masked(self.log.thread().as_str(), user, pseudonym));
        json::key(out, "agent");
        match &glance.agent {
            Some(agent) => json::string(out, agent),
            None => out.push_str("null"),
        }
        json::text_member(
            out,
            "state",
            glance.ended.map_or("running", |(outcome, _)| outcome.name()),
        );
        json::key(out, "started_at");
        out.push('"');
        write_iso8601(out, glance.opened.unix);
        out.push('"');
        json::key(out, "seconds");
        json::float(out, seconds(self.duration(now.monotonic)));
        json::number_member(out, "events", glance.head);
        json::number_member(out, "lag", self.lag());
        json::number_member(out, "depth", u64::from(glance.depth));
        json::number_member(out, "children", u64::from(glance.executions.saturating_sub(1)));
        json::number_member(out, "failed_steps", u64::from(glance.failed));
        // Of a run that goes on elsewhere, the worker that publishes it.
        json::text_member(out, "worker", self.log.mirrored_from().unwrap_or(worker));
    }
}

/// The runs of which events are kept, as `{"total":…,"runs":[…]}`: those that go on in front, and of either the latest.
pub fn runs(registry: &Registry, query: &RunsQuery<'_>, now: Moment) -> String {
    let mut pseudonyms = Pseudonyms::default();
    let mut rows = Vec::new();
    for lane in registry.all() {
        if !query.user.is_empty() && user_pseudonym(lane.user().as_str()) != query.user {
            continue;
        }
        for log in lane.streams().logs() {
            let is_wanted = match query.state {
                RunState::Active => !log.is_over(),
                RunState::Ended => log.is_over(),
                RunState::All => true,
            };
            if is_wanted {
                let row = Row {
                    lane: lane.clone(),
                    glance: log.glance(),
                    log,
                };
                if matches(&row, query.text, &mut pseudonyms) {
                    rows.push(row);
                }
            }
        }
    }
    let total = rows.len();
    let newest = |row: &Row| {
        (
            row.glance.ended.is_some(),
            Reverse((row.glance.opened.monotonic, row.log.serial())),
        )
    };
    if total > query.limit && query.limit > 0 {
        rows.select_nth_unstable_by_key(query.limit - 1, newest);
    }
    rows.truncate(query.limit);
    rows.sort_unstable_by_key(newest);
    let mut out = "{".to_owned();
    json::number_member(&mut out, "total", total as u64);
    json::key(&mut out, "runs");
    out.push('[');
    for row in &rows {
        json::comma(&mut out);
        out.push('{');
        row.write(&mut out, pseudonyms.of(row.lane.user()), query.worker, now);
        out.push('}');
    }
    out.push_str("]}");
    out
}

fn matches(row: &Row, text: &str, pseudonyms: &mut Pseudonyms) -> bool {
    if text.is_empty() {
        return true;
    }
    let user = row.lane.user();
    let pseudonym = pseudonyms.of(user);
    // What is not shown is not searched either: else it could be found out.
    let has = |id: &str| masked(id, user, pseudonym).to_lowercase().contains(text);
    pseudonym.contains(text)
        || has(row.log.run().as_str())
        || has(row.log.thread().as_str())
        || row
            .glance
            .agent
            .as_ref()
            .is_some_and(|agent| agent.to_lowercase().contains(text))
}

/// How many runs go on, as `running`, and how many have ended in which way since the process began.
pub fn run_counts(registry: &Registry) -> Vec<(&'static str, u64)> {
    let events = &registry.shared().events;
    let ended = Outcome::ALL.map(|outcome| (outcome.name(), events.ended[outcome as usize].get()));
    let over: u64 = ended.iter().map(|(_, many)| many).sum();
    let running = [("running", events.opened.get().saturating_sub(over))];
    running.into_iter().chain(ended).collect()
}
