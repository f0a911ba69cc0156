//! Users, those first of whom an operator asks.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::pseudonym::user_pseudonym;
use crate::clock::{Micros, seconds};
use crate::events::RunLog;
use crate::events::json;
use crate::ids::UserId;
use crate::lanes::{Lane, LaneKey, Registry};

/// What users are ordered by, the most in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsersOrder {
    /// Bytes.
    Bytes,
    /// Runs that go on, then all that are remembered.
    Runs,
    /// Waiters for permits.
    Waiting,
    /// The step that is going on for longest.
    Longest,
    /// Engines.
    Engines,
    /// Executions that failed.
    Errors,
    /// Events that wait for a socket.
    Lag,
}

impl UsersOrder {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 7] = [
        ("bytes", Self::Bytes),
        ("runs", Self::Runs),
        ("waiting", Self::Waiting),
        ("longest", Self::Longest),
        ("engines", Self::Engines),
        ("errors", Self::Errors),
        ("lag", Self::Lag),
    ];
}

/// Which users are asked for, and what is known of them elsewhere. Users are named by their pseudonyms.
#[derive(Debug)]
pub struct UsersQuery<'a> {
    /// What they are ordered by.
    pub order: UsersOrder,
    /// At most so many.
    pub limit: usize,
    /// Only those whose pseudonym, or revealed name, has this text in it. In lower case.
    pub text: &'a str,
    /// Engines by user.
    pub engines: HashMap<UserId, usize>,
    /// Units in use and waiters, by lane.
    pub permits: HashMap<LaneKey, (u32, u32)>,
    /// From so many bytes on a user's runs wait for memory.
    pub throttle_bytes: usize,
    /// Who is in quarantine.
    pub quarantined: HashSet<String>,
    /// Names that may be shown.
    pub names: HashMap<String, String>,
}

struct Row {
    lane: Arc<Lane>,
    pseudonym: String,
    engines: usize,
    permits: u32,
    waiting: u32,
    connections: usize,
    active: usize,
    runs: usize,
    errors: u64,
    longest: Option<(Arc<str>, Micros)>,
    lag: u64,
}

impl Row {
    fn key(&self, order: UsersOrder, now: Micros) -> (u64, u64) {
        let bytes = self.lane.account().bytes() as u64;
        let first = match order {
            UsersOrder::Bytes => bytes,
            UsersOrder::Runs => (self.active as u64) << 32 | self.runs as u64,
            UsersOrder::Waiting => u64::from(self.waiting),
            UsersOrder::Longest => self.longest.as_ref().map_or(0, |(_, since)| now.saturating_sub(*since)),
            UsersOrder::Engines => self.engines as u64,
            UsersOrder::Errors => self.errors,
            UsersOrder::Lag => self.lag,
        };
        (first, bytes)
    }
}

/// The users of whom something is held, as `{"total":…,"users":[…]}`: `total` are those that the text matches.
pub fn users(registry: &Registry, query: &UsersQuery<'_>, now: Micros) -> String {
    let mut rows: Vec<Row> = registry
        .all()
        .into_iter()
        .filter(|lane| lane.handles() > 0)
        .filter_map(|lane| row(lane, query))
        .collect();
    let total = rows.len();
    rows.sort_by_cached_key(|row| Reverse((row.key(query.order, now), row.lane.key().number())));
    rows.truncate(query.limit);
    let mut out = "{".to_owned();
    json::number_member(&mut out, "total", total as u64);
    json::key(&mut out, "users");
    out.push('[');
    for row in &rows {
        json::comma(&mut out);
        write(&mut out, row, query, now);
    }
    out.push_str("]}");
    out
}

fn row(lane: Arc<Lane>, query: &UsersQuery<'_>) -> Option<Row> {
    let pseudonym = user_pseudonym(lane.user().as_str());
    let is_named = || {
        query
            .names
            .get(&pseudonym)
            .is_some_and(|name| name.to_lowercase().contains(query.text))
    };
    if !query.text.is_empty() && !pseudonym.contains(query.text) && !is_named() {
        return None;
    }
    let (permits, waiting) = query.permits.get(&lane.key()).copied().unwrap_or_default();
    let mut row = Row {
        engines: query.engines.get(lane.user()).copied().unwrap_or(0),
        permits,
        waiting,
        connections: 0,
        active: 0,
        runs: 0,
        errors: 0,
        longest: None,
        lag: 0,
        pseudonym,
        lane,
    };
    for log in row.lane.streams().logs() {
        look_at(&log, &mut row);
    }
    for connection in row.lane.streams().connections() {
        row.connections += 1;
        row.lag = row.lag.max(connection.view().unread);
    }
    Some(row)
}

fn look_at(log: &RunLog, row: &mut Row) {
    let glance = log.glance();
    row.runs += 1;
    row.errors += u64::from(glance.failed);
    if glance.ended.is_some() {
        return;
    }
    row.active += 1;
    if let Some((agent, since)) = glance.longest
        && row.longest.as_ref().is_none_or(|(_, before)| since < *before)
    {
        row.longest = Some((agent, since));
    }
}

fn write(out: &mut String, row: &Row, query: &UsersQuery<'_>, now: Micros) {
    let bytes = row.lane.account().bytes();
    out.push('{');
    json::text_member(out, "user", &row.pseudonym);
    json::key(out, "name");
    match query.names.get(&row.pseudonym) {
        Some(name) => json::string(out, name),
        None => out.push_str("null"),
    }
    let numbers = [
        ("engines", row.engines as u64),
        ("permits", u64::from(row.permits)),
        ("waiting", u64::from(row.waiting)),
        ("bytes", bytes as u64),
        ("event_bytes", row.lane.streams().account().bytes() as u64),
        ("connections", row.connections as u64),
        ("runs_active", row.active as u64),
        ("runs_total", row.runs as u64),
        ("errors", row.errors),
        ("lag", row.lag),
    ];
    for (name, value) in numbers {
        json::number_member(out, name, value);
    }
    json::key(out, "longest_step");
    match &row.longest {
        Some((agent, since)) => {
            out.push('{');
            json::text_member(out, "agent", agent);
            json::key(out, "seconds");
            json::float(out, seconds(now.saturating_sub(*since)));
            out.push('}');
        }
        None => out.push_str("null"),
    }
    let flags = [
        ("throttled", row.waiting > 0 || bytes >= query.throttle_bytes),
        ("quarantined", query.quarantined.contains(&row.pseudonym)),
    ];
    for (name, value) in flags {
        json::key(out, name);
        out.push_str(if value { "true" } else { "false" });
    }
    out.push('}');
}
