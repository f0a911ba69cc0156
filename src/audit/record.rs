//! What is recorded, before it is sealed.

use crate::clock::Micros;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$each])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word in Python and in reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// By its word.
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|each| each.name() == word)
            }

            /// By its code on the disk.
            pub fn coded(code: u8) -> Option<Self> {
                Self::ALL.get(usize::from(code)).copied()
            }
        }
    };
}

words! {
    /// How much an event matters to the record.
    AuditClass {
        /// A decision on a permission.
        Permission = "permission",
        /// Something met the boundary of another user.
        Isolation = "isolation",
        /// Somebody used a power over others, or the log itself changed.
        Admin = "admin",
        /// Contexts, sessions and runs come and go.
        Lifecycle = "lifecycle",
        /// Everything else.
        Debug = "debug",
    }
}

words! {
    /// How bad it is.
    Severity {
        /// As usual.
        Info = "info",
        /// To be looked at.
        Warning = "warning",
        /// To be looked at today.
        High = "high",
        /// To be looked at now.
        Critical = "critical",
    }
}

words! {
    /// What becomes of an event while the log takes no records.
    OnFailure {
        /// The caller is told, and refuses its operation.
        Refuse = "refuse",
        /// It waits in a ring; the oldest of a full ring is lost.
        Spill = "spill",
        /// It is lost.
        Drop = "drop",
    }
}

/// How many classes there are.
pub const CLASSES: usize = AuditClass::ALL.len();

/// A count for each class.
pub type PerClass = [u64; CLASSES];

/// One record on its way to the disk.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its class.
    pub class: AuditClass,
    /// Its severity.
    pub severity: Severity,
    /// Whose key seals it; the process's own without one.
    pub user: Option<Box<str>>,
    /// The body, JSON of at most [`MAX_BODY`](super::content::MAX_BODY) bytes.
    pub body: String,
    /// When it was taken, since the Unix epoch.
    pub unix: Micros,
    /// When it was taken, by the monotonic clock.
    pub taken: Micros,
}
