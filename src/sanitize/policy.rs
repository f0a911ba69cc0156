//! Where a value passes, and what is done with what is found there.

use super::kind::{Group, Kind, Kinds};

/// Where a value leaves one part of the application for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// What a user sends.
    Input,
    /// What a language model is given.
    Llm,
    /// What a tool is called with.
    ToolParams,
    /// An event on its way to its user.
    WsEvent,
    /// A line of a log.
    Log,
    /// A record of the audit log.
    Audit,
    /// The text of an error.
    Error,
}

impl Boundary {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Input,
        Self::Llm,
        Self::ToolParams,
        Self::WsEvent,
        Self::Log,
        Self::Audit,
        Self::Error,
    ];

    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Llm => "llm",
            Self::ToolParams => "tool_params",
            Self::WsEvent => "ws_event",
            Self::Log => "log",
            Self::Audit => "audit",
            Self::Error => "error",
        }
    }

    /// What is done there unless something else is said.
    pub const fn default_modes(self) -> Modes {
        match self {
            Self::Input | Self::Llm | Self::ToolParams => Modes {
                secret: Mode::Detect,
                personal: Mode::Detect,
            },
            Self::WsEvent => Modes {
                secret: Mode::Mask,
                personal: Mode::Detect,
            },
            Self::Log | Self::Audit | Self::Error => Modes {
                secret: Mode::Mask,
                personal: Mode::Mask,
            },
        }
    }

    /// Whether what is too large to be looked at is replaced, since nobody could be told: a log has no caller.
    pub const fn replaces_what_is_too_large(self) -> bool {
        matches!(self, Self::Log | Self::Audit)
    }
}

/// What is done with a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It is not looked for.
    Off,
    /// It is reported.
    Detect,
    /// It is replaced.
    Mask,
    /// The value is refused.
    Block,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Detect, Self::Mask, Self::Block];

    /// The name in settings and findings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Detect => "detect",
            Self::Mask => "mask",
            Self::Block => "block",
        }
    }
}

/// What is done with secrets, and with what is personal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Modes {
    /// With secrets.
    pub secret: Mode,
    /// With what is personal.
    pub personal: Mode,
}

impl Modes {
    /// What is done with this kind.
    pub const fn of(self, kind: Kind) -> Mode {
        match kind.group() {
            Group::Secret => self.secret,
            Group::Personal => self.personal,
        }
    }

    /// The kinds with which one of these things is done.
    #[must_use]
    pub fn kinds(self, wanted: &[Mode]) -> Kinds {
        let of = |mode, group| if wanted.contains(&mode) { group } else { Kinds::NONE };
        of(self.secret, Kinds::SECRETS).or(of(self.personal, Kinds::PERSONAL))
    }
}

/// What is masked in events when they are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EventMask {
    /// Nothing.
    Off,
    /// Secrets.
    #[default]
    Secrets,
    /// Secrets and what is personal.
    All,
}

impl EventMask {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Secrets, Self::All];

    /// The name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Secrets => "secrets",
            Self::All => "all",
        }
    }

    /// What is masked.
    #[must_use]
    pub const fn kinds(self) -> Kinds {
        match self {
            Self::Off => Kinds::NONE,
            Self::Secrets => Kinds::SECRETS,
            Self::All => Kinds::DEFAULT,
        }
    }
}
