//! A document of flags, as it was checked. Never changes: another document is another value.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;

use super::bucket::Bucketing;
use crate::metrics::FLAGS;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}. {fix}", if path.is_empty() { "the document" } else { path })]
pub struct FlagFault {
    /// Where: a JSON pointer (RFC 6901); empty for the whole document.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl FlagFault {
    /// Something is wrong at `path`.
    pub fn new(path: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

/// How far a migration of data is. Kept for who asks; decides nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Only the old.
    Off,
    /// Written to both, read from the old.
    DualWrite,
    /// Read from both, the old one counts.
    Shadow,
    /// Read from both, the new one counts.
    Live,
    /// Written to both, read from the new.
    RampDown,
    /// Only the new.
    Complete,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::DualWrite,
        Self::Shadow,
        Self::Live,
        Self::RampDown,
        Self::Complete,
    ];

    /// The name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DualWrite => "dualwrite",
            Self::Shadow => "shadow",
            Self::Live => "live",
            Self::RampDown => "rampdown",
            Self::Complete => "complete",
        }
    }

    /// The stage of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

pub(super) type TextSet = HashSet<Box<str>, RandomState>;

/// A rollout for those of whom something is known.
#[derive(Debug)]
pub(super) struct Rule {
    /// Which attribute, by its number in the document, is one of which texts. All must hold.
    pub(super) conditions: Box<[(u32, TextSet)]>,
    pub(super) rollout: u32,
}

/// A flag of a document.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: Arc<str>,
    pub(super) on: bool,
    pub(super) bucketing: Bucketing,
    pub(super) deny: TextSet,
    pub(super) allow: TextSet,
    pub(super) requires: Box<[u32]>,
    pub(super) rules: Box<[Rule]>,
    pub(super) rollout: Option<u32>,
    pub(super) stage: Option<Stage>,
    /// The record of a rollback, as JSON.
    pub(super) rolled_back: Option<Box<str>>,
    /// Who resumed after one, as JSON.
    pub(super) resumed: Option<Box<str>>,
    /// Whether attributes are looked at, here or in what it requires.
    pub(super) reads_attributes: bool,
    /// Its number among the names that a scrape tells, once it was asked for.
    pub(super) told: OnceLock<usize>,
}

impl Flag {
    /// Its number among the names that a scrape tells.
    #[inline]
    pub(super) fn number(&self) -> usize {
        *self.told.get_or_init(|| FLAGS.index(&self.name))
    }
}

/// The flags of one revision.
#[derive(Debug)]
pub struct Document {
    pub(super) revision: u64,
    pub(super) kill_switch: bool,
    /// By name.
    pub(super) flags: Box<[Flag]>,
    pub(super) names: HashMap<Arc<str>, u32, RandomState>,
    /// The attributes that rules look at, by number.
    pub(super) attributes: Box<[Box<str>]>,
    pub(super) text: Arc<str>,
    pub(super) origin: Box<str>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            revision: 0,
            kill_switch: false,
            flags: Box::default(),
            names: HashMap::default(),
            attributes: Box::default(),
            text: r#"{"schema":1,"revision":0,"flags":{}}"#.into(),
            origin: Box::default(),
        }
    }
}

impl Document {
    /// Its number. A later document has a higher one.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every flag is off.
    pub const fn is_killed(&self) -> bool {
        self.kill_switch
    }

    /// As it was written.
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Where it came from.
    pub const fn origin(&self) -> &str {
        &self.origin
    }

    /// The names of its flags, in order.
    pub fn flags(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.flags.iter().map(|flag| &flag.name)
    }

    /// The attributes that any rule looks at.
    pub const fn attributes(&self) -> &[Box<str>] {
        &self.attributes
    }

    /// Whether there is a flag of this name.
    pub fn contains(&self, flag: &str) -> bool {
        self.names.contains_key(flag)
    }

    /// Whether this flag looks at attributes.
    pub fn reads_attributes(&self, flag: &str) -> bool {
        self.flag(flag).is_some_and(|flag| flag.reads_attributes)
    }

    /// How far the migration of this flag's data is.
    pub fn stage(&self, flag: &str) -> Option<Stage> {
        self.flag(flag)?.stage
    }

    /// Records of rollbacks that stand in the document, by flag.
    pub fn rolled_back(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.flags
            .iter()
            .filter_map(|flag| Some((&flag.name, flag.rolled_back.as_deref()?)))
    }

    pub(super) fn flag(&self, name: &str) -> Option<&Flag> {
        self.names.get(name).map(|number| &self.flags[*number as usize])
    }

    /// The flag of this number, which the document gave out.
    pub(super) fn at(&self, number: u32) -> &Flag {
        &self.flags[number as usize]
    }
}
