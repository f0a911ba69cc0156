//! The one table of what is measured: names, meanings, labels, buckets.
//!
//! No label has a user in it. A label has values from a closed list, or the first names that it was given and `_other`. Labels
//! of one name share their names: what is `_other` in one family is `_other` in all.

use std::sync::OnceLock;

use super::cell::Cell;
use super::kinds::EVENT_KINDS;
use super::vocabulary::Vocabulary;
use crate::crossings::{CONTROL_RESULTS, Place, Tier};

/// What is done with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Values are counted by their size.
    Histogram,
}

impl Kind {
    /// The word in a scrape.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a label may say.
#[derive(Debug)]
pub enum Values {
    /// One of these.
    Closed(&'static [&'static str]),
    /// Names as they come, so many of them.
    Capped(&'static Vocabulary),
}

/// A label of a family.
#[derive(Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub values: Values,
}

impl Label {
    /// How many values it can have, `_other` included.
    pub fn size(&self) -> usize {
        match self.values {
            Values::Closed(all) => all.len(),
            Values::Capped(names) => names.cap() + 1,
        }
    }

    /// The number of a value; `None` for one that a closed list does not have.
    pub fn index(&self, value: &str) -> Option<usize> {
        match self.values {
            Values::Closed(all) => all.iter().position(|known| *known == value),
            Values::Capped(names) => Some(names.index(value)),
        }
    }

    /// The value of a number.
    pub fn text(&self, number: usize) -> &'static str {
        match self.values {
            Values::Closed(all) => all[number],
            Values::Capped(names) => names.text(number),
        }
    }
}

