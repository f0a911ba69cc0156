//! One state for one user, for the length of a run.

use std::sync::{Arc, OnceLock};

use super::decision::Decision;
use super::evaluate::{Attributes, Unit};
use super::store::State;

/// Decides for one user by the state of one moment: whatever changes later, the answers stay.
#[derive(Debug)]
pub struct Snapshot {
    state: Arc<State>,
    user: Option<Box<str>>,
    is_invalid: bool,
    attributes: OnceLock<Attributes>,
}

impl Snapshot {
    /// Keeps the state.
    pub fn new(state: Arc<State>, unit: Unit<'_>) -> Self {
        let user = if let Unit::Id(id) = unit { Some(id.into()) } else { None };
        Self {
            state,
            user,
            is_invalid: unit == Unit::Invalid,
            attributes: OnceLock::new(),
        }
    }

    /// The state that it keeps.
    pub const fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The user, if there is one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The user as it was asked for.
    pub fn unit(&self) -> Unit<'_> {
        match &self.user {
            Some(id) => Unit::Id(id),
            None if self.is_invalid => Unit::Invalid,
            None => Unit::Missing,
        }
    }

    /// What is known of the user, if that was found out already.
    pub fn attributes(&self) -> Option<&Attributes> {
        self.attributes.get()
    }

    /// Keeps what is known of the user. What was kept first stays, and is the answer.
    pub fn keep(&self, attributes: Attributes) -> &Attributes {
        self.attributes.get_or_init(|| attributes)
    }

    /// Whether what is known of the user must be found out to decide this flag.
    pub fn wants_attributes(&self, flag: &str) -> bool {
        self.attributes.get().is_none() && self.state.document().reads_attributes(flag)
    }

    /// Whether a flag is on, and why.
    pub fn decide(&self, flag: &str) -> Decision {
        self.state.decide(flag, self.unit(), self.known())
    }

    /// The same without the reasons.
    pub fn is_on(&self, flag: &str) -> bool {
        self.state.is_on(flag, self.unit(), self.known())
    }

    fn known(&self) -> &Attributes {
        static NOTHING: OnceLock<Attributes> = OnceLock::new();
        let nothing = || NOTHING.get_or_init(Attributes::default);
        self.attributes.get().unwrap_or_else(nothing)
    }
}
