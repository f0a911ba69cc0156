//! How a rollout stands, for people.

use super::metric::Metric;
use super::record::RollbackRecord;
use crate::clock::Micros;

/// How one metric stands at the present step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricState {
    /// It is not watched.
    Off,
    /// There is not enough data to say anything.
    Collecting,
    /// There is enough, and nothing speaks against the rollout.
    Healthy,
    /// Something speaks against it, and is no proof yet.
    Warning,
    /// There is proof. Where it is only told and not acted upon, the rollout goes on.
    Breached,
}

impl MetricState {
    /// The word in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Collecting => "collecting",
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Breached => "breached",
        }
    }
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardState {
    /// It has not begun.
    Idle,
    /// There is not enough data at this step.
    Collecting,
    /// There is enough, and nothing speaks against it.
    Healthy,
    /// Something speaks against it.
    Warning,
    /// It was rolled back, and stays so until somebody resumes it.
    RolledBack,
}

impl GuardState {
    /// The word in figures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Collecting => "collecting",
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// What is known of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricStatus {
    /// Which one.
    pub metric: Metric,
    /// How it stands.
    pub state: MetricState,
    /// Bad observations at this step.
    pub bad: u64,
    /// Observations at this step.
    pub seen: u64,
    /// The part that is accepted at the moment.
    pub bound: f64,
    /// The evidence; none where one observation is enough.
    pub e_value: Option<f64>,
    /// Whether it is only told.
    pub dry_run: bool,
    /// Bad observations of the older side.
    pub legacy_bad: u64,
    /// Observations of the older side.
    pub legacy_seen: u64,
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardStatus {
    /// In one word.
    pub state: GuardState,
    /// The rollout, in parts of 100 000.
    pub rollout: u32,
    /// The next step of the ladder; none at the top.
    pub next: Option<u32>,
    /// How long this step has lasted.
    pub dwell: Micros,
    /// Whether somebody keeps it from advancing.
    pub paused: bool,
    /// Why it does not advance. Empty when it may.
    pub holds: Vec<String>,
    /// The metrics, in their order.
    pub metrics: Vec<MetricStatus>,
    /// Why it was rolled back.
    pub record: Option<RollbackRecord>,
}