const fn closed(name: &'static str, values: &'static [&'static str]) -> Label {
    Label {
        name,
        values: Values::Closed(values),
    }
}

const fn capped(name: &'static str, names: &'static Vocabulary) -> Label {
    Label {
        name,
        values: Values::Capped(names),
    }
}

/// What is measured under one name.
#[derive(Debug)]
pub struct Family {
    /// The name, without the `_total` that a counter's samples have.
    pub name: &'static str,
    /// The name of its samples.
    pub sample: &'static str,
    /// What is done with its numbers.
    pub kind: Kind,
    /// What it means, in a sentence.
    pub help: &'static str,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [Label],
    /// Upper bounds of a histogram's buckets, without the last one, which has none.
    pub buckets: &'static [f64],
    /// Whether its numbers are kept elsewhere and are read when somebody asks.
    pub collected: bool,
    series: OnceLock<Box<[OnceLock<&'static Cell>]>>,
    bounds: OnceLock<Box<[u64]>>,
}

impl Family {
    /// A counter with a capped label and a closed one of `many` values.
    #[cfg(test)]
    pub(super) fn for_test(name: &'static str, many: usize) -> Self {
        let names: &'static Vocabulary = Box::leak(Box::new(Vocabulary::new(100)));
        let numbers = (0..many).map(|number| &*Box::leak(number.to_string().into_boxed_str()));
        let numbers: &'static [&'static str] = Box::leak(numbers.collect());
        Self {
            name,
            sample: name,
            kind: Kind::Counter,
            help: "For a test.",
            labels: Box::leak(Box::new([capped("name", names), closed("number", numbers)])),
            buckets: &[],
            collected: false,
            series: OnceLock::new(),
            bounds: OnceLock::new(),
        }
    }

    /// The unit that the name ends with.
    pub fn unit(&self) -> Option<&'static str> {
        ["seconds", "bytes", "percent"]
            .into_iter()
            .find(|unit| self.name.ends_with(unit))
    }

    /// How many of the smallest units of a histogram make one of its name: it adds up whole numbers, nanoseconds where it
    /// measures seconds.
    pub fn scale(&self) -> f64 {
        if self.unit() == Some("seconds") { 1e9 } else { 1.0 }
    }

    /// How many series there can be.
    pub fn size(&self) -> usize {
        self.labels.iter().map(Label::size).product()
    }

    /// The number of a series by the numbers of its values.
    pub fn key(&self, numbers: &[usize]) -> usize {
        let labels = self.labels.iter().zip(numbers);
        labels.fold(0, |key, (label, number)| key * label.size() + number)
    }

    /// The numbers of the values of a series.
    pub fn numbers(&self, key: usize) -> impl Iterator<Item = (&'static Label, usize)> {
        let mut below = self.size();
        let mut rest = key;
        self.labels.iter().map(move |label| {
            below /= label.size();
            let number = rest / below;
            rest %= below;
            (label, number)
        })
    }

    /// The cell of a series, made when it is first asked for. It lives as long as the process: who counts often keeps it.
    #[inline]
    pub fn cell(&'static self, key: usize) -> &'static Cell {
        self.series()[key].get_or_init(|| self.make())
    }

    #[inline]
    fn series(&self) -> &[OnceLock<&'static Cell>] {
        self.series
            .get_or_init(|| (0..self.size()).map(|_| OnceLock::new()).collect())
    }

    #[cold]
    fn make(&'static self) -> &'static Cell {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bounds are small and positive
        let units = |bound: &f64| (bound * self.scale()).round() as u64;
        let bounds = self.bounds.get_or_init(|| self.buckets.iter().map(units).collect());
        Box::leak(Box::new(Cell::new(bounds, self.kind == Kind::Histogram)))
    }

    /// The cells that there are, with the numbers of their series.
    pub(super) fn cells(&self) -> impl Iterator<Item = (usize, &'static Cell)> {
        let made = self.series.get().map_or(&[][..], |series| series);
        made.iter()
            .enumerate()
            .filter_map(|(key, cell)| Some((key, *cell.get()?)))
    }

    /// Whether a scrape tells all its series from the start: then the first count is an increase and not a series out of
    /// nowhere.
    pub(super) fn is_told_whole(&self) -> bool {
        let is_closed = |label: &Label| matches!(label.values, Values::Closed(_));
        match self.kind {
            Kind::Counter => self.labels.iter().all(is_closed) && self.size() <= MAX_TOLD_WHOLE,
            Kind::Histogram => self.labels.is_empty(),
            Kind::Gauge => false,
        }
    }
}

/// Series of a family that are told before anything was counted.
const MAX_TOLD_WHOLE: usize = 100;

/// Names of agents.
pub static AGENTS: Vocabulary = Vocabulary::new(100);
/// Names of tools.
pub static TOOLS: Vocabulary = Vocabulary::new(100);
/// Names of flags.
pub static FLAGS: Vocabulary = Vocabulary::new(100);
/// Names of legacy symbols.
pub static SYMBOLS: Vocabulary = Vocabulary::new(100);
/// Names of alerts' rules.
pub static RULES: Vocabulary = Vocabulary::new(100);
/// Names of limits that count over all workers.
static LIMITS: Vocabulary = Vocabulary::new(100);
/// Versions, of which a process has one each.
pub static VERSIONS: Vocabulary = Vocabulary::new(4);

/// How a context ended.
pub const CONTEXT_OUTCOMES: [&str; 4] = ["completed", "partial_failure", "failed", "dropped"];
/// How a run ended.
pub const RUN_OUTCOMES: [&str; 5] = ["completed", "failed", "cancelled", "timeout", "refused"];
/// What a request for a permit came to.
pub const PERMIT_OUTCOMES: [&str; 4] = ["granted", "timeout", "rejected", "cancelled"];
const AUDIT_CLASSES: [&str; 5] = ["permission", "isolation", "admin", "lifecycle", "debug"];
/// What asks for a rollback.
pub const GUARD_METRICS: [&str; 7] = [
    "isolation_violation",
    "run_error",
    "slow_run",
    "slow_event",
    "dropped_event",
    "manual",
    "other",
];
/// What leases are.
const LEASE_STATES: [&str; 4] = ["held", "idle", "asking", "uncovered"];
/// What becomes of leases.
const LEASE_RESULTS: [&str; 9] = [
    "asked", "granted", "refused", "begun", "renewed", "restored", "released", "lost", "covered",
];
/// What holds for limits that count over all workers.
const LEASE_MODES: [&str; 4] = ["whole", "local", "open", "closed"];
/// How a call of a tool ended.
pub const TOOL_OUTCOMES: [&str; 5] = ["ok", "failed", "timed_out", "cancelled", "refused"];
/// Why a permission was given or refused: the kind of the worst rule that was broken.
pub const DECISION_REASONS: [&str; 8] = [
    "permitted",
    "context_integrity_failure",
    "insufficient_permissions",
    "resource_access_denied",
    "cross_user_access_risk",
    "policy_violation",
    "limit_exceeded",
    "validation_error",
];
/// Why a flag was decided as it was, in the words of `OpenFeature`.
pub const FLAG_REASONS: [&str; 7] = [
    "static",
    "default",
    "targeting_match",
    "split",
    "disabled",
    "stale",
    "error",
];

/// How a round trip to the plane that workers share went.
const CALL_RESULTS: [&str; 7] = ["ok", "timeout", "lost", "refused", "full", "down", "stopped"];

const RUN_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0];
const SMALL_SECONDS: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1];
const EVENT_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
const WAIT_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const DEPTHS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

macro_rules! kind_of {
    (counter $name:literal) => {
        (
            Kind::Counter,
            concat!("isolane_", $name),
            concat!("isolane_", $name, "_total"),
        )
    };
    (gauge $name:literal) => {
        (Kind::Gauge, concat!("isolane_", $name), concat!("isolane_", $name))
    };
    (histogram $name:literal) => {
        (Kind::Histogram, concat!("isolane_", $name), concat!("isolane_", $name))
    };
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $([$($label:expr),+])? $(in $buckets:ident)? $(from $room:ident)?, $help:literal;)+) => {
        /// The families, by a name that the compiler checks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Id {
            $(#[doc = $help] $id,)+
        }

        /// All of them, in the order of a scrape.
        pub static FAMILIES: [Family; [$(Id::$id),+].len()] = [$(Family {
            name: kind_of!($kind $name).1,
            sample: kind_of!($kind $name).2,
            kind: kind_of!($kind $name).0,
            help: $help,
            labels: &[$($($label),+)?],
            buckets: families!(@buckets $($buckets)?),
            collected: families!(@collected $($room)?),
            series: OnceLock::new(),
            bounds: OnceLock::new(),
        },)+];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
    (@collected) => { false };
    (@collected rooms) => { true };
}

// `from rooms`: the numbers are kept by the rooms and read at a scrape.
families! {
    ContextsActive: gauge "contexts_active" from rooms,
        "Contexts that were made and have not been cleaned up.";
    ContextsCreated: counter "contexts_created" [closed("entry", &["root", "child"])],
        "Contexts that were made, by whether they began a request or belong to one.";
    ContextsClosed: counter "contexts_closed" [closed("outcome", &CONTEXT_OUTCOMES)],
        "Contexts that ended, by what their runs came to; dropped are those that nobody cleaned up.";
    Runs: counter "runs" [capped("agent", &AGENTS), closed("outcome", &RUN_OUTCOMES)],
        "Runs of agents that ended.";
    RunDuration: histogram "run_duration_seconds" [capped("agent", &AGENTS)] in RUN_SECONDS,
        "How long runs of agents took.";
    Overhead: histogram "overhead_seconds" in SMALL_SECONDS,
        "What isolane itself took of a request.";
    EnginesActive: gauge "engines_active" from rooms,
        "Engines that live.";
    EngineLimitRejections: counter "engine_limit_rejections" [closed("limit", &["user", "process"])],
        "Engines that were refused because of a limit.";
    PermitsActive: gauge "permits_active" from rooms,
        "Permits to run that somebody holds.";
    PermitsWaiting: gauge "permits_waiting" from rooms,
        "Requests that wait for a permit to run.";
    PermitsLimit: gauge "permits_limit" from rooms,
        "Permits to run that there are to hold.";
    PermitWait: histogram "permit_wait_seconds" in WAIT_SECONDS,
        "How long permits to run were waited for; those that were free at once count as zero.";
    Permits: counter "permits" [closed("outcome", &PERMIT_OUTCOMES)],
        "What requests for permits to run came to.";
    UsersServed: gauge "users_served" from rooms,
        "Users who hold a permit to run.";
    UsersActive: gauge "users_active" from rooms,
        "Users for whom the process holds something that is in use.";
    MemoryBytes: gauge "memory_bytes" from rooms,
        "Bytes that are charged to users: events, caches, and what the application charges.";
    UserMemoryMax: gauge "user_memory_max_bytes" from rooms,
        "Bytes that are charged to the user who has most.";
    WsConnections: gauge "ws_connections" from rooms,
        "Sockets and event streams that are attached.";
    WsEvents: counter "ws_events" [
        closed("type", &EVENT_KINDS), closed("outcome", &["published", "sent", "failed"])
    ] from rooms,
        "Events that were accepted, handed to a socket (counted for each) or not accepted.";
    WsEventLatency: histogram "ws_event_latency_seconds" [closed("type", &EVENT_KINDS)] in EVENT_SECONDS,
        "From an event being published to being handed to a socket that was there.";
    WsQueueDepth: histogram "ws_queue_depth" in DEPTHS,
        "Events that waited for a socket when it was read for.";
    WsDropped: counter "ws_dropped" [
        closed("type", &EVENT_KINDS),
        closed("reason", &["folded", "shed", "outdated", "forgotten", "skipped"])
    ] from rooms,
        "Events that a client does not get as they were published: folded into a snapshot, removed from a full log, \
         dropped from a full snapshot, or left out for a socket that was behind.";
    ToolCalls: counter "tool_calls" [
        capped("tool", &TOOLS),
        closed("outcome", &TOOL_OUTCOMES)
    ],
        "Calls of tools, by how they ended; refused ones never began.";
    PermissionDecisions: counter "permission_decisions" [
        closed("decision", &["allow", "deny"]),
        closed("reason", &DECISION_REASONS)
    ],
        "Decisions on permissions, by the worst reason.";
    IsolationViolations: counter "isolation_violations" [
        closed("boundary", &Place::NAMES), closed("tier", &Tier::NAMES)
    ] from rooms,
        "Data or objects of one user that were found where another's are. It is to be zero.";
    RefusedAttempts: counter "refused_attempts" [closed("boundary", &Place::NAMES)] from rooms,
        "Attempts to cross a boundary between users that were refused: nothing crossed.";
    BoundaryChecks: counter "boundary_checks" [closed("boundary", &Place::NAMES)] from rooms,
        "Checks at boundaries between users, whatever they came to.";
    CanaryControls: counter "canary_positive_controls" [closed("result", &CONTROL_RESULTS)] from rooms,
        "Looks of the detector for something that was put where it looks.";
    FlagEvaluations: counter "flag_evaluations" [
        capped("flag", &FLAGS),
        closed("variant", &["off", "on"]),
        closed("reason", &FLAG_REASONS)
    ],
        "Decisions on flags.";
    RolloutPercent: gauge "rollout_percent" [capped("flag", &FLAGS)] from rooms,
        "How far a flag is rolled out, rules aside; 0 while it is off, rolled back or killed.";
    Rollbacks: counter "rollbacks" [capped("flag", &FLAGS), closed("metric", &GUARD_METRICS)],
        "Rollouts that were rolled back, by what asked for it.";
    LegacyCalls: counter "legacy_calls" [capped("symbol", &SYMBOLS)],
        "Calls of legacy names.";
    AuditRecords: counter "audit_records" [
        closed("class", &AUDIT_CLASSES),
        closed("outcome", &["written", "refused", "lost"])
    ],
        "Audit records, by what became of them.";
    AuditLost: counter "audit_lost" [closed("class", &AUDIT_CLASSES)],
        "Audit records that were not written: those that were lost and those that were refused.";
    AuditCheckpointSize: gauge "audit_checkpoint_size" from rooms,
        "Records that the latest signed checkpoints of the audit log cover.";
    LoopLag: gauge "loop_lag_seconds",
        "How late the event loop runs.";
    LoopBlocks: counter "loop_blocks",
        "Steps of agents that held the event loop for too long.";
    HealthChecks: counter "health_checks" [closed("result", &["ok", "failed"])],
        "Answers of the readiness route.";
    ForcedCleanups: counter "forced_cleanups",
        "Clean-ups that were not finished in time.";
    ClusterState: gauge "cluster_state" [closed("state", &["starting", "up", "down"])],
        "One for how the plane is that this worker shares with others, zero for how it is not.";
    ClusterProcesses: gauge "cluster_processes",
        "Workers that are known to live, this one included.";
    ClusterCalls: counter "cluster_calls" [closed("result", &CALL_RESULTS)],
        "Round trips to the plane, by how they went.";
    ClusterCallSeconds: histogram "cluster_call_seconds" in SMALL_SECONDS,
        "How long round trips to the plane took that were answered in time.";
    Leases: gauge "leases" [capped("limit", &LIMITS), closed("state", &LEASE_STATES)],
        "Leases of limits that count over all workers: held are those that something runs under, uncovered is what runs without.";
    LeaseResults: counter "lease_results" [capped("limit", &LIMITS), closed("result", &LEASE_RESULTS)],
        "Leases of this worker, by what became of them.";
    LeaseMode: gauge "lease_mode" [closed("mode", &LEASE_MODES)],
        "1 for what holds now: whole while leases are asked for, else local, open or closed.";
    Alerts: counter "alerts" [capped("rule", &RULES), closed("state", &["firing", "resolved"])],
        "Alerts, by rule.";
    AlertsActive: gauge "alerts_active" [capped("rule", &RULES)],
        "Alerts that fire.";
    BuildInfo: gauge "build_info" [
        capped("version", &VERSIONS), capped("rustc", &VERSIONS), capped("python", &VERSIONS)
    ] from rooms,
        "One, with what the process is made of.";
}

impl Id {
    /// The family.
    #[inline]
    pub fn family(self) -> &'static Family {
        &FAMILIES[self as usize]
    }

    /// The cell of a series, by the numbers of its values. Who counts often keeps it.
    pub fn at(self, numbers: &[usize]) -> &'static Cell {
        let family = self.family();
        family.cell(family.key(numbers))
    }

    /// The only cell of a family without labels.
    #[inline]
    pub fn only(self) -> &'static Cell {
        self.family().cell(0)
    }
}

/// The family with a name, with or without the `_total` of its samples.
pub fn named(name: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .find(|family| family.name == name || family.sample == name)
}

/// Begins anew in the child of a fork. What the parent counted stays the parent's.
pub fn after_fork_in_child() {
    for (_, cell) in FAMILIES.iter().flat_map(Family::cells) {
        cell.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_as_the_conventions_want_them() {
        let mut seen = HashSet::new();
        for family in &FAMILIES {
            assert!(seen.insert(family.name), "{} is there twice", family.name);
            let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(is_name(family.name) && family.labels.iter().all(|label| is_name(label.name)));
            assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n', '"']));
            assert_eq!(
                family.kind == Kind::Histogram,
                !family.buckets.is_empty(),
                "{}",
                family.name
            );
            assert!(family.buckets.len() < super::super::cell::MAX_BUCKETS);
            assert!(family.buckets.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(
                family.labels.iter().all(|label| !label.name.contains("user")),
                "{}",
                family.name
            );
            assert!(
                family.size() <= 20_000,
                "{} has room for {}",
                family.name,
                family.size()
            );
        }
    }

    #[test]
    fn a_series_is_found_by_its_values_and_tells_them() {
        let family = Id::FlagEvaluations.family();
        for numbers in [[0, 0, 0], [100, 1, 6], [3, 1, 2]] {
            let told: Vec<_> = family.numbers(family.key(&numbers)).map(|(_, number)| number).collect();
            assert_eq!(told, numbers);
        }
        assert_eq!(family.key(&[100, 1, 6]), family.size() - 1);
    }
}
